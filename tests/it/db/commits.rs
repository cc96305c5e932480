//! A commit makes the next version, once, and moves what points at versions.

use std::collections::BTreeSet;

use futures::future::join_all;
use keepbest::app::Error;
use keepbest::app::runs::Start;
use keepbest::db::VersionRow;
use keepbest::domain::digest::Digest;
use keepbest::domain::event::EventKind;
use keepbest::domain::ids::BestParent;
use keepbest::domain::metric::Direction;
use keepbest::domain::strategy::SaveFrequency;
use keepbest::domain::strategy::Strategy;
use keepbest::domain::strategy::WhenUnusable;

use crate::support::apps::BEGIN_US;
use crate::support::apps::PROJECT;
use crate::support::apps::TestApp;
use crate::support::apps::Trainer;
use crate::support::apps::best_only;
use crate::support::apps::epoch_end;
use crate::support::apps::every_epoch;
use crate::support::apps::id;
use crate::support::apps::reason;
use crate::support::apps::shown;
use crate::support::apps::start;
use crate::support::apps::towards;
use crate::support::apps::val_loss;
use crate::support::databases::TestDatabase;
use crate::support::databases::on_all_databases;
use crate::support::patience::patiently;

on_all_databases! {
    a_version_is_all_that_was_saved
    a_commit_repeated_at_once_or_later_is_one_version
    commits_of_many_runs_into_one_artifact_leave_no_gap
    a_commit_wants_all_files_and_complete
    best_moves_only_to_what_is_strictly_better
    what_has_no_number_is_never_best
    commits_out_of_order_leave_the_better_one_best
    versions_of_one_artifact_never_go_back_in_time
}

async fn a_version_is_all_that_was_saved(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let strategy = Strategy {
        filepath: "m-{epoch}-{batch}.keras".to_owned(),
        save_frequency: SaveFrequency::Batches(1),
        save_weights_only: true,
        ..best_only()
    };
    let mut trainer = test.start("first", strategy).await;
    let mut event = epoch_end(3, &[("val_loss", 0.5), ("loss", f64::NAN)]);
    (event.kind, event.batch, event.step) = (EventKind::BatchEnd, Some(7), Some(77));
    let decision = trainer.report(vec![event.clone()]).await.unwrap().decisions.pop().unwrap();
    let checkpoint = trainer.checkpoint(&decision.checkpoint_uid.unwrap());
    trainer.write(&checkpoint, &[("b", b"bytes"), ("B/a", b""), ("a", b"more bytes")]).await.unwrap();
    test.turn(9);
    let metadata = Some("{\"by\":\"test\"}".to_owned());
    let version = test.app.commit(checkpoint.clone(), 1, Some(3), metadata.clone()).await.unwrap();
    let digest =
        |data: &'static [u8]| Digest::of_file(Some(Digest::of_pieces([data])).filter(|_| !data.is_empty()));
    let files = [("B/a", 0, digest(b"")), ("a", 10, digest(b"more bytes")), ("b", 5, digest(b"bytes"))];
    let expected = VersionRow {
        artifact: trainer.artifact.clone(),
        number: 0,
        checkpoint,
        attempt: 1,
        epoch: 3,
        batch: Some(7),
        step: Some(77),
        // The three files lie nowhere near the path that was decided: what was saved is all of them.
        path: String::new(),
        weights_only: true,
        size_bytes: 15,
        file_count: 3,
        digest: Digest::of_version(files),
        metrics: event.metrics,
        aliases: ["best", "epoch_3_batch_7", "latest"].map(str::to_owned).to_vec(),
        alias_count: 3,
        reason: "IMPROVED".to_owned(),
        reason_text: decision.decision.reason_text,
        commit_time_us: BEGIN_US + 9,
        metadata,
    };
    assert_eq!(shown(&version), shown(&expected));
    for name in ["v0", "best", "latest", "epoch_3_batch_7"] {
        let found = test.app.version(&trainer.version(name)).await.unwrap();
        assert_eq!(shown(&found), shown(&expected), "{name}");
    }
    assert_eq!(reason(test.app.version(&trainer.version("v1")).await), "NOT_FOUND");
    let listed = test.app.list_files(&version.checkpoint.checkpoint, "", 1_000).await.unwrap();
    let listed: Vec<_> = listed.iter().map(|it| (it.path.as_str(), it.size_bytes, it.digest)).collect();
    assert_eq!(listed, files.map(|(path, size, digest)| (path, i64::try_from(size).unwrap(), Some(digest))));
}

