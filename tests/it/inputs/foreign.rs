//! Callers that do not speak gRPC: each is told so in a line, and nothing comes of what it sent.

use h2::RecvStream;
use http::Request;
use http::Response;
use prost::Message;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tonic::Code;
use tonic::Status;

use crate::support::http1;
use crate::support::raw;
use crate::support::refusals::Witness;
use crate::support::refusals::refusal;
use crate::support::requests::best_only;
use crate::support::requests::start_request;
use crate::support::server;
use crate::support::wire::Wire;
use crate::support::wire::framed;
use crate::support::wire::status_of;

const START: &str = "/keepbest.v1.Runs/StartRun";

/// A start of a run, as it would be taken.
fn start() -> bytes::Bytes {
    framed(&start_request("foreign", best_only()).encode_to_vec())
}

async fn text_of(response: Response<RecvStream>) -> String {
    let mut body = response.into_body();
    let mut text = Vec::new();
    while let Some(data) = body.data().await {
        text.extend_from_slice(&data.unwrap());
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn a_post_of_another_kind_is_refused_and_starts_nothing() {
    let server = server::start().await;
    let witness = Witness::of(&server).await;
    let mut wire = Wire::connect(&server.address(), 1 << 16).await;
    for content_type in [
        Some("text/plain"),
        Some("text/plain; charset=application/grpc"),
        Some("application/x-www-form-urlencoded"),
        Some("multipart/form-data; boundary=x"),
        Some("application/grpc+json"),
        Some("application/grpcx"),
        Some(""),
        None,
    ] {
        let mut request =
            Request::post(format!("http://keepbest{START}")).header("origin", "http://elsewhere");
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let response = wire.send(request.body(()).unwrap(), start()).await;
        assert_eq!(response.status(), 415, "{content_type:?}");
        assert_eq!(response.headers()["grpc-status"], "3", "{content_type:?}");
        let text = text_of(response).await;
        assert!(text.contains("`application/grpc`") && text.lines().count() == 1, "{content_type:?}: {text}");
        witness.nothing_stored(format!("{content_type:?}")).await;
    }
    for content_type in ["application/grpc", "application/grpc+proto", "Application/GRPC; charset=utf-8"] {
        let request = Request::post(format!("http://keepbest{START}")).header("content-type", content_type);
        let response = wire.send(request.body(()).unwrap(), start()).await;
        assert_eq!(status_of(response).await.as_deref(), Some("0"), "{content_type}");
    }
}

#[tokio::test]
async fn only_a_post_is_a_call() {
    let server = server::start().await;
    let witness = Witness::of(&server).await;
    let mut wire = Wire::connect(&server.address(), 1 << 16).await;
    for method in ["GET", "PUT", "OPTIONS", "DELETE"] {
        let request = Request::builder().method(method).uri(format!("http://keepbest{START}"));
        let request = request.header("content-type", "application/grpc").body(()).unwrap();
        let response = wire.send(request, start()).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["allow"]),
            (405, &"POST".parse().unwrap())
        );
        witness.nothing_stored(method).await;
    }
}

#[tokio::test]
async fn a_page_of_another_origin_does_nothing() {
    let server = server::start().await;
    let witness = Witness::of(&server).await;
    let mut wire = Wire::connect(&server.address(), 1 << 16).await;
    for content_type in
        ["application/json", "application/proto", "application/grpc-web", "application/grpc-web-text+proto"]
    {
        // The name that a foreign page has made to lead here, and its own.
        for (authority, origin, expected) in
            [("elsewhere", None, 421), ("localhost", Some("http://elsewhere"), 403)]
        {
            let mut request = Request::post(format!("http://{authority}{START}"));
            if let Some(origin) = origin {
                request = request.header("origin", origin);
            }
            let request = request.header("content-type", content_type).body(()).unwrap();
            let response = wire.send(request, start()).await;
            assert_eq!(response.status(), expected, "{content_type}");
            let text = text_of(response).await;
            assert!(text.contains("this server") && text.lines().count() == 1, "{content_type}: {text}");
            witness.nothing_stored(content_type).await;
        }
    }
}

