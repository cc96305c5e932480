//! How SQLite finds the best version: by an index in every scope, however many versions there are.

use super::*;
use crate::db::Db;

fn id(text: &str) -> Id {
    Id::parse("test", text).unwrap()
}

#[tokio::test]
async fn the_best_version_is_found_by_an_index() {
    let folder = tempfile::tempdir().unwrap();
    let db = Db::open_sqlite(&folder.path().join("test.db")).await.unwrap();
    let scopes = [
        (BestScope::Run("r".to_owned()), "version_metrics_by_run (run_uid=? AND name=?", false),
        (
            BestScope::Artifact("a".to_owned()),
            "version_metrics_by_artifact (artifact_uid=? AND name=?",
            false,
        ),
        (
            BestScope::Project(id("t"), id("p")),
            "version_metrics_by_project (team=? AND project=? AND name=?",
            true,
        ),
        (BestScope::Team(id("t")), "version_metrics_by_team (team=? AND name=?", true),
    ];
    for (scope, index, has_ties) in scopes {
        for direction in [Direction::Min, Direction::Max] {
            let query = BestQuery { scope: scope.clone(), metric: "val_loss".to_owned(), direction };
            let (sql, values) = best_statement(&query);
            let rows = db.rows(&format!("EXPLAIN QUERY PLAN {sql}"), values).await.unwrap();
            let plan: Vec<String> = rows.iter().map(|row| row.text(3).unwrap()).collect();
            let mut expected = vec![
                format!("SEARCH m USING INDEX {index} AND value=?)"),
                "SCALAR SUBQUERY 1".to_owned(),
                format!("SEARCH m USING COVERING INDEX {index})"),
            ];
            // Of different artifacts two may have been committed in the same microsecond.
            expected.extend(has_ties.then(|| "USE TEMP B-TREE FOR LAST TERM OF ORDER BY".to_owned()));
            assert_eq!(plan, expected);
        }
    }
}
