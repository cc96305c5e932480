//! Several processes save one checkpoint in parts: one version of all files, or none.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use keepbest::app::App;
use keepbest::app::CheckpointState;
use keepbest::app::Error;
use keepbest::app::VersionRow;
use keepbest::app::parts::NewPart;
use keepbest::domain::ids::CheckpointName;
use keepbest::domain::parts::Part;
use keepbest::domain::refusal::Refusal;

use crate::support::apps::HOUR_US;
use crate::support::apps::TestApp;
use crate::support::apps::Trainer;
use crate::support::apps::best_only;
use crate::support::apps::every_epoch;
use crate::support::apps::reason;
use crate::support::apps::shown;
use crate::support::databases::TestDatabase;
use crate::support::databases::on_all_databases;
use crate::support::patience::patiently;

on_all_databases! {
    parts_in_any_order_are_one_version_of_all_files
    the_last_parts_at_the_same_moment_are_one_version_that_all_are_answered
    a_wait_goes_on_at_another_replica_than_the_part_was_sent_to
    a_part_that_never_comes_ends_in_an_expiry_that_names_it
    each_write_and_each_part_puts_the_expiry_off_and_a_wait_does_not
    a_newer_attempt_ends_the_wait_of_the_older_one
    a_part_that_gives_up_ends_the_wait_of_the_others
    what_does_not_fit_the_other_parts_is_refused
    parts_whose_files_are_not_all_complete_are_no_version
}

/// Longer than any test waits for something that must come.
const LONG: Duration = Duration::from_secs(25);

/// One rank of a training: an attempt at some replica.
fn rank(trainer: &Trainer, app: &App) -> Trainer {
    Trainer { app: app.clone(), ..trainer.clone() }
}

impl Trainer {
    /// Writes one file of its own and completes the part.
    async fn save_part(
        &self,
        checkpoint: &CheckpointName,
        part: (i32, i32),
        wait: Duration,
    ) -> Result<VersionRow, Error> {
        let path = format!("shard-{}", part.0);
        self.write(checkpoint, &[(path.as_str(), path.as_bytes())]).await?;
        self.complete(checkpoint, part, 1, wait).await
    }

    /// Completes a part with so many files.
    async fn complete(
        &self,
        checkpoint: &CheckpointName,
        (part, count): (i32, i32),
        file_count: i64,
        wait: Duration,
    ) -> Result<VersionRow, Error> {
        let new = NewPart {
            checkpoint: checkpoint.clone(),
            attempt: self.attempt,
            part: Part::parse(part, count).unwrap().unwrap(),
            file_count,
            metadata: Some(format!("{{\"part\":{part}}}")),
            wait: Some(wait),
        };
        self.app.commit_part(new).await
    }
}

/// The refusal, and the parts that it says are missing.
fn missing<T: std::fmt::Debug>(answer: Result<T, Error>) -> (String, String) {
    let Err(Error::Refused(Refusal { reason, metadata, .. })) = answer else { panic!("{answer:?}") };
    let missing = metadata.into_iter().find(|it| it.0 == "missing_parts");
    (reason.to_owned(), missing.map(|it| it.1).unwrap_or_default())
}

