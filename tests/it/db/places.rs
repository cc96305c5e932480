//! Reads that take long have their own places: short ones, writes and the question whether the database is there do not wait
//! behind them.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use keepbest::app::Error;
use keepbest::domain::ids::ListParent;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::apps::TestApp;
use crate::support::apps::Trainer;
use crate::support::apps::every_epoch;
use crate::support::apps::reason;
use crate::support::apps::val_loss;
use crate::support::databases;
use crate::support::databases::TestDatabase;
use crate::support::databases::on_both_databases;

on_both_databases! { long_reads_keep_nobody_from_short_ones }

/// More than all connections that a test's service has.
const LISTS: usize = 30;
/// How long a test waits for what must come: two time-outs of a read, and a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Lists by a metric, which take until they are stopped: the table of the metrics is one that never ends.
async fn without_end(database: &TestDatabase) {
    database.execute("ALTER TABLE version_metrics RENAME TO version_metrics_kept").await;
    let endless = match database {
        TestDatabase::Sqlite(_) => {
            "CREATE VIEW version_metrics AS SELECT * FROM version_metrics_kept WHERE \
             (WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n) > 0"
        }
        TestDatabase::Postgres(_) => {
            "CREATE VIEW version_metrics AS SELECT m.* FROM version_metrics_kept m CROSS JOIN pg_sleep(3600)"
        }
    };
    database.execute(endless).await;
}

/// Lists until it is told to stop, and tells the reason of each answer.
async fn list(trainer: Trainer, heard: tokio::sync::mpsc::UnboundedSender<String>, over: CancellationToken) {
    while !over.is_cancelled() {
        let listed = trainer.app.list_versions(&trainer.artifact, "", "metrics.val_loss", None, 10);
        heard.send(reason(listed.await)).unwrap();
    }
}

async fn long_reads_keep_nobody_from_short_ones(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    trainer.save(0, 0.5, b"model").await;
    without_end(&test.database).await;
    let (heard, mut reasons) = tokio::sync::mpsc::unbounded_channel();
    let over = CancellationToken::new();
    let mut lists = JoinSet::new();
    for _ in 0..LISTS {
        lists.spawn(list(trainer.clone(), heard.clone(), over.clone()));
    }
    // Until some were stopped since they took too long, and others told to come back since these had their places: all the
    // while everything else goes on.
    let (mut told, mut epoch) = (BTreeMap::new(), 0);
    let busy = async {
        while !(told.contains_key("QUERY_TIMEOUT") && told.contains_key("OVERLOADED")) {
            epoch += 1;
            trainer.epoch(epoch, 0.5).await;
            test.app.run(&trainer.run).await.unwrap();
            test.app.version(&trainer.version("best")).await.unwrap();
            test.app.ping().await.unwrap();
            while let Ok(reason) = reasons.try_recv() {
                *told.entry(reason).or_insert(0) += 1;
            }
        }
    };
    tokio::time::timeout(PATIENCE, busy).await.expect("reads without end are stopped");
    println!("{epoch} rounds of short reads and reports went on; lists were told {told:?}");
    // On a slow machine some found no connection in time, and were told that as well.
    let other =
        |it: &String| !(["QUERY_TIMEOUT", "OVERLOADED"].contains(&&**it) || it.contains("PoolTimedOut"));
    assert!(!told.keys().any(other), "{told:?}");
    // Their callers go away in the middle of a read, and with them the reads.
    over.cancel();
    lists.shutdown().await;
    let parent = ListParent { team: trainer.run.project.team.clone(), project: None };
    assert_eq!(test.app.list_runs(&parent, None, 10).await.unwrap().len(), 1);
}

/// As our own time-out does it, or an operator: the caller, whose write may well be done the next time, is not told to ask for less.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_was_stopped_is_worth_another_try() {
    let test = TestApp::over(databases::postgres().await).await;
    let mut trainer = test.start("first", every_epoch()).await;
    let mut holder = test.database.postgres_connection().await;
    sqlx::raw_sql("BEGIN; SELECT 1 FROM runs FOR UPDATE").execute(&mut holder).await.unwrap();
    let mut reporter = trainer.clone();
    let report = tokio::spawn(async move { reporter.report(vec![val_loss(0, 0.5)]).await });
    let stop = "SELECT COUNT(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE application_name = 'keepbest' \
        AND datname = current_database() AND wait_event_type = 'Lock'";
    while sqlx::query_scalar::<_, i64>(stop).fetch_one(&mut holder).await.unwrap() == 0 {
        tokio::task::yield_now().await;
    }
    let stopped = report.await.unwrap();
    assert!(matches!(stopped, Err(Error::Busy(_))), "{stopped:?}");
    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    trainer.epoch(0, 0.5).await;
}

/// A read waits for no clock: what a slow machine does late is done.
#[tokio::test]
async fn short_reads_wait_for_their_turn_however_long_it_takes() {
    let test = TestApp::over(databases::sqlite().await).await;
    let trainer = test.start("first", every_epoch()).await;
    // From here on every timer is over as soon as there is nothing to do but wait for the database.
    tokio::time::pause();
    for read in join_all((0..100).map(|_| test.app.run(&trainer.run))).await {
        assert_eq!(read.unwrap().name, trainer.run);
    }
}
