//! Runs that end, begin again, and remember.

use keepbest_proto::v1;
use tonic::Code;

use crate::support::refusals::Witness;
use crate::support::refusals::refusal;
use crate::support::requests::Trainer;
use crate::support::requests::best_only;
use crate::support::requests::detail;
use crate::support::requests::epoch_end;
use crate::support::requests::every_batches;
use crate::support::requests::every_epoch;
use crate::support::requests::start_request;
use crate::support::server;
use crate::support::server::TestServer;

async fn run_of(server: &TestServer, trainer: &Trainer) -> v1::Run {
    let name = v1::GetRunRequest { name: trainer.run.clone() };
    server.runs().get_run(name).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_finished_run_takes_no_events_until_it_begins_again() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "first", best_only()).await;
    let decision = trainer.epoch(0, 0.5).await;
    let finish = |state: v1::RunState| v1::FinishRunRequest {
        name: trainer.run.clone(),
        attempt: trainer.attempt,
        state: state.into(),
    };
    let bad = server.runs().finish_run(finish(v1::RunState::Active)).await;
    refusal("ACTIVE is no end", bad, Code::InvalidArgument, "BAD_STATE");
    let finished = server.runs().finish_run(finish(v1::RunState::Unspecified)).await.unwrap().into_inner();
    assert_eq!(finished.state(), v1::RunState::Finished);
    assert!(finished.finish_time.is_some());
    let witness = Witness::of(&server).await;
    let again = server.runs().finish_run(finish(v1::RunState::Finished)).await.unwrap().into_inner();
    assert_eq!(again, finished, "ended again, nothing changes");
    let otherwise = server.runs().finish_run(finish(v1::RunState::Failed)).await;
    refusal("another end", otherwise, Code::FailedPrecondition, "RUN_FINISHED");
    let late = trainer.report(vec![epoch_end(1, 0.4)]).await;
    refusal("a late event", late, Code::FailedPrecondition, "RUN_FINISHED");
    // A repeat is no new event: it is answered.
    let mut repeating =
        Trainer { channel: server.channel(), run: trainer.run.clone(), attempt: 1, sequence: 0 };
    assert_eq!(repeating.report(vec![epoch_end(0, 0.5)]).await.unwrap(), [decision]);
    witness.nothing_stored("what comes after the end").await;
    let mut again = Trainer::start(&server, "first", best_only()).await;
    assert_eq!((again.attempt, again.sequence), (2, 1));
    let run = run_of(&server, &again).await;
    assert_eq!((run.state(), run.finish_time), (v1::RunState::Active, None));
    assert_eq!(again.epoch(1, 0.4).await.action(), v1::Action::Save);
}

#[tokio::test]
async fn a_resumed_run_goes_on_with_its_best_after_a_restart() {
    let mut server = server::start().await;
    let mut trainer = Trainer::start(&server, "first", best_only()).await;
    let version = trainer.save(0, 0.5, b"the best so far").await;
    let lost = trainer.epoch(1, 0.3).await;
    let before = run_of(&server, &trainer).await;
    server.restart().await;
    assert_eq!(run_of(&server, &Trainer { channel: server.channel(), ..trainer }).await, before);
    let begun = server.runs().start_run(start_request("first", best_only())).await.unwrap().into_inner();
    assert_eq!(begun.resume_from.as_ref(), Some(&version));
    let state = begun.run.as_ref().unwrap().monitor_state.clone().unwrap();
    // What the dead attempt had in flight is given up, so its value beats nothing.
    assert_eq!((state.best, state.in_flight.len()), (Some(0.5), 0));
    assert_eq!(state.best_checkpoint, version.checkpoint);
    let lost = v1::GetCheckpointRequest { name: lost.checkpoint };
    let lost = server.checkpoints().get_checkpoint(lost).await.unwrap().into_inner();
    assert_eq!(lost.state(), v1::CheckpointState::Deleted);
    let mut trainer = Trainer {
        channel: server.channel(),
        run: begun.run.unwrap().name,
        attempt: begun.attempt,
        sequence: begun.next_sequence,
    };
    let worse = trainer.epoch(1, 0.6).await;
    assert_eq!((worse.action(), worse.best_before), (v1::Action::Skip, Some(0.5)));
    assert_eq!(trainer.save(2, 0.4, b"better").await.number, 1);
}