async fn parts_in_any_order_are_one_version_of_all_files(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let replicas = [test.app.clone(), test.replica().await];
    let mut trainer = test.start("first", every_epoch()).await;
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let waits = "PARTS_MISSING".to_owned();
    for (epoch, order) in (0..).zip(orders) {
        let checkpoint = trainer.saved(epoch, 0.5).await;
        for (at, part) in order.into_iter().enumerate() {
            let rank = rank(&trainer, &replicas[at % 2]);
            let answer = rank.save_part(&checkpoint, (part, 3), Duration::ZERO).await;
            if at < 2 {
                let (reason, missing) = missing(answer);
                let still: Vec<String> =
                    (0..3).filter(|it| !order[..=at].contains(it)).map(|it| it.to_string()).collect();
                assert_eq!(
                    (reason, missing.replace('-', ",")),
                    (waits.clone(), still.join(",")),
                    "{order:?}"
                );
                let latest = trainer.named("latest").await.ok();
                assert_eq!(latest.map(|it| it.0 + 1), (epoch > 0).then_some(epoch), "nothing is half");
            } else {
                assert_eq!(answer.unwrap().number, epoch);
            }
        }
        let mut answers = BTreeSet::new();
        for part in 0..3 {
            let again =
                rank(&trainer, &replicas[1]).complete(&checkpoint, (part, 3), 1, Duration::ZERO).await;
            answers.insert(shown(&again.unwrap()));
        }
        assert_eq!(answers.len(), 1, "{answers:?}");
        let version = test.app.version(&trainer.version("latest")).await.unwrap();
        assert_eq!((version.file_count, version.metadata.as_deref()), (3, Some("{\"part\":0}")));
        let row = test.app.checkpoint(&checkpoint).await.unwrap();
        let files = test.app.list_files(&checkpoint.checkpoint, "", 10).await.unwrap();
        assert_eq!(
            files.iter().map(|it| it.path.as_str()).collect::<Vec<_>>(),
            ["shard-0", "shard-1", "shard-2"]
        );
        let parts = test.app.parts(&row.uid).await.unwrap();
        assert_eq!(
            parts.iter().map(|it| (it.part, it.file_count)).collect::<Vec<_>>(),
            [(0, 1), (1, 1), (2, 1)]
        );
    }
    assert_eq!(trainer.versions("", "number").await.len(), 6);
    assert_eq!(test.problems().await, Vec::<String>::new());
}

async fn the_last_parts_at_the_same_moment_are_one_version_that_all_are_answered(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let replicas = [test.app.clone(), test.replica().await];
    let mut trainer = test.start("first", every_epoch()).await;
    for epoch in 0..5 {
        let checkpoint = trainer.saved(epoch, 0.5).await;
        // Each rank calls twice, as after an answer that was lost.
        let calls = (0..16).map(|n| {
            let (rank, checkpoint) = (rank(&trainer, &replicas[n % 2]), checkpoint.clone());
            let part = i32::try_from(n / 2).unwrap();
            tokio::spawn(async move { patiently(|| rank.save_part(&checkpoint, (part, 8), LONG)).await })
        });
        let answers = join_all(calls).await.into_iter().map(|it| it.unwrap());
        // A rank whose other call was faster may find that its file cannot be written any more: the version is out.
        let (versions, late): (Vec<_>, Vec<_>) = answers.partition(Result::is_ok);
        assert!(
            late.into_iter().all(|it| ["CHECKPOINT_COMMITTED", "UPLOAD_SUPERSEDED"].contains(&&*reason(it)))
        );
        let versions: BTreeSet<String> = versions.into_iter().map(|it| shown(&it.unwrap())).collect();
        assert_eq!(versions.len(), 1, "{versions:?}");
    }
    let numbers: Vec<_> =
        trainer.versions("", "number asc").await.iter().map(|it| (it.number, it.file_count)).collect();
    assert_eq!(numbers, [(0, 8), (1, 8), (2, 8), (3, 8), (4, 8)]);
}

async fn a_wait_goes_on_at_another_replica_than_the_part_was_sent_to(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    let checkpoint = trainer.saved(0, 0.5).await;
    let (first, second) = (test.replica().await, test.replica().await);
    let answer = rank(&trainer, &first).save_part(&checkpoint, (0, 2), Duration::ZERO).await;
    assert_eq!(missing(answer), ("PARTS_MISSING".to_owned(), "1".to_owned()));
    first.close().await;
    let waiting = {
        let (rank, checkpoint) = (rank(&trainer, &second), checkpoint.clone());
        tokio::spawn(async move { rank.complete(&checkpoint, (0, 2), 1, LONG).await })
    };
    let version = trainer.save_part(&checkpoint, (1, 2), Duration::ZERO).await.unwrap();
    assert_eq!(shown(&waiting.await.unwrap().unwrap()), shown(&version));
}

