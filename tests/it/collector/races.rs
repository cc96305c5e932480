//! Uploads of the same few contents against deletions and collectors that wait for no grace.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keepbest::app::App;
use keepbest::app::Error;
use keepbest::app::Limits;
use keepbest::app::collect::GcReport;
use keepbest::domain::ids::CheckpointName;
use object_store::memory::InMemory;

use crate::support::apps::HOUR_US;
use crate::support::apps::TestApp;
use crate::support::apps::Trainer;
use crate::support::apps::every_epoch;
use crate::support::apps::limits;
use crate::support::databases;
use crate::support::databases::TestDatabase;
use crate::support::databases::on_both_databases;
use crate::support::faults::FaultyStore;
use crate::support::requests::noise;

on_both_databases! {
    no_version_ever_lacks_a_byte_whatever_the_collectors_do
}

#[tokio::test]
async fn a_chunk_that_is_pinned_while_the_collector_waits_for_its_row_stays() {
    let test = TestApp::over(databases::postgres().await).await;
    let mut trainer = test.start("first", every_epoch()).await;
    trainer.save(0, 0.5, b"bytes").await;
    test.app.delete_version(&trainer.version("v0"), false).await.unwrap();
    test.turn(HOUR_US);
    assert_eq!(test.app.collect().await.unwrap().removed_checkpoints, 1, "nothing pins the chunk");
    let checkpoint = trainer.saved(1, 0.5).await;
    test.app.prepare_file(trainer.target(&checkpoint, "model"), 5, None).await.unwrap();

    // The upload has touched the row and pinned the chunk, and its commit is on the way.
    let mut upload = test.database.postgres_connection().await;
    sqlx::raw_sql(
        "BEGIN; UPDATE chunks SET touch_time_us = touch_time_us + 1; INSERT INTO file_chunks \
         SELECT f.uid, 0, 5, c.team, c.digest FROM files f, chunks c",
    )
    .execute(&mut upload)
    .await
    .unwrap();
    let app = test.app.clone();
    let collecting = tokio::spawn(async move { app.collect_now().await.unwrap() });
    let waits = "SELECT pid::text FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while test.database.texts(waits).await.is_empty() {
        assert!(!collecting.is_finished(), "the collector waits for the row");
    }
    sqlx::raw_sql("COMMIT").execute(&mut upload).await.unwrap();
    assert_eq!(collecting.await.unwrap(), GcReport::default());
    assert_eq!(test.database.texts("SELECT object_key FROM chunks").await, test.keys().await);
    assert_eq!(test.keys().await.len(), 1);
}

/// Why an upload touches the chunk that it pins: the collector cannot see the pin before its commit.
#[tokio::test]
async fn a_pin_without_a_touch_would_lose_its_chunk() {
    let test = TestApp::over(databases::postgres().await).await;
    let mut trainer = test.start("first", every_epoch()).await;
    trainer.save(0, 0.5, b"bytes").await;
    test.app.delete_version(&trainer.version("v0"), false).await.unwrap();
    test.turn(HOUR_US);
    assert_eq!(test.app.collect().await.unwrap().removed_checkpoints, 1, "nothing pins the chunk");
    let checkpoint = trainer.saved(1, 0.5).await;
    test.app.prepare_file(trainer.target(&checkpoint, "model"), 5, None).await.unwrap();

    let mut upload = test.database.postgres_connection().await;
    let pin = "BEGIN; INSERT INTO file_chunks SELECT f.uid, 0, 5, c.team, c.digest FROM files f, chunks c";
    sqlx::raw_sql(pin).execute(&mut upload).await.unwrap();
    assert_eq!(test.app.collect_now().await.unwrap().removed_chunks, 1, "nobody holds its row");
    sqlx::raw_sql("COMMIT").execute(&mut upload).await.unwrap();
    let pinned = test.database.texts("SELECT file_uid FROM file_chunks").await;
    let held = test.database.texts("SELECT object_key FROM chunks").await;
    assert_eq!((pinned.len(), held.len(), test.keys().await.len()), (1, 0, 0));
}

const WRITERS: u64 = 8;
const ROUNDS: i64 = 25;
const COLLECTORS: usize = 2;
/// Few at a time, so that most uploads meet one that is just stored or just removed.
const CONTENTS: u64 = 4;
/// Passes of a collector between two leaps of the clock past the time of an intent.
const PASSES_A_LEAP: usize = 5;

/// A number below `below`, another for each throw.
struct Dice {
    seed: u64,
    throws: u64,
}

impl Dice {
    fn throw(&mut self, below: u64) -> u64 {
        self.throws += 1;
        let bytes = noise(self.seed << 32 | self.throws, 8);
        u64::from_le_bytes(bytes.try_into().unwrap()) % below
    }
}

type Files = Vec<(String, Vec<u8>)>;

