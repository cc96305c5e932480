//! What a check reads, and that it names every version and file that a damaged chunk is in.

use std::collections::BTreeSet;

use bytes::Bytes;
use keepbest::app::check::ReadData;
use keepbest::app::uploads::SmallFile;
use keepbest::domain::digest::CHUNK_BYTES;
use keepbest::domain::digest::Sha256;
use object_store::ObjectStoreExt;

use crate::support::apps::TestApp;
use crate::support::apps::Trainer;
use crate::support::apps::every_epoch;
use crate::support::databases::TestDatabase;
use crate::support::databases::on_both_databases;
use crate::support::pieces::stream_cut;
use crate::support::requests::noise;

on_both_databases! {
    the_parts_of_all_chunks_are_read_once_and_make_up_everything
    a_damaged_chunk_is_named_with_every_version_and_file_that_has_it
    a_file_that_declared_its_sha256_is_read_whole_and_equal_ones_once
    a_file_that_was_cut_elsewhere_is_read_whole
    of_bytes_that_are_not_all_there_nothing_is_said_of_equal_files
    a_check_beside_deletions_finds_nothing_wrong
}

fn subset(text: &str) -> ReadData {
    ReadData::Subset(text.parse().unwrap())
}

/// Six versions: one file is the same in all, one in every second, one in none; and a team of its own with the first one.
async fn shared(test: &TestApp) -> Trainer {
    let mut trainer = test.start("first", every_epoch()).await;
    for epoch in 0..6 {
        let checkpoint = trainer.saved(epoch, 0.5).await;
        let half = noise(100 + u64::try_from(epoch % 2).unwrap(), 3_000);
        let own = noise(u64::try_from(epoch).unwrap(), 1_000);
        trainer
            .write(&checkpoint, &[("all", b"shared by all"), ("half", &half), ("own", &own)])
            .await
            .unwrap();
        trainer.commit(&checkpoint).await.unwrap();
    }
    let start = crate::support::apps::start("teams/other/projects/digits", "first", every_epoch());
    let mut other = Trainer::start(&test.app, start).await.unwrap();
    other.save(0, 0.5, b"shared by all").await;
    trainer
}

async fn the_parts_of_all_chunks_are_read_once_and_make_up_everything(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let trainer = shared(&test).await;
    // A chunk that no version has is none of them.
    let mut pending = trainer.clone();
    let waiting = pending.saved(6, 0.5).await;
    pending.write(&waiting, &[("model", b"not committed")]).await.unwrap();
    let all = 13 + 2 * 3_000 + 6 * 1_000 + 13;
    let whole = test.app.check(true).await.unwrap();
    assert_eq!((whole.versions, whole.files, whole.chunks, whole.bytes_read), (7, 19, 10, all));
    assert_eq!(whole.problems, Vec::<String>::new());
    for of in [1, 2, 3, 7, 100] {
        let mut read = 0;
        for part in 1..=of {
            let report = test.app.check_with(subset(&format!("{part}/{of}"))).await.unwrap();
            assert_eq!((report.chunks, report.problems), (10, vec![]));
            read += report.bytes_read;
            let again = test.app.check_with(subset(&format!("{part}/{of}"))).await.unwrap();
            assert_eq!(again.bytes_read, report.bytes_read, "the division is stable");
        }
        assert_eq!(read, all, "{of} parts");
    }
    assert_eq!(test.app.check_with(ReadData::Nothing).await.unwrap().bytes_read, 0);
}

