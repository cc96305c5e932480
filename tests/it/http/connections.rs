//! Connections of HTTP/1: kept, limited, ended.

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::http1::call;
use crate::support::requests::PROJECT;
use crate::support::server;

/// Reads one answer that says its length, and leaves the connection open.
async fn read_one(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        text.push(char::from(byte[0]));
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|it| it.strip_prefix("content-length: ")).unwrap();
            if body.len() == length.parse::<usize>().unwrap() {
                return text;
            }
        }
    }
}

fn request() -> String {
    let body = json!({ "parent": PROJECT }).to_string();
    let length = body.len();
    format!(
        "POST /keepbest.v1.Runs/ListRuns HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

#[tokio::test]
async fn a_connection_carries_one_call_after_the_other_until_the_server_stops() {
    let mut server = server::start().await;
    let mut stream = TcpStream::connect(server.address().trim_start_matches("http://")).await.unwrap();
    for _ in 0..3 {
        stream.write_all(request().as_bytes()).await.unwrap();
        let answer = read_one(&mut stream).await;
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(r#""nextPageToken":""}"#),
            "{answer}"
        );
    }
    // Two at once, the second of them in parts.
    let two = [request(), request()].concat();
    let (first, second) = two.split_at(two.len() - 20);
    stream.write_all(first.as_bytes()).await.unwrap();
    read_one(&mut stream).await;
    stream.write_all(second.as_bytes()).await.unwrap();
    read_one(&mut stream).await;
    server.stop().await;
    assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0, "an idle connection ends when the server stops");
}

#[tokio::test]
async fn a_head_that_does_not_come_and_one_that_is_too_long_are_ended() {
    let server = server::start_with(|config| config.limits.request_seconds = 1).await;
    let address = server.address();
    let mut slow = TcpStream::connect(address.trim_start_matches("http://")).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nhost: local").await.unwrap();
    let mut rest = Vec::new();
    drop(slow.read_to_end(&mut rest).await);
    assert!(!String::from_utf8_lossy(&rest).contains("200"), "{rest:?}");

    let mut long = TcpStream::connect(address.trim_start_matches("http://")).await.unwrap();
    let line = format!("x-filler: {}\r\n", "x".repeat(1_000));
    long.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n").await.unwrap();
    let mut sent = 0;
    while sent < 64 && long.write_all(line.as_bytes()).await.is_ok() {
        sent += 1;
    }
    let mut answer = Vec::new();
    drop(long.read_to_end(&mut answer).await);
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert_eq!(call(&address, None, "Runs/ListRuns", &json!({ "parent": PROJECT })).await.status, 200);
}

#[tokio::test]
async fn connections_of_both_kinds_have_the_same_places() {
    let server = server::start_with(|config| config.limits.max_connections = 4).await;
    let address = server.address();
    let mut idle = Vec::new();
    for _ in 0..12 {
        let mut stream = TcpStream::connect(address.trim_start_matches("http://")).await.unwrap();
        stream.write_all(request().as_bytes()).await.unwrap();
        read_one(&mut stream).await;
        idle.push(stream);
    }
    // Each new one takes the place of an idle one.
    let mut ends: FuturesUnordered<_> =
        idle.iter_mut().map(|it| async { it.read(&mut [0]).await.unwrap_or(0) }).collect();
    for _ in 0..8 {
        assert_eq!(ends.next().await, Some(0));
    }
}
