//! Commits: once and only once, whatever is repeated or lost on the way.

use keepbest_proto::v1;
use keepbest_proto::v1::checkpoints_client::CheckpointsClient;
use tonic::Code;

use crate::support::proxy::Fate;
use crate::support::proxy::Proxy;
use crate::support::refusals::Witness;
use crate::support::refusals::refusal;
use crate::support::requests::Trainer;
use crate::support::requests::best_only;
use crate::support::requests::every_epoch;
use crate::support::server;
use crate::support::server::TestServer;
use crate::support::transfers::prepare;
use crate::support::transfers::versions;
use crate::support::transfers::write_small;

const MODEL: &str = "model.keras";

/// A server with a save whose file is complete.
async fn with_a_file() -> (TestServer, Trainer, String) {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "first", best_only()).await;
    let checkpoint = trainer.epoch(0, 0.5).await.checkpoint;
    trainer.upload(&checkpoint, MODEL, b"weights").await.unwrap();
    (server, trainer, checkpoint)
}

fn commit_request(trainer: &Trainer, checkpoint: &str) -> v1::CommitCheckpointRequest {
    v1::CommitCheckpointRequest {
        checkpoint: checkpoint.to_owned(),
        attempt: trainer.attempt,
        file_count: 1,
        ..Default::default()
    }
}

#[tokio::test]
async fn a_commit_that_is_repeated_is_the_same_version() {
    let (server, trainer, checkpoint) = with_a_file().await;
    let first = trainer.commit(&checkpoint).await.unwrap();
    let witness = Witness::of(&server).await;
    for _ in 0..3 {
        assert_eq!(trainer.commit(&checkpoint).await.unwrap(), first);
    }
    witness.nothing_stored("repeated commits").await;
    assert_eq!(versions(&server, &trainer.run).await, [first]);
}

