//! What a server process keeps in memory for peers that announce much and send little.

use std::time::Duration;
use std::time::Instant;

use keepbest_proto::v1;
use tonic::Code;
use tonic::transport::Channel;

use crate::support::raw;
use crate::support::requests::PROJECT;
use crate::support::requests::reason;
use crate::support::server::ServerProcess;
use crate::support::wire::Call;
use crate::support::wire::Wire;
use crate::support::wire::announced;

/// The largest message.
const MOST: usize = 4 << 20;
/// Calls at once on one connection.
const STREAMS: usize = 64;
/// What a server may take above what it has when it is idle, in MiB.
const ABOVE_IDLE: u64 = 64;

/// Returns when everything was done that was sent before: an answer on another connection, a few times.
async fn settled(server: &ServerProcess, wires: &mut [Wire]) {
    for wire in wires {
        wire.settle().await;
    }
    let mut runs = v1::runs_client::RunsClient::connect(server.address()).await.unwrap();
    for _ in 0..10 {
        let list = v1::ListRunsRequest { parent: PROJECT.to_owned(), ..Default::default() };
        runs.list_runs(list).await.unwrap();
    }
}

#[tokio::test]
async fn messages_that_are_announced_cost_what_was_sent_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(folder.path());
    settled(&server, &mut []).await;
    let idle = server.memory_mib();
    let (mut wires, mut calls) = (Vec::new(), Vec::<Call>::new());
    for _ in 0..32 {
        let mut wire = Wire::connect(&server.address(), 1 << 16).await;
        for _ in 0..STREAMS {
            let mut call = wire.open("/keepbest.v1.Runs/ReportEvents").await;
            call.request.send_data(announced(MOST, &[0; 26]), false).unwrap();
            calls.push(call);
        }
        wires.push(wire);
    }
    settled(&server, &mut wires).await;
    let now = server.memory_mib();
    println!("{idle} MiB idle, {now} MiB with {} messages announced", calls.len());
    assert!(now <= idle + ABOVE_IDLE, "{idle} MiB idle, {now} MiB now");
}

#[tokio::test]
async fn requests_that_arrive_share_a_sum() {
    const SUM: u64 = 16;
    const SENT: usize = 128 << 10;
    let folder = tempfile::tempdir().unwrap();
    let sum = (SUM << 20).to_string();
    let server = ServerProcess::start_with(folder.path(), &[("KEEPBEST_LIMITS_REQUEST_BUFFERS_BYTES", &sum)]);
    settled(&server, &mut []).await;
    let idle = server.memory_mib();
    let (mut wires, mut calls) = (Vec::new(), Vec::<Call>::new());
    for _ in 0..32 {
        let mut wire = Wire::connect(&server.address(), 1 << 16).await;
        for _ in 0..STREAMS {
            let mut call = wire.open("/keepbest.v1.Runs/ReportEvents").await;
            call.request.send_data(announced(MOST, &[0; SENT]), false).unwrap();
            calls.push(call);
        }
        wires.push(wire);
    }
    settled(&server, &mut wires).await;
    // What was refused is given back to the system a moment later.
    let begun = Instant::now();
    let mut now = server.memory_mib();
    while now > idle + SUM + ABOVE_IDLE && begun.elapsed() < Duration::from_secs(20) {
        settled(&server, &mut wires).await;
        now = server.memory_mib();
    }
    println!("{idle} MiB idle, {now} MiB with {} messages of 128 KiB that go on", calls.len());
    assert!(now <= idle + SUM + ABOVE_IDLE, "{idle} MiB idle, {now} MiB now");
}

#[tokio::test]
async fn what_is_too_many_is_refused_before_it_is_built() {
    let folder = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(folder.path());
    settled(&server, &mut []).await;
    let channel = Channel::from_shared(server.address()).unwrap().connect_lazy();
    let most = MOST - 8;
    let cases = [
        ("/keepbest.v1.Runs/ReportEvents", [0x2a, 0].repeat(most / 2), Code::ResourceExhausted),
        ("/keepbest.v1.Runs/StreamEvents", [0x2a, 0].repeat(most / 2), Code::ResourceExhausted),
        ("/keepbest.v1.Checkpoints/WriteSmallFiles", [0x1a, 0].repeat(most / 2), Code::ResourceExhausted),
        ("/keepbest.v1.Runs/ListEvents", [0x22, 0].repeat(most / 2), Code::ResourceExhausted),
    ];
    for (method, message, code) in cases {
        server.clear_peak();
        let before = server.peak_mib();
        let answer = raw::call(&channel, method, message.into()).await;
        let status = answer.expect_err(method);
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (code, "LIMIT_EXCEEDED"),
            "{method}: {status:?}"
        );
        let peak = server.peak_mib();
        println!("{method}: {before} MiB before, {peak} MiB at most");
        assert!(peak <= before + ABOVE_IDLE, "{method}: {before} MiB before, {peak} MiB at most");
    }
}