async fn a_damaged_chunk_is_named_with_every_version_and_file_that_has_it(database: TestDatabase) {
    let test = TestApp::over(database).await;
    shared(&test).await;
    let damaged = test.database.texts("SELECT object_key FROM chunks WHERE size_bytes = 3000").await;
    for (damage, is_seen_by_size) in [("flip", false), ("cut", true), ("delete", true)] {
        for key in &damaged {
            let path = object_store::path::Path::from(key.as_str());
            let right = test.objects.get(&path).await.unwrap().bytes().await.unwrap();
            let mut wrong = right.to_vec();
            match damage {
                "flip" => wrong[2_999] ^= 128,
                "cut" => wrong.truncate(2_999),
                _ => wrong.clear(),
            }
            match damage {
                "delete" => test.objects.delete(&path).await.unwrap(),
                _ => test.objects.put(&path, wrong.into()).await.map(drop).unwrap(),
            }
            let found = test.app.check(true).await.unwrap().problems;
            let versions: BTreeSet<&str> = found.iter().map(|it| it.split(' ').next().unwrap()).collect();
            assert_eq!((found.len(), versions.len()), (3, 3), "{found:?}");
            let sound = |it: &String| {
                it.contains(&format!(" file `half` at byte 0: object `{key}` "))
                    && it.starts_with("default/digits/")
            };
            assert!(found.iter().all(sound), "{found:?}");
            let mut parts = Vec::new();
            for part in 1..=5 {
                let problems = test.app.check_with(subset(&format!("{part}/5"))).await.unwrap().problems;
                parts.push(problems.len());
            }
            // A wrong size is seen without a byte read; wrong bytes in the one part that reads them.
            let expected = if is_seen_by_size { 15 } else { 3 };
            assert_eq!(parts.iter().sum::<usize>(), expected, "{damage}: {parts:?}");
            let unread = test.app.check(false).await.unwrap().problems.len();
            assert_eq!(unread, if is_seen_by_size { 3 } else { 0 });
            test.objects.put(&path, right.into()).await.unwrap();
        }
    }
    assert_eq!(test.problems().await, Vec::<String>::new());
}

async fn a_file_that_declared_its_sha256_is_read_whole_and_equal_ones_once(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    let large = noise(1, CHUNK_BYTES as usize + 7);
    let mut sha256 = Sha256::default();
    sha256.update(&large);
    let sha256 = sha256.finish();
    for epoch in 0..3 {
        let checkpoint = trainer.saved(epoch, 0.5).await;
        let target = trainer.target(&checkpoint, "large");
        let size = i64::try_from(large.len()).unwrap();
        test.app.prepare_file(target.clone(), size, Some(sha256)).await.unwrap();
        trainer.stream(&checkpoint, "large", &large).await.unwrap();
        // The tail of the large file as a file of its own.
        let tail = Bytes::copy_from_slice(&large[CHUNK_BYTES as usize..]);
        let small = SmallFile { path: "tail".to_owned(), data: tail, sha256: None };
        test.app.write_small_files(checkpoint.clone(), 1, vec![small]).await.unwrap();
        // As a version of before wrote it, which kept what was declared and did not look.
        let declare = "UPDATE files SET sha256 = digest WHERE path = 'tail' AND checkpoint_uid IN \
            (SELECT uid FROM checkpoints WHERE state = 'PENDING' AND epoch = 2)";
        assert_eq!(test.database.execute(declare).await, u64::from(epoch == 2));
        trainer.commit(&checkpoint).await.unwrap();
    }
    let report = test.app.check(true).await.unwrap();
    assert_eq!(
        report.problems,
        ["default/digits/run-first-model:v2 file `tail` has another SHA-256 than was declared"]
    );
    assert_eq!((report.chunks, report.bytes_read), (2, CHUNK_BYTES + 7 + 7));
    let key = &test.database.texts("SELECT object_key FROM chunks WHERE size_bytes = 7").await[0];
    test.objects.put(&key.as_str().into(), "another".into()).await.unwrap();
    let problems = test.app.check(true).await.unwrap().problems;
    assert_eq!(problems.len(), 6, "each place once: {problems:?}");
    assert!(problems.iter().all(|it| it.contains("has 7 bytes with digest")), "{problems:?}");
}

