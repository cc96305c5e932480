//! Bytes that were found wrong are stored anew by the next save of the same bytes, and every version that shares them is whole
//! again.

use std::fs;

use crate::support::apps::TestApp;
use crate::support::apps::every_epoch;
use crate::support::databases::TestDatabase;
use crate::support::databases::on_both_databases;
use crate::support::disk::files_below;
use crate::support::faults::Damage;

on_both_databases! {
    a_save_of_damaged_bytes_is_whole_and_heals_the_older_versions
}

async fn a_save_of_damaged_bytes_is_whole_and_heals_the_older_versions(database: TestDatabase) {
    let folder = tempfile::tempdir().unwrap();
    let objects = keepbest::store::objects_in(folder.path()).unwrap();
    let test = TestApp::with(database, objects).await;
    let mut trainer = test.start("first", every_epoch()).await;
    trainer.save(0, 0.5, b"frozen").await;
    let chunks = folder.path().join("chunks");
    let object = chunks.join(&files_below(&chunks)[0]);
    let mut epoch = 0;
    for damage in [Damage::Flip(3), Damage::Missing, Damage::Short(2)] {
        for finder in ["a reader", "the check"] {
            let right = fs::read(&object).unwrap();
            match damage.to(&right) {
                Some(wrong) => fs::write(&object, wrong).unwrap(),
                None => fs::remove_file(&object).unwrap(),
            }
            if finder == "a reader" {
                assert!(trainer.read("v0", "model.keras").await.1.is_err(), "{damage:?}");
            } else {
                assert!(!test.app.check(true).await.unwrap().problems.is_empty(), "{damage:?}");
            }
            epoch += 1;
            trainer.save(epoch, 0.5, b"frozen").await;
            for version in [0, epoch] {
                let (read, end) = trainer.read(&format!("v{version}"), "model.keras").await;
                assert!(end.is_ok() && read == b"frozen", "v{version} after {damage:?}, found by {finder}");
            }
            assert_eq!(test.problems().await, Vec::<String>::new());
            assert_eq!(files_below(&chunks).len(), 1, "under the key that the manifests know");
        }
    }
}
