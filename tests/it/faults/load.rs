//! Several trainers save while the store fails by chance. Afterwards what was acknowledged is there, once and whole, and no
//! object is left over.

use std::collections::BTreeSet;
use std::sync::Arc;

use keepbest::app::App;
use keepbest::app::Error;
use keepbest::app::VersionRow;
use object_store::memory::InMemory;

use super::CHUNK;
use crate::support::apps::HOUR_US;
use crate::support::apps::PROJECT;
use crate::support::apps::SECOND_US;
use crate::support::apps::TestApp;
use crate::support::apps::Trainer;
use crate::support::apps::every_epoch;
use crate::support::apps::start;
use crate::support::databases::TestDatabase;
use crate::support::databases::on_both_databases;
use crate::support::faults::Chance;
use crate::support::faults::Damage;
use crate::support::faults::FaultyStore;
use crate::support::faults::PutFault;
use crate::support::random::Random;
use crate::support::requests::noise;

/// They save at once.
const TRAINERS: u64 = 4;
/// Of each trainer, all saved. Together they turn the clock by less than a pending checkpoint lives.
const EPOCHS: i64 = 8;
/// How far an epoch turns the clock, so that graces pass and the collector works in the middle.
const EPOCH_US: i64 = 900 * SECOND_US;
/// So many of a hundred calls of the store fail.
const PERCENT: usize = 30;
/// Tries of one save: with at most four puts every fourth succeeds, and what one stored the next one finds.
const TRIES: usize = 200;

on_both_databases! {
    what_was_acknowledged_under_faults_is_kept_and_nothing_is_left_over
    a_store_that_lies_about_writes_never_has_a_wrong_byte_served
}

/// What a version of a trainer holds.
fn files(trainer: u64, epoch: i64) -> Vec<(&'static str, Vec<u8>)> {
    let seed = trainer * 1_000 + u64::try_from(epoch).unwrap();
    // The backbone is the same for all, some weights are more than a chunk.
    let length = if epoch % 4 == 3 { CHUNK + 4_321 } else { 50_000 };
    vec![
        ("backbone", noise(0, 20_000)),
        ("weights", noise(seed, length)),
        ("config", format!("{{\"epoch\": {seed}}}").into_bytes()),
    ]
}

