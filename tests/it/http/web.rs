//! gRPC-Web, as a browser's client speaks it: messages and trailers in the body, over HTTP/1.

use keepbest_proto::v1;
use prost::Message;

use crate::support::http1::Answer;
use crate::support::http1::send;
use crate::support::logs::Logs;
use crate::support::requests::PROJECT;
use crate::support::server;
use crate::support::wire::framed;

const WEB: (&str, &str) = ("content-type", "application/grpc-web+proto");

/// The first message and the trailers of an answer.
fn read(answer: &Answer) -> (Vec<u8>, String) {
    let (mut body, mut message, mut trailers) = (answer.body.as_slice(), Vec::new(), String::new());
    while let [kind, a, b, c, d, rest @ ..] = body {
        let (part, later) = rest.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
        match kind {
            0 => message = part.to_vec(),
            0x80 => trailers = String::from_utf8(part.to_vec()).unwrap(),
            other => panic!("{other}"),
        }
        body = later;
    }
    (message, trailers)
}

#[tokio::test]
async fn a_call_and_an_error_come_through() {
    let logs = Logs::begin();
    let server = server::start().await;
    let list = v1::ListRunsRequest { parent: PROJECT.to_owned(), ..Default::default() };
    let path = "/keepbest.v1.Runs/ListRuns";
    let answer = send(&server.address(), "POST", path, &[WEB], &framed(&list.encode_to_vec())).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/grpc-web+proto")));
    let (message, trailers) = read(&answer);
    assert_eq!(v1::ListRunsResponse::decode(message.as_slice()).unwrap(), v1::ListRunsResponse::default());
    assert!(trailers.contains("grpc-status:0"), "{trailers}");

    let none = v1::GetRunRequest { name: format!("{PROJECT}/runs/none") };
    let path = "/keepbest.v1.Runs/GetRun";
    let answer = send(&server.address(), "POST", path, &[WEB], &framed(&none.encode_to_vec())).await;
    let (_, trailers) = read(&answer);
    let status = answer.header("grpc-status").map(str::to_owned).unwrap_or(trailers);
    assert!(status.contains('5'), "{answer:?}");
    while !logs.with("Answered").iter().any(|it| it.contains("rpc.code=NotFound")) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_was_not_read_is_told_as_by_grpc() {
    let server = server::start().await;
    let answer =
        send(&server.address(), "POST", "/keepbest.v1.Runs/GetRun", &[WEB], &framed(b"\xff\xff")).await;
    let (_, trailers) = read(&answer);
    let status = answer.header("grpc-status").map(str::to_owned).unwrap_or(trailers);
    assert!(status.contains('3'), "a message that cannot be read is the caller's fault: {answer:?}");
}
