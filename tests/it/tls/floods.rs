//! Callers that begin a handshake and do not end it.

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::ask;
use super::encrypted;
use crate::support::authority::Authority;
use crate::support::authority::LOCAL;
use crate::support::authority::bare;
use crate::support::authority::https;
use crate::support::server::start_with;

/// How a handshake begins: the head of a record and of a hello of 508 bytes, which do not come.
const HALF: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

#[tokio::test]
async fn a_slow_handshake_is_cut_and_holds_up_nobody() {
    let authority = Authority::new();
    let pair = authority.issue("server", &LOCAL);
    let server = start_with(|config| {
        config.tls = pair.settings();
        config.limits.handshake_seconds = 1;
    })
    .await;
    let mut slow = Vec::new();
    for begin in [b"", HALF] {
        let mut stream = TcpStream::connect(bare(&server.address())).await.unwrap();
        stream.write_all(begin).await.unwrap();
        slow.push(stream);
    }
    ask(&https(&server.address()), authority.trusted()).await.unwrap();
    for mut stream in slow {
        // Ends when the server has cut it.
        assert_eq!(stream.read(&mut [0; 100]).await.unwrap_or(0), 0);
    }
    ask(&https(&server.address()), authority.trusted()).await.unwrap();
}

#[tokio::test]
async fn two_hundred_half_open_handshakes_do_not_keep_a_good_client_out() {
    let authority = Authority::new();
    let pair = authority.issue("server", &LOCAL);
    // Fewer places than half-open connections, which would hold them for longer than a client is patient.
    let server = start_with(|config| {
        config.tls = pair.settings();
        config.limits.max_connections = 64;
        config.limits.handshake_seconds = 300;
    })
    .await;
    let mut half_open = Vec::new();
    for number in 0..200 {
        let mut stream = TcpStream::connect(bare(&server.address())).await.unwrap();
        stream.write_all(if number % 2 == 0 { HALF } else { b"" }).await.unwrap();
        half_open.push(stream);
    }
    ask(&https(&server.address()), authority.trusted()).await.unwrap();
    drop(half_open);
}

#[tokio::test]
async fn a_handshake_of_garbage_ends_alone() {
    let (authority, server) = encrypted().await;
    for garbage in [
        &b"\x16"[..],
        b"\x16\x03\x01\x00\x02\x00\x00",
        b"\x16\x03\x01\xff\xff",
        b"\x16GET / HTTP/1.1\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(bare(&server.address())).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer).await);
        // Nothing, or an alert.
        assert!(answer.is_empty() || answer[0] == 0x15, "{garbage:?}: {answer:?}");
    }
    ask(&https(&server.address()), authority.trusted()).await.unwrap();
}
