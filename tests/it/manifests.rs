//! Each commit leaves a manifest in the object store before it is acknowledged, and each deletion the word that it is gone,
//! whatever dies or is away in between.

use std::sync::Arc;

use futures::future::join_all;
use keepbest::app::Error;
use keepbest::domain::manifest::Manifest;
use keepbest::domain::manifest::ManifestState;
use keepbest::store::deleted_manifest_key;
use keepbest::store::manifest_key;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;

use crate::support::apps::HOUR_US;
use crate::support::apps::SECOND_US;
use crate::support::apps::TestApp;
use crate::support::apps::every_epoch;
use crate::support::databases::TestDatabase;
use crate::support::databases::on_both_databases;
use crate::support::faults::FaultyStore;
use crate::support::faults::PutFault;

on_both_databases! {
    a_commit_leaves_a_manifest_that_tells_the_version
    a_commit_whose_manifest_cannot_be_stored_stands_and_is_repeated
    a_deletion_leaves_the_word_that_the_version_is_gone
    what_a_crash_left_undone_is_written_by_the_next_pass_of_any_replica
    versions_of_an_earlier_release_get_their_manifests
    the_manifest_of_a_deleted_version_stays_as_long_as_its_bytes
    the_check_compares_manifests_with_the_database
}

const DUE: &str = "SELECT uid FROM checkpoints WHERE version IS NOT NULL AND manifest_state <> state";

async fn stored(test: &TestApp, key: &str) -> Manifest {
    let data = test.objects.get(&key.into()).await.unwrap().bytes().await.unwrap();
    Manifest::read(&data).unwrap()
}

fn is_away<T: std::fmt::Debug>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::Unavailable { what: "the object store", .. }))
}

async fn a_commit_leaves_a_manifest_that_tells_the_version(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    let checkpoint = trainer.saved(0, 0.1 + 0.2).await;
    trainer.write(&checkpoint, &[("b", b"two"), ("a", b""), ("c/d", b"two")]).await.unwrap();
    assert_eq!(test.manifests().await, Vec::<String>::new(), "only what is committed");
    let metadata = Some("{\"note\": [1e400, \"\u{7}\"]}".to_owned());
    let version = test.app.commit(checkpoint.clone(), trainer.attempt, None, metadata.clone()).await.unwrap();

    let key = manifest_key(checkpoint.checkpoint.as_str(), version.commit_time_us);
    assert_eq!(test.manifests().await, std::slice::from_ref(&key));
    let manifest = stored(&test, &key).await;
    let told = &manifest.head.version;
    assert_eq!((told.state, told.number, told.epoch), (ManifestState::Committed, 0, 0));
    assert_eq!((&told.metrics, told.value), (&version.metrics, Some(0.1 + 0.2)));
    assert_eq!((&told.metadata_json, told.digest), (&metadata, version.digest));
    assert_eq!(told.aliases, ["epoch_0"]);
    assert_eq!(manifest.head.run.monitor_state.best_checkpoint.as_deref(), Some(told.checkpoint.as_str()));
    let files: Vec<_> = manifest.files.iter().map(|it| (it.path.as_str(), it.size_bytes)).collect();
    assert_eq!(files, [("a", 0), ("b", 3), ("c/d", 3)]);
    assert_eq!(manifest.files[1].chunks, manifest.files[2].chunks, "one object for equal bytes");
    assert!(test.keys().await.contains(&manifest.files[1].chunks[0].object_key));
    assert_eq!(test.database.texts(DUE).await, Vec::<String>::new());
}

async fn a_commit_whose_manifest_cannot_be_stored_stands_and_is_repeated(database: TestDatabase) {
    let objects = FaultyStore::over(Arc::new(InMemory::new()));
    let test = TestApp::with(database, Arc::new(objects.clone())).await;
    let mut trainer = test.start("first", every_epoch()).await;
    for (number, fault) in (0..).zip([PutFault::Before, PutFault::After]) {
        let checkpoint = trainer.saved(number, 0.5).await;
        trainer.write(&checkpoint, &[("model", b"bytes")]).await.unwrap();
        objects.plan(|plan| plan.manifest_fault = Some(fault));
        for _ in 0..2 {
            assert!(is_away(trainer.commit(&checkpoint).await), "{fault:?}");
        }
        assert_eq!(
            trainer.named("latest").await.unwrap().0,
            number,
            "{fault:?}: it is committed all the same"
        );
        assert_eq!(test.database.texts(DUE).await.len(), 1);
        objects.plan(|plan| plan.manifest_fault = None);
        // Also by two replicas at once.
        let replica = test.replica().await;
        let repeats = [&test.app, &replica].map(|app| app.commit(checkpoint.clone(), 1, None, None));
        for repeated in join_all(repeats).await {
            assert_eq!(repeated.unwrap().number, number);
        }
        assert_eq!(test.manifests().await.len(), usize::try_from(number).unwrap() + 1);
        assert_eq!(test.database.texts(DUE).await, Vec::<String>::new());
    }
    assert_eq!(test.problems().await, Vec::<String>::new());
}