async fn a_commit_repeated_at_once_or_later_is_one_version(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    let checkpoint = trainer.saved(0, 0.5).await;
    trainer.write(&checkpoint, &[("model.keras", b"one")]).await.unwrap();
    let (one, other) = (test.app.clone(), test.replica().await);
    let commits = (0..10).map(|n| {
        let app = if n % 2 == 0 { &one } else { &other }.clone();
        let checkpoint = checkpoint.clone();
        tokio::spawn(async move { app.commit(checkpoint, 1, None, None).await.unwrap() })
    });
    let versions: BTreeSet<String> =
        join_all(commits).await.iter().map(|it| shown(it.as_ref().unwrap())).collect();
    assert_eq!(versions.len(), 1, "{versions:?}");
    trainer.save(1, 0.4, b"two").await;
    let zombie = Trainer { attempt: 1, ..test.start("first", every_epoch()).await };
    let late = zombie.commit(&checkpoint).await.unwrap();
    assert_eq!(late.number, 0, "an answer that was lost can be had for ever");
    assert_eq!(late.aliases, ["epoch_0"], "and moves nothing back");
}

async fn commits_of_many_runs_into_one_artifact_leave_no_gap(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut tasks = Vec::new();
    for n in 0..20_u32 {
        let run = start(PROJECT, &format!("r{n}"), every_epoch());
        let run = Start { artifact: Some(id("shared")), ..run };
        let mut trainer = Trainer::start(&test.app, run).await.unwrap();
        tasks.push(tokio::spawn(async move {
            let mut numbers = Vec::new();
            for epoch in 0..4 {
                let refused = trainer.saved(epoch, 0.5).await;
                assert_eq!(reason(patiently(|| trainer.commit(&refused)).await), "NO_FILES");
                let version = trainer.save(epoch, f64::from((n * 7) % 20), &n.to_le_bytes()).await;
                numbers.push(version.number);
            }
            assert!(numbers.is_sorted(), "{numbers:?}");
            (trainer.artifact, numbers)
        }));
    }
    let done: Vec<_> = join_all(tasks).await.into_iter().map(|it| it.unwrap()).collect();
    let mut numbers: Vec<i64> = done.iter().flat_map(|it| it.1.clone()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..80).collect::<Vec<_>>());
    let artifact = &done[0].0;
    let row = test.app.artifact(artifact).await.unwrap();
    let aliases = test.app.list_aliases(&row, "", 1_000).await.unwrap();
    assert_eq!(row.version_count, 80);
    let latest = aliases.iter().find(|it| it.alias == "latest").unwrap();
    assert_eq!(latest.version, 79);
    let versions =
        test.app.list_versions(artifact, "metrics.val_loss = 0", "number", None, 80).await.unwrap();
    let best = aliases.iter().find(|it| it.alias == "best").unwrap();
    assert_eq!(best.version, versions.versions[0].0.number, "the first of the four with the best value");
    assert_eq!(test.problems().await, Vec::<String>::new());
}

async fn a_commit_wants_all_files_and_complete(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    let checkpoint = trainer.saved(0, 0.5).await;
    let commit = |count| test.app.commit(checkpoint.clone(), 1, count, None);
    assert_eq!(reason(commit(Some(0)).await), "NO_FILES");
    trainer.write(&checkpoint, &[("a", b"a")]).await.unwrap();
    test.app.prepare_file(trainer.target(&checkpoint, "b"), 1, None).await.unwrap();
    assert_eq!(reason(commit(None).await), "FILES_INCOMPLETE");
    trainer.stream(&checkpoint, "b", b"b").await.unwrap();
    assert_eq!(reason(commit(Some(3)).await), "FILES_INCOMPLETE");
    assert_eq!(reason(commit(Some(1)).await), "FILES_INCOMPLETE");
    assert_eq!(commit(Some(2)).await.unwrap().number, 0);
    assert_eq!(reason(trainer.write(&checkpoint, &[("c", b"c")]).await), "CHECKPOINT_COMMITTED");
    assert_eq!(reason(trainer.abandon(&checkpoint).await), "CHECKPOINT_COMMITTED");
}

