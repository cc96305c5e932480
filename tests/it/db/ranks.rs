//! The ranks of one launch: one attempt, one decision, whichever replica each of them asks.

use std::time::Duration;

use futures::future::join_all;
use keepbest::app::DecisionRow;
use keepbest::app::Error;
use keepbest::app::RunState;
use keepbest::app::decisions::Moment;
use keepbest::app::runs::Start;
use keepbest::domain::decision::Action;
use keepbest::domain::event::Event;
use keepbest::domain::event::EventKind;
use keepbest::domain::strategy::SaveFrequency;
use keepbest::domain::strategy::Strategy;

use crate::support::apps::PROJECT;
use crate::support::apps::TestApp;
use crate::support::apps::Trainer;
use crate::support::apps::best_only;
use crate::support::apps::id;
use crate::support::apps::reason;
use crate::support::apps::shown;
use crate::support::apps::start;
use crate::support::apps::val_loss;
use crate::support::databases::TestDatabase;
use crate::support::databases::on_all_databases;

on_all_databases! {
    ranks_that_start_at_once_at_several_replicas_are_one_attempt
    every_rank_learns_the_decision_of_the_one_that_reports
    a_moment_without_a_decision_is_not_waited_for
    a_wait_for_a_report_ends_with_the_attempt_and_with_the_run
}

/// Longer than any test waits for something that must come.
const LONG: Duration = Duration::from_secs(25);

async fn ask(
    trainer: &Trainer,
    epoch: i64,
    batch: Option<i64>,
    wait: Duration,
) -> Result<Option<DecisionRow>, Error> {
    let moment = Moment { run: trainer.run.clone(), attempt: trainer.attempt, epoch, batch };
    trainer.app.await_decision(moment, Some(wait)).await
}

async fn ranks_that_start_at_once_at_several_replicas_are_one_attempt(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let replicas = [test.app.clone(), test.replica().await, test.replica().await];
    // A new run, and a run that is resumed.
    for (launch, attempt) in [("job-1", 1), ("job-1.restart-1", 2), ("job-2", 3)] {
        let ranks = (0..16).map(|rank| {
            let app = replicas[rank % 3].clone();
            let start = Start { request_id: launch.to_owned(), ..start(PROJECT, "first", best_only()) };
            tokio::spawn(async move { Trainer::start(&app, start).await.unwrap() })
        });
        let ranks: Vec<Trainer> = join_all(ranks).await.into_iter().map(Result::unwrap).collect();
        assert!(ranks.iter().all(|it| it.attempt == attempt), "{ranks:?}");
        let run = test.app.run(&ranks[0].run).await.unwrap();
        assert_eq!(run.attempt, attempt, "no rank began another one");
    }
}

async fn every_rank_learns_the_decision_of_the_one_that_reports(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut leader = test.start("first", best_only()).await;
    let replicas = [test.app.clone(), test.replica().await];
    for (epoch, value, action) in [(0, 0.5, Action::Save), (1, 0.6, Action::Skip), (2, 0.4, Action::Save)] {
        let waiting: Vec<_> = (0..6)
            .map(|rank| {
                let rank = Trainer { app: replicas[rank % 2].clone(), ..leader.clone() };
                tokio::spawn(async move { ask(&rank, epoch, None, LONG).await.unwrap() })
            })
            .collect();
        let early = ask(&leader, epoch, None, Duration::ZERO).await;
        assert_eq!(reason(early), "EVENT_MISSING");
        let decision = leader.epoch(epoch, value).await;
        assert_eq!(decision.decision.action, action);
        for answer in join_all(waiting).await {
            assert_eq!(shown(&answer.unwrap()), shown(&Some(&decision)), "epoch {epoch}");
        }
    }
    // Another attempt decides anew, and does not find what an older one decided.
    let mut newer = test.start("first", best_only()).await;
    assert_eq!(reason(ask(&newer, 2, None, Duration::ZERO).await), "EVENT_MISSING");
    let decision = newer.epoch(2, 0.3).await;
    assert_eq!(shown(&ask(&newer, 2, None, Duration::ZERO).await.unwrap()), shown(&Some(decision)));
    assert_eq!(reason(ask(&leader, 2, None, LONG).await), "STALE_ATTEMPT");
    let run = newer.run.clone();
    newer.run.run = id("another");
    assert_eq!(reason(ask(&newer, 2, None, LONG).await), "NOT_FOUND");
    newer.run = run;
    assert_eq!(reason(ask(&newer, -1, None, LONG).await), "BAD_EVENT");
}

async fn a_moment_without_a_decision_is_not_waited_for(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("by-epochs", best_only()).await;
    assert!(ask(&trainer, 0, Some(3), LONG).await.unwrap().is_none(), "saves are due at the ends of epochs");
    trainer.report(vec![val_loss(2, 0.5)]).await.unwrap();
    assert!(ask(&trainer, 1, None, LONG).await.unwrap().is_none(), "the trainer is past it");

    let strategy = Strategy {
        filepath: "m-{epoch}-{batch}".to_owned(),
        save_frequency: SaveFrequency::Batches(2),
        save_best_only: false,
        ..best_only()
    };
    let mut trainer = test.start("by-batches", strategy).await;
    let batch =
        |epoch, batch| Event { kind: EventKind::BatchEnd, batch: Some(batch), ..val_loss(epoch, 0.5) };
    assert!(ask(&trainer, 0, None, LONG).await.unwrap().is_none(), "saves are due at the ends of batches");
    trainer.report(vec![batch(0, 0), batch(0, 1), batch(0, 2)]).await.unwrap();
    for (number, due) in [(0, false), (1, true), (2, false)] {
        let decision = ask(&trainer, 0, Some(number), LONG).await.unwrap();
        assert_eq!(decision.is_some(), due, "batch {number}");
    }
    for (epoch, number) in [(0, 3), (1, 0)] {
        assert_eq!(reason(ask(&trainer, epoch, Some(number), Duration::ZERO).await), "EVENT_MISSING");
    }
    // What another writer reports is not what is decided upon.
    let others = keepbest::app::events::NewEvents {
        writer: Some(id("rank-1")),
        first_sequence: 0,
        ..trainer.events(vec![batch(0, 3)])
    };
    test.app.report_events(others).await.unwrap();
    assert_eq!(reason(ask(&trainer, 0, Some(3), Duration::ZERO).await), "EVENT_MISSING");
    trainer.report(vec![batch(0, 3)]).await.unwrap();
    assert!(ask(&trainer, 0, Some(3), Duration::ZERO).await.unwrap().is_some());
}

async fn a_wait_for_a_report_ends_with_the_attempt_and_with_the_run(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let trainer = test.start("first", best_only()).await;
    let other = Trainer { app: test.replica().await, ..trainer.clone() };
    let waiting = tokio::spawn(async move { ask(&other, 0, None, LONG).await });
    let newer = test.start("first", best_only()).await;
    assert_eq!(reason(waiting.await.unwrap()), "STALE_ATTEMPT");
    let other = Trainer { app: test.replica().await, ..newer.clone() };
    let waiting = tokio::spawn(async move { ask(&other, 0, None, LONG).await });
    test.app.finish_run(newer.run.clone(), newer.attempt, RunState::Failed).await.unwrap();
    assert_eq!(reason(waiting.await.unwrap()), "RUN_FINISHED");
}
