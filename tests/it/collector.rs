//! The collector with a clock that is turned by hand: nothing goes too early, nothing stays for ever.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use keepbest::app::Error;
use keepbest::app::Limits;
use keepbest::app::collect::GcReport;
use keepbest::app::uploads::Piece;
use keepbest::db::ExpireTimes;
use keepbest::db::FileStep;
use keepbest::db::WriteFiles;
use keepbest::domain::digest::CHUNK_BYTES;
use keepbest::domain::file::NewFile;
use keepbest::store::new_key;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;

use crate::support::apps::BEGIN_US;
use crate::support::apps::HOUR_US;
use crate::support::apps::TestApp;
use crate::support::apps::every_epoch;
use crate::support::apps::limits;
use crate::support::apps::reason;
use crate::support::databases::TestDatabase;
use crate::support::databases::on_both_databases;
use crate::support::faults::FaultyStore;
use crate::support::faults::Gate;

mod aside;
mod left;
mod processes;
mod races;
mod simulation;

on_both_databases! {
    a_deleted_versions_bytes_go_after_the_graces_and_not_before
    chunks_that_another_version_needs_stay
    what_a_crash_left_is_removed_after_a_day
    an_object_that_cannot_be_deleted_keeps_none_of_the_others
    a_version_that_is_collected_while_it_is_read_does_not_end_as_if_it_were_whole
    an_upload_that_outlives_its_intent_leaves_nothing_behind
    an_upload_that_goes_on_for_longer_than_the_expiry_is_not_expired
}

const DOOMED: &str = "SELECT object_key FROM doomed_objects ORDER BY object_key";

/// How many chunks' objects there are.
fn objects(folder: &Path) -> usize {
    fn files(folder: &Path) -> usize {
        let entries = std::fs::read_dir(folder).unwrap().map(|it| it.unwrap().path());
        entries.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
    }
    files(&folder.join("chunks"))
}

async fn a_deleted_versions_bytes_go_after_the_graces_and_not_before(database: TestDatabase) {
    let folder = tempfile::tempdir().unwrap();
    let db = keepbest::store::objects_in(folder.path()).unwrap();
    let test = TestApp::with(database, db).await;
    let mut trainer = test.start("first", every_epoch()).await;
    trainer.save(0, 0.5, b"stays").await;
    trainer.save(1, 0.4, b"is deleted").await;
    test.app.delete_version(&trainer.version("v1"), false).await.unwrap();
    let nothing = GcReport::default();
    // Deleted versions stay one hour, their chunks two since they were used (and the moment that a pin's
    // end counts as), their objects three more, and the manifest three after the first hour.
    let steps = [
        (0, 0, nothing, 2),
        (1, -1, nothing, 2),
        (1, 0, GcReport { removed_checkpoints: 1, ..nothing }, 2),
        (2, 0, nothing, 2),
        (2, 1, GcReport { removed_chunks: 1, freed_bytes: 10, ..nothing }, 2),
        (4, -1, nothing, 2),
        (4, 0, GcReport { removed_objects: 1, ..nothing }, 2),
        (5, 0, nothing, 2),
        (5, 1, GcReport { removed_objects: 1, ..nothing }, 1),
        (500, 0, nothing, 1),
    ];
    for (hours, moment, report, left) in steps {
        let now_us = BEGIN_US + hours * HOUR_US + moment;
        test.clock.store(now_us, Ordering::SeqCst);
        assert_eq!(test.app.collect().await.unwrap(), report, "after {hours} hours {moment:+}");
        assert_eq!(objects(folder.path()), left, "after {hours} hours {moment:+}");
    }
    assert_eq!(test.database.texts(DOOMED).await, Vec::<String>::new());
    assert_eq!(trainer.read("latest", "model.keras").await.0, b"stays");
    assert_eq!(test.problems().await, Vec::<String>::new());
}

