//! Runs show a sign of life, or none: what tells the living from the dead.

use keepbest::domain::run::HEARTBEAT_US;
use keepbest::domain::run::RunState;
use keepbest::domain::run::SILENCE_US;

use crate::support::apps::BEGIN_US;
use crate::support::apps::TestApp;
use crate::support::apps::every_epoch;
use crate::support::apps::reason;
use crate::support::databases::TestDatabase;
use crate::support::databases::on_all_databases;

on_all_databases! {
    who_says_nothing_is_silent_and_a_heartbeat_is_enough
    deletions_and_expiries_are_no_signs_of_life
}

async fn who_says_nothing_is_silent_and_a_heartbeat_is_enough(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    let alive = async || test.app.is_alive(&test.app.run(&trainer.run).await.unwrap());
    assert_eq!(alive().await, Some(true));
    test.turn(SILENCE_US);
    assert_eq!(alive().await, Some(true));
    test.turn(1);
    assert_eq!(alive().await, Some(false));
    test.app.hear(trainer.run.clone(), 1).await.unwrap();
    assert_eq!(alive().await, Some(true));
    for _ in 0..10 {
        test.turn(HEARTBEAT_US);
        test.app.hear(trainer.run.clone(), 1).await.unwrap();
    }
    assert_eq!(alive().await, Some(true));
    test.turn(SILENCE_US + 1);
    assert_eq!(test.app.is_alive(&test.app.run(&trainer.run).await.unwrap()), Some(false));
    trainer.epoch(0, 0.5).await;
    let alive = async || test.app.is_alive(&test.app.run(&trainer.run).await.unwrap());
    assert_eq!(alive().await, Some(true), "a report is a sign of life");
    assert_eq!(
        test.app.run(&trainer.run).await.unwrap().update_time_us,
        test.app.run(&trainer.run).await.unwrap().heard_time_us
    );

    let second = test.start("first", every_epoch()).await;
    assert_eq!(reason(test.app.hear(trainer.run.clone(), 1).await), "STALE_ATTEMPT");
    assert_eq!(reason(test.app.hear(trainer.run.clone(), 3).await), "STALE_ATTEMPT");
    let nobody =
        keepbest::domain::ids::RunName { run: crate::support::apps::id("nobody"), ..trainer.run.clone() };
    assert_eq!(reason(test.app.hear(nobody, 1).await), "NOT_FOUND");
    test.app.finish_run(trainer.run.clone(), second.attempt, RunState::Finished).await.unwrap();
    assert_eq!(alive().await, None);
    assert_eq!(reason(test.app.hear(trainer.run.clone(), second.attempt).await), "RUN_FINISHED");
    // Ended is ended, and the same again is the same.
    test.app.finish_run(trainer.run.clone(), second.attempt, RunState::Finished).await.unwrap();
    let failed = test.app.finish_run(trainer.run.clone(), second.attempt, RunState::Failed).await;
    assert_eq!(reason(failed), "RUN_FINISHED");
    assert_eq!(test.app.run(&trainer.run).await.unwrap().state, RunState::Finished);
}

async fn deletions_and_expiries_are_no_signs_of_life(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    trainer.save(0, 0.5, b"model").await;
    trainer.saved(1, 0.4).await;
    test.turn(11 * 3_600 * 1_000_000);
    test.app.delete_version(&trainer.version("v0"), false).await.unwrap();
    assert_eq!(test.app.collect().await.unwrap().expired_checkpoints, 1);
    let run = test.app.run(&trainer.run).await.unwrap();
    assert_eq!((run.heard_time_us, test.app.is_alive(&run)), (BEGIN_US, Some(false)));
}
