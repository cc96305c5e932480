//! What it costs to say what a deletion frees: for each pin of a chunk as much, however many versions share it.

use super::copies;
use super::insert;
use crate::support::apps::TestApp;
use crate::support::apps::every_epoch;
use crate::support::databases::TestDatabase;
use crate::support::databases::on_both_databases;

on_both_databases! { many_versions_with_one_chunk_are_counted_in_time }

/// Versions that share the chunk: to compare each with each of them would be twenty-five million steps.
const SHARING: usize = 5_000;
/// SQLite's instructions, and rows of Postgres, for a version, its file, its pin, and the chunk's other pin.
const STEPS: u64 = 200;

async fn many_versions_with_one_chunk_are_counted_in_time(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    trainer.save(0, 0.5, b"model").await;
    insert(&test.database, SHARING, &copies("'COMMITTED'")).await;
    let files = "INSERT INTO files (uid, checkpoint_uid, path, size_bytes, state, digest, writer_token) \
        SELECT {text i}, {text i}, f.path, f.size_bytes, f.state, f.digest, f.writer_token FROM files f CROSS JOIN {n} \
        WHERE f.checkpoint_uid IN (SELECT uid FROM checkpoints WHERE version = 0)";
    insert(&test.database, SHARING, files).await;
    let pins = "INSERT INTO file_chunks (file_uid, offset_bytes, size_bytes, team, digest) \
        SELECT {text i}, p.offset_bytes, p.size_bytes, p.team, p.digest FROM file_chunks p CROSS JOIN {n} \
        WHERE p.file_uid IN (SELECT f.uid FROM files f JOIN checkpoints c ON c.uid = f.checkpoint_uid WHERE c.version = 0)";
    insert(&test.database, SHARING, pins).await;
    super::analyze(&test.database).await;
    let db = test.database.open().await;
    let all = test.database.texts("SELECT uid FROM checkpoints ORDER BY version").await;
    assert_eq!(all.len(), SHARING + 1);
    db.watch_reads();
    for (uids, freed) in [(&all[..], 5), (&all[1..], 0)] {
        assert_eq!(db.exclusive_bytes(uids).await.unwrap(), Some(freed), "of {}", uids.len());
        let costs = db.watched_reads();
        let work: u64 = costs.iter().map(|it| it.work).sum();
        let most = STEPS * SHARING as u64;
        println!("{} versions: {work} of {most}", uids.len());
        assert!(work > 0 && work <= most, "{work}, at most {most}: {}", costs[0].plan);
    }
}