async fn a_part_that_never_comes_ends_in_an_expiry_that_names_it(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", best_only()).await;
    trainer.save(0, 0.5, b"model").await;
    let other = test.replica().await;
    for by_collector in [false, true] {
        let checkpoint = trainer.saved(1, 0.1).await;
        for part in [0, 2] {
            let answer = trainer.save_part(&checkpoint, (part, 6), Duration::ZERO).await;
            assert_eq!(missing(answer).0, "PARTS_MISSING");
        }
        test.turn(HOUR_US);
        let answer = trainer.complete(&checkpoint, (0, 6), 1, Duration::ZERO).await;
        assert_eq!(
            missing(answer),
            ("PARTS_MISSING".to_owned(), "1,3-5".to_owned()),
            "not one moment too early"
        );
        assert_eq!(test.app.collect().await.unwrap().expired_checkpoints, 0);
        assert_eq!(trainer.to_beat().await, Some(0.1));
        test.turn(1);
        if by_collector {
            assert_eq!(test.app.collect().await.unwrap().expired_checkpoints, 1);
        }
        // Whoever waits learns it, wherever; so does the rank that comes too late, and nothing changes any more.
        let expired = ("PARTS_EXPIRED".to_owned(), "1,3-5".to_owned());
        for (rank, part) in [(rank(&trainer, &other), 0), (rank(&trainer, &test.app), 2)] {
            assert_eq!(missing(rank.complete(&checkpoint, (part, 6), 1, LONG).await), expired);
        }
        assert_eq!(missing(trainer.complete(&checkpoint, (3, 6), 0, LONG).await), expired);
        assert_eq!(reason(trainer.write(&checkpoint, &[("late", b"late")]).await), "CHECKPOINT_DELETED");
        assert_eq!(test.app.checkpoint(&checkpoint).await.unwrap().state, CheckpointState::Deleted);
        assert_eq!(trainer.to_beat().await, Some(0.5), "the earlier best stands");
        assert_eq!(trainer.named("best").await.unwrap().0, 0);
    }
    let next = trainer.saved(2, 0.4).await;
    assert_eq!(
        trainer.save_part(&next, (0, 1), Duration::ZERO).await.unwrap().number,
        1,
        "no number was lost"
    );
}

async fn each_write_and_each_part_puts_the_expiry_off_and_a_wait_does_not(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    let checkpoint = trainer.saved(0, 0.5).await;
    // Before a part is complete nobody waits: then it lives as long as any other, ten hours.
    trainer.write(&checkpoint, &[("shard-0", b"shard-0")]).await.unwrap();
    test.turn(9 * HOUR_US);
    assert_eq!(test.app.collect().await.unwrap().expired_checkpoints, 0);
    let waits = |answer| assert_eq!(missing(answer).0, "PARTS_MISSING");
    waits(trainer.complete(&checkpoint, (0, 3), 1, Duration::ZERO).await);
    for part in [1, 2] {
        test.turn(HOUR_US);
        trainer.write(&checkpoint, &[(&*format!("more-{part}"), b"more")]).await.unwrap();
        test.turn(HOUR_US);
        if part == 1 {
            waits(trainer.complete(&checkpoint, (1, 3), 1, Duration::ZERO).await);
        }
    }
    for _ in 0..4 {
        waits(trainer.complete(&checkpoint, (0, 3), 1, Duration::ZERO).await);
    }
    test.turn(1);
    let answer = trainer.complete(&checkpoint, (1, 3), 1, LONG).await;
    assert_eq!(missing(answer), ("PARTS_EXPIRED".to_owned(), "2".to_owned()));
}

async fn a_newer_attempt_ends_the_wait_of_the_older_one(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    let checkpoint = trainer.saved(0, 0.5).await;
    let waiting = {
        let (rank, checkpoint) = (rank(&trainer, &test.replica().await), checkpoint.clone());
        tokio::spawn(async move { rank.save_part(&checkpoint, (0, 2), LONG).await })
    };
    while test.app.parts(checkpoint.checkpoint.as_str()).await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let mut newer = test.start("first", every_epoch()).await;
    let Err(Error::Refused(refusal)) = waiting.await.unwrap() else { panic!("it was answered") };
    assert_eq!((refusal.reason, refusal.metadata), ("STALE_ATTEMPT", vec![("attempt", "2".to_owned())]));
    // The last part of the older attempt, and a part of its checkpoint from the newer one, come to nothing.
    for rank in [&trainer, &newer] {
        assert_eq!(reason(rank.complete(&checkpoint, (1, 2), 0, LONG).await), "STALE_ATTEMPT");
    }
    let fresh = newer.saved(1, 0.4).await;
    assert_eq!(reason(trainer.complete(&fresh, (0, 2), 0, LONG).await), "STALE_ATTEMPT");
    assert!(test.app.parts(fresh.checkpoint.as_str()).await.unwrap().is_empty());
    assert_eq!(missing(newer.save_part(&fresh, (1, 2), Duration::ZERO).await).1, "0");
    assert_eq!(newer.save_part(&fresh, (0, 2), Duration::ZERO).await.unwrap().number, 0);
}

