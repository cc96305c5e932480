//! What cannot be read, or is held by somebody, keeps the collector from nothing else.

use keepbest::app::collect::GcReport;
use keepbest::domain::monitor::IN_FLIGHT_MAX;

use crate::support::apps::HOUR_US;
use crate::support::apps::TestApp;
use crate::support::apps::every_epoch;
use crate::support::apps::val_loss;
use crate::support::databases::TestDatabase;
use crate::support::databases::on_both_databases;
use crate::support::faults::FaultyStore;
use crate::support::faults::PutFault;

on_both_databases! {
    a_run_that_cannot_be_read_keeps_no_other_from_being_collected
    a_version_that_cannot_be_read_keeps_no_other_manifest_from_being_written
    objects_that_cannot_be_deleted_keep_none_behind_them
}

/// Runs with as many saves in flight as a run may have: together more than a page of the collector.
const BROKEN: usize = 3;
/// More than a page of objects.
const STUCK: usize = 201;

async fn a_run_that_cannot_be_read_keeps_no_other_from_being_collected(database: TestDatabase) {
    let test = TestApp::over(database).await;
    for index in 0..BROKEN {
        let mut broken = test.start(&format!("broken-{index}"), every_epoch()).await;
        let events = (0..IN_FLIGHT_MAX).zip(0..).map(|(_, epoch)| val_loss(epoch, 0.5));
        broken.report(events.collect()).await.unwrap();
    }
    let mut good = test.start("good", every_epoch()).await;
    good.save(0, 0.5, b"is deleted").await;
    test.app.delete_version(&good.version("v0"), false).await.unwrap();
    // The last one to expire.
    test.turn(1);
    let pending = good.saved(1, 0.4).await;
    let torn = "UPDATE runs SET monitor_state = '{' WHERE id LIKE 'broken%'";
    assert_eq!(test.database.execute(torn).await, BROKEN as u64);

    let in_flight = (BROKEN * IN_FLIGHT_MAX) as u64;
    let nothing = GcReport { left: in_flight, ..GcReport::default() };
    test.turn(11 * HOUR_US);
    let report = test.app.collect_now().await.unwrap();
    let expected = GcReport {
        expired_checkpoints: 1,
        removed_checkpoints: 2,
        removed_chunks: 1,
        removed_objects: 2,
        freed_bytes: 10,
        ..nothing
    };
    assert_eq!(report, expected);
    let state = test.app.checkpoint(&pending).await.unwrap().state;
    assert_eq!(state, keepbest::app::CheckpointState::Deleted);
    assert_eq!(test.app.collect_now().await.unwrap(), nothing);
    let mended = "UPDATE runs SET monitor_state = '{}' WHERE id LIKE 'broken%'";
    test.database.execute(mended).await;
    assert_eq!(test.app.collect().await.unwrap().expired_checkpoints, in_flight);
}

async fn a_version_that_cannot_be_read_keeps_no_other_manifest_from_being_written(database: TestDatabase) {
    let objects = FaultyStore::over(std::sync::Arc::new(object_store::memory::InMemory::new()));
    let test = TestApp::with(database, std::sync::Arc::new(objects.clone())).await;
    let mut trainer = test.start("first", every_epoch()).await;
    objects.plan(|plan| plan.manifest_fault = Some(PutFault::Before));
    for epoch in 0..3 {
        let checkpoint = trainer.saved(epoch, 0.5).await;
        trainer.write(&checkpoint, &[("model", &epoch.to_le_bytes())]).await.unwrap();
        trainer.commit(&checkpoint).await.unwrap_err();
    }
    objects.plan(|plan| plan.manifest_fault = None);
    test.database.execute("UPDATE checkpoints SET metrics = '{' WHERE version = 0").await;
    test.turn(HOUR_US);
    let written = GcReport { written_manifests: 2, left: 1, ..GcReport::default() };
    assert_eq!(test.app.collect().await.unwrap(), written);
    assert_eq!(test.manifests().await.len(), 2);
}

async fn objects_that_cannot_be_deleted_keep_none_behind_them(database: TestDatabase) {
    let objects = FaultyStore::over(std::sync::Arc::new(object_store::memory::InMemory::new()));
    let test = TestApp::with(database, std::sync::Arc::new(objects.clone())).await;
    let mut trainer = test.start("first", every_epoch()).await;
    let checkpoint = trainer.saved(0, 0.5).await;
    let files: Vec<(String, Vec<u8>)> =
        (0..2 * STUCK).map(|index| (format!("f{index}"), index.to_le_bytes().to_vec())).collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(path, data)| (path.as_str(), &data[..])).collect();
    trainer.write(&checkpoint, &files).await.unwrap();
    trainer.abandon(&checkpoint).await.unwrap();
    // Every second one, so that no page has only such.
    let stuck: Vec<String> = test.keys().await.into_iter().step_by(2).collect();
    objects.plan(|plan| plan.stuck.clone_from(&stuck));
    for _ in 0..2 {
        // Once when they are claimed, and once more in each pass.
        assert!(test.app.collect_now().await.is_err());
        assert_eq!(test.keys().await, stuck);
    }
    // What is claimed and can be deleted is, though more than a page of others cannot.
    let free = objects.plan(|plan| plan.stuck.pop().unwrap());
    assert!(test.app.collect_now().await.is_err());
    assert!(!test.keys().await.contains(&free), "one stood behind {} that are stuck", stuck.len() - 1);
    objects.plan(|plan| plan.stuck.clear());
    test.app.collect_now().await.unwrap();
    assert_eq!(test.keys().await, Vec::<String>::new());
}
