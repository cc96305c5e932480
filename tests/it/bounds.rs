//! What must not grow, stall or go astray: answers, saves in flight, readers, silent connections, pages.

mod answers;
mod bodies;
mod lists;
mod memory;
mod quiet;
mod readers;

use std::time::Duration;

use futures::FutureExt;
use keepbest_proto::v1;
use prost::Message;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_types::StatusExt;

use crate::support::health::health;
use crate::support::requests::PROJECT;
use crate::support::requests::Trainer;
use crate::support::requests::best_only;
use crate::support::requests::epoch_end;
use crate::support::requests::every_epoch;
use crate::support::requests::noise;
use crate::support::requests::reason;
use crate::support::requests::start_request;
use crate::support::server;
use crate::support::server::TestServer;
use crate::support::wire::Wire;

const ARTIFACT: &str = "teams/default/projects/digits/artifacts/run-r-model";

#[tokio::test]
async fn a_repeated_start_without_a_run_id_is_one_run() {
    let server = server::start().await;
    let request = v1::StartRunRequest { request_id: "once".to_owned(), ..start_request("", best_only()) };
    let first = server.runs().start_run(request.clone()).await.unwrap().into_inner();
    let again = server.runs().start_run(request).await.unwrap().into_inner();
    assert_eq!((first.run, first.attempt), (again.run, again.attempt));
    let list = v1::ListRunsRequest { parent: PROJECT.to_owned(), ..Default::default() };
    assert_eq!(server.runs().list_runs(list).await.unwrap().into_inner().runs.len(), 1);
}

#[tokio::test]
async fn events_of_a_named_writer_are_stored_and_not_decided_upon() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "r", every_epoch()).await;
    let request = v1::ReportEventsRequest {
        run: trainer.run.clone(),
        attempt: trainer.attempt,
        writer: "rank-1".to_owned(),
        first_sequence: 0,
        events: vec![epoch_end(0, 0.5)],
    };
    let answer = server.runs().report_events(request).await.unwrap().into_inner();
    assert_eq!((answer.decisions.len(), answer.next_sequence), (0, 1));
    assert_eq!(trainer.epoch(0, 0.5).await.action(), v1::Action::Save);
    let list = v1::ListEventsRequest { parent: trainer.run.clone(), ..Default::default() };
    let events = server.runs().list_events(list).await.unwrap().into_inner().events;
    let writers: Vec<&str> = events.iter().map(|it| it.writer.as_str()).collect();
    assert_eq!(writers, ["rank-1", ""]);
}

#[tokio::test]
async fn the_oldest_save_in_flight_is_given_up_for_a_newer_one() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "r", every_epoch()).await;
    let events = (0..101).map(|epoch| epoch_end(epoch, 0.5)).collect();
    let decisions = trainer.report(events).await.unwrap();
    let get = v1::GetRunRequest { name: trainer.run.clone() };
    let run = server.runs().get_run(get).await.unwrap().into_inner();
    assert_eq!(run.monitor_state.unwrap().in_flight.len(), 100);
    let mut states = Vec::new();
    for decision in [&decisions[0], &decisions[1]] {
        let get = v1::GetCheckpointRequest { name: decision.checkpoint.clone() };
        states.push(server.checkpoints().get_checkpoint(get).await.unwrap().into_inner().state());
    }
    assert_eq!(states, [v1::CheckpointState::Deleted, v1::CheckpointState::Pending]);
}

#[tokio::test]
async fn a_history_is_read_in_answers_that_every_client_takes() {
    const EVENTS: i64 = 1_000;
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "r", every_epoch()).await;
    let event = |epoch: i64| {
        let metrics = (0..300).map(|metric| (format!("metric-{metric}"), 0.5)).collect();
        let kind = v1::EventKind::BatchEnd.into();
        v1::Event { kind, epoch, batch: Some(0), metrics, ..v1::Event::default() }
    };
    for first in (0..EVENTS).step_by(250) {
        trainer.report((first..first + 250).map(event).collect()).await.unwrap();
    }
    let mut request = v1::ListEventsRequest { parent: trainer.run.clone(), ..Default::default() };
    let mut epochs = Vec::new();
    loop {
        // The client's own limit is 4 MiB.
        let page = server.runs().list_events(request.clone()).await.unwrap().into_inner();
        assert!(page.encoded_len() <= 4 << 20 && !page.events.is_empty());
        epochs.extend(page.events.iter().map(|it| it.event.as_ref().unwrap().epoch));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(epochs, (0..EVENTS).collect::<Vec<_>>());
}

async fn page_of_two(server: &TestServer, page_token: String) -> (Vec<i64>, String) {
    let parent = ARTIFACT.to_owned();
    let request = v1::ListVersionsRequest { parent, page_size: 2, page_token, ..Default::default() };
    let page = server.artifacts().list_versions(request).await.unwrap().into_inner();
    (page.versions.iter().map(|it| it.number).collect(), page.next_page_token)
}