async fn a_part_that_gives_up_ends_the_wait_of_the_others(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    let checkpoint = trainer.saved(0, 0.5).await;
    let waiting = {
        let (rank, checkpoint) = (rank(&trainer, &test.replica().await), checkpoint.clone());
        tokio::spawn(async move { rank.save_part(&checkpoint, (0, 2), LONG).await })
    };
    trainer.abandon(&checkpoint).await.unwrap();
    assert_eq!(reason(waiting.await.unwrap()), "CHECKPOINT_DELETED");
    assert_eq!(reason(trainer.complete(&checkpoint, (1, 2), 0, LONG).await), "CHECKPOINT_DELETED");
}

async fn what_does_not_fit_the_other_parts_is_refused(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    let checkpoint = trainer.saved(0, 0.5).await;
    let complete = |part, count| trainer.complete(&checkpoint, (part, 2), count, Duration::ZERO);
    assert_eq!(missing(trainer.save_part(&checkpoint, (0, 2), Duration::ZERO).await).1, "1");
    for other in [(0, 1), (1, 3), (0, 4)] {
        assert_eq!(
            reason(trainer.complete(&checkpoint, other, 1, LONG).await),
            "PARTS_MISMATCH",
            "{other:?}"
        );
    }
    assert_eq!(reason(trainer.commit(&checkpoint).await), "PARTS_MISMATCH", "not without its parts");
    assert_eq!(reason(complete(0, 2).await), "PARTS_MISMATCH", "another process is the same part");
    assert_eq!(test.app.checkpoint(&checkpoint).await.unwrap().state, CheckpointState::Pending);
    assert_eq!(complete(1, 0).await.unwrap().file_count, 1, "a part may have no files");
    // Also later: what says something else was not in the version.
    assert_eq!(reason(trainer.commit(&checkpoint).await), "PARTS_MISMATCH");
    assert_eq!(reason(trainer.complete(&checkpoint, (5, 8), 1, LONG).await), "PARTS_MISMATCH");
    assert_eq!(reason(complete(1, 1).await), "PARTS_MISMATCH");
    let alone = trainer.saved(1, 0.5).await;
    trainer.write(&alone, &[("model", b"model")]).await.unwrap();
    trainer.commit(&alone).await.unwrap();
    assert_eq!(reason(trainer.complete(&alone, (0, 1), 1, LONG).await), "PARTS_MISMATCH");
}

async fn parts_whose_files_are_not_all_complete_are_no_version(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let mut trainer = test.start("first", every_epoch()).await;
    let checkpoint = trainer.saved(0, 0.5).await;
    let complete = |part, count| trainer.complete(&checkpoint, (part, 2), count, Duration::ZERO);
    assert_eq!(reason(complete(0, 1).await), "FILES_INCOMPLETE", "nothing was written");
    test.app.prepare_file(trainer.target(&checkpoint, "shard-0"), 7, None).await.unwrap();
    assert_eq!(reason(complete(0, 1).await), "FILES_INCOMPLETE", "it was only declared");
    assert!(
        test.app.parts(checkpoint.checkpoint.as_str()).await.unwrap().is_empty(),
        "and nothing was recorded"
    );
    trainer.stream(&checkpoint, "shard-0", b"shard-0").await.unwrap();
    assert_eq!(missing(complete(0, 1).await).1, "1");
    test.app.prepare_file(trainer.target(&checkpoint, "shard-1"), 7, None).await.unwrap();
    for count in [0, 1, 2] {
        assert_eq!(reason(complete(1, count).await), "FILES_INCOMPLETE", "{count}");
    }
    trainer.stream(&checkpoint, "shard-1", b"shard-1").await.unwrap();
    for count in [0, 2] {
        assert_eq!(reason(complete(1, count).await), "FILES_INCOMPLETE", "{count}");
    }
    assert_eq!(reason(trainer.named("latest").await), "NOT_FOUND");
    assert_eq!(complete(1, 1).await.unwrap().file_count, 2);
    let empty = trainer.saved(1, 0.5).await;
    assert_eq!(reason(trainer.complete(&empty, (0, 1), 0, LONG).await), "NO_FILES");
}
