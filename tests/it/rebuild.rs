//! The database is gone, and the store alone brings every committed version back: the same numbers, aliases, metrics, files
//! and bytes, and runs that go on.

mod load;

use std::sync::Arc;

use keepbest::app::Error;
use keepbest::app::RunState;
use keepbest::app::deletions::How;
use keepbest::app::rebuild::RebuildReport;
use keepbest::domain::ids::ListParent;
use keepbest::domain::metric::MetricValue;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;

use crate::support::apps::TestApp;
use crate::support::apps::Trainer;
use crate::support::apps::best_only;
use crate::support::apps::every_epoch;
use crate::support::apps::id;
use crate::support::apps::reason;
use crate::support::apps::start;
use crate::support::databases::TestDatabase;
use crate::support::databases::on_both_databases;
use crate::support::faults::FaultyStore;
use crate::support::faults::GetFault;
use crate::support::random::Random;

on_both_databases! {
    every_committed_version_of_a_random_load_is_equal_after_a_rebuild
    a_run_goes_on_where_its_last_version_left_it_and_old_attempts_are_fenced
    a_deleted_version_stays_deleted_and_its_number_taken
    names_that_were_used_again_are_those_of_what_stands
    a_damaged_manifest_and_a_lost_chunk_cost_their_version_only
    versions_without_a_manifest_are_told_once_and_their_numbers_stay_taken
    a_database_with_rows_and_a_store_without_manifests_are_refused
    a_rebuild_that_was_cut_is_not_taken_for_the_whole
    a_store_that_two_databases_wrote_to_is_not_mixed
}

const NOTHING: Vec<String> = Vec::new();

/// A new database from the store alone.
async fn rebuilt(test: &TestApp) -> (TestApp, RebuildReport) {
    let new = test.on(test.database.another().await).await;
    let report = new.app.rebuild().await.unwrap();
    (new, report)
}

async fn every_committed_version_of_a_random_load_is_equal_after_a_rebuild(database: TestDatabase) {
    let seed = Random::seed("KEEPBEST_REBUILD_SEED");
    println!("repeat with KEEPBEST_REBUILD_SEED={seed}");
    let test = TestApp::over(database).await;
    let mut load = load::Load::new(&test, Random::new(seed)).await;
    for _ in 0..300 {
        load.step().await;
    }
    let (before, counts) = (load::told(&test.app).await, load::counts(&test).await);
    assert!(counts.versions > 30 && counts.deleted > 5, "{counts:?}");

    let (new, report) = rebuilt(&test).await;
    assert_eq!(report.skipped, NOTHING);
    assert_eq!((report.versions, report.deleted_versions), (counts.versions, counts.deleted));
    let after = load::told(&new.app).await;
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    for (thing, text) in &before {
        assert_eq!(&after[thing], text, "{thing}");
    }
    let check = new.app.check(true).await.unwrap();
    assert_eq!((check.problems, check.versions, check.manifests), (vec![], counts.versions, counts.versions));
    assert_eq!(new.app.collect_now().await.unwrap(), Default::default(), "nothing of it is free to go");

    // And it goes on: every run, and once more from the store.
    load.resume(&new.app).await;
    let (before, check) = (load::told(&new.app).await, new.app.check(true).await.unwrap());
    assert_eq!(check.problems, NOTHING);
    let (again, report) = rebuilt(&new).await;
    assert_eq!((report.skipped, report.versions), (vec![], check.versions));
    assert_eq!(load::told(&again.app).await, before);
    println!("{counts:?}: {} things equal, twice", before.len());
}

