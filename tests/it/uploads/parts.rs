//! Parts over the wire: what several ranks say, and what each of them is answered.

use std::time::Duration;

use keepbest_proto::v1;
use tonic::Code;
use tonic::Response;
use tonic::Status;
use tonic_types::StatusExt;

use crate::support::refusals::Witness;
use crate::support::refusals::refusal;
use crate::support::requests::Trainer;
use crate::support::requests::best_only;
use crate::support::requests::detail;
use crate::support::requests::read;
use crate::support::server;
use crate::support::server::TestServer;
use crate::support::transfers::versions;

/// A server with a save that nobody wrote to.
async fn with_a_save() -> (TestServer, Trainer, String) {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "first", best_only()).await;
    let checkpoint = trainer.epoch(0, 0.5).await.checkpoint;
    (server, trainer, checkpoint)
}

/// The request that completes a part of one file, and does not wait.
fn request(trainer: &Trainer, checkpoint: &str, part: i32, part_count: i32) -> v1::CommitCheckpointRequest {
    v1::CommitCheckpointRequest {
        checkpoint: checkpoint.to_owned(),
        attempt: trainer.attempt,
        file_count: 1,
        metadata: None,
        part,
        part_count,
        wait: Some(prost_types::Duration::default()),
    }
}

async fn send(server: &TestServer, request: v1::CommitCheckpointRequest) -> Result<v1::Version, Status> {
    server.checkpoints().commit_checkpoint(request).await.map(Response::into_inner)
}

/// Uploads a file of its own on a connection of its own, completes the part and waits as long as it is allowed.
async fn save_part(server: &TestServer, trainer: &Trainer, checkpoint: &str, part: i32) -> v1::Version {
    let rank = Trainer { channel: server.channel(), run: trainer.run.clone(), ..*trainer };
    let path = format!("shard-{part}");
    rank.upload(checkpoint, &path, path.as_bytes()).await.unwrap();
    let wait = None;
    send(server, v1::CommitCheckpointRequest { wait, ..request(&rank, checkpoint, part, 4) }).await.unwrap()
}

#[tokio::test]
async fn four_ranks_make_one_version_and_each_is_answered_it() {
    let (server, trainer, checkpoint) = with_a_save().await;
    let ranks = (0..4).map(|part| save_part(&server, &trainer, &checkpoint, part));
    let answers = futures::future::join_all(ranks).await;
    assert!(answers.iter().all(|it| it == &answers[0]), "{answers:?}");
    assert_eq!(versions(&server, &trainer.run).await, answers[..1]);
    for part in 0..4 {
        let path = format!("shard-{part}");
        assert_eq!(read(&server, &answers[0].name, &path).await.unwrap(), path.as_bytes());
    }
}

#[tokio::test]
async fn a_missing_part_is_named_and_the_same_call_again_goes_on() {
    let (server, trainer, checkpoint) = with_a_save().await;
    trainer.upload(&checkpoint, "shard-1", b"one").await.unwrap();
    let waiting = request(&trainer, &checkpoint, 1, 4);
    for _ in 0..2 {
        let status = refusal("part 1", send(&server, waiting.clone()).await, Code::Aborted, "PARTS_MISSING");
        assert_eq!(detail(&status, "missing_parts"), "0,2-3");
        assert!(status.message().contains("1 of 4 parts are complete, and `0,2-3` missing"), "{status:?}");
        let retry = status.get_details_retry_info().unwrap().retry_delay.unwrap();
        assert!(retry < Duration::from_secs(1), "{retry:?}");
    }
    let name = v1::GetCheckpointRequest { name: checkpoint.clone() };
    let seen = server.checkpoints().get_checkpoint(name).await.unwrap().into_inner();
    assert_eq!((seen.state(), seen.part_count), (v1::CheckpointState::Pending, 4));
    assert_eq!(seen.parts.iter().map(|it| (it.part, it.file_count)).collect::<Vec<_>>(), [(1, 1)]);
    assert!(seen.parts[0].complete_time.is_some());
    for part in [0, 2] {
        let empty = v1::CommitCheckpointRequest { file_count: 0, ..request(&trainer, &checkpoint, part, 4) };
        refusal(part, send(&server, empty).await, Code::Aborted, "PARTS_MISSING");
    }
    trainer.upload(&checkpoint, "shard-3", b"three").await.unwrap();
    let version = send(&server, request(&trainer, &checkpoint, 3, 4)).await.unwrap();
    assert_eq!(send(&server, waiting).await.unwrap(), version);
    assert_eq!(version.file_count, 2);
}