#[tokio::test]
async fn a_page_goes_on_behind_the_last_one_although_its_versions_are_deleted() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "r", every_epoch()).await;
    for epoch in 0..3 {
        trainer.save(epoch, 0.5, b"model").await;
    }
    let (first, token) = page_of_two(&server, String::new()).await;
    assert_eq!(first, [2, 1]);
    for number in first {
        let name = format!("{ARTIFACT}/versions/v{number}");
        let delete = v1::DeleteVersionRequest { name, ..Default::default() };
        server.artifacts().delete_version(delete).await.unwrap();
    }
    assert_eq!(page_of_two(&server, token).await, (vec![0], String::new()));
}

#[tokio::test]
async fn readers_that_take_nothing_stop_no_upload() {
    let server = server::start_with(|config| {
        config.limits.upload_buffers_bytes = 24 << 20;
        config.limits.download_buffers_bytes = 24 << 20;
    })
    .await;
    let mut trainer = Trainer::start(&server, "r", every_epoch()).await;
    let version = trainer.save(0, 0.5, &noise(1, 64 << 20)).await;
    let mut stalled = Vec::new();
    let read =
        v1::ReadFileRequest { version: version.name, path: "model.keras".to_owned(), ..Default::default() };
    // The first holds all buffers of downloads; nobody reads it.
    stalled.push(server.artifacts().read_file(read).await.unwrap().into_inner());
    trainer.save(1, 0.4, &noise(2, 1 << 20)).await;
    drop(stalled);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_calls_that_only_wait() {
    let mut server = server::start_with(|config| config.limits.drain_seconds = 3_000).await;
    let mut trainer = Trainer::start(&server, "r", best_only()).await;
    trainer.epoch(0, 0.5).await;
    let (requests, receiver) = tokio::sync::mpsc::channel(1);
    let events = v1::ReportEventsRequest {
        run: trainer.run.clone(),
        attempt: trainer.attempt,
        first_sequence: 1,
        events: vec![epoch_end(1, 0.4)],
        ..Default::default()
    };
    requests.send(events).await.unwrap();
    let mut answers = server.runs().stream_events(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().next_sequence, 2);
    let (run, attempt) = (trainer.run.clone(), trainer.attempt);
    let wait = v1::AwaitDecisionRequest { run, attempt, epoch: 7, ..Default::default() };
    let mut runs = server.runs();
    let waiting = tokio::spawn(async move { runs.await_decision(wait).await });
    tokio::time::sleep(Duration::from_millis(200)).await;

    server.stop().await;
    let stream = answers.message().await.unwrap_err();
    assert_eq!((stream.code(), reason(&stream).as_str()), (Code::Unavailable, "STOPPING"), "{stream:?}");
    assert!(stream.get_details_retry_info().is_some());
    let wait = waiting.await.unwrap().unwrap_err();
    assert_eq!(reason(&wait), "EVENT_MISSING", "{wait:?}");
}

#[tokio::test]
async fn a_server_whose_places_are_taken_still_answers_probes() {
    let server = server::start_with(|config| config.limits.max_connections = 1).await;
    let list = || v1::ListRunsRequest { parent: PROJECT.to_owned(), ..Default::default() };
    let mut lasting = server.runs();
    lasting.list_runs(list()).await.unwrap();
    // Each on a connection of its own; more of them than there are short places.
    let mut others = Vec::new();
    for _ in 0..20 {
        assert_eq!(health(&server.address(), "liveness").await, ServingStatus::Serving);
        let mut other = server.runs();
        other.list_runs(list()).await.unwrap();
        others.push(other);
    }
    lasting.list_runs(list()).await.unwrap();
}

#[tokio::test]
async fn connections_that_say_nothing_give_their_places_back() {
    let server = server::start_with(|config| config.limits.max_connections = 2).await;
    let address = server.address().trim_start_matches("http://").to_owned();
    let mut silent = Vec::new();
    for _ in 0..2 {
        silent.push(tokio::net::TcpStream::connect(&address).await.unwrap());
    }
    let list = v1::ListRunsRequest { parent: PROJECT.to_owned(), ..Default::default() };
    let mut runs = server.runs();
    // Without a limit on silence this call would wait for ever.
    let answer = tokio::time::timeout(Duration::from_secs(60), runs.list_runs(list)).await;
    assert!(answer.expect("a place became free").is_ok());
    drop(silent);
}

#[tokio::test]
async fn idle_connections_make_room_for_new_ones() {
    let server = server::start_with(|config| config.limits.max_connections = 2).await;
    let list = || v1::ListRunsRequest { parent: PROJECT.to_owned(), ..Default::default() };
    let events = futures::stream::pending::<v1::ReportEventsRequest>();
    let mut busy = server.runs();
    let mut open = busy.stream_events(events).await.unwrap().into_inner();
    let mut idle = Wire::connect(&server.address(), 1 << 16).await;
    // Until it has been idle for long enough, others get places that soon end.
    let knocking = async {
        loop {
            server.runs().list_runs(list()).await.unwrap();
        }
    };
    let made_room = async {
        tokio::select! {
            () = idle.closed() => {}
            () = knocking => {}
        }
    };
    tokio::time::timeout(Duration::from_secs(60), made_room).await.expect("the idle one makes room");
    assert!(open.message().now_or_never().is_none(), "the busy one was left alone");
}
