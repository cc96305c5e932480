//! Users' aliases move by compare-and-set.

use futures::future::join_all;

use crate::support::apps::TestApp;
use crate::support::apps::every_epoch;
use crate::support::apps::reason;
use crate::support::apps::sentence;
use crate::support::apps::shown;
use crate::support::databases::TestDatabase;
use crate::support::databases::on_all_databases;

on_all_databases! {
    an_alias_moves_only_from_where_it_is_expected
    of_ten_that_move_an_alias_at_once_one_wins_each_time
    an_alias_never_points_at_what_is_being_deleted
}

async fn an_alias_moves_only_from_where_it_is_expected(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    for epoch in 0..3 {
        trainer.save(epoch, 0.5, b"model").await;
    }
    let set = |alias: &'static str, version: &'static str, expected: &'static str| {
        let (app, artifact) = (test.app.clone(), trainer.artifact.clone());
        async move { app.set_alias(&artifact, alias, version, expected).await }
    };
    assert_eq!(
        sentence(set("prod", "v1", "v0").await),
        "alias `prod` does not exist, not as expected: look where it points and decide again"
    );
    assert_eq!(set("prod", "v1", "none").await.unwrap().number, 1);
    assert_eq!(
        reason(set("prod", "v1", "none").await),
        "ALIAS_MOVED",
        "it points there already, but it is there"
    );
    assert_eq!(reason(set("prod", "v1", "v0").await), "ALIAS_MOVED");
    assert_eq!(set("prod", "v1", "v1").await.unwrap().number, 1);
    assert_eq!(reason(set("prod", "v2", "none").await), "ALIAS_MOVED");
    assert_eq!(
        sentence(set("prod", "v2", "v0").await),
        "alias `prod` points at v1, not as expected: look where it points and decide again"
    );
    assert_eq!(set("prod", "latest", "v1").await.unwrap().number, 2);
    assert_eq!(set("prod", "v0", "").await.unwrap().aliases, ["best", "epoch_0", "prod"]);
    assert_eq!(reason(set("prod", "v9", "").await), "NOT_FOUND");
    for servers in ["best", "latest", "epoch_9", "v3"] {
        assert_eq!(reason(set(servers, "v1", "").await), "BAD_ALIAS", "{servers}");
    }
    assert_eq!(reason(set("prod", "v1", "best").await), "BAD_NAME");
    assert_eq!(trainer.named("prod").await.unwrap().0, 0);
    let delete =
        async |alias: &str, expected: &str| test.app.delete_alias(&trainer.artifact, alias, expected).await;
    // Somebody else has moved it.
    assert_eq!(reason(delete("prod", "v1").await), "ALIAS_MOVED");
    assert_eq!(trainer.named("prod").await.unwrap().0, 0);
    delete("prod", "v0").await.unwrap();
    assert_eq!(reason(trainer.named("prod").await), "NOT_FOUND");
    let missing =
        "alias `teams/default/projects/digits/artifacts/run-first-model/versions/prod` was not found";
    assert_eq!(sentence(delete("prod", "").await), missing);
    assert_eq!(reason(delete("latest", "").await), "BAD_ALIAS");
}

async fn of_ten_that_move_an_alias_at_once_one_wins_each_time(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    for epoch in 0..10 {
        trainer.save(epoch, 0.5, b"model").await;
    }
    let (one, other) = (test.app.clone(), test.replica().await);
    let mut expected = "none".to_owned();
    for round in 0..8 {
        let tasks = (0..10).map(|n| {
            let app = if n % 2 == 0 { &one } else { &other }.clone();
            // In each round all leave from the same version, and none goes back to it.
            let (artifact, expected, to) = (trainer.artifact.clone(), expected.clone(), (n + round) % 10);
            tokio::spawn(async move {
                let to = format!("v{to}");
                if to == expected {
                    return None;
                }
                match app.set_alias(&artifact, "prod", &to, &expected).await {
                    Ok(version) => Some(format!("v{}", version.number)),
                    Err(error) => {
                        assert_eq!(reason::<()>(Err(error)), "ALIAS_MOVED");
                        None
                    }
                }
            })
        });
        let won: Vec<String> = join_all(tasks).await.into_iter().filter_map(|it| it.unwrap()).collect();
        assert_eq!(won.len(), 1, "round {round}: {won:?}");
        expected.clone_from(&won[0]);
        assert_eq!(format!("v{}", trainer.named("prod").await.unwrap().0), expected);
    }
}

async fn an_alias_never_points_at_what_is_being_deleted(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    for epoch in 0..12 {
        trainer.save(epoch, 0.5, b"model").await;
    }
    for n in 0..12 {
        let name = format!("v{n}");
        let (app, artifact, to) = (test.app.clone(), trainer.artifact.clone(), name.clone());
        let set = tokio::spawn(async move { app.set_alias(&artifact, "prod", &to, "").await });
        let (app, version) = (test.app.clone(), trainer.version(&name));
        let delete = tokio::spawn(async move { app.delete_version(&version, false).await });
        let (set, delete) = (set.await.unwrap(), delete.await.unwrap());
        let standing = trainer.named("prod").await.map(|it| it.0);
        match &delete {
            // Read back after it was set: it may be gone by then, but never half gone.
            Ok(_) => assert_eq!(reason(standing), "NOT_FOUND"),
            Err(_) => {
                assert_eq!((shown(&set.is_ok()), standing.unwrap()), ("true".to_owned(), n));
                assert_eq!(reason(delete), "VERSION_HAS_ALIASES");
                test.app.delete_alias(&trainer.artifact, "prod", "").await.unwrap();
            }
        }
    }
    assert_eq!(test.problems().await, Vec::<String>::new());
}
