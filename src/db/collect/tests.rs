//! A pass that finds nothing to do reads nothing but the ends of indexes, however much is stored.

use super::checkpoints::DELETED;
use super::checkpoints::EXPIRED;
use super::chunks::OLD_CHUNKS;
use super::objects::CLAIMED;
use super::objects::DUE;
use crate::db::Db;
use crate::db::connection::args;

#[tokio::test]
async fn the_collector_asks_by_indexes() {
    let folder = tempfile::tempdir().unwrap();
    let db = Db::open_sqlite(&folder.path().join("test.db")).await.unwrap();
    let anything = |sql| match sql {
        OLD_CHUNKS => args![1, 1, "a", vec![0_u8], 1],
        _ => args![1, 1, 0],
    };
    for (sql, values, index) in [
        (EXPIRED, 3, "checkpoints_to_expire (state=? AND expire_time_us<?)"),
        (DELETED, 3, "checkpoints_to_purge (state=? AND purge_time_us=? AND delete_time_us<?)"),
        (OLD_CHUNKS, 5, "chunks_by_touch ((touch_time_us,team,digest)>(?,?,?) AND touch_time_us<?)"),
        (DUE, 2, "doomed_objects_by_due (due_time_us>? AND due_time_us<?)"),
        (CLAIMED, 2, "doomed_objects_by_due (due_time_us=?)"),
    ] {
        let values = anything(sql).into_iter().take(values).collect();
        let plan = db.rows(&format!("EXPLAIN QUERY PLAN {sql}"), values).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|row| row.text(3).unwrap()).collect();
        assert!(plan.iter().any(|step| step.starts_with("SEARCH") && step.ends_with(index)), "{plan:?}");
        assert!(!plan.iter().any(|step| step.starts_with("SCAN") || step.contains("B-TREE")), "{plan:?}");
    }
}