#[tokio::test]
async fn parts_that_cannot_be_are_refused_and_leave_nothing() {
    let (server, trainer, checkpoint) = with_a_save().await;
    trainer.upload(&checkpoint, "shard-0", b"zero").await.unwrap();
    let witness = Witness::of(&server).await;
    let parts = [(1, 0), (0, -1), (-1, 4), (4, 4), (0, 4_097), (i32::MIN, i32::MAX), (i32::MAX, i32::MAX)];
    for (part, count) in parts {
        let answer = send(&server, request(&trainer, &checkpoint, part, count)).await.map(Response::new);
        witness.refused(format!("{part} of {count}"), answer, Code::InvalidArgument, "BAD_PART").await;
    }
    let valid = request(&trainer, &checkpoint, 0, 2);
    let wait = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    let answer =
        send(&server, v1::CommitCheckpointRequest { wait, ..valid.clone() }).await.map(Response::new);
    witness.refused("a negative wait", answer, Code::InvalidArgument, "BAD_WAIT").await;
    let answer = send(&server, v1::CommitCheckpointRequest { attempt: 2, ..valid.clone() }).await;
    witness.refused("attempt 2", answer.map(Response::new), Code::FailedPrecondition, "STALE_ATTEMPT").await;
    let answer = send(&server, v1::CommitCheckpointRequest { file_count: 2, ..valid.clone() }).await;
    witness
        .refused("two files", answer.map(Response::new), Code::FailedPrecondition, "FILES_INCOMPLETE")
        .await;
    refusal("part 0 of 2", send(&server, valid).await, Code::Aborted, "PARTS_MISSING");
    let witness = Witness::of(&server).await;
    let answer = trainer.commit(&checkpoint).await.map(Response::new);
    let status = witness.refused("without parts", answer, Code::FailedPrecondition, "PARTS_MISMATCH").await;
    assert_eq!(detail(&status, "part_count"), "2");
}

#[tokio::test]
async fn a_rank_that_does_not_report_learns_the_decision() {
    let (server, mut trainer, checkpoint) = with_a_save().await;
    let ask = |epoch, batch, wait| {
        let (run, attempt) = (trainer.run.clone(), trainer.attempt);
        let request = v1::AwaitDecisionRequest { run, attempt, epoch, batch, wait };
        let mut runs = server.runs();
        async move { runs.await_decision(request).await.map(|it| it.into_inner().decision) }
    };
    assert_eq!(ask(0, None, None).await.unwrap().unwrap().checkpoint, checkpoint);
    assert_eq!(ask(0, Some(5), None).await.unwrap(), None, "no save can be due there");
    let no_time = Some(prost_types::Duration::default());
    let status = refusal("epoch 1", ask(1, None, no_time).await, Code::Aborted, "EVENT_MISSING");
    assert!(status.get_details_retry_info().is_some(), "{status:?}");
    let negative = Some(prost_types::Duration { seconds: 0, nanos: -1 });
    refusal("a negative wait", ask(1, None, negative).await, Code::InvalidArgument, "BAD_WAIT");
    refusal("epoch -1", ask(-1, None, None).await, Code::InvalidArgument, "BAD_EVENT");
    let waiting = ask(1, None, None);
    let (answer, decision) = tokio::join!(waiting, trainer.epoch(1, 0.9));
    assert_eq!(answer.unwrap(), Some(decision));
}

#[tokio::test]
async fn a_newer_attempt_is_named_to_who_waits() {
    let (server, trainer, checkpoint) = with_a_save().await;
    trainer.upload(&checkpoint, "shard-0", b"zero").await.unwrap();
    let waiting = v1::CommitCheckpointRequest { wait: None, ..request(&trainer, &checkpoint, 0, 2) };
    let (answer, newer) = tokio::join!(send(&server, waiting), Trainer::start(&server, "first", best_only()));
    assert_eq!(newer.attempt, 2);
    let status = refusal("the older attempt", answer, Code::FailedPrecondition, "STALE_ATTEMPT");
    assert_eq!(detail(&status, "attempt"), "2");
    assert!(versions(&server, &trainer.run).await.is_empty());
}

#[tokio::test]
async fn four_ranks_of_our_client_save_together() {
    let server = server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let ranks = (0..4).map(|number| {
        let client = keepbest_client::Client::connect_lazy(server.address()).unwrap();
        let source = folder.path().join(format!("shard-{number}"));
        std::fs::write(&source, source.to_str().unwrap()).unwrap();
        tokio::spawn(async move {
            let start = v1::StartRunRequest {
                request_id: "job-1".to_owned(),
                ..crate::support::requests::start_request("first", best_only())
            };
            let mut run = keepbest_client::Run::start(&client, start).await?;
            let mut versions = Vec::new();
            for (epoch, value) in [(0, 0.5), (1, 0.6), (2, 0.4)] {
                let decision = match number {
                    0 => run.report(vec![crate::support::requests::epoch_end(epoch, value)]).await?.pop(),
                    _ => run.await_decision(epoch, None).await?,
                };
                let decision = decision.expect("every epoch is decided upon");
                if decision.action() == v1::Action::Save {
                    let part = keepbest_client::Part { number, count: 4 };
                    versions.push(run.save_part(&decision, &source, part).await?);
                }
            }
            Ok::<_, keepbest_client::Error>(versions)
        })
    });
    let answers: Vec<_> =
        futures::future::join_all(ranks).await.into_iter().map(|it| it.unwrap().unwrap()).collect();
    assert!(answers.iter().all(|it| it == &answers[0]), "{answers:?}");
    let seen: Vec<_> = answers[0].iter().map(|it| (it.number, it.epoch, it.file_count)).collect();
    assert_eq!(seen, [(0, 0, 4), (1, 2, 4)]);
}
