//! Chunks that are kept are looked at once: a pass costs what changed, not what is stored.

use keepbest::app::collect::GcReport;

use crate::support::apps::HOUR_US;
use crate::support::apps::TestApp;
use crate::support::apps::Trainer;
use crate::support::apps::every_epoch;
use crate::support::databases::TestDatabase;
use crate::support::databases::on_both_databases;

on_both_databases! {
    kept_chunks_are_put_aside_and_come_back_when_their_last_pin_goes
    a_chunk_that_is_used_again_after_it_was_put_aside_stays
    a_stream_that_begins_anew_gives_its_old_chunk_back
}

/// Chunks that the next pass will look at, however long it waits.
const LOOKED_AT: &str = "SELECT object_key FROM chunks WHERE touch_time_us < 4611686018427387904";
/// More than two pages of a pass.
const FILES: usize = 450;

async fn save(test: &TestApp, trainer: &mut Trainer, epoch: i64) {
    let checkpoint = trainer.saved(epoch, 0.5).await;
    let files: Vec<(String, Vec<u8>)> =
        (0..FILES).map(|n| (format!("file-{n}"), format!("{epoch} {n}").into_bytes())).collect();
    let files: Vec<_> = files.iter().map(|(path, data)| (path.as_str(), data.as_slice())).collect();
    trainer.write(&checkpoint, &files).await.unwrap();
    trainer.commit(&checkpoint).await.unwrap();
    assert_eq!(test.database.texts(LOOKED_AT).await.len(), FILES);
}

async fn kept_chunks_are_put_aside_and_come_back_when_their_last_pin_goes(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    save(&test, &mut trainer, 0).await;
    test.turn(3 * HOUR_US);
    assert_eq!(test.app.collect().await.unwrap(), GcReport::default());
    assert_eq!(test.database.texts(LOOKED_AT).await, Vec::<String>::new(), "all are kept");
    save(&test, &mut trainer, 1).await;
    test.app.collect().await.unwrap();
    assert_eq!(test.database.texts(LOOKED_AT).await.len(), FILES, "those are too new");
    test.app.delete_version(&trainer.version("v0"), false).await.unwrap();
    test.turn(3 * HOUR_US);
    let report = test.app.collect().await.unwrap();
    assert_eq!((report.removed_checkpoints, report.removed_chunks), (1, FILES as u64));
    assert_eq!(test.database.texts(LOOKED_AT).await, Vec::<String>::new());
    test.turn(3 * HOUR_US);
    // The manifest goes with them.
    assert_eq!(test.app.collect().await.unwrap().removed_objects, FILES as u64 + 1);
    assert_eq!(test.problems().await, Vec::<String>::new());
}

async fn a_chunk_that_is_used_again_after_it_was_put_aside_stays(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    trainer.save(0, 0.5, b"shared").await;
    test.app.collect_now().await.unwrap();
    assert_eq!(test.database.texts(LOOKED_AT).await, Vec::<String>::new());
    trainer.save(1, 0.5, b"shared").await;
    for (version, left) in [("v0", 1), ("v1", 0)] {
        test.app.delete_version(&trainer.version(version), false).await.unwrap();
        // The use counts from the moment of the deletion at most.
        test.turn(1);
        test.app.collect_now().await.unwrap();
        test.turn(1);
        test.app.collect_now().await.unwrap();
        assert_eq!(test.keys().await.len(), left, "after {version}");
        assert_eq!(test.database.texts(LOOKED_AT).await, Vec::<String>::new());
        assert_eq!(test.problems().await, Vec::<String>::new());
    }
}

async fn a_stream_that_begins_anew_gives_its_old_chunk_back(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    let checkpoint = trainer.saved(0, 0.5).await;
    trainer.write(&checkpoint, &[("other", b"other")]).await.unwrap();
    let target = trainer.target(&checkpoint, "model");
    test.app.prepare_file(target.clone(), 3, None).await.unwrap();
    test.database.execute("INSERT INTO file_chunks SELECT f.uid, 0, 3, c.team, c.digest FROM files f, chunks c WHERE f.path = 'model'").await;
    test.database
        .execute("DELETE FROM file_chunks WHERE file_uid IN (SELECT uid FROM files WHERE path = 'other')")
        .await;
    test.app.collect_now().await.unwrap();
    assert_eq!(
        test.database.texts(LOOKED_AT).await,
        Vec::<String>::new(),
        "the cut stream's chunk is pinned"
    );
    let piece = keepbest::app::uploads::Piece { data: "new".into(), finish: true, ..Default::default() };
    test.app.write_file(target, 0, futures::stream::iter([Ok(piece)])).await.unwrap();
    test.turn(2);
    assert_eq!(test.app.collect_now().await.unwrap().removed_chunks, 1);
}