fn borrowed<'a>(files: &'a [(&'static str, Vec<u8>)]) -> Vec<(&'a str, &'a [u8])> {
    files.iter().map(|(path, data)| (*path, &data[..])).collect()
}

/// Uploads, unless an earlier try did, and commits.
async fn save_once(
    trainer: &Trainer,
    uid: &str,
    files: &[(&'static str, Vec<u8>)],
    uploaded: &mut bool,
) -> Result<VersionRow, Error> {
    let checkpoint = trainer.checkpoint(uid);
    if *uploaded {
        return trainer.commit(&checkpoint).await;
    }
    let (large, small): (Vec<_>, Vec<_>) = files.iter().cloned().partition(|(_, data)| data.len() > 40_000);
    for (path, data) in &large {
        trainer.stream(&checkpoint, path, data).await?;
    }
    trainer.write(&checkpoint, &borrowed(&small)).await?;
    *uploaded = true;
    trainer.commit(&checkpoint).await
}

/// Bytes that come are right as far as they come, and an error is one that a fault explains.
async fn read_in_the_storm(trainer: &Trainer, number: i64, files: &[(&'static str, Vec<u8>)]) {
    for (path, data) in files {
        let (read, end) = trainer.read(&format!("v{number}"), path).await;
        assert!(data.starts_with(&read), "v{number} {path}");
        match end {
            Ok(()) => assert!(read == *data, "v{number} {path} ended early"),
            Err(Error::DataLoss(_) | Error::Unavailable { .. } | Error::Busy(_)) => {}
            Err(other) => panic!("v{number} {path}: {other:?}"),
        }
    }
}

/// Deletes a version, again and again until its manifest says so too.
async fn delete(trainer: &Trainer, version: &str) {
    for _ in 0..TRIES {
        match trainer.app.delete_version(&trainer.version(version), true).await {
            Ok(_) => return,
            Err(Error::Unavailable { .. } | Error::Busy(_)) => {}
            // The row says it already; the collector tells the store.
            Err(Error::Refused(refusal)) if refusal.reason == "NOT_FOUND" => return,
            Err(other) => panic!("{version}: {other:?}"),
        }
    }
    panic!("{version} can be deleted by now");
}

/// Trains, repeats what failed, deletes one version and collects all the time. Answers what was acknowledged.
async fn train(
    app: App,
    number: u64,
    clock: Arc<std::sync::atomic::AtomicI64>,
) -> (Trainer, Vec<VersionRow>) {
    let run = format!("trainer-{number}");
    let mut trainer = Trainer::start(&app, start(PROJECT, &run, every_epoch())).await.unwrap();
    let mut acked = Vec::new();
    for epoch in 0..EPOCHS {
        let uid = trainer.epoch(epoch, 0.5).await.checkpoint_uid.unwrap();
        let files = files(number, epoch);
        let (mut tries, mut uploaded) = (0, false);
        let version = loop {
            match save_once(&trainer, &uid, &files, &mut uploaded).await {
                Ok(version) => break version,
                Err(Error::Unavailable { .. } | Error::Busy(_)) if tries < TRIES => tries += 1,
                Err(other) => panic!("{run} epoch {epoch}, try {tries}: {other:?}"),
            }
        };
        read_in_the_storm(&trainer, version.number, &files).await;
        acked.push(version);
        if epoch == 2 {
            delete(&trainer, "v1").await;
        }
        clock.fetch_add(EPOCH_US, std::sync::atomic::Ordering::SeqCst);
        // What it cannot delete it claims again in a later pass.
        match app.collect().await {
            Ok(_) | Err(Error::Unavailable { .. } | Error::Busy(_)) => {}
            Err(other) => panic!("the collector: {other:?}"),
        }
    }
    (trainer, acked)
}

/// What a trainer knows that was acknowledged.
type Trained = (Trainer, Vec<VersionRow>);

/// The load with faults, its store, which is well again, and what its trainers know.
async fn storm(database: TestDatabase, puts_lie: bool) -> (TestApp, FaultyStore, Vec<Trained>) {
    let seed = Random::seed("KEEPBEST_FAULTS_SEED");
    eprintln!("store with KEEPBEST_FAULTS_SEED={seed}");
    let objects = FaultyStore::over(Arc::new(InMemory::new()));
    let test = TestApp::with(database, Arc::new(objects.clone())).await;
    objects.plan(|plan| {
        plan.chance = Some(Chance::new(seed, PERCENT, puts_lie));
    });
    let trainers = (0..TRAINERS).map(|it| tokio::spawn(train(test.app.clone(), it, Arc::clone(&test.clock))));
    let trained = futures::future::join_all(trainers.collect::<Vec<_>>()).await;
    let chance = objects.plan(|plan| plan.chance.take()).unwrap();
    eprintln!("faults: {:?} of {:?}", chance.thrown, objects.plan(|plan| (plan.puts, plan.gets)));
    let thrown: usize = chance.thrown.values().sum();
    assert!(thrown > 20, "{thrown} faults are no storm");
    (test, objects, trained.into_iter().map(Result::unwrap).collect())
}

/// Every version of the ledger is there with its number, and no other.
async fn compare(trained: &[Trained]) {
    for (trainer, acked) in trained {
        let expected: Vec<_> = (0..EPOCHS).map(|epoch| (epoch, epoch)).collect();
        let acked: Vec<_> = acked.iter().map(|it| (it.number, it.epoch)).collect();
        assert_eq!(acked, expected, "numbers have no gaps");
        let mut kept = trainer.versions("", "").await;
        kept.sort_by_key(|it| it.number);
        let kept: Vec<_> = kept.iter().map(|it| (it.number, it.epoch)).collect();
        assert_eq!(kept, expected.into_iter().filter(|it| it.0 != 1).collect::<Vec<_>>(), "once each");
    }
}

/// Two days later no object is without a row, and no row without an object.
async fn nothing_is_left_over(test: &TestApp) {
    for _ in 0..4 {
        test.turn(25 * HOUR_US);
        test.app.collect().await.unwrap();
    }
    let mut keys = test.database.texts("SELECT object_key FROM chunks").await;
    keys.sort();
    assert_eq!(test.database.texts("SELECT object_key FROM doomed_objects").await, Vec::<String>::new());
    assert_eq!(test.keys().await, keys, "no object without a row, no row without an object");
}

async fn what_was_acknowledged_under_faults_is_kept_and_nothing_is_left_over(database: TestDatabase) {
    let (test, _, trained) = storm(database, false).await;
    compare(&trained).await;
    nothing_is_left_over(&test).await;
    for (number, (trainer, _)) in (0..).zip(&trained) {
        for epoch in (0..EPOCHS).filter(|it| *it != 1) {
            for (path, data) in files(number, epoch) {
                let (read, end) = trainer.read(&format!("v{epoch}"), path).await;
                assert!(end.is_ok() && read == data, "v{epoch} {path}: {end:?}");
            }
        }
    }
    assert_eq!(test.problems().await, Vec::<String>::new());
}

async fn a_store_that_lies_about_writes_never_has_a_wrong_byte_served(database: TestDatabase) {
    let (test, objects, trained) = storm(database, true).await;
    compare(&trained).await;
    // One lie at least is about bytes that are needed: those of the storm may all have been stored again since.
    let mut last = test.start("last", every_epoch()).await;
    let checkpoint = last.saved(0, 0.5).await;
    objects.plan(|plan| plan.put_faults = [(plan.puts, PutFault::Lies(Damage::Flip(5)))].into());
    last.write(&checkpoint, &[("weights", &noise(TRAINERS * 1_000, 20_000))]).await.unwrap();
    last.commit(&checkpoint).await.unwrap();
    let (read, end) = last.read("v0", "weights").await;
    assert!(read.is_empty() && matches!(end, Err(Error::DataLoss(_))), "{end:?}");
    let mut damaged = BTreeSet::from(["default/digits/run-last-model:v0 file `weights`".to_owned()]);
    for (number, (trainer, _)) in (0..).zip(&trained) {
        for epoch in (0..EPOCHS).filter(|it| *it != 1) {
            for (path, data) in files(number, epoch) {
                let (read, end) = trainer.read(&format!("v{epoch}"), path).await;
                assert!(data.starts_with(&read), "v{epoch} {path}");
                match end {
                    Ok(()) => assert!(read == data, "v{epoch} {path}"),
                    Err(Error::DataLoss(_)) => {
                        let artifact = trainer.artifact.artifact.as_str();
                        damaged.insert(format!("default/digits/{artifact}:v{epoch} file `{path}`"));
                    }
                    Err(other) => panic!("v{epoch} {path}: {other:?}"),
                }
            }
        }
    }
    // The check names each file that cannot be read, and no other.
    let named = |it: String| it.split_inclusive('`').take(2).collect::<String>();
    let named: BTreeSet<String> = test.problems().await.into_iter().map(named).collect();
    assert_eq!(named, damaged);
}
