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
        (BestScope::Run("r".to_owned()), "version_metrics_by_run (run_uid=? AND name=?)"),
        (BestScope::Artifact("a".to_owned()), "version_metrics_by_artifact (artifact_uid=? AND name=?)"),
        (
            BestScope::Project(id("t"), id("p")),
            "version_metrics_by_project (team=? AND project=? AND name=?)",
        ),
        (BestScope::Team(id("t")), "version_metrics_by_team (team=? AND name=?)"),
    ];
    for (scope, index) in scopes {
        // In the order of the index up to the value; only ties are sorted, downwards by two terms.
        for (direction, ties) in [(Direction::Min, "LAST TERM"), (Direction::Max, "LAST 2 TERMS")] {
            let query = BestQuery { scope: scope.clone(), metric: "val_loss".to_owned(), direction };
            let (sql, values) = best_statement(&query);
            let rows = db.rows(&format!("EXPLAIN QUERY PLAN {sql}"), values).await.unwrap();
            let plan: Vec<String> = rows.iter().map(|row| row.text(3).unwrap()).collect();
            let search = format!("SEARCH m USING INDEX {index}");
            assert_eq!(plan, [search, format!("USE TEMP B-TREE FOR {ties} OF ORDER BY")]);
        }
    }
}