async fn a_file_that_was_cut_elsewhere_is_read_whole(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("cut", every_epoch()).await;
    let data = noise(1, CHUNK_BYTES as usize + 7);
    for (epoch, chunk_bytes) in [(0, 3_000_000), (1, CHUNK_BYTES as usize)] {
        let checkpoint = trainer.saved(epoch, 0.5).await;
        stream_cut(&trainer, &checkpoint, "model", &data, chunk_bytes).await.unwrap();
        trainer.commit(&checkpoint).await.unwrap();
    }
    // The first file's three chunks are read with it, and the second's two each for itself.
    let report = test.app.check(true).await.unwrap();
    assert_eq!((report.problems, report.chunks), (vec![], 5));
    assert_eq!(report.bytes_read, 2 * (CHUNK_BYTES + 7));
    // Chunks that are right, and a digest that is not: only the bytes tell.
    let wrong = "UPDATE files SET digest = (SELECT digest FROM file_chunks WHERE offset_bytes > 0 LIMIT 1)";
    assert_eq!(test.database.execute(wrong).await, 2);
    let problems = test.app.check(true).await.unwrap().problems;
    let cut = "default/digits/run-cut-model:v0 file `model` has other bytes than its digest says";
    assert!(problems.contains(&cut.to_owned()), "{problems:?}");
}

async fn of_bytes_that_are_not_all_there_nothing_is_said_of_equal_files(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("equal", every_epoch()).await;
    let mut sha256 = Sha256::default();
    sha256.update(b"the same bytes");
    let sha256 = sha256.finish();
    for epoch in 0..3 {
        let checkpoint = trainer.saved(epoch, 0.5).await;
        let target = trainer.target(&checkpoint, "model");
        test.app.prepare_file(target, 14, Some(sha256)).await.unwrap();
        stream_cut(&trainer, &checkpoint, "model", b"the same bytes", 5).await.unwrap();
        trainer.commit(&checkpoint).await.unwrap();
    }
    // As a check sees a file that was deleted and collected since it read its row.
    let gone = "DELETE FROM file_chunks WHERE file_uid = (SELECT MIN(uid) FROM files)";
    assert_eq!(test.database.execute(gone).await, 3);
    let report = test.app.check(true).await.unwrap();
    let of_first = |it: &String| it.starts_with("default/digits/run-equal-model:v0 ");
    assert!(report.problems.iter().all(of_first), "{:?}", report.problems);
    assert!(!report.problems.iter().any(|it| it.contains("other bytes")), "{:?}", report.problems);
    assert_eq!(report.bytes_read, 14, "one of the other two was read");
}

async fn a_check_beside_deletions_finds_nothing_wrong(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = shared(&test).await;
    let app = test.replica().await;
    let checking = tokio::spawn(async move {
        let mut problems = Vec::new();
        for part in 1..=12 {
            problems.extend(app.check_with(subset(&format!("{part}/12"))).await.unwrap().problems);
            problems.extend(app.check(true).await.unwrap().problems);
        }
        problems
    });
    let mut epoch = 6;
    while !checking.is_finished() {
        // The same bytes again and again, so chunks are collected and come back under other keys.
        trainer.save(epoch, 0.5, b"comes and goes").await;
        // And files that are read whole, each for itself.
        for epoch in epoch + 1..epoch + 9 {
            let checkpoint = trainer.saved(epoch, 0.5).await;
            stream_cut(&trainer, &checkpoint, "cut", &noise(epoch.unsigned_abs(), 40), 5).await.unwrap();
            trainer.commit(&checkpoint).await.unwrap();
        }
        for epoch in epoch..epoch + 9 {
            test.app.delete_version(&trainer.version(&format!("v{epoch}")), false).await.unwrap();
        }
        test.app.collect_now().await.unwrap();
        epoch += 9;
    }
    assert_eq!(checking.await.unwrap(), Vec::<String>::new());
    assert!(epoch > 6);
}
