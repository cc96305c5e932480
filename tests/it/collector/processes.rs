//! Three servers as processes of their own, on Postgres and S3, collect every second and without any grace, and `keepbest gc --now`
//! runs beside them without a pause. Trainers upload the same few files again and again, so that every upload finds chunks that
//! some collector is about to free. What was committed must be there.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keepbest::app::collect::GcReport;
use keepbest_client::Client;
use keepbest_client::PullOptions;
use keepbest_client::Retry;
use keepbest_client::Run;
use keepbest_client::pull;
use keepbest_client::v1;
use tokio::task::JoinSet;

use crate::crashes::leftovers::leaked;
use crate::support::front::Front;
use crate::support::random::Random;
use crate::support::replicas::Replicas;
use crate::support::requests::epoch_end;
use crate::support::requests::every_epoch;
use crate::support::requests::start_request;
use crate::support::soak::Rounds;

const REPLICAS: usize = 3;
const TRAINERS: usize = 6;
/// Saves of all trainers together.
const ROUNDS: Rounds = Rounds { usual: 200, soak: 5_000 };
/// As few as are known from before, and more than stand at once: some are always being freed.
const FILES: usize = 12;
const FILE_BYTES: usize = 20_000;
/// Versions of a trainer that stand at once.
const STANDING: usize = 1;
const GRACELESS: [(&str, &str); 4] = [
    ("KEEPBEST_COLLECTOR_INTERVAL_SECONDS", "1"),
    ("KEEPBEST_COLLECTOR_DELETED_GRACE_SECONDS", "0"),
    ("KEEPBEST_COLLECTOR_CHUNK_GRACE_SECONDS", "0"),
    ("KEEPBEST_COLLECTOR_OBJECT_GRACE_SECONDS", "0"),
];

struct Trainer {
    client: Client,
    run: Run,
    random: Random,
    standing: Vec<(v1::Version, usize)>,
    deleted: usize,
}

fn content(file: usize) -> Vec<u8> {
    let mut random = Random::new(file as u64);
    (0..FILE_BYTES).map(|_| random.below(256) as u8).collect()
}

async fn assert_there(client: &Client, version: &v1::Version, file: usize) {
    let folder = tempfile::tempdir().unwrap();
    let pulled = pull(client, &version.name, folder.path(), &PullOptions::default()).await;
    pulled.unwrap_or_else(|error| panic!("{} is missing: {error}", version.name));
    assert_eq!(std::fs::read(folder.path().join("model.bin")).unwrap(), content(file), "{}", version.name);
}

impl Trainer {
    async fn start(client: Client, name: &str, random: Random) -> Trainer {
        let run = Run::start(&client, start_request(name, every_epoch())).await.unwrap();
        Trainer { client, run, random, standing: Vec::new(), deleted: 0 }
    }

    async fn save(&mut self, folder: &Path) {
        let epoch = self.run.next_sequence();
        let decision = self.run.report(vec![epoch_end(epoch, 0.5)]).await.unwrap().pop().unwrap();
        let file = self.random.below(FILES);
        let source = folder.join("model.bin");
        std::fs::write(&source, content(file)).unwrap();
        let version = self.run.save(&decision, &source).await.unwrap();
        assert_there(&self.client, &version, file).await;
        self.standing.push((version, file));
        if self.standing.len() > STANDING {
            let (version, file) = self.standing.remove(self.random.below(STANDING));
            assert_there(&self.client, &version, file).await;
            let delete =
                v1::DeleteVersionRequest { name: version.name, ..v1::DeleteVersionRequest::default() };
            self.client.delete_version(delete).await.unwrap();
            self.deleted += 1;
        }
    }

    async fn train(mut self, done: Arc<AtomicUsize>, until: usize) -> Trainer {
        let folder = tempfile::tempdir().unwrap();
        while done.fetch_add(1, Ordering::SeqCst) < until {
            self.save(folder.path()).await;
        }
        self
    }
}

/// Passes of a collector that is a process of its own, until all is over.
fn collect(replicas: &Replicas, over: &AtomicBool) -> GcReport {
    let mut all = GcReport::default();
    while !over.load(Ordering::SeqCst) {
        let (code, said) = replicas.run(&["--json", "gc", "--now"]);
        assert_eq!(code, Some(0), "{said}");
        let report: serde_json::Value = serde_json::from_str(&said).unwrap();
        all.removed_chunks += report["removed_chunks"].as_u64().unwrap();
        all.removed_objects += report["removed_objects"].as_u64().unwrap();
        all.removed_checkpoints += report["removed_checkpoints"].as_u64().unwrap();
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn collectors_of_three_processes_lose_no_chunk() {
    let seed = Random::seed("KEEPBEST_RACE_SEED");
    println!("race of processes with KEEPBEST_RACE_SEED={seed}");
    let mut random = Random::new(seed);
    let mut replicas = Replicas::start(REPLICAS, &GRACELESS).await;
    let front = Front::start(replicas.addresses(), Random::new(random.next())).await;
    let retry = Retry { budget: Duration::from_secs(60), ..Retry::default() };
    let (over, done) = (AtomicBool::new(false), Arc::<AtomicUsize>::default());
    let mut trainers = JoinSet::new();
    for number in 0..TRAINERS {
        let client = Client::builder(front.address()).retry(retry.clone()).connect_lazy().unwrap();
        let random = Random::new(random.next());
        let trainer = Trainer::start(client, &format!("trainer-{number}"), random).await;
        trainers.spawn(trainer.train(Arc::clone(&done), ROUNDS.now()));
    }
    let (trainers, collected) = std::thread::scope(|scope| {
        let collector = scope.spawn(|| collect(&replicas, &over));
        let wait = tokio::runtime::Handle::current();
        let trainers = tokio::task::block_in_place(|| wait.block_on(trainers.join_all()));
        over.store(true, Ordering::SeqCst);
        (trainers, collector.join().unwrap())
    });
    let (mut standing, mut deleted) = (0, 0);
    for trainer in &trainers {
        for (version, file) in &trainer.standing {
            assert_there(&trainer.client, version, *file).await;
        }
        standing += trainer.standing.len();
        deleted += trainer.deleted;
    }
    let (code, said) = replicas.run(&["check", "--read-data"]);
    assert!(code == Some(0) && said.contains("no problem was found"), "{said}");
    replicas.servers.clear();
    let leaked = leaked(&replicas.config()).await;
    println!(
        "{} rounds, {standing} versions stand, {deleted} were deleted, missing 0, leaked {leaked}; gc --now alone: {collected:?}",
        ROUNDS.now()
    );
    assert_eq!((standing + deleted, leaked), (ROUNDS.now(), 0));
    assert!(collected.removed_chunks > 0, "nothing was freed: there was no race");
}
