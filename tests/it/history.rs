//! What reads cost when there is much history: they go by an index on both databases, however long it is.

mod deletions;
mod filters;

use std::future::Future;

use keepbest::db::BestQuery;
use keepbest::db::BestScope;
use keepbest::db::Db;
use keepbest::db::DecisionFilter;
use keepbest::db::VersionPage;
use keepbest::db::VersionQuery;
use keepbest::domain::decision::Action;
use keepbest::domain::filter::Place;
use keepbest::domain::filter::parse_filter;
use keepbest::domain::filter::parse_order;
use keepbest::domain::ids::ListParent;
use keepbest::domain::metric::Direction;
use sqlx::AssertSqlSafe;
use sqlx::Connection;

use crate::support::apps::PROJECT;
use crate::support::apps::TestApp;
use crate::support::apps::Trainer;
use crate::support::apps::epoch_end;
use crate::support::apps::every_epoch;
use crate::support::apps::id;
use crate::support::apps::start;
use crate::support::databases::TestDatabase;
use crate::support::databases::on_both_databases;
use crate::support::soak::Rounds;

on_both_databases! {
    reads_of_versions_go_by_an_index
    reads_of_decisions_go_by_an_index
    lists_of_runs_and_artifacts_go_by_an_index
    a_check_reads_each_row_so_many_times
}

/// Rows of each table: 100,000, and a million in `make soak`.
fn many() -> usize {
    Rounds { usual: 100_000, soak: 1_000_000 }.now()
}

/// Rows of a page, as the faces ask for them.
const PAGE: i64 = 50;
/// Rows that a page of so many may read: its places in the index twice, and for each item its row with three others.
const A_PAGE: u64 = 8 * 50 + 100;
/// Rows that a filter may read: of each of 1,000 versions its place, its row and its run, and a metric.
const A_FILTER: u64 = 6 * 1_000;
/// SQLite's instructions for a row.
const INSTRUCTIONS: u64 = 30;

/// Writes rows behind the service's back. `{n}` is a table of the numbers `i` below `count`, `{text i}` an ordered text of one,
/// `{bytes i}` the same as bytes.
async fn insert(database: &TestDatabase, count: usize, sql: &str) {
    let url = match database {
        TestDatabase::Sqlite(folder) => format!("sqlite:{}", folder.path().join("test.db").display()),
        TestDatabase::Postgres(url) => url.clone(),
    };
    insert_at(&url, count, sql).await;
}

async fn insert_at(url: &str, count: usize, sql: &str) {
    let number = "SUBSTR(CAST(100000000 + i AS TEXT), 2)";
    let numbers = format!(
        "(WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {count}) SELECT i FROM n) n"
    );
    let on_sqlite = url.starts_with("sqlite:");
    let bytes = if on_sqlite { "BLOB" } else { "BYTEA" };
    let sql = sql
        .replace("{n}", &numbers)
        .replace("{text i}", &format!("('000000000000000000000000' || {number})"))
        .replace("{bytes i}", &format!("CAST('000000000000000000000000' || {number} AS {bytes})"));
    let sql = sqlx::raw_sql(AssertSqlSafe(sql));
    if on_sqlite {
        sql.execute(&mut sqlx::SqliteConnection::connect(url).await.unwrap()).await.unwrap();
    } else {
        sql.execute(&mut sqlx::PgConnection::connect(url).await.unwrap()).await.unwrap();
    }
}

/// As autovacuum does, which may not have come yet. SQLite keeps no statistics in the service either.
async fn analyze(database: &TestDatabase) {
    if matches!(database, TestDatabase::Postgres(_)) {
        insert(database, 0, "VACUUM ANALYZE").await;
    }
}

/// Carries a read out and looks at what it cost: so many rows at most.
async fn within<T>(
    db: &Db,
    what: &str,
    rows: u64,
    read: impl Future<Output = Result<T, keepbest::db::Error>>,
) -> T {
    db.watched_reads();
    let answer = read.await.unwrap();
    let costs = db.watched_reads();
    assert!(!costs.is_empty(), "{what}: nothing was read");
    let on_sqlite = format!("{db:?}").contains("sqlite");
    let most = if on_sqlite { rows * INSTRUCTIONS } else { rows };
    let work: u64 = costs.iter().map(|it| it.work).sum();
    let told: Vec<String> =
        costs.iter().map(|it| format!("{} for {}\n{}", it.work, it.sql, it.plan)).collect();
    assert!(work <= most, "{what}: {work}, at most {most}\n{}", told.join("\n\n"));
    // The few names of each version that is shown are sorted, which is counted above.
    for cost in costs.iter().filter(|it| on_sqlite && !it.sql.contains("JOIN aliases")) {
        let sorts = cost.plan.lines().any(|it| it.contains("TEMP B-TREE") && !it.contains("LAST TERM"));
        assert!(!sorts, "{what} sorts\n{}\n{}", cost.sql, cost.plan);
    }
    println!("{what}: {work} of {most}");
    answer
}