#[tokio::test]
async fn commits_at_the_same_moment_are_one_version() {
    let (server, trainer, checkpoint) = with_a_file().await;
    let commits = (0..16).map(|_| trainer.commit(&checkpoint));
    let answers = futures::future::join_all(commits).await;
    let first = answers[0].as_ref().unwrap();
    assert!(answers.iter().all(|it| it.as_ref().unwrap() == first));
    assert_eq!(versions(&server, &trainer.run).await.len(), 1);
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_found_again() {
    let (server, trainer, checkpoint) = with_a_file().await;
    let proxy = Proxy::start(&server.address(), Fate::Pass).await;
    let mut lossy = CheckpointsClient::new(proxy.channel());
    // The connection stands before answers are lost.
    lossy.get_checkpoint(v1::GetCheckpointRequest { name: checkpoint.clone() }).await.unwrap();
    proxy.set(Fate::Mute);
    let request = commit_request(&trainer, &checkpoint);
    let unanswered = tokio::spawn(async move { lossy.commit_checkpoint(request).await });
    let mut checkpoints = server.checkpoints();
    loop {
        let name = v1::GetCheckpointRequest { name: checkpoint.clone() };
        let seen = checkpoints.get_checkpoint(name).await.unwrap().into_inner();
        if seen.state() == v1::CheckpointState::Committed {
            break;
        }
    }
    proxy.set(Fate::Cut);
    assert!(unanswered.await.unwrap().is_err(), "the answer was lost");
    let version = trainer.commit(&checkpoint).await.unwrap();
    assert_eq!(version.number, 0);
    assert_eq!(versions(&server, &trainer.run).await, [version]);
}

#[tokio::test]
async fn a_finished_file_whose_answer_was_lost_is_answered_again() {
    let (server, trainer, checkpoint) = with_a_file().await;
    let name = v1::GetCheckpointRequest { name: checkpoint.clone() };
    let stored = server.checkpoints().get_checkpoint(name).await.unwrap().into_inner().files;
    let witness = Witness::of(&server).await;
    assert_eq!(prepare(&trainer, &checkpoint, MODEL, 7).await.unwrap(), stored[0]);
    // What is sent again must be the same (`uploads::repeats`): from the beginning, or nothing behind the end.
    for offset in [0, 7] {
        let messages = trainer.messages(&checkpoint, MODEL, b"weights", offset);
        let file = server.checkpoints().write_file(futures::stream::iter(messages)).await.unwrap();
        assert_eq!(file.get_ref(), &stored[0]);
    }
    witness.nothing_stored("writing a complete file again").await;
}

#[tokio::test]
async fn what_is_committed_or_given_up_takes_no_more_files() {
    let (server, trainer, checkpoint) = with_a_file().await;
    trainer.commit(&checkpoint).await.unwrap();
    let mut trainer = Trainer { sequence: 1, ..trainer };
    let given_up = trainer.epoch(1, 0.4).await.checkpoint;
    let abandon = v1::AbandonCheckpointRequest { checkpoint: given_up.clone(), attempt: trainer.attempt };
    for _ in 0..2 {
        let seen = server.checkpoints().abandon_checkpoint(abandon.clone()).await.unwrap();
        assert_eq!(seen.get_ref().state(), v1::CheckpointState::Deleted);
    }
    let witness = Witness::of(&server).await;
    for (name, reason) in [(&checkpoint, "CHECKPOINT_COMMITTED"), (&given_up, "CHECKPOINT_DELETED")] {
        let precondition = Code::FailedPrecondition;
        refusal(reason, prepare(&trainer, name, "more", 1).await, precondition, reason);
        refusal(reason, write_small(&trainer, name, &[("more", b"x")]).await, precondition, reason);
        let messages = trainer.messages(name, MODEL, b"weights", 0);
        let answer = server.checkpoints().write_file(futures::stream::iter(messages)).await;
        refusal(reason, answer, precondition, reason);
    }
    refusal("commit", trainer.commit(&given_up).await, Code::FailedPrecondition, "CHECKPOINT_DELETED");
    let abandon = v1::AbandonCheckpointRequest { checkpoint, attempt: trainer.attempt };
    let answer = server.checkpoints().abandon_checkpoint(abandon).await;
    refusal("abandon", answer, Code::FailedPrecondition, "CHECKPOINT_COMMITTED");
    witness.nothing_stored("late calls").await;
}

#[tokio::test]
async fn a_save_that_was_given_up_leaves_the_earlier_best() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "first", best_only()).await;
    let first = trainer.save(0, 0.5, b"first").await;
    let given_up = trainer.epoch(1, 0.1).await.checkpoint;
    let abandon = v1::AbandonCheckpointRequest { checkpoint: given_up, attempt: trainer.attempt };
    server.checkpoints().abandon_checkpoint(abandon).await.unwrap();
    let run = v1::GetRunRequest { name: trainer.run.clone() };
    let run = server.runs().get_run(run).await.unwrap().into_inner();
    assert_eq!(run.monitor_state.unwrap().best, Some(0.5));
    let best = v1::GetBestVersionRequest { parent: trainer.run.clone(), ..Default::default() };
    assert_eq!(server.artifacts().get_best_version(best).await.unwrap().get_ref().name, first.name);
    // The next good value can win, and numbers have no gap.
    assert_eq!(trainer.save(2, 0.4, b"second").await.number, 1);
}

#[tokio::test]
async fn numbers_have_no_gap_when_runs_share_an_artifact() {
    let server = server::start().await;
    let mut trainers = Vec::new();
    for run in ["a", "b", "c", "d"] {
        let mut start = crate::support::requests::start_request(run, every_epoch());
        start.artifact_id = "shared".to_owned();
        trainers.push(Trainer::start_as(&server, start).await.unwrap());
    }
    let saving = trainers.iter_mut().map(|trainer| async move {
        for epoch in 0..5 {
            trainer.save(epoch, 0.5, b"the same weights").await;
        }
    });
    futures::future::join_all(saving).await;
    let list = v1::ListVersionsRequest {
        parent: "teams/default/projects/digits/artifacts/shared".to_owned(),
        order_by: "number asc".to_owned(),
        ..Default::default()
    };
    let listed = server.artifacts().list_versions(list).await.unwrap().into_inner().versions;
    assert_eq!(listed.iter().map(|it| it.number).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
}