#[tokio::test]
async fn a_start_that_is_repeated_is_the_same_attempt() {
    let server = server::start().await;
    let start = v1::StartRunRequest {
        request_id: "0198c0ff-ee".to_owned(),
        resume: v1::Resume::Never.into(),
        ..start_request("first", best_only())
    };
    let first = server.runs().start_run(start.clone()).await.unwrap().into_inner();
    let witness = Witness::of(&server).await;
    assert_eq!(server.runs().start_run(start.clone()).await.unwrap().into_inner(), first);
    let another = v1::StartRunRequest { request_id: "another".to_owned(), ..start.clone() };
    let answer = server.runs().start_run(another).await;
    witness.refused("a second start", answer, Code::AlreadyExists, "RUN_EXISTS").await;
    let newer = Trainer::start(&server, "first", best_only()).await;
    // The old start, repeated late, revives nothing: it gets its old attempt, which is fenced.
    let late = server.runs().start_run(start).await.unwrap().into_inner();
    assert_eq!((late.attempt, late.run.unwrap().attempt), (1, 2));
    let mut zombie = Trainer { attempt: late.attempt, ..newer };
    let answer = zombie.report(vec![epoch_end(0, 0.5)]).await;
    let status = refusal("the old attempt", answer, Code::FailedPrecondition, "STALE_ATTEMPT");
    assert_eq!(detail(&status, "attempt"), "2");
}

#[tokio::test]
async fn a_resumed_run_may_change_its_strategy_but_not_what_best_means() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "first", best_only()).await;
    trainer.save(0, 0.5, b"weights").await;
    let witness = Witness::of(&server).await;
    let max = v1::Strategy { mode: v1::Mode::Max.into(), ..best_only() };
    let accuracy = v1::Strategy { monitor: "val_accuracy".to_owned(), ..best_only() };
    for (what, strategy) in [("the direction", max), ("the monitor", accuracy)] {
        let answer = server.runs().start_run(start_request("first", strategy.clone())).await;
        let status = witness.refused(what, answer, Code::FailedPrecondition, "MONITOR_CONFLICT").await;
        assert_eq!(detail(&status, "monitor"), "val_loss", "{what}");
        // Nor may another run write such versions into the artifact.
        let artifact_id = "run-first-model".to_owned();
        let start = v1::StartRunRequest { artifact_id, ..start_request("second", strategy) };
        let answer = server.runs().start_run(start).await;
        witness.refused(what, answer, Code::FailedPrecondition, "MONITOR_CONFLICT").await;
    }
    let artifact_id = "elsewhere".to_owned();
    let start = v1::StartRunRequest { artifact_id, ..start_request("first", best_only()) };
    let answer = server.runs().start_run(start).await;
    witness.refused("the artifact", answer, Code::FailedPrecondition, "ARTIFACT_CONFLICT").await;

    let mut trainer = Trainer::start(&server, "first", every_epoch()).await;
    let worse = trainer.epoch(1, 0.9).await;
    assert_eq!((worse.action(), worse.reason()), (v1::Action::Save, v1::Reason::EveryEpoch));
    let mut trainer = Trainer::start(&server, "first", every_batches(2)).await;
    assert_eq!(trainer.report(vec![epoch_end(2, 0.1)]).await.unwrap(), []);
    let threshold = v1::Strategy { initial_value_threshold: Some(0.01), ..best_only() };
    let mut trainer = Trainer::start(&server, "first", threshold).await;
    // A best that is committed stands, whatever the new strategy would begin with.
    let better = trainer.epoch(3, 0.4).await;
    assert_eq!((better.action(), better.best_before), (v1::Action::Save, Some(0.5)));
}