/// Copies of version 0 in a state.
fn copies(state: &str) -> String {
    format!(
        "INSERT INTO checkpoints (uid, run_uid, artifact_uid, attempt, state, version, epoch, batch, step, path, weights_only, \
         reason, reason_text, aliases, metrics, size_bytes, file_count, digest, create_time_us, expire_time_us, commit_time_us, \
         manifest_state) SELECT {{text i}}, c.run_uid, c.artifact_uid, 1, {state}, i + 1, i % 10, NULL, i, 'm', 0, 'r', 'r', \
         '[]', '{{}}', i % 1000, 1, c.digest, c.create_time_us, c.expire_time_us, c.commit_time_us + 1 + i, 'COMMITTED' \
         FROM checkpoints c CROSS JOIN {{n}} WHERE c.version = 0"
    )
}

/// A run with one version, and as many copies of it as there shall be. Of the newest third most are deleted; `val_loss` is
/// another one each time, `score` one of four, and only the last version has `rare`.
async fn with_versions(database: TestDatabase) -> (TestApp, Trainer) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    trainer.report(vec![epoch_end(0, &[("val_loss", 2.0)])]).await.unwrap();
    trainer.save(1, 3.0, b"model").await;
    let count = many();
    let (from, until) = (count * 2 / 3, count - 10);
    let state = format!("CASE WHEN i >= {from} AND i < {until} THEN 'DELETED' ELSE 'COMMITTED' END");
    insert(&test.database, count, &copies(&state)).await;
    let metrics = [
        (
            "val_loss",
            format!("CAST((CAST(i AS BIGINT) * 7919) % {count} AS DOUBLE PRECISION)"),
            "TRUE".to_owned(),
        ),
        ("score", "CAST(i % 4 AS DOUBLE PRECISION)".to_owned(), "TRUE".to_owned()),
        ("rare", "1.0".to_owned(), format!("i = {}", count - 1)),
    ];
    for (name, value, which) in metrics {
        insert(&test.database, count, &format!(
            "INSERT INTO version_metrics (checkpoint_uid, name, value, commit_time_us, run_uid, artifact_uid, team, project) \
             SELECT {{text i}}, '{name}', {value}, c.commit_time_us + 1 + i, c.run_uid, c.artifact_uid, 'default', 'digits' \
             FROM checkpoints c CROSS JOIN {{n}} WHERE c.version = 0 AND NOT (i >= {from} AND i < {until}) AND {which}"
        )).await;
    }
    insert(&test.database, count, &format!("UPDATE artifacts SET next_version = {} + 1", count)).await;
    analyze(&test.database).await;
    (test, trainer)
}

