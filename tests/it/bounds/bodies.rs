//! Requests whose bodies do not come, or not to their end.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::Stream;
use futures::StreamExt;
use keepbest_proto::v1;
use prost::Message;
use tokio::time::timeout;
use tonic::Code;
use tonic::Status;

use crate::support::calls::methods;
use crate::support::raw;
use crate::support::refusals::refusal;
use crate::support::requests::Trainer;
use crate::support::requests::best_only;
use crate::support::requests::epoch_end;
use crate::support::server;
use crate::support::wire::Wire;
use crate::support::wire::announced;
use crate::support::wire::status_of;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(300);

/// The methods whose requests are streams: they may be silent between two messages.
const STREAMS: [&str; 2] = ["/keepbest.v1.Runs/StreamEvents", "/keepbest.v1.Checkpoints/WriteFile"];

/// The messages, and then nothing, not even an end.
fn unfinished(messages: Vec<Bytes>) -> impl Stream<Item = Bytes> + Send {
    futures::stream::iter(messages).chain(futures::stream::pending())
}

#[tokio::test]
async fn a_request_that_does_not_come_to_its_end_is_ended() {
    let server = server::start_with(|config| config.limits.request_seconds = 1).await;
    let channel = server.channel();
    let whole = Bytes::from(v1::GetRunRequest { name: "x".to_owned() }.encode_to_vec());
    let mut calls = Vec::new();
    for method in methods().into_iter().filter(|it| !STREAMS.contains(&it.as_str())) {
        for messages in [vec![], vec![whole.clone()]] {
            let (channel, method) = (channel.clone(), method.clone());
            calls.push(async move {
                let what = format!("{method} after {} messages", messages.len());
                let answer = raw::stream_of(&channel, &method, unfinished(messages)).await;
                refusal(&what, answer, Code::DeadlineExceeded, "BODY_TIMEOUT");
            });
        }
    }
    timeout(PATIENCE, futures::future::join_all(calls)).await.expect("each call is ended");
}

#[tokio::test]
async fn a_message_that_does_not_come_to_its_end_is_ended_and_silence_between_two_is_not() {
    let server = server::start_with(|config| config.limits.request_seconds = 1).await;
    let trainer = Trainer::start(&server, "r", best_only()).await;
    let (requests, receiver) = tokio::sync::mpsc::channel(1);
    let receiver = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut runs = server.runs();
    let mut events = runs.stream_events(receiver).await.unwrap().into_inner();
    for method in ["/keepbest.v1.Runs/StreamEvents", "/keepbest.v1.Checkpoints/WriteFile"] {
        let mut wire = Wire::connect(&server.address(), 1 << 16).await;
        let mut call = wire.open(method).await;
        call.request.send_data(announced(1_000, &[0x0a, 0]), false).unwrap();
        let response = timeout(PATIENCE, call.response).await.expect("it is answered").unwrap();
        let code = timeout(PATIENCE, status_of(response)).await.expect("it is ended");
        assert_eq!(code.as_deref(), Some("4"), "{method}: DEADLINE_EXCEEDED");
    }
    // This one is older than both and has said nothing.
    assert!(events.message().now_or_never().is_none());
    let report = v1::ReportEventsRequest {
        run: trainer.run.clone(),
        attempt: trainer.attempt,
        events: vec![epoch_end(0, 0.5)],
        ..Default::default()
    };
    requests.send(report).await.unwrap();
    let answer: Result<_, Status> = events.message().await;
    assert_eq!(answer.unwrap().unwrap().next_sequence, 1);
}

/// The length of a message that is announced, and what comes of it.
const ANNOUNCED: usize = 4 << 20;
const SENT: usize = 3_600 << 10;

#[tokio::test]
async fn requests_that_are_slow_to_arrive_give_way_to_others() {
    let server = server::start_with(|config| config.limits.request_buffers_bytes = 16 << 20).await;
    let mut slow = Vec::new();
    for _ in 0..6 {
        let mut wire = Wire::connect(&server.address(), 1 << 16).await;
        let mut call = wire.open("/keepbest.v1.Runs/ReportEvents").await;
        call.request.send_data(announced(ANNOUNCED, &vec![0; SENT]), false).unwrap();
        wire.settle().await;
        slow.push((wire, Box::pin(call.response), call.request));
    }
    let long = v1::GetRunRequest { name: "x".repeat(SENT) };
    let others = async {
        loop {
            let answer = server.runs().get_run(long.clone()).await;
            refusal("a request that comes at once", answer, Code::InvalidArgument, "BAD_NAME");
            for (_, response, _) in &mut slow {
                if let Some(response) = response.now_or_never() {
                    return status_of(response.unwrap()).await;
                }
            }
        }
    };
    let code = timeout(PATIENCE, others).await.expect("one that is slow gives way");
    assert_eq!(code.as_deref(), Some("8"), "RESOURCE_EXHAUSTED");
}