/// Uploads until it is done, as a client with retries does; false if the checkpoint expired meanwhile.
async fn upload(trainer: &Trainer, checkpoint: &CheckpointName, files: &Files, whole: bool) -> bool {
    loop {
        let result = if whole {
            let files: Vec<_> = files.iter().map(|(path, data)| (path.as_str(), data.as_slice())).collect();
            trainer.write(checkpoint, &files).await.map(drop)
        } else {
            let mut result = Ok(());
            for (path, data) in files {
                result = result.and(trainer.stream(checkpoint, path, data).await.map(drop));
            }
            result
        };
        match result {
            Ok(()) => return true,
            Err(Error::Refused(refusal)) if refusal.reason == "RACE" => {}
            Err(Error::Refused(refusal)) if refusal.reason == "CHECKPOINT_DELETED" => return false,
            Err(error) => panic!("{error:?}"),
        }
    }
}

async fn read_back(trainer: &Trainer, number: i64, files: &Files) {
    for (path, data) in files {
        let (read, end) = trainer.read(&format!("v{number}"), path).await;
        assert!(end.is_ok() && read == *data, "v{number} {path} of {}: {end:?}", trainer.run);
    }
}

/// Saves, gives up, reads back and deletes; answers what is left.
async fn write(mut trainer: Trainer, seed: u64) -> (Trainer, BTreeMap<i64, Files>) {
    let mut dice = Dice { seed, throws: 0 };
    let mut live: BTreeMap<i64, Files> = BTreeMap::new();
    for epoch in 0..ROUNDS {
        let checkpoint = trainer.saved(epoch, 0.5).await;
        let content = |n| noise(n, 40 + usize::try_from(n).unwrap());
        // Contents come, are shared by a few writers, and are needed no more.
        let first = u64::try_from(epoch).unwrap() / 2 * 3;
        let files = (0..3).map(|n| (format!("file-{n}"), content(first + dice.throw(CONTENTS)))).collect();
        let uploaded = upload(&trainer, &checkpoint, &files, dice.throw(2) == 0).await;
        if uploaded && dice.throw(6) == 0 {
            trainer.abandon(&checkpoint).await.unwrap();
        } else if uploaded {
            match trainer.commit(&checkpoint).await {
                Ok(version) => {
                    read_back(&trainer, version.number, &files).await;
                    live.insert(version.number, files);
                }
                Err(Error::Refused(refusal)) if refusal.reason == "CHECKPOINT_DELETED" => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        while live.len() > usize::try_from(dice.throw(3)).unwrap() {
            let (number, _) = live.pop_first().unwrap();
            let version = trainer.version(&format!("v{number}"));
            trainer.app.delete_version(&version, false).await.unwrap();
        }
    }
    (trainer, live)
}

async fn collect(app: App, test: Arc<TestApp>, stop: Arc<AtomicBool>) -> u64 {
    let mut removed = 0;
    for pass in 1.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        test.turn(if pass % PASSES_A_LEAP == 0 { 25 * HOUR_US } else { 1 });
        removed += app.collect_now().await.unwrap().removed_objects;
    }
    removed
}

async fn no_version_ever_lacks_a_byte_whatever_the_collectors_do(database: TestDatabase) {
    let objects = FaultyStore::over(Arc::new(InMemory::new()));
    // Long enough that a collector comes by between the intent and the chunk's row.
    objects.plan(|plan| plan.put_takes = Duration::from_millis(3));
    let limits = Limits { pending_expiry: Duration::from_secs(100_000 * 3_600), ..limits() };
    let test = Arc::new(TestApp::limited(database, Arc::new(objects), limits).await);
    let (replica, stop) = (test.replica().await, Arc::new(AtomicBool::new(false)));
    let mut collectors = Vec::new();
    for n in 0..COLLECTORS {
        let app = if n == 0 { test.app.clone() } else { replica.clone() };
        collectors.push(tokio::spawn(collect(app, Arc::clone(&test), Arc::clone(&stop))));
    }
    let mut writers = Vec::new();
    for n in 0..WRITERS {
        let trainer = test.start(&format!("r{n}"), every_epoch()).await;
        let app = if n % 2 == 0 { test.app.clone() } else { replica.clone() };
        writers.push(tokio::spawn(write(Trainer { app, ..trainer }, n)));
    }
    let mut left = Vec::new();
    for writer in writers {
        left.push(writer.await.unwrap());
    }
    stop.store(true, Ordering::SeqCst);
    let mut removed = 0;
    for collector in collectors {
        removed += collector.await.unwrap();
    }

    assert!(removed > 30, "the collectors had work: {removed}");
    assert_eq!(test.problems().await, Vec::<String>::new());
    for (trainer, live) in &left {
        for (number, files) in live {
            read_back(trainer, *number, files).await;
        }
    }
    // And nothing stays for ever.
    test.turn(200 * HOUR_US);
    test.app.collect_now().await.unwrap();
    let mut held = test.database.texts("SELECT object_key FROM chunks").await;
    held.sort();
    assert_eq!(test.keys().await, held);
    assert_eq!(test.database.texts("SELECT object_key FROM doomed_objects").await, Vec::<String>::new());
    assert_eq!(test.problems().await, Vec::<String>::new());
}
