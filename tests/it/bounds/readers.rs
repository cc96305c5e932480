//! Readers that ask for much and take nothing.

use std::time::Duration;

use futures::StreamExt;
use h2::RecvStream;
use keepbest_proto::v1;
use prost::Message;
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::support::requests::Trainer;
use crate::support::requests::every_epoch;
use crate::support::requests::noise;
use crate::support::requests::read;
use crate::support::requests::reason;
use crate::support::requests::start_request;
use crate::support::server;
use crate::support::server::ServerProcess;
use crate::support::server::TestServer;
use crate::support::wire::Wire;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(300);
/// A file of more bytes than the buffers of downloads.
const FILE: usize = 40 << 20;

/// A server whose downloads have room for two chunks, and a version.
async fn two_chunks(idle_seconds: u64) -> (TestServer, v1::ReadFileRequest, Vec<u8>) {
    let server = server::start_with(|config| {
        config.limits.upload_idle_seconds = idle_seconds;
        config.limits.download_buffers_bytes = 24 << 20;
    })
    .await;
    let data = noise(1, FILE);
    let version = Trainer::start(&server, "r", every_epoch()).await.save(0, 0.5, &data).await;
    let path = "model.keras".to_owned();
    (server, v1::ReadFileRequest { version: version.name, path, ..Default::default() }, data)
}

/// Reads the file as soon as there are buffers.
async fn until_read(server: &TestServer, request: &v1::ReadFileRequest) -> Vec<u8> {
    let reading = async {
        loop {
            match read(server, &request.version, &request.path).await {
                Ok(data) => return data,
                Err(status) => assert_eq!(reason(&status), "OVERLOADED", "{status:?}"),
            }
        }
    };
    timeout(PATIENCE, reading).await.expect("the buffers are given back")
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_cut_and_its_connection_lives() {
    let (server, request, data) = two_chunks(1).await;
    let mut wire = Wire::connect(&server.address(), 1 << 16).await;
    let path = "/keepbest.v1.Artifacts/ReadFile";
    let stalled = wire.ask(path, &request.encode_to_vec()).await.await.unwrap();
    assert!(until_read(&server, &request).await == data);
    let mut stalled = stalled.into_body();
    let end = async {
        loop {
            // Taken and never given back: no window for more.
            match stalled.data().await {
                Some(Ok(_)) => {}
                end => return end,
            }
        }
    };
    let end = timeout(PATIENCE, end).await.expect("it is cut").expect("not as if it were whole").unwrap_err();
    assert_eq!(end.reason(), Some(h2::Reason::REFUSED_STREAM), "{end}");
    wire.settle().await;
}

#[tokio::test]
async fn a_reader_that_never_takes_a_byte_loses_its_connection() {
    let (server, request, data) = two_chunks(1).await;
    let mut wire = Wire::connect(&server.address(), 0).await;
    let path = "/keepbest.v1.Artifacts/ReadFile";
    let stalled = wire.ask(path, &request.encode_to_vec()).await.await.unwrap();
    assert!(until_read(&server, &request).await == data);
    let end = timeout(PATIENCE, stalled.into_body().data()).await.expect("it is cut");
    assert!(end.is_none_or(|it| it.is_err()));
}

#[tokio::test]
async fn a_slow_reader_gets_the_whole_file() {
    let (server, request, data) = two_chunks(1).await;
    let mut answer = server.artifacts().read_file(request).await.unwrap().into_inner();
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    let mut taken = Vec::new();
    // Slower than the idle time in all, and never idle.
    while let Some(message) = answer.next().await {
        taken.extend_from_slice(&message.unwrap().data);
        ticks.tick().await;
    }
    assert!(taken == data);
}

/// Readers on connections of their own that have all the room of downloads. Only who waits for it can end them.
async fn stalled(server: &TestServer, request: &v1::ReadFileRequest, window: u32) -> Vec<RecvStream> {
    let mut stalled = Vec::new();
    for _ in 0..4 {
        let mut wire = Wire::connect(&server.address(), window).await;
        let read = wire.ask("/keepbest.v1.Artifacts/ReadFile", &request.encode_to_vec()).await;
        if let Ok(answer) = read.await {
            stalled.push(answer.into_body());
        }
    }
    stalled
}

#[tokio::test]
async fn readers_that_take_nothing_give_way_to_one_that_waits() {
    let (server, request, data) = two_chunks(3_600).await;
    let stalled = stalled(&server, &request, 1 << 16).await;
    assert!(until_read(&server, &request).await == data);
    drop(stalled);
}

#[tokio::test]
async fn readers_that_never_take_a_byte_give_way_with_their_connections() {
    let (server, request, data) = two_chunks(3_600).await;
    let stalled = stalled(&server, &request, 0).await;
    assert!(until_read(&server, &request).await == data);
    drop(stalled);
}

/// The answers that nobody reads, of 4 MiB each.
const UNREAD: usize = 60;
/// What a server may take above what it has when it is idle, and the sum of unread answers, in MiB. Without the sum it was 240 and
/// more.
const ABOVE_IDLE: u64 = 64;
const SUM: u64 = 16;

#[tokio::test]
async fn answers_that_nobody_reads_share_a_sum() {
    let folder = tempfile::tempdir().unwrap();
    let sum = (SUM << 20).to_string();
    let server = ServerProcess::start_with(folder.path(), &[("KEEPBEST_LIMITS_ANSWER_BUFFERS_BYTES", &sum)]);
    let channel = Channel::from_shared(server.address()).unwrap().connect_lazy();
    let mut runs = v1::runs_client::RunsClient::new(channel);
    let start = start_request("r", every_epoch());
    let run = runs.start_run(start).await.unwrap().into_inner().run.unwrap().name;
    let event = |epoch: i64| {
        // Long names: as many bytes as a page has, of few values, which cost the server time.
        let metrics = (0..60).map(|metric| (format!("{metric:0240}"), 0.5)).collect();
        let kind = v1::EventKind::BatchEnd.into();
        v1::Event { kind, epoch, batch: Some(0), metrics, ..v1::Event::default() }
    };
    for first in (0..260).step_by(65) {
        let events = (first..first + 65).map(event).collect();
        let report = v1::ReportEventsRequest {
            run: run.clone(),
            attempt: 1,
            first_sequence: first,
            events,
            ..Default::default()
        };
        runs.report_events(report).await.unwrap();
    }
    let list = v1::ListEventsRequest { parent: run, ..Default::default() }.encode_to_vec();
    let idle = server.memory_mib();
    let (mut wires, mut answers) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let mut wire = Wire::connect(&server.address(), 1 << 16).await;
        for _ in 0..UNREAD / 4 {
            answers.push(wire.ask("/keepbest.v1.Runs/ListEvents", &list).await);
        }
        wires.push(wire);
    }
    let answers = timeout(PATIENCE, futures::future::join_all(answers)).await.expect("each has its headers");
    for wire in &mut wires {
        wire.settle().await;
    }
    let now = server.memory_mib();
    println!("{idle} MiB idle, {now} MiB with {UNREAD} answers of 4 MiB that nobody reads");
    assert!(now <= idle + SUM + ABOVE_IDLE, "{idle} MiB idle, {now} MiB now");
    drop(answers);
}
