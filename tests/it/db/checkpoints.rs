//! A pending checkpoint that is given up, fenced or forgotten leaves the earlier best standing.

use keepbest::app::CheckpointState;

use crate::support::apps::HOUR_US;
use crate::support::apps::TestApp;
use crate::support::apps::best_only;
use crate::support::apps::reason;
use crate::support::apps::val_loss;
use crate::support::databases::TestDatabase;
use crate::support::databases::on_all_databases;

on_all_databases! {
    an_abandoned_save_leaves_the_earlier_best_and_the_next_good_value_wins
    a_new_attempt_gives_up_what_older_ones_had_in_flight
    a_pending_checkpoint_expires_unless_it_is_written_to
    an_expired_save_is_no_value_to_beat
}

async fn an_abandoned_save_leaves_the_earlier_best_and_the_next_good_value_wins(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", best_only()).await;
    trainer.save(0, 0.5, b"good").await;
    let lost = trainer.saved(1, 0.3).await;
    assert_eq!(trainer.to_beat().await, Some(0.3));
    assert_eq!(trainer.epoch(2, 0.4).await.checkpoint_uid, None, "what is in flight counts");
    trainer.write(&lost, &[("model.keras", b"lost")]).await.unwrap();
    for _ in 0..2 {
        trainer.abandon(&lost).await.unwrap();
        assert_eq!(trainer.to_beat().await, Some(0.5));
    }
    assert_eq!(test.app.checkpoint(&lost).await.unwrap().state, CheckpointState::Deleted);
    assert_eq!(reason(trainer.write(&lost, &[("more", b"x")]).await), "CHECKPOINT_DELETED");
    assert_eq!(reason(trainer.commit(&lost).await), "CHECKPOINT_DELETED");
    assert_eq!(
        trainer.named("best").await.unwrap(),
        (0, ["best", "epoch_0", "latest"].map(String::from).into())
    );
    assert_eq!(trainer.save(3, 0.4, b"next").await.aliases, ["best", "epoch_3", "latest"]);
    assert_eq!(trainer.to_beat().await, Some(0.4));
}

async fn a_new_attempt_gives_up_what_older_ones_had_in_flight(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut old = test.start("first", best_only()).await;
    old.save(0, 0.5, b"good").await;
    let lost = [old.saved(1, 0.3).await, old.saved(2, 0.2).await];
    old.write(&lost[0], &[("model.keras", b"complete")]).await.unwrap();
    let mut new = test.start("first", best_only()).await;
    assert_eq!(new.to_beat().await, Some(0.5));
    for checkpoint in &lost {
        assert_eq!(test.app.checkpoint(checkpoint).await.unwrap().state, CheckpointState::Deleted);
        assert_eq!(reason(old.commit(checkpoint).await), "STALE_ATTEMPT");
        assert_eq!(reason(new.commit(checkpoint).await), "STALE_ATTEMPT");
        old.abandon(checkpoint).await.unwrap();
    }
    assert_eq!(new.to_beat().await, Some(0.5));
    // The trainer repeats the epoch that it lost: the event is a new one, and so is its save.
    let version = new.save(1, 0.3, b"again").await;
    assert_eq!((version.number, version.attempt), (1, 2));
    assert_eq!(new.named("best").await.unwrap().0, 1);
}

async fn a_pending_checkpoint_expires_unless_it_is_written_to(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", best_only()).await;
    let idle = trainer.saved(0, 0.5).await;
    let busy = trainer.saved(1, 0.4).await;
    let state = |name| {
        let app = test.app.clone();
        async move { app.checkpoint(&name).await.unwrap().state }
    };
    for hour in 1..=4 {
        test.turn(5 * HOUR_US);
        trainer.write(&busy, &[(&format!("part-{hour}"), b"part")]).await.unwrap();
        let expired = test.app.collect().await.unwrap().expired_checkpoints;
        // Ten hours after its decision the one still lives, a moment later it does not.
        assert_eq!(expired, 0, "after {} hours", hour * 5);
        if hour == 2 {
            test.turn(1);
            assert_eq!(test.app.collect().await.unwrap().expired_checkpoints, 1);
        }
    }
    assert_eq!(state(idle.clone()).await, CheckpointState::Deleted);
    assert_eq!(state(busy.clone()).await, CheckpointState::Pending);
    assert_eq!(reason(trainer.commit(&idle).await), "CHECKPOINT_DELETED");
    assert_eq!(trainer.commit(&busy).await.unwrap().number, 0);
}

async fn an_expired_save_is_no_value_to_beat(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", best_only()).await;
    trainer.save(0, 0.5, b"good").await;
    trainer.saved(1, 0.1).await;
    test.turn(10 * HOUR_US + 1);
    assert_eq!(trainer.to_beat().await, Some(0.1), "until somebody notices");
    test.app.collect().await.unwrap();
    assert_eq!(trainer.to_beat().await, Some(0.5));
    assert_eq!(test.app.run(&trainer.run).await.unwrap().monitor_state.in_flight, []);
    let answer = trainer.report(vec![val_loss(2, 0.4)]).await.unwrap();
    assert!(answer.decisions[0].checkpoint_uid.is_some());
    assert_eq!(test.problems().await, Vec::<String>::new());
}