async fn a_run_goes_on_where_its_last_version_left_it_and_old_attempts_are_fenced(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", best_only()).await;
    for (epoch, value) in (0..).zip([0.5, 0.3, f64::NEG_INFINITY]) {
        trainer.save(epoch, value, &epoch.to_le_bytes()).await;
    }
    test.app.delete_version(&trainer.version("v2"), false).await.unwrap();
    let flying = trainer.saved(3, 0.2).await;
    trainer.write(&flying, &[("model", b"in flight")]).await.unwrap();

    let (new, report) = rebuilt(&test).await;
    assert_eq!((report.artifacts, report.runs, report.versions, report.deleted_versions), (1, 1, 2, 1));
    // Processes of before must not write beside the next one.
    let zombie = Trainer { app: new.app.clone(), ..trainer.clone() };
    assert_eq!(reason(zombie.commit(&flying).await), "NOT_FOUND");
    let mut resumed = new.start("first", best_only()).await;
    assert!(resumed.attempt > trainer.attempt + 100, "{}", resumed.attempt);
    assert_eq!(reason(zombie.clone().report(vec![]).await), "STALE_ATTEMPT");
    assert_eq!(resumed.to_beat().await, Some(0.3), "the best that stands, not the one that was deleted");
    assert_eq!(resumed.epoch(3, 0.3).await.checkpoint_uid, None, "no better than the best");
    assert_eq!(resumed.save(4, 0.25, b"better").await.number, 3);
    assert_eq!(
        resumed.named("best").await.unwrap(),
        (3, ["best", "epoch_4", "latest"].map(String::from).to_vec())
    );
    assert_eq!(new.problems().await, NOTHING);
}

/// A sweep that went wrong is begun anew under the same names.
async fn names_that_were_used_again_are_those_of_what_stands(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    for epoch in 0..3 {
        trainer.save(epoch, 0.5, &epoch.to_le_bytes()).await;
    }
    let name = trainer.run.clone();
    trainer.app.finish_run(name.clone(), trainer.attempt, RunState::Finished).await.unwrap();
    test.app.delete_artifact(&trainer.artifact, How::default()).await.unwrap();
    test.app.delete_run(&name, How::default()).await.unwrap();
    let mut trainer = test.start("first", every_epoch()).await;
    for epoch in 0..2 {
        trainer.save(epoch, 0.4, &(epoch + 10).to_le_bytes()).await;
    }
    let (new, report) = rebuilt(&test).await;
    assert_eq!((report.versions, report.skipped, report.lost), (2, vec![], vec![]));
    let mut trainer = new.start("first", every_epoch()).await;
    assert_eq!(trainer.named("latest").await.unwrap().0, 1);
    assert_eq!(trainer.save(2, 0.3, b"the next").await.number, 2);
    assert_eq!(new.problems().await, NOTHING);
}

async fn a_deleted_version_stays_deleted_and_its_number_taken(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    for epoch in 0..3 {
        trainer.save(epoch, 0.5 - epoch as f64 / 10.0, b"the same bytes").await;
    }
    let late = Path::from(test.manifests().await[2].as_str());
    let manifest = test.objects.get(&late).await.unwrap().bytes().await.unwrap();
    for version in ["v0", "v2"] {
        test.app.delete_version(&trainer.version(version), false).await.unwrap();
    }
    // A put of before the deletion lands after it, and its chunks stand, for v1 has the same.
    test.objects.put(&late, manifest.into()).await.unwrap();
    let (new, report) = rebuilt(&test).await;
    assert_eq!((report.versions, report.deleted_versions, report.skipped), (1, 2, vec![]));
    let mut trainer = new.start("first", every_epoch()).await;
    for version in ["v0", "v2"] {
        assert_eq!(reason(trainer.named(version).await), "NOT_FOUND");
        let again = new.app.delete_version(&trainer.version(version), false).await;
        assert_eq!(again.unwrap().size_bytes, 14, "repeated: the same answer");
    }
    assert_eq!(
        trainer.named("best").await.unwrap(),
        (1, ["best", "epoch_1", "latest"].map(String::from).to_vec())
    );
    assert_eq!(trainer.save(3, 0.5, b"next").await.number, 3);
    assert_eq!(new.problems().await, NOTHING);
}