async fn a_deletion_leaves_the_word_that_the_version_is_gone(database: TestDatabase) {
    let objects = FaultyStore::over(Arc::new(InMemory::new()));
    let test = TestApp::with(database, Arc::new(objects.clone())).await;
    let mut trainer = test.start("first", every_epoch()).await;
    let version = trainer.save(0, 0.5, b"bytes").await;
    let uid = version.checkpoint.checkpoint.as_str();
    let (standing, deleted) =
        (manifest_key(uid, version.commit_time_us), deleted_manifest_key(uid, version.commit_time_us));
    let name = trainer.version("v0");
    for (fault, stands) in [(PutFault::Before, vec![&standing]), (PutFault::After, vec![&deleted, &standing])]
    {
        objects.plan(|plan| plan.manifest_fault = Some(fault));
        // A store that is away or full keeps no version from being deleted.
        assert_eq!(test.app.delete_version(&name, false).await.unwrap().size_bytes, 5, "{fault:?}");
        assert_eq!(test.manifests().await.iter().collect::<Vec<_>>(), stands, "{fault:?}");
        assert_eq!(test.database.texts(DUE).await.len(), 1);
    }
    objects.plan(|plan| plan.manifest_fault = None);
    for _ in 0..2 {
        assert_eq!(
            test.app.delete_version(&name, false).await.unwrap().size_bytes,
            5,
            "repeated: the same answer"
        );
        assert_eq!(test.manifests().await, [deleted.clone(), standing.clone()]);
    }
    assert_eq!(test.database.texts(DUE).await, Vec::<String>::new());
    let manifest = stored(&test, &deleted).await;
    assert_eq!((manifest.head.version.state, manifest.files.len()), (ManifestState::Deleted, 0));
    assert_eq!(manifest.head.run.monitor_state.best_checkpoint, None);
}

async fn what_a_crash_left_undone_is_written_by_the_next_pass_of_any_replica(database: TestDatabase) {
    let objects = FaultyStore::over(Arc::new(InMemory::new()));
    let test = TestApp::with(database, Arc::new(objects.clone())).await;
    let mut trainer = test.start("first", every_epoch()).await;
    trainer.save(0, 0.5, b"deleted").await;
    let checkpoint = trainer.saved(1, 0.4).await;
    trainer.write(&checkpoint, &[("model", b"bytes")]).await.unwrap();
    // The database's transactions are done, and nobody repeats the calls.
    objects.plan(|plan| plan.manifest_fault = Some(PutFault::Before));
    assert!(is_away(trainer.commit(&checkpoint).await));
    test.app.delete_version(&trainer.version("v0"), false).await.unwrap();
    objects.plan(|plan| plan.manifest_fault = None);

    test.turn(59 * SECOND_US);
    assert_eq!(test.app.collect().await.unwrap().written_manifests, 0, "the calls may still write them");
    assert_eq!(test.app.check(false).await.unwrap().due_manifests, 2);
    test.turn(2 * SECOND_US);
    objects.plan(|plan| plan.manifest_fault = Some(PutFault::Before));
    assert!(is_away(test.app.collect().await), "and is tried again");
    objects.plan(|plan| plan.manifest_fault = None);
    let replicas = [test.replica().await, test.replica().await, test.replica().await];
    let passes = join_all(replicas.iter().map(|app| app.collect())).await;
    let written: u64 = passes.into_iter().map(|pass| pass.unwrap().written_manifests).sum();
    assert!((2..=6).contains(&written), "{written}");
    let manifests = test.manifests().await;
    assert_eq!(manifests.iter().filter(|it| it.ends_with(".deleted.json")).count(), 1, "{manifests:?}");
    // What stood until the deletion goes with the bytes.
    assert_eq!(manifests.len(), 3, "{manifests:?}");
    assert_eq!(test.app.collect().await.unwrap().written_manifests, 0);
    let report = test.app.check(true).await.unwrap();
    assert_eq!((report.manifests, report.due_manifests, report.problems), (1, 0, vec![]));
}