async fn best_moves_only_to_what_is_strictly_better(database: TestDatabase) {
    let test = TestApp::over(database).await;
    for (direction, sign) in [(Direction::Min, 1.0), (Direction::Max, -1.0)] {
        let mut trainer = test.start(&shown(&direction), towards(direction, every_epoch())).await;
        let values = [(0.5, 0), (0.5, 0), (0.6, 0), (0.4, 3), (0.4, 3), (-1e300, 5), (-0.0, 5)];
        for (epoch, (value, best)) in (0..).zip(values) {
            let version = trainer.save(epoch, value * sign, b"model").await;
            assert_eq!(trainer.named("best").await.unwrap().0, best, "after {value}");
            assert_eq!(trainer.named("latest").await.unwrap().0, version.number);
            assert_eq!(trainer.named(&format!("epoch_{epoch}")).await.unwrap().0, version.number);
            let run = test.app.run(&trainer.run).await.unwrap().monitor_state;
            let beaten = test.app.version(&trainer.version("best")).await.unwrap();
            assert_eq!(run.best_checkpoint.as_deref(), Some(beaten.checkpoint.checkpoint.as_str()));
            assert_eq!(run.best, beaten.metrics["val_loss"].as_f64());
        }
        trainer.sequence = 0;
        let again = test.start(&shown(&direction), towards(direction, every_epoch())).await;
        assert_eq!(again.to_beat().await, Some(-1e300 * sign), "best survives a restart");
    }
}

async fn what_has_no_number_is_never_best(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let strategy = Strategy { when_monitor_missing: WhenUnusable::Save, ..every_epoch() };
    let mut trainer = test.start("first", strategy).await;
    let parent = BestParent::Run(trainer.run.clone());
    for event in [val_loss(0, f64::NAN), epoch_end(1, &[("loss", 0.1)])] {
        let answer = trainer.report(vec![event]).await.unwrap();
        let checkpoint = trainer.checkpoint(answer.decisions[0].checkpoint_uid.as_ref().unwrap());
        trainer.write(&checkpoint, &[("model.keras", b"model")]).await.unwrap();
        trainer.commit(&checkpoint).await.unwrap();
        assert_eq!(reason(trainer.named("best").await), "NOT_FOUND");
        assert_eq!(reason(test.app.best_version(&parent, None, None).await), "NOT_FOUND");
        assert_eq!(trainer.to_beat().await, None);
    }
    assert_eq!(trainer.save(2, 0.9, b"model").await.aliases, ["best", "epoch_2", "latest"]);
    assert_eq!(trainer.save(3, f64::NAN, b"model").await.aliases, ["epoch_3", "latest"]);
    assert_eq!(trainer.named("best").await.unwrap().0, 2);
    let loss = test.app.best_version(&parent, Some("loss".to_owned()), Some(Direction::Max)).await;
    assert_eq!(loss.unwrap().number, 1);
}

async fn commits_out_of_order_leave_the_better_one_best(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", best_only()).await;
    let good = trainer.saved(0, 0.5).await;
    let better = trainer.saved(1, 0.4).await;
    for checkpoint in [&better, &good] {
        trainer.write(checkpoint, &[("model.keras", b"model")]).await.unwrap();
    }
    assert_eq!(trainer.commit(&better).await.unwrap().aliases, ["best", "epoch_1", "latest"]);
    assert_eq!(trainer.commit(&good).await.unwrap().aliases, ["epoch_0", "latest"]);
    assert_eq!(trainer.to_beat().await, Some(0.4));
}

async fn versions_of_one_artifact_never_go_back_in_time(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    let mut times = Vec::new();
    for (epoch, turn) in [(0, 0), (1, -5_000_000), (2, 0), (3, 9_000_000)] {
        test.turn(turn);
        times.push(trainer.save(epoch, 0.5, b"model").await.commit_time_us);
    }
    // Replicas' clocks differ, but of equal values the version that was committed first is best, for whoever asks.
    assert_eq!(times, [BEGIN_US, BEGIN_US + 1, BEGIN_US + 2, BEGIN_US + 4_000_000]);
    let best = test.app.best_version(&BestParent::Run(trainer.run.clone()), None, None).await.unwrap();
    assert_eq!((best.number, trainer.named("best").await.unwrap().0), (0, 0));
    let missing: Result<(), Error> = test.app.version(&trainer.version("v4")).await.map(drop);
    assert_eq!(reason(missing), "NOT_FOUND");
}