async fn a_damaged_manifest_and_a_lost_chunk_cost_their_version_only(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", best_only()).await;
    for (epoch, value) in (0..).zip([0.5, 0.4, 0.3, 0.2]) {
        let checkpoint = trainer.saved(epoch, value).await;
        trainer.write(&checkpoint, &[("all", b"shared"), ("own", &epoch.to_le_bytes())]).await.unwrap();
        trainer.commit(&checkpoint).await.unwrap();
    }
    let manifests = test.manifests().await;
    let damaged = Path::from(manifests[1].as_str());
    let mut bytes = test.objects.get(&damaged).await.unwrap().bytes().await.unwrap().to_vec();
    bytes[700] ^= 1;
    test.objects.put(&damaged, bytes.into()).await.unwrap();
    let own = "SELECT c.object_key FROM checkpoints v JOIN files f ON f.checkpoint_uid = v.uid \
        JOIN file_chunks p ON p.file_uid = f.uid JOIN chunks c ON c.digest = p.digest \
        WHERE v.version = 3 AND f.path = 'own'";
    let lost = &test.database.texts(own).await[0];
    test.objects.put(&lost.as_str().into(), "short".into()).await.unwrap();

    let (new, report) = rebuilt(&test).await;
    assert_eq!((report.versions, report.files, report.skipped.len()), (2, 4, 2), "{report:?}");
    let begins = format!("manifest `{}`: its bytes have the digest", manifests[1]);
    assert!(report.skipped[0].starts_with(&begins), "{report:?}");
    let expected = format!(
        "version default/digits/run-first-model:v3: file `own` at byte 0: object `{lost}` has 5 bytes, not 8"
    );
    assert_eq!(report.skipped[1], expected);
    assert_eq!(report.lost, ["artifact default/digits/run-first-model: no manifest tells of v1; 1 of 4"]);
    assert_eq!(new.problems().await, NOTHING, "the rebuild told it, and it is no gap for ever");

    let mut trainer = new.start("first", best_only()).await;
    assert_eq!(trainer.to_beat().await, Some(0.3));
    assert_eq!(
        trainer.named("best").await.unwrap(),
        (2, ["best", "epoch_2", "latest"].map(String::from).to_vec())
    );
    assert_eq!(trainer.read("v0", "own").await.0, 0_i64.to_le_bytes());
    assert_eq!(reason(trainer.named("v3").await), "NOT_FOUND");
    assert_eq!(trainer.save(5, 0.1, b"next").await.number, 4, "no number is given out twice");
    // Nothing in the store was touched: with the object back, another rebuild finds the version.
    assert!(test.manifests().await.contains(&manifests[3]));
}

async fn versions_without_a_manifest_are_told_once_and_their_numbers_stay_taken(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    for epoch in 0..9 {
        trainer.save(epoch, 0.5, &epoch.to_le_bytes()).await;
    }
    let manifests = test.manifests().await;
    for lost in [0, 1, 3, 5, 6, 7] {
        test.objects.delete(&manifests[lost].as_str().into()).await.unwrap();
    }
    let (new, report) = rebuilt(&test).await;
    assert_eq!((report.versions, report.skipped), (3, NOTHING));
    let expected =
        "artifact default/digits/run-first-model: no manifest tells of v0 to v1, v3, v5 to v7; 6 of 9";
    assert_eq!(report.lost, [expected]);
    assert_eq!(new.problems().await, NOTHING);
    let mut trainer = new.start("first", every_epoch()).await;
    assert_eq!(trainer.save(9, 0.5, b"next").await.number, 9);
    assert_eq!(new.problems().await, NOTHING);
    new.database.execute("UPDATE artifacts SET next_version = 11").await;
    assert_eq!(new.problems().await, ["artifact `run-first-model` has a gap in its version numbers"]);
}

async fn a_database_with_rows_and_a_store_without_manifests_are_refused(database: TestDatabase) {
    let test = TestApp::over(database).await;
    assert_eq!(reason(test.app.rebuild().await), "NO_MANIFESTS");
    let mut trainer = test.start("first", every_epoch()).await;
    trainer.save(0, 0.5, b"model").await;
    assert_eq!(reason(test.app.rebuild().await), "DATABASE_NOT_EMPTY");
    // And what was refused left no trace.
    assert_eq!(trainer.save(1, 0.5, b"model").await.number, 1);
    let (new, _) = rebuilt(&test).await;
    assert_eq!(reason(new.app.rebuild().await), "DATABASE_NOT_EMPTY");
    new.replica().await;
}

