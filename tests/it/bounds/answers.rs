//! Answers to the largest of what may be stored: every client takes each of them, though it takes 4 MiB only.

use std::collections::BTreeSet;

use keepbest_client::Client;
use keepbest_client::Run;
use keepbest_proto::v1;
use prost::Message;

use crate::support::requests::Trainer;
use crate::support::requests::every_epoch;
use crate::support::requests::start_request;
use crate::support::server;
use crate::support::server::TestServer;

/// A strategy whose decisions have the longest texts: two messages with the local path.
fn wordy() -> v1::Strategy {
    v1::Strategy { local_directory: "d".repeat(4_000), verbose: 1, announce_finished: true, ..every_epoch() }
}

fn epochs(count: i64) -> Vec<v1::Event> {
    let event = |epoch| v1::Event {
        kind: v1::EventKind::EpochEnd.into(),
        epoch,
        metrics: [("val_loss".to_owned(), 0.5)].into(),
        ..Default::default()
    };
    (0..count).map(event).collect()
}

async fn run_of(server: &TestServer, name: &str) -> v1::Run {
    let get = v1::GetRunRequest { name: name.to_owned() };
    server.runs().get_run(get).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_report_with_large_answers_is_taken_in_parts() {
    const EVENTS: i64 = 2_000;
    let server = server::start().await;
    let trainer = Trainer::start(&server, "r", wordy()).await;
    let events = epochs(EVENTS);
    // The second time all is stored, and the answers are as large again.
    for repeated in [false, true] {
        let (mut first, mut calls, mut told) = (0, 0, BTreeSet::new());
        while first < EVENTS {
            let request = v1::ReportEventsRequest {
                run: trainer.run.clone(),
                attempt: trainer.attempt,
                writer: String::new(),
                first_sequence: first,
                events: events[usize::try_from(first).unwrap()..].to_vec(),
            };
            let answer = server.runs().report_events(request).await.unwrap().into_inner();
            assert!(answer.next_sequence > first && answer.next_due.is_some());
            let taken = first..answer.next_sequence;
            assert!(answer.decisions.iter().all(|it| taken.contains(&it.sequence)));
            let duplicates = if repeated { answer.next_sequence - first } else { 0 };
            assert_eq!(answer.duplicate_count, duplicates);
            if !repeated {
                let stored = run_of(&server, &trainer.run).await.event_count;
                assert_eq!(stored, answer.next_sequence, "what was not taken is not stored");
            }
            told.extend(answer.decisions.iter().map(|it| it.sequence));
            (first, calls) = (answer.next_sequence, calls + 1);
        }
        assert_eq!(told, (0..EVENTS).collect(), "each event has its decision");
        assert!(calls > 4, "{calls}");
    }
}

#[tokio::test]
async fn the_client_goes_on_where_a_report_was_taken_in_part() {
    let server = server::start().await;
    let client = Client::connect_lazy(server.address()).unwrap();
    let mut run = Run::start(&client, start_request("r", wordy())).await.unwrap();
    let decisions = run.report(epochs(1_000)).await.unwrap();
    assert_eq!(decisions.iter().map(|it| it.sequence).collect::<Vec<_>>(), (0..1_000).collect::<Vec<_>>());
    assert_eq!(run.next_sequence(), 1_000);
}

/// A list of JSON of about so many bytes that is the longest as a message: each number, `1.0`, takes eleven bytes.
fn list(bytes: usize) -> prost_types::Struct {
    let number = prost_types::Value { kind: Some(prost_types::value::Kind::NumberValue(1.0)) };
    let values = vec![number; bytes / 4 - 10];
    let list = prost_types::value::Kind::ListValue(prost_types::ListValue { values });
    prost_types::Struct { fields: [("l".to_owned(), prost_types::Value { kind: Some(list) })].into() }
}

/// An event with as many metrics as there may be, with the longest names.
fn largest_event(epoch: i64) -> v1::Event {
    let name = |number: i32| if number == 0 { "val_loss".to_owned() } else { format!("{number:0256}") };
    v1::Event {
        kind: v1::EventKind::EpochEnd.into(),
        epoch,
        metrics: (0..1_000).map(|number| (name(number), 0.5)).collect(),
        ..Default::default()
    }
}

/// Reports, saves and commits the largest version, and returns its checkpoint.
async fn largest_version(server: &TestServer, trainer: &mut Trainer) -> v1::Version {
    let checkpoint = trainer.report(vec![largest_event(0)]).await.unwrap().remove(0).checkpoint;
    let folders = ["x".repeat(250), "y".repeat(250), "z".repeat(250), "w".repeat(200)].join("/");
    let path = |number: i32| format!("{folders}/{number:069}");
    let small = |number| v1::SmallFile { path: path(number), ..Default::default() };
    let (files, attempt) = ((0..1_000).map(small).collect(), trainer.attempt);
    let write = v1::WriteSmallFilesRequest { checkpoint: checkpoint.clone(), attempt, files };
    let written = server.checkpoints().write_small_files(write).await.unwrap().into_inner();
    assert_eq!(written.files.len(), 1_000);
    let metadata = Some(list(64 << 10));
    let commit = v1::CommitCheckpointRequest { checkpoint, attempt, metadata, ..Default::default() };
    server.checkpoints().commit_checkpoint(commit).await.unwrap().into_inner()
}

#[tokio::test]
async fn the_largest_of_everything_is_answered_within_what_a_client_takes() {
    let server = server::start().await;
    let mut strategy = wordy();
    strategy.options = Some(list(16 << 10));
    let start =
        v1::StartRunRequest { config: Some(list(64 << 10)), ..start_request(&"r".repeat(128), strategy) };
    let mut trainer = Trainer::start_as(&server, start.clone()).await.unwrap();
    let version = largest_version(&server, &mut trainer).await;
    let parent = version.name.rsplit_once("/versions/").unwrap().0.to_owned();
    // Saves in flight, and a history whose pages are full.
    for epoch in 1..=10 {
        trainer.report((0..12).map(|_| largest_event(epoch)).collect()).await.unwrap();
    }
    let (mut runs, mut artifacts) = (server.runs(), server.artifacts());
    let mut sizes = Vec::new();
    let mut told = |rpc: &'static str, bytes: usize| sizes.push((rpc, bytes));

    let run = run_of(&server, &trainer.run).await;
    assert_eq!(run.monitor_state.as_ref().unwrap().in_flight.len(), 100);
    told("GetRun", run.encoded_len());
    let list = v1::ListRunsRequest { parent: start.parent.clone(), ..Default::default() };
    told("ListRuns", runs.list_runs(list).await.unwrap().get_ref().encoded_len());
    let list = v1::ListEventsRequest { parent: run.name.clone(), page_size: i32::MAX, ..Default::default() };
    told("ListEvents", runs.list_events(list).await.unwrap().get_ref().encoded_len());
    let list =
        v1::ListDecisionsRequest { parent: run.name.clone(), page_size: i32::MAX, ..Default::default() };
    told("ListDecisions", runs.list_decisions(list).await.unwrap().get_ref().encoded_len());
    let moment =
        v1::AwaitDecisionRequest { run: run.name.clone(), attempt: 1, epoch: 0, ..Default::default() };
    told("AwaitDecision", runs.await_decision(moment).await.unwrap().get_ref().encoded_len());
    let get = v1::GetVersionRequest { name: version.name.clone(), include_files: true };
    told("GetVersion", artifacts.get_version(get).await.unwrap().get_ref().encoded_len());
    let list = v1::ListVersionsRequest { parent: parent.clone(), ..Default::default() };
    told("ListVersions", artifacts.list_versions(list).await.unwrap().get_ref().encoded_len());
    let get = v1::GetCheckpointRequest { name: version.checkpoint.clone() };
    let got = server.checkpoints().get_checkpoint(get).await.unwrap();
    told("GetCheckpoint", got.get_ref().encoded_len());
    let set = v1::SetAliasRequest {
        artifact: parent.clone(),
        alias: "a".repeat(128),
        version: "v0".to_owned(),
        ..Default::default()
    };
    told("SetAlias", artifacts.set_alias(set).await.unwrap().get_ref().encoded_len());
    told("StartRun", runs.start_run(start).await.unwrap().get_ref().encoded_len());
    let finish = v1::FinishRunRequest { name: run.name.clone(), attempt: 2, ..Default::default() };
    told("FinishRun", runs.finish_run(finish).await.unwrap().get_ref().encoded_len());
    println!("{sizes:?}");
    for (rpc, bytes) in sizes {
        assert!(bytes <= 4 << 20, "{rpc} answers {bytes} bytes");
    }
}