async fn versions_of_an_earlier_release_get_their_manifests(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    for epoch in 0..3 {
        trainer.save(epoch, 0.5, &epoch.to_le_bytes()).await;
    }
    test.app.delete_version(&trainer.version("v1"), false).await.unwrap();
    let mut manifests = test.manifests().await;
    for key in &manifests {
        test.objects.delete(&key.as_str().into()).await.unwrap();
    }
    let word = manifests.iter().position(|key| key.ends_with(".deleted.json")).unwrap();
    manifests.remove(word + 1);
    // As the migration finds them.
    assert_eq!(test.database.execute("UPDATE checkpoints SET manifest_state = ''").await, 3);
    test.turn(HOUR_US);
    assert_eq!(test.app.collect().await.unwrap().written_manifests, 3);
    assert_eq!(test.manifests().await, manifests);
    assert_eq!(test.problems().await, Vec::<String>::new());
}

async fn the_manifest_of_a_deleted_version_stays_as_long_as_its_bytes(database: TestDatabase) {
    let folder = tempfile::tempdir().unwrap();
    let db = keepbest::store::objects_in(folder.path()).unwrap();
    let test = TestApp::with(database, db).await;
    let mut trainer = test.start("first", every_epoch()).await;
    trainer.save(0, 0.5, b"bytes").await;
    let [key] = &test.manifests().await[..] else { panic!("one") };
    let word = key.replace(".json", ".deleted.json");
    let late = test.objects.get(&key.as_str().into()).await.unwrap().bytes().await.unwrap();
    test.app.delete_version(&trainer.version("v0"), false).await.unwrap();
    // A replica that hung before the deletion sends its put only now.
    test.objects.put(&key.as_str().into(), late.into()).await.unwrap();
    test.turn(2 * HOUR_US);
    let pass = test.app.collect().await.unwrap();
    assert_eq!((pass.removed_checkpoints, pass.removed_objects), (1, 0));
    // A copy of the database that does not know the deletion would still be whole.
    assert_eq!(test.manifests().await, [word.clone(), key.clone()]);
    test.turn(3 * HOUR_US + SECOND_US);
    let pass = test.app.collect().await.unwrap();
    assert_eq!((pass.written_manifests, pass.removed_objects), (0, 1));
    assert_eq!(test.manifests().await, [word]);
    assert_eq!(test.problems().await, Vec::<String>::new());
}

async fn the_check_compares_manifests_with_the_database(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    trainer.save(0, 0.5, b"first").await;
    trainer.save(1, 0.4, b"second").await;
    let keys = test.manifests().await;
    let path = object_store::path::Path::from(keys[0].as_str());
    let right = test.objects.get(&path).await.unwrap().bytes().await.unwrap();
    let mut flipped = right.to_vec();
    flipped[right.len() / 2] ^= 4;
    let other = test.objects.get(&keys[1].as_str().into()).await.unwrap().bytes().await.unwrap();
    let name = format!("default/digits/run-first-model:v0 manifest `{}`", keys[0]);
    for (bytes, count, why) in [
        (Some(flipped), 1, "its bytes have the digest"),
        (Some(right[..100].to_vec()), 1, "it was cut"),
        (Some(other.to_vec()), 2, "has another version"),
        (None, 1, "is missing"),
    ] {
        match bytes {
            Some(bytes) => test.objects.put(&path, bytes.into()).await.map(drop).unwrap(),
            None => test.objects.delete(&path).await.unwrap(),
        }
        let problems = test.problems().await;
        assert_eq!(problems.len(), count, "{problems:?}");
        assert!(problems[0].starts_with(&name) && problems[0].contains(why), "{problems:?}");
    }
    test.objects.put(&path, right.into()).await.unwrap();
    assert_eq!(test.problems().await, Vec::<String>::new());
    let other = "UPDATE checkpoints SET epoch = 7 WHERE version = 1";
    assert_eq!(test.database.execute(other).await, 1);
    assert!(test.problems().await[0].contains(":v1 manifest"));
}