async fn reads_of_versions_go_by_an_index(database: TestDatabase) {
    let (test, trainer) = with_versions(database).await;
    let db = test.database.open().await;
    let artifact_uid = db.artifact(&trainer.artifact).await.unwrap().uid;
    let run = db.run(&trainer.run).await.unwrap();
    db.watch_reads();
    let list =
        async |what: &str, filter: &str, order: &str, after: Option<Place>, rows: u64| -> VersionPage {
            let (terms, order) = (parse_filter(filter).unwrap(), parse_order(order).unwrap());
            let query = VersionQuery { artifact_uid: artifact_uid.clone(), terms, order, after, limit: PAGE };
            within(&db, what, rows, db.list_versions(&query)).await
        };
    for by in ["number", "create_time", "epoch", "size_bytes", "metrics.val_loss", "metrics.score"] {
        for direction in ["asc", "desc"] {
            let order = format!("{by} {direction}");
            let mut page = list(&order, "", &order, None, A_PAGE).await;
            for _ in 0..2 {
                assert_eq!(page.versions.len(), 50, "{order}");
                page = list(&format!("{order}, next page"), "", &order, page.next, A_PAGE).await;
            }
        }
    }
    let one = list("a rare metric", "", "metrics.rare", None, A_PAGE).await;
    assert_eq!((one.versions.len(), one.next), (1, None));
    for filter in ["epoch = 7", "size_bytes = 7", "run = \"first\"", "number >= 100 AND number < 2000"] {
        assert_eq!(list(filter, filter, "", None, A_PAGE).await.versions.len(), 50, "{filter}");
    }
    for filter in ["epoch = 77", "size_bytes = 7777", "run = \"none\"", "number < 0"] {
        let none = list(filter, filter, "", None, A_PAGE).await;
        assert_eq!((none.versions.len(), none.next), (0, None), "{filter}");
    }
    for (filter, order) in [
        ("metrics.score > 99", "number"),
        ("metrics.none > 0 AND metrics.score = 1", "number desc"),
        ("step = -1", "epoch"),
        ("epoch != 3 AND size_bytes = -1", "metrics.val_loss desc"),
        ("run = \"none\"", "metrics.score desc"),
        ("batch = 1 AND epoch = 3", "create_time desc"),
    ] {
        // Nothing matches, so the page is empty and says where to go on; the last one ends.
        let mut page = list(filter, filter, order, None, A_FILTER).await;
        assert!(page.versions.is_empty() && page.next.is_some(), "{filter}");
        page = list(filter, filter, order, page.next, A_FILTER).await;
        assert!(page.versions.is_empty() && page.next.is_some(), "{filter}");
    }
    let newest = within(&db, "StartRun on resume", A_PAGE, db.newest_version_of_run(&run.uid)).await;
    assert_eq!(newest.unwrap().number, i64::try_from(many()).unwrap());
    let project = || (id("default"), id("digits"));
    for scope in [
        BestScope::Run(run.uid.clone()),
        BestScope::Artifact(artifact_uid.clone()),
        BestScope::Project(project().0, project().1),
        BestScope::Team(id("default")),
    ] {
        for (metric, direction, number) in [
            ("val_loss", Direction::Min, 1),
            ("score", Direction::Min, 1),
            ("score", Direction::Max, 4),
            ("rare", Direction::Max, i64::try_from(many()).unwrap()),
        ] {
            let query = BestQuery { scope: scope.clone(), metric: metric.to_owned(), direction };
            let what = format!("best {metric} {direction:?} in {scope:?}");
            assert_eq!(
                within(&db, &what, A_PAGE, db.best_version(&query)).await.unwrap().number,
                number,
                "{what}"
            );
        }
    }
}

async fn reads_of_decisions_go_by_an_index(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    trainer.epoch(0, 0.5).await;
    let count = many();
    // One epoch with many batches, and the last of them is the only one that is saved.
    insert(&test.database, count, &format!(
        "INSERT INTO decisions (run_uid, position, writer, sequence, attempt, epoch, batch, action, decide_time_us, body) \
         SELECT d.run_uid, i + 1, '', i + 1, 1, 5, i, CASE WHEN i = {count} - 1 THEN 'SAVE' ELSE 'SKIP' END, 0, d.body \
         FROM decisions d CROSS JOIN {{n}} WHERE d.position = 0"
    )).await;
    insert(
        &test.database,
        count,
        "INSERT INTO events (run_uid, position, writer, first_sequence, event_count, attempt, body) \
         SELECT e.run_uid, i + 1, '', i + 1, 1, 1, e.body FROM events e CROSS JOIN {n} WHERE e.position = 0",
    )
    .await;
    analyze(&test.database).await;
    let db = test.database.open().await;
    let uid = db.run(&trainer.run).await.unwrap().uid;
    db.watch_reads();
    let last = i64::try_from(count).unwrap() - 1;
    for (attempt, is_there) in [(1, true), (2, false)] {
        let newest = within(&db, "the newest event", A_PAGE, db.newest_event(&uid, attempt)).await;
        assert_eq!(newest.is_some(), is_there);
        for (epoch, batch, is_there) in [
            (5, Some(last), is_there),
            (5, Some(0), is_there),
            (5, Some(-1), false),
            (6, None, false),
            (5, None, is_there),
        ] {
            let at =
                within(&db, "a decision at a moment", A_PAGE, db.decision_at(&uid, attempt, epoch, batch))
                    .await;
            assert_eq!(at.is_some(), is_there, "{attempt} {epoch} {batch:?}");
        }
    }
    for (epoch, action, position, found) in [
        (None, None, 500, 50),
        (None, Some(Action::Save), 1, 1),
        (None, Some(Action::Fail), 0, 0),
        (None, Some(Action::Skip), 500, 50),
        (Some(5), None, 500, 50),
        (Some(6), None, 0, 0),
        (Some(5), Some(Action::Save), 0, 1),
        (Some(5), Some(Action::Skip), 500, 50),
        (Some(5), Some(Action::Fail), 0, 0),
    ] {
        for newest_first in [false, true] {
            let filter = DecisionFilter { epoch, action, newest_first };
            let what = format!("decisions by {filter:?}");
            let place = if newest_first { i64::MAX } else { position };
            let mut listed = within(&db, &what, A_PAGE, db.list_decisions(&uid, filter, place, PAGE)).await;
            if newest_first {
                listed.reverse();
            } else {
                assert_eq!(listed.len(), found, "{what}");
            }
            assert!(listed.is_sorted_by_key(|it| it.position), "{what}");
            let saved: Vec<&str> = listed.iter().filter_map(|it| it.checkpoint_uid.as_deref()).collect();
            if !saved.is_empty() {
                within(&db, "what saves led to", A_PAGE, db.led_to(&saved)).await;
            }
        }
    }
}