#[tokio::test]
async fn http_1_that_is_no_call_reads_in_a_line_what_is_wrong() {
    let server = server::start().await;
    let witness = Witness::of(&server).await;
    let body = String::from_utf8(vec![b'x'; 32 << 10]).unwrap();
    for (request, status, says) in [
        ("GET / HTTP/1.1\r\nhost: keepbest\r\nconnection: close\r\n\r\n".to_owned(), 421, "`localhost`"),
        ("get it\r\n".to_owned(), 400, ""),
        (
            format!(
                "POST {START} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/grpc\r\ncontent-length: 32768\r\nconnection: close\r\n\r\n{body}"
            ),
            505,
            "gRPC needs HTTP/2",
        ),
        // Begins as the preface of HTTP/2 does.
        (format!("PROPFIND {START} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"), 405, "POST"),
        ("PRI * HTTP/1.1\r\nconnection: close\r\n\r\n".to_owned(), 404, ""),
        (format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "x".repeat(70_000)), 431, ""),
        (format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", "x".repeat(20_000)), 431, ""),
    ] {
        let answer = http1::exchange(&server.address(), request.as_bytes()).await;
        assert_eq!(answer.status, status, "{request:.20}: {answer:?}");
        assert!(
            answer.text().contains(says) && answer.text().lines().count() <= 1,
            "{request:.20}: {answer:?}"
        );
        witness.nothing_stored(format!("{request:.20}")).await;
    }
}

#[tokio::test]
async fn what_is_no_text_ends_at_once() {
    let server = server::start().await;
    let address = server.address();
    for begin in [&b"\x17\x03\x01\x02\x00\x01\x00\x01\xfc"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\0"] {
        let mut stream = TcpStream::connect(address.trim_start_matches("http://")).await.unwrap();
        stream.write_all(begin).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"", "{begin:?}");
    }
}

#[tokio::test]
async fn a_preface_that_comes_in_parts_is_one() {
    let server = server::start().await;
    let address = server.address();
    let mut stream = TcpStream::connect(address.trim_start_matches("http://")).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for part in [&b"PRI"[..], b" * HTTP/2.0\r\n\r\nSM\r\n", b"\r\n\0\0", b"\0\x04\0\0\0\0\0"] {
        stream.write_all(part).await.unwrap();
        tokio::task::yield_now().await;
    }
    // The server's settings: a frame of kind 4 on stream 0.
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!((head[3], &head[5..]), (4, &[0; 4][..]));
}

#[tokio::test]
async fn compressed_messages_are_refused_for_good() {
    let server = server::start().await;
    let witness = Witness::of(&server).await;
    let mut wire = Wire::connect(&server.address(), 1 << 16).await;
    for encoding in ["gzip", "deflate", "zstd", "br"] {
        let request = Request::post(format!("http://keepbest{START}"))
            .header("content-type", "application/grpc")
            .header("grpc-encoding", encoding);
        let response = wire.send(request.body(()).unwrap(), start()).await;
        assert_eq!(response.headers()["grpc-accept-encoding"], "identity", "{encoding}");
        let status = Status::from_header_map(response.headers()).unwrap();
        refusal(encoding, Err::<(), _>(status), Code::Unimplemented, "COMPRESSED");
        witness.nothing_stored(encoding).await;
    }
    let request = Request::post(format!("http://keepbest{START}"))
        .header("content-type", "application/grpc")
        .header("grpc-encoding", "identity");
    let response = wire.send(request.body(()).unwrap(), start()).await;
    assert_eq!(status_of(response).await.as_deref(), Some("0"));
}

#[tokio::test]
async fn a_method_that_is_unknown_is_refused_for_good() {
    let server = server::start().await;
    let channel = server.channel();
    for path in
        ["/keepbest.v1.Runs/DropTable", "/keepbest.v2.Runs/GetRun", "/x/y", "/keepbest.v1.Runs/getrun", "/"]
    {
        let answer = raw::call(&channel, path, bytes::Bytes::new()).await;
        refusal(path, answer, Code::Unimplemented, "UNKNOWN_METHOD");
    }
}
