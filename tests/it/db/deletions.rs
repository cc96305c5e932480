//! A deleted version is gone for everyone, its number for ever, and what pointed at it points at what is right.

use futures::future::join_all;
use keepbest::domain::ids::BestParent;
use keepbest::domain::strategy::Strategy;

use crate::support::apps::TestApp;
use crate::support::apps::Trainer;
use crate::support::apps::best_only;
use crate::support::apps::every_epoch;
use crate::support::apps::reason;
use crate::support::apps::sentence;
use crate::support::databases::TestDatabase;
use crate::support::databases::on_all_databases;

on_all_databases! {
    a_deleted_version_is_gone_and_its_number_is_not_used_again
    latest_and_best_move_to_what_is_left
    the_value_to_beat_is_the_best_one_left
    a_version_that_a_user_named_is_not_deleted_by_accident
    deletions_and_commits_at_once_leave_the_aliases_right
}

async fn delete(trainer: &Trainer, version: &str) -> Result<i64, keepbest::app::Error> {
    let deleted = trainer.app.delete_version(&trainer.version(version), false).await;
    deleted.map(|it| it.size_bytes)
}

async fn a_deleted_version_is_gone_and_its_number_is_not_used_again(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    let version = trainer.save(0, 0.5, b"twelve bytes").await;
    assert_eq!(reason(delete(&trainer, "latest").await), "BAD_NAME");
    for _ in 0..2 {
        assert_eq!(delete(&trainer, "v0").await.unwrap(), 12, "repeated: the same answer");
    }
    for name in ["v0", "latest", "best", "epoch_0"] {
        assert_eq!(reason(trainer.named(name).await), "NOT_FOUND", "{name}");
        assert_eq!(reason(trainer.read(name, "model.keras").await.1), "NOT_FOUND", "{name}");
    }
    assert_eq!(reason(delete(&trainer, "v1").await), "NOT_FOUND");
    let late = trainer.commit(&version.checkpoint).await;
    assert_eq!(reason(late), "CHECKPOINT_DELETED", "a commit does not bring it back");
    let run = BestParent::Run(trainer.run.clone());
    assert_eq!(reason(test.app.best_version(&run, None, None).await), "NOT_FOUND");
    assert_eq!(trainer.save(1, 0.9, b"next").await.number, 1);
    assert_eq!(test.problems().await, Vec::<String>::new());
}

async fn latest_and_best_move_to_what_is_left(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    for (epoch, value) in (0..).zip([0.5, 0.3, 0.2, 0.3, 0.2, 0.9]) {
        trainer.save(epoch, value, b"model").await;
    }
    let steps = [("v2", 4, 5), ("v5", 4, 4), ("v4", 1, 3), ("v1", 3, 3), ("v3", 0, 0)];
    for (version, best, latest) in steps {
        delete(&trainer, version).await.unwrap();
        let found = (trainer.named("best").await.unwrap().0, trainer.named("latest").await.unwrap().0);
        assert_eq!(found, (best, latest), "after {version}");
        let scopes = [BestParent::Run(trainer.run.clone()), BestParent::Artifact(trainer.artifact.clone())];
        for scope in scopes {
            assert_eq!(test.app.best_version(&scope, None, None).await.unwrap().number, best);
        }
    }
    assert_eq!(test.problems().await, Vec::<String>::new());
}

async fn the_value_to_beat_is_the_best_one_left(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let threshold = Strategy { initial_value_threshold: Some(0.8), ..best_only() };
    let mut trainer = test.start("first", threshold).await;
    for (epoch, value) in (0..).zip([0.5, 0.3, 0.2]) {
        trainer.save(epoch, value, b"model").await;
    }
    let waiting = trainer.saved(3, 0.1).await;
    for (version, value) in [("v0", 0.2), ("v2", 0.3)] {
        delete(&trainer, version).await.unwrap();
        let state = test.app.run(&trainer.run).await.unwrap().monitor_state;
        assert_eq!((state.best, state.in_flight.len()), (Some(value), 1), "without {version}");
        assert_eq!(trainer.to_beat().await, Some(0.1), "what is in flight counts");
    }
    trainer.abandon(&waiting).await.unwrap();
    delete(&trainer, "v1").await.unwrap();
    assert_eq!(trainer.to_beat().await, Some(0.8), "the start value, when nothing is left");
    assert_eq!(trainer.epoch(4, 0.8).await.checkpoint_uid, None);
    assert_eq!(trainer.save(5, 0.7, b"model").await.number, 3);

    // What is left may be no better than the start value, where every epoch is saved.
    let threshold = Strategy { initial_value_threshold: Some(0.8), ..every_epoch() };
    let mut trainer = test.start("second", threshold).await;
    trainer.save(0, 0.9, b"model").await;
    trainer.save(1, 0.7, b"model").await;
    delete(&trainer, "v1").await.unwrap();
    assert_eq!(trainer.to_beat().await, Some(0.8));
    assert_eq!(trainer.named("best").await.unwrap().0, 0, "the best version there is");
}

async fn a_version_that_a_user_named_is_not_deleted_by_accident(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    trainer.save(0, 0.5, b"model").await;
    for alias in ["production", "fallback"] {
        test.app.set_alias(&trainer.artifact, alias, "v0", "").await.unwrap();
    }
    let expected = "version `teams/default/projects/digits/artifacts/run-first-model/versions/v0` is in use by the \
        aliases fallback, production: move them, or delete it together with them";
    assert_eq!(sentence(delete(&trainer, "v0").await), expected);
    let all = ["best", "epoch_0", "fallback", "latest", "production"].map(String::from).into();
    assert_eq!(trainer.named("production").await.unwrap(), (0, all), "nothing moved");
    assert_eq!(test.app.delete_version(&trainer.version("v0"), true).await.unwrap().size_bytes, 5);
    assert_eq!(reason(trainer.named("production").await), "NOT_FOUND");
    let artifact = test.app.artifact(&trainer.artifact).await.unwrap();
    assert_eq!(test.app.list_aliases(&artifact, "", 1_000).await.unwrap().len(), 0);
}

async fn deletions_and_commits_at_once_leave_the_aliases_right(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut first = test.start("first", every_epoch()).await;
    for epoch in 0..12 {
        first.save(epoch, 1.0 / (epoch + 1) as f64, b"model").await;
    }
    let artifact = first.artifact.clone();
    let deletions = (1..12).map(|n| {
        let trainer = first.clone();
        tokio::spawn(async move { delete(&trainer, &format!("v{n}")).await.unwrap() })
    });
    let commits = (0..4).map(|n| {
        let mut start =
            crate::support::apps::start(crate::support::apps::PROJECT, &format!("r{n}"), every_epoch());
        start.artifact = Some(artifact.artifact.clone());
        let app = test.app.clone();
        tokio::spawn(async move {
            let mut trainer = Trainer::start(&app, start).await.unwrap();
            for epoch in 100..103 {
                let version = trainer.save(epoch, 0.5, b"model").await.number;
                delete(&trainer, &format!("v{version}")).await.unwrap();
            }
            0
        })
    });
    for done in join_all(deletions.chain(commits).collect::<Vec<_>>()).await {
        done.unwrap();
    }
    let left = first.versions("", "").await;
    assert_eq!(left.iter().map(|it| it.number).collect::<Vec<_>>(), [0]);
    assert_eq!(left[0].aliases, ["best", "epoch_0", "latest"].map(String::from));
    assert_eq!(first.to_beat().await, Some(1.0));
    assert_eq!(test.problems().await, Vec::<String>::new());
}