async fn lists_of_runs_and_artifacts_go_by_an_index(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let trainer = Trainer::start(&test.app, start(PROJECT, "first", every_epoch())).await.unwrap();
    let count = many();
    insert(&test.database, count,
        "INSERT INTO artifacts (uid, team, project, id, type, monitor, direction, next_version, create_time_us) \
         SELECT {text i}, a.team, a.project, 'a' || {text i}, a.type, a.monitor, a.direction, 0, i FROM artifacts a \
         CROSS JOIN {n} WHERE a.id = 'run-first-model'"
    ).await;
    insert(&test.database, count,
        "INSERT INTO runs (uid, team, project, id, artifact_uid, strategy, direction, monitor_state, attempt, state, revision, \
         event_count, create_time_us, update_time_us) SELECT {text i}, r.team, r.project, 'r' || {text i}, {text i}, \
         r.strategy, r.direction, r.monitor_state, 1, 'ACTIVE', 1, 0, i, i FROM runs r CROSS JOIN {n} WHERE r.id = 'first'"
    ).await;
    analyze(&test.database).await;
    let db = test.database.open().await;
    db.watch_reads();
    let middle = i64::try_from(count / 2).unwrap();
    let text = |i: i64| format!("{i:032}");
    for project in [Some(trainer.run.project.project.clone()), None] {
        let parent = ListParent { team: id("default"), project };
        let before = Some((middle, text(middle)));
        let runs = within(&db, "runs", A_PAGE, db.list_runs(&parent, before, PAGE)).await;
        assert_eq!(runs.first().unwrap().uid, text(middle - 1));
        let after = Some(("digits".to_owned(), format!("a{}", text(middle))));
        let artifacts = within(&db, "artifacts", A_PAGE, db.list_artifacts(&parent, after, PAGE)).await;
        assert_eq!(artifacts.first().unwrap().uid, text(middle + 1));
        assert_eq!(within(&db, "monitors", A_PAGE, db.monitors(&parent)).await.len(), 1);
    }
}

async fn a_check_reads_each_row_so_many_times(database: TestDatabase) {
    let (test, _) = with_versions(database).await;
    let count = many() / 10;
    insert(&test.database, count,
        "INSERT INTO chunks (team, digest, size_bytes, object_key, touch_time_us) SELECT 'default', {bytes i}, 1, 'k', 0 FROM {n}"
    ).await;
    insert(&test.database, count,
        "INSERT INTO files (uid, checkpoint_uid, path, size_bytes, state, digest, sha256, writer_token) \
         SELECT {text i}, {text i}, 'm', 1, 'COMPLETE', {bytes i}, CASE WHEN i % 2 = 0 THEN {bytes i} END, '' FROM {n}"
    ).await;
    insert(
        &test.database,
        count,
        "INSERT INTO file_chunks (file_uid, offset_bytes, size_bytes, team, digest) \
         SELECT {text i}, 0, 1, 'default', {bytes i} FROM {n}",
    )
    .await;
    analyze(&test.database).await;
    let db = test.database.open().await;
    db.watch_reads();
    let rows = |rows: usize| u64::try_from(rows).unwrap();
    // Of each version its row and its artifact's, of each file its checkpoint too, of each chunk its file and that one's checkpoint.
    let versions = async {
        let (mut found, mut after) = (0, Some(String::new()));
        while let Some(from) = after {
            let (page, next) = db.check_versions(&from).await?;
            found += page.len();
            after = next;
        }
        Ok(found)
    };
    assert!(within(&db, "versions of a check", rows(3 * many()), versions).await > many() / 2);
    let files = async {
        let (mut found, mut after) = (0, Some(String::new()));
        while let Some(from) = after {
            let (page, next) = db.check_files(&from).await?;
            found += page.len();
            after = next;
        }
        Ok(found)
    };
    assert_eq!(within(&db, "files of a check", rows(6 * count), files).await, count / 2);
    let chunks = async {
        let (mut found, mut after) = (0, Some((String::new(), Vec::new())));
        while let Some(from) = after {
            let (page, next) = db.check_chunks(&from).await?;
            found += page.len();
            after = next;
        }
        Ok(found)
    };
    assert_eq!(within(&db, "chunks of a check", rows(6 * count), chunks).await, count + 1);
    let found = within(&db, "contradictions", rows(6 * many()), db.contradictions()).await;
    assert_eq!(found, Vec::<String>::new());
}