async fn chunks_that_another_version_needs_stay(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    for epoch in 0..3 {
        let checkpoint = trainer.saved(epoch, 0.5).await;
        let own = epoch.to_le_bytes();
        trainer.write(&checkpoint, &[("frozen", b"shared"), ("head", &own)]).await.unwrap();
        trainer.commit(&checkpoint).await.unwrap();
    }
    let waiting = trainer.saved(3, 0.5).await;
    trainer.write(&waiting, &[("frozen", b"shared")]).await.unwrap();
    for (version, objects) in [("v0", 3), ("v2", 2), ("v1", 1)] {
        test.app.delete_version(&trainer.version(version), false).await.unwrap();
        test.app.collect_now().await.unwrap();
        assert_eq!(test.keys().await.len(), objects, "without {version}");
        assert_eq!(test.problems().await, Vec::<String>::new());
    }
    trainer.commit(&waiting).await.unwrap();
    assert_eq!(trainer.read("latest", "frozen").await.0, b"shared", "a pending checkpoint keeps its chunks");
}

async fn what_a_crash_left_is_removed_after_a_day(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    trainer.save(0, 0.5, b"stays").await;
    let checkpoint = trainer.saved(1, 0.4).await;
    let db = test.database.open().await;
    let late_us = BEGIN_US + 1_000 * HOUR_US;
    let expire = ExpireTimes { pending_us: late_us, parts_us: late_us };
    let declare = |path: &str| FileStep {
        path: path.to_owned(),
        declare: Some(NewFile { path: path.to_owned(), size_bytes: 5, sha256: None }),
        take_over: Some(0),
        ..FileStep::default()
    };
    let write = WriteFiles {
        checkpoint,
        attempt: 1,
        token: "crashed".to_owned(),
        expire,
        now_us: BEGIN_US,
        files: vec![declare("intent"), declare("object")],
    };
    db.write_files(write).await.unwrap();
    let keys = [new_key(BEGIN_US), new_key(BEGIN_US)];
    db.reserve_keys(keys.to_vec(), BEGIN_US + 24 * HOUR_US).await.unwrap();
    // One crashed before its object was stored, one after it.
    test.objects.put(&keys[1].as_str().into(), "lost2".into()).await.unwrap();
    test.turn(24 * HOUR_US - 1);
    test.app.collect_now().await.unwrap();
    assert_eq!((test.keys().await.len(), test.database.texts(DOOMED).await.len()), (2, 2));
    test.turn(1);
    // And a collector crashed after it took the rows.
    assert_eq!(db.claim_doomed(BEGIN_US + 24 * HOUR_US).await.unwrap().len(), 2);
    assert_eq!(test.app.collect().await.unwrap(), GcReport { removed_objects: 2, ..GcReport::default() });
    assert_eq!((test.keys().await.len(), test.database.texts(DOOMED).await.len()), (1, 0));
    assert_eq!(trainer.read("v0", "model.keras").await.0, b"stays");
}

async fn an_object_that_cannot_be_deleted_keeps_none_of_the_others(database: TestDatabase) {
    let objects = FaultyStore::over(Arc::new(InMemory::new()));
    let test = TestApp::with(database, Arc::new(objects.clone())).await;
    let mut trainer = test.start("first", every_epoch()).await;
    for epoch in 0..5 {
        trainer.save(epoch, 0.5, &epoch.to_le_bytes()).await;
        test.app.delete_version(&trainer.version(&format!("v{epoch}")), false).await.unwrap();
    }
    for stuck in [2, 1] {
        let keys = test.keys().await;
        objects.plan(|plan| plan.stuck = keys[..stuck].to_vec());
        let collected = test.app.collect_now().await;
        assert!(
            matches!(collected, Err(Error::Unavailable { what: "the object store", .. })),
            "{collected:?}"
        );
        assert_eq!(test.keys().await, keys[..stuck]);
        assert_eq!(test.database.texts(DOOMED).await, keys[..stuck], "what is left is tried again");
    }
    objects.plan(|plan| plan.stuck.clear());
    assert_eq!(test.app.collect().await.unwrap(), GcReport { removed_objects: 1, ..GcReport::default() });
    assert_eq!((test.keys().await.len(), test.database.texts(DOOMED).await.len()), (0, 0));
}

