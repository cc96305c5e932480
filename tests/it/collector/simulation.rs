//! The race of the design as a test: writers that share few contents, collectors that wait for no grace, a clock that
//! leaps, a store that fails, calls and replicas that die. After each round every acknowledged version is read back; at the
//! end nothing may dangle and nothing may stay. A collector that does the same in a naive order must lose bytes here.

mod replicas;
mod writer;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join;
use futures::future::join_all;
use keepbest::app::Error;
use keepbest::app::Limits;
use keepbest::db::Db;
use keepbest::db::Graces;
use keepbest::store::manifest_key;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use tokio::sync::Mutex;

use crate::support::apps::HOUR_US;
use crate::support::apps::TestApp;
use crate::support::apps::limits;
use crate::support::databases;
use crate::support::databases::TestDatabase;
use crate::support::databases::on_both_databases;
use crate::support::faults::FaultyStore;
use crate::support::faults::PutFault;
use crate::support::random::Random;
use crate::support::soak::Rounds;

use replicas::Replicas;
use writer::Writer;

on_both_databases! {
    dying_replicas_and_collectors_lose_and_leak_nothing
    a_collector_that_deletes_the_bytes_before_the_row_loses_them
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_race_for_two_hundred_rounds() {
    let lost = Race::begin(databases::postgres().await, 4).await.run(RACE.now()).await;
    assert_eq!(lost, Vec::<String>::new());
}

async fn dying_replicas_and_collectors_lose_and_leak_nothing(database: TestDatabase) {
    let lost = Race::begin(database, 8).await.run(SHORT_RACE.now()).await;
    assert_eq!(lost, Vec::<String>::new());
}

/// Shows that the race finds what it is there to find.
async fn a_collector_that_deletes_the_bytes_before_the_row_loses_them(database: TestDatabase) {
    let mut race = Race::begin(database, 8).await;
    let naive = Arc::new(race.test.database.open().await);
    race.collecting.naive = Some(naive);
    let mut lost = Vec::new();
    for round in 0..1_000 {
        lost = race.rounds(1).await;
        if !lost.is_empty() {
            tell(&format!("the naive collector lost {} files in round {round}", lost.len()));
            break;
        }
    }
    assert!(!lost.is_empty(), "the race cannot tell a wrong collector from a right one");
}

const RACE: Rounds = Rounds { usual: 200, soak: 5_000 };
const SHORT_RACE: Rounds = Rounds { usual: 40, soak: 400 };
const REPLICAS: usize = 3;
const COLLECTORS: usize = 2;
/// Every round nothing may be missing; after so many the bytes are read back as well.
const ROUNDS_A_LOOK: usize = 10;
/// Of so many passes of a collector, one leaps over the time of an intent.
const PASSES_A_LEAP: usize = 8;
/// In the middle of each so many-th round a replica crashes.
const ROUNDS_A_CRASH: usize = 4;
/// Of a hundred puts so many fail, half of them after they stored the object.
const PUT_FAULTS_PERCENT: usize = 2;
/// Puts whose fate is decided; the longest soak has fewer.
const PUTS: usize = 1_000_000;

/// Writers and collectors over one service.
struct Race {
    test: Arc<TestApp>,
    replicas: Arc<Replicas>,
    writers: Vec<Writer>,
    collecting: Collecting,
}

/// What each collector knows.
#[derive(Clone)]
struct Collecting {
    test: Arc<TestApp>,
    replicas: Arc<Replicas>,
    random: Arc<Mutex<Random>>,
    stop: Arc<AtomicBool>,
    removed: Arc<AtomicUsize>,
    /// When the clock leapt, by the real time in milliseconds.
    leaps: Arc<Mutex<Vec<u64>>>,
    /// Collects in the wrong order over this store.
    naive: Option<Arc<Db>>,
}

impl Race {
    async fn begin(database: TestDatabase, writer_count: usize) -> Race {
        let seed = Random::seed("KEEPBEST_RACE_SEED");
        tell(&format!("race with KEEPBEST_RACE_SEED={seed}"));
        let mut random = Random::new(seed);
        let objects = FaultyStore::over(Arc::new(InMemory::new()));
        objects.plan(|plan| {
            // Long enough that a collector comes by between the intent and the chunk's row.
            plan.put_takes = Duration::from_millis(3);
            for put in (0..PUTS).filter(|_| random.below(100) < PUT_FAULTS_PERCENT) {
                let fault = if put % 2 == 0 { PutFault::Before } else { PutFault::After };
                plan.put_faults.insert(put, fault);
            }
        });
        // Some saves take longer than this, by the clock that leaps.
        let limits = Limits { pending_expiry: Duration::from_secs(400 * 3_600), ..limits() };
        let test = Arc::new(TestApp::limited(database, Arc::new(objects), limits).await);
        let replicas = Arc::new(Replicas::start(&test, REPLICAS).await);
        let mut writers = Vec::new();
        for n in 0..writer_count {
            let own = Random::new(random.next());
            writers.push(Writer::start(&test, &replicas, &format!("r{n}"), own).await);
        }
        let collecting = Collecting {
            test: Arc::clone(&test),
            replicas: Arc::clone(&replicas),
            random: Arc::new(Mutex::new(random)),
            stop: Arc::default(),
            removed: Arc::default(),
            leaps: Arc::default(),
            naive: None,
        };
        Race { test, replicas, writers, collecting }
    }

    /// All of it; answers what was lost, and ends if something stays for ever.
    async fn run(mut self, rounds: usize) -> Vec<String> {
        let mut wrong = self.rounds(rounds).await;
        wrong.extend(self.end().await);
        let commits: usize = self.writers.iter().map(|it| it.commits).sum();
        let [crashes, silences, removed] =
            [&self.replicas.crashes, &self.replicas.silences, &self.collecting.removed]
                .map(|it| it.load(Ordering::SeqCst));
        tell(&format!(
            "{rounds} rounds: {commits} commits, {silences} calls without an answer, {crashes} crashes, \
             {} leaps of the clock, {removed} objects removed, {} wrong",
            self.collecting.leaps.lock().await.len(),
            wrong.len()
        ));
        assert!(commits > rounds * self.writers.len() / 2, "the writers came through: {commits}");
        assert!(removed > rounds, "the collectors had work: {removed}");
        assert!(
            silences > rounds / 10 && crashes >= rounds / ROUNDS_A_CRASH,
            "calls died: {silences}, replicas: {crashes}"
        );
        wrong
    }

    /// Rounds of all writers at once beside the collectors, each with a look at what is there.
    async fn rounds(&mut self, rounds: usize) -> Vec<String> {
        self.collecting.stop.store(false, Ordering::SeqCst);
        let mut collectors = Vec::new();
        for _ in 0..COLLECTORS {
            collectors.push(tokio::spawn(self.collecting.clone().collect()));
        }
        let mut lost = Vec::new();
        for round in 1..=rounds {
            let writing = join_all(self.writers.iter_mut().map(Writer::round));
            if round % ROUNDS_A_CRASH == 0 {
                join(writing, self.replicas.crash(round)).await;
            } else {
                writing.await;
            }
            lost.extend(self.missing().await);
            if round % ROUNDS_A_LOOK == 0 || !lost.is_empty() {
                lost.extend(join_all(self.writers.iter_mut().map(Writer::losses)).await.concat());
            }
        }
        self.collecting.stop.store(true, Ordering::SeqCst);
        for collector in collectors {
            collector.await.unwrap();
        }
        lost
    }

    /// Pins whose chunk has no row or no object. A pin of a checkpoint that was given up may go while this looks, and its bytes
    /// with it: so the pin must still stand after the look. A key is never used twice.
    async fn missing(&self) -> Vec<String> {
        let before = self.test.database.texts(PINNED).await;
        let held: HashSet<String> = self.test.keys().await.into_iter().collect();
        let absent: Vec<String> = before.into_iter().filter(|key| !held.contains(key)).collect();
        if absent.is_empty() {
            return absent;
        }
        let after: HashSet<String> = self.test.database.texts(PINNED).await.into_iter().collect();
        let missing = absent.into_iter().filter(|key| after.contains(key));
        missing.map(|key| format!("missing chunk: `{key}`")).collect()
    }

    /// What contradicts what was acknowledged, and what nobody needs but stays.
    async fn end(&mut self) -> Vec<String> {
        let mut wrong = self.test.problems().await;
        // Past every expiry and every intent.
        self.test.turn(1_000 * HOUR_US);
        for _ in 0..2 {
            // The first pass dooms what the second may remove.
            self.test.app.collect_now().await.unwrap();
        }
        wrong.extend(self.test.problems().await);
        wrong.extend(self.missing().await);
        wrong.extend(join_all(self.writers.iter_mut().map(Writer::losses)).await.concat());
        for (what, sql) in [
            ("chunk that nobody needs", UNPINNED),
            ("pin of a version that is not committed", NOT_COMMITTED),
            ("doomed object", "SELECT object_key FROM doomed_objects"),
        ] {
            let found = self.test.database.texts(sql).await;
            wrong.extend(found.into_iter().map(|it| format!("{what}: {it}")));
        }
        let committed =
            self.test.database.texts("SELECT uid FROM checkpoints WHERE state = 'COMMITTED'").await;
        let live: usize = self.writers.iter().map(Writer::live).sum();
        if committed.len() != live {
            wrong.push(format!("{} versions are committed, {live} were acknowledged", committed.len()));
        }
        wrong.extend(self.leaked().await);
        wrong
    }

    /// Objects without a chunk. An upload that took longer than its intent lives and died before it could remove its object
    /// again leaves one; only the clock of this test makes a put take a day, so those are not counted.
    async fn leaked(&self) -> Vec<String> {
        let held = self.test.database.texts("SELECT object_key FROM chunks").await;
        let held: HashSet<String> = held.into_iter().collect();
        let leaps = self.collecting.leaps.lock().await;
        let mut leaked = Vec::new();
        // Manifests are looked at by the check.
        let mut listed = self.test.objects.list(Some(&"chunks".into()));
        while let Some(object) = listed.next().await {
            let object = object.unwrap();
            let key = object.location.to_string();
            let unique: uuid::Uuid = key.rsplit('-').next().unwrap().parse().unwrap();
            let stored = u64::try_from(object.last_modified.timestamp_millis()).unwrap();
            let late = leaps.iter().any(|leap| (millis(unique)..=stored).contains(leap));
            match (held.contains(&key), late) {
                (false, true) => tell(&format!("put of `{key}` outlived its intent")),
                (false, false) => leaked.push(format!("leaked object: {key}")),
                (true, _) => {}
            }
        }
        leaked
    }
}

const PINNED: &str = "SELECT DISTINCT COALESCE(c.object_key, f.file_uid) FROM file_chunks f LEFT JOIN chunks c \
    ON c.team = f.team AND c.digest = f.digest";
const UNPINNED: &str = "SELECT object_key FROM chunks c WHERE NOT EXISTS \
    (SELECT 1 FROM file_chunks f WHERE f.team = c.team AND f.digest = c.digest)";
const NOT_COMMITTED: &str = "SELECT f.path FROM files f JOIN checkpoints c ON c.uid = f.checkpoint_uid \
    WHERE c.state <> 'COMMITTED'";

#[expect(clippy::print_stdout, reason = "shown when a test fails: its seed and its figures")]
fn tell(line: &str) {
    println!("{line}");
}

/// The time in an id of version 7.
fn millis(id: uuid::Uuid) -> u64 {
    let (seconds, nanos) = id.get_timestamp().unwrap().to_unix();
    seconds * 1_000 + u64::from(nanos / 1_000_000)
}

impl Collecting {
    async fn collect(self) {
        let mut random = Random::new(self.random.lock().await.next());
        while !self.stop.load(Ordering::SeqCst) {
            if random.below(PASSES_A_LEAP) == 0 {
                let mut leaps = self.leaps.lock().await;
                leaps.push(millis(uuid::Uuid::now_v7()));
                self.test.turn(25 * HOUR_US);
            }
            self.test.turn(1);
            if let Some(naive) = &self.naive {
                // A call that fails is tried again in the next pass.
                drop(self.collect_naively(naive).await);
                continue;
            }
            match self.replicas.call(&mut random, |app| async move { app.collect_now().await }).await {
                Ok(Ok(report)) => {
                    let removed = usize::try_from(report.removed_objects).unwrap();
                    self.removed.fetch_add(removed, Ordering::SeqCst);
                }
                Ok(Err(Error::Unavailable { .. } | Error::Busy(_))) | Err(_) => {}
                Ok(Err(error)) => panic!("{error:?}"),
            }
        }
    }

    /// First the bytes of what nobody needs, then its rows if still nobody does.
    async fn collect_naively(&self, db: &Db) -> Result<(), keepbest::db::Error> {
        let now_us = self.test.clock.load(Ordering::SeqCst);
        db.expire_checkpoints(now_us).await?;
        let graces = Graces { deleted_us: 0, chunk_us: 0, object_us: 0 };
        db.purge_checkpoints(now_us, graces, manifest_key).await?;
        let unpinned = self.test.database.texts(UNPINNED).await;
        // The store is slow to delete, so that writers get far in between.
        tokio::time::sleep(Duration::from_millis(10)).await;
        for key in unpinned {
            self.test.objects.delete(&key.as_str().into()).await.unwrap();
        }
        db.drop_unused_chunks(now_us, graces).await?;
        Ok(())
    }
}
