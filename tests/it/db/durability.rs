//! What was acknowledged stays: through cancelled callers, restarts, and schemas that are applied again.

use std::future::Future;

use keepbest::app::DecisionFilter;
use keepbest::domain::decision::Action;

use crate::support::apps::PROJECT;
use crate::support::apps::TestApp;
use crate::support::apps::Trainer;
use crate::support::apps::every_epoch;
use crate::support::apps::shown;
use crate::support::apps::start;
use crate::support::apps::val_loss;
use crate::support::databases::TestDatabase;
use crate::support::databases::on_both_databases;

on_both_databases! {
    a_cancelled_caller_loses_and_halves_nothing
    the_schema_is_applied_again_without_harm
    replicas_that_bring_a_database_up_to_date_at_once_all_get_it
    what_was_acknowledged_is_there_after_a_restart
}

/// Polls the future, gives others so many turns, and drops it.
async fn cut_off(write: impl Future, turns: u32) {
    let others = async {
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        _ = write => {}
        () = others => {}
    }
}

async fn a_cancelled_caller_loses_and_halves_nothing(database: TestDatabase) {
    const ROUNDS: i64 = 400;
    let test = TestApp::over(database).await;
    let mut patient = test.start("patient", every_epoch()).await;
    let mut hasty = test.start("hasty", every_epoch()).await;
    for round in 0..ROUNDS {
        let turns = u32::try_from(round * 7 % 60).unwrap();
        let report = hasty.events(vec![val_loss(round, 0.5)]);
        cut_off(test.app.report_events(report.clone()), turns).await;
        // A write that was lost would leave a gap before the next one.
        let answer = patient.report(vec![val_loss(round, 0.5)]).await.unwrap();
        assert_eq!((answer.next_sequence, answer.duplicate_count), (round + 1, 0));
        // Asked again, the cut one is a whole duplicate or wholly new.
        let answer = hasty.report(vec![val_loss(round, 0.5)]).await.unwrap();
        assert_eq!((answer.next_sequence, answer.decisions.len()), (round + 1, 1));
        cut_off(test.app.start_run(start(PROJECT, &format!("cut-{round}"), every_epoch())), turns).await;
    }
    for trainer in [&patient, &hasty] {
        let rows = trainer.rows().await;
        let positions: Vec<i64> = rows.iter().map(|it| it.position).collect();
        assert_eq!(positions, (0..ROUNDS).collect::<Vec<_>>());
        let saved = DecisionFilter { action: Some(Action::Save), ..DecisionFilter::default() };
        let decisions = test.app.list_decisions(&trainer.run, saved, 0, 10_000).await.unwrap();
        assert_eq!(decisions.len(), rows.len());
        for decision in decisions {
            test.app.checkpoint(&trainer.checkpoint(&decision.checkpoint_uid.unwrap())).await.unwrap();
        }
    }
    let halves = [
        "SELECT id FROM runs WHERE uid NOT IN (SELECT run_uid FROM run_attempts)",
        "SELECT a.id FROM artifacts a WHERE NOT EXISTS (SELECT 1 FROM runs r WHERE r.artifact_uid = a.uid)",
        "SELECT uid FROM checkpoints WHERE uid NOT IN \
            (SELECT checkpoint_uid FROM decisions WHERE checkpoint_uid IS NOT NULL)",
    ];
    for half in halves {
        assert_eq!(test.database.texts(half).await, Vec::<String>::new(), "{half}");
    }
}

async fn the_schema_is_applied_again_without_harm(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    trainer.save(0, 0.5, b"model").await;
    let applied = test.database.texts("SELECT description FROM _sqlx_migrations ORDER BY version").await;
    let before = shown(&trainer.versions("", "").await);
    for _ in 0..2 {
        let again = test.replica().await;
        assert_eq!(shown(&Trainer { app: again.clone(), ..trainer.clone() }.versions("", "").await), before);
        again.close().await;
    }
    let after = test.database.texts("SELECT description FROM _sqlx_migrations ORDER BY version").await;
    assert_eq!(after, applied);
}

async fn replicas_that_bring_a_database_up_to_date_at_once_all_get_it(database: TestDatabase) {
    database.execute("CREATE TABLE before (n BIGINT)").await;
    let stores = futures::future::join_all((0..4).map(|_| database.open())).await;
    for db in &stores {
        assert_eq!(db.contradictions().await.unwrap(), Vec::<String>::new());
    }
}

async fn what_was_acknowledged_is_there_after_a_restart(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    let version = trainer.save(0, 0.5, b"model").await;
    let run = shown(&test.app.run(&trainer.run).await.unwrap());
    test.app.close().await;
    let again = test.replica().await;
    assert_eq!(shown(&again.run(&trainer.run).await.unwrap()), run);
    assert_eq!(shown(&again.version(&trainer.version("best")).await.unwrap()), shown(&version));
}