async fn a_rebuild_that_was_cut_is_not_taken_for_the_whole(database: TestDatabase) {
    let objects = FaultyStore::over(Arc::new(InMemory::new()));
    let test = TestApp::with(database, Arc::new(objects.clone())).await;
    let mut trainer = test.start("first", every_epoch()).await;
    for epoch in 0..3 {
        trainer.save(epoch, 0.5, &epoch.to_le_bytes()).await;
    }
    let last = test.manifests().await[2].clone();
    objects.plan(|plan| plan.get_faults = [(last, GetFault::Fails)].into());
    let new = test.on(test.database.another().await).await;
    assert!(matches!(new.app.rebuild().await, Err(Error::Unavailable { what: "the object store", .. })));
    objects.plan(|plan| plan.get_faults.clear());
    assert_eq!(reason(new.database.try_open().await.map_err(Error::from)), "REBUILD_UNFINISHED");
    assert_eq!(rebuilt(&test).await.1.versions, 3);
}

async fn a_store_that_two_databases_wrote_to_is_not_mixed(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    trainer.save(0, 0.5, b"of the first").await;
    // Somebody lost the database and began anew instead of rebuilding it.
    let second = test.on(test.database.another().await).await;
    let mut trainer = second.start("first", every_epoch()).await;
    trainer.save(0, 0.5, b"of the second").await;
    let mut trainer = second.start("second", every_epoch()).await;
    trainer.save(0, 0.5, b"of the second").await;
    let (new, report) = rebuilt(&test).await;
    assert_eq!((report.versions, report.skipped.len()), (2, 1), "{report:?}");
    assert!(report.skipped[0].contains("another artifact has the name `run-first-model`"), "{report:?}");
    assert_eq!(new.start("first", every_epoch()).await.read("v0", "model.keras").await.0, b"of the first");
    assert_eq!(new.problems().await, NOTHING);
}

#[tokio::test]
async fn what_a_run_was_is_there_again() {
    let test = TestApp::over(crate::support::databases::sqlite().await).await;
    let mut begin = start("teams/vision/projects/mnist", "first", every_epoch());
    begin.artifact = Some(id("cnn"));
    begin.artifact_type = "network".to_owned();
    begin.config = Some("{\"rate\":1e-3}".to_owned());
    let mut trainer = Trainer::start(&test.app, begin).await.unwrap();
    let mut event = crate::support::apps::val_loss(0, 0.5);
    event.metrics.insert("text".to_owned(), MetricValue::Text("a".to_owned()));
    let uid = trainer.report(vec![event]).await.unwrap().decisions.pop().unwrap().checkpoint_uid.unwrap();
    let checkpoint = trainer.checkpoint(&uid);
    trainer.write(&checkpoint, &[("model", b"bytes")]).await.unwrap();
    trainer.commit(&checkpoint).await.unwrap();
    let before = test.app.run(&trainer.run).await.unwrap();
    let (new, _) = rebuilt(&test).await;
    let after = new.app.run(&trainer.run).await.unwrap();
    assert_eq!((after.uid, after.strategy, after.config), (before.uid, before.strategy, before.config));
    assert_eq!((after.direction, after.state), (before.direction, RunState::Active));
    assert_eq!((after.last_epoch, after.event_count), (Some(0), 0), "its events are not in the store");
    assert_eq!(after.monitor_state, before.monitor_state);
    let parent = ListParent { team: id("vision"), project: None };
    let artifacts = new.app.list_artifacts(&parent, None, 10).await.unwrap();
    assert_eq!((artifacts.len(), artifacts[0].kind.as_str(), artifacts[0].version_count), (1, "network", 1));
}