async fn a_version_that_is_collected_while_it_is_read_does_not_end_as_if_it_were_whole(
    database: TestDatabase,
) {
    let objects = FaultyStore::over(Arc::new(InMemory::new()));
    let test = TestApp::with(database, Arc::new(objects.clone())).await;
    let mut trainer = test.start("first", every_epoch()).await;
    trainer.save(0, 0.5, b"model").await;
    let gate = Arc::new(Gate::default());
    objects.plan(|plan| plan.gate = Some(Arc::clone(&gate)));
    let (_, pieces) = test.app.read_file(&trainer.version("v0"), "model.keras", 0, 0).await.unwrap();
    gate.arrived.notified().await;
    test.app.delete_version(&trainer.version("v0"), false).await.unwrap();
    test.app.collect_now().await.unwrap();
    // What is missing is asked for once more.
    objects.plan(|plan| plan.gate = None);
    gate.open.notify_one();
    let pieces: Vec<_> = pieces.collect().await;
    assert_eq!(pieces.into_iter().map(reason).collect::<Vec<_>>(), ["NOT_FOUND"]);
}

async fn an_upload_that_outlives_its_intent_leaves_nothing_behind(database: TestDatabase) {
    let objects = FaultyStore::over(Arc::new(InMemory::new()));
    let limits = Limits { pending_expiry: Duration::from_secs(40 * 3_600), ..limits() };
    let test = TestApp::limited(database, Arc::new(objects.clone()), limits).await;
    let mut trainer = test.start("first", every_epoch()).await;
    let checkpoint = trainer.saved(0, 0.5).await;
    // Two uploads lose their reservations and put their bytes again, under a new key; the third loses its checkpoint.
    for (round, path) in ["small", "large", "late"].into_iter().enumerate() {
        let gate = Arc::new(Gate::default());
        objects.plan(|plan| plan.gate = Some(Arc::clone(&gate)));
        let (writer, name) = (trainer.clone(), checkpoint.clone());
        let writing = tokio::spawn(async move {
            match path {
                "small" => writer.write(&name, &[(path, path.as_bytes())]).await.map(drop),
                _ => writer.stream(&name, path, path.as_bytes()).await.map(drop),
            }
        });
        gate.arrived.notified().await;
        test.turn(if round < 2 { 25 * HOUR_US } else { 41 * HOUR_US });
        let before = test.keys().await;
        test.app.collect_now().await.unwrap();
        assert_eq!(test.database.texts(DOOMED).await, Vec::<String>::new());
        objects.plan(|plan| plan.gate = None);
        gate.open.notify_one();
        let written = writing.await.unwrap();
        if round < 2 {
            written.unwrap();
            assert_eq!(
                test.keys().await.len(),
                round + 1,
                "the object that came late is gone again: {before:?}"
            );
            assert_eq!(test.database.texts(DOOMED).await, Vec::<String>::new());
        } else {
            assert_eq!(reason(written), "CHECKPOINT_DELETED");
            assert_eq!(test.keys().await, Vec::<String>::new());
        }
    }
}

async fn an_upload_that_goes_on_for_longer_than_the_expiry_is_not_expired(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    let checkpoint = trainer.saved(0, 0.5).await;
    let chunk = usize::try_from(CHUNK_BYTES).unwrap();
    let target = trainer.target(&checkpoint, "model");
    let size_bytes = i64::try_from(6 * chunk).unwrap();
    test.app.prepare_file(target.clone(), size_bytes, None).await.unwrap();
    // A chunk every three hours, where ten hours without one are too long; a few of them are on their way at once.
    let chunks = futures::stream::iter(0..6_u8).then(|n| {
        let (app, clock, target) = (test.app.clone(), Arc::clone(&test.clock), target.clone());
        async move {
            // On a slow machine more than two would be on their way, for longer than the ten hours.
            let durable = i64::from(n.saturating_sub(2)) * (size_bytes / 6);
            while app.prepare_file(target.clone(), size_bytes, None).await.unwrap().durable_bytes < durable {
                tokio::task::yield_now().await;
            }
            clock.fetch_add(3 * HOUR_US, Ordering::SeqCst);
            assert_eq!(app.collect().await.unwrap().expired_checkpoints, 0, "after {n} chunks");
            Ok(Piece { data: Bytes::from(vec![n; chunk]), finish: n == 5, ..Piece::default() })
        }
    });
    test.app.write_file(target.clone(), 0, chunks).await.unwrap();
    assert_eq!(trainer.commit(&checkpoint).await.unwrap().size_bytes, 6 * i64::try_from(chunk).unwrap());
}
