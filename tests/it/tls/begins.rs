//! How connections begin: versions of TLS, and callers that speak something else.

use h2::client::handshake;
use rustls::version::TLS12;
use rustls::version::TLS13;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::encrypted;
use crate::support::authority::Authority;
use crate::support::authority::bare;
use crate::support::server::start;

#[tokio::test]
async fn both_versions_of_tls_are_spoken_and_agree_upon_http_2() {
    let (authority, server) = encrypted().await;
    for version in [&TLS13, &TLS12] {
        let stream = authority.connect(&server.address(), version, &[b"http/1.1", b"h2"]).await.unwrap();
        let (_, session) = stream.get_ref();
        assert_eq!(session.protocol_version(), Some(version.version));
        assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
        let (requests, connection) = handshake(stream).await.unwrap();
        tokio::spawn(connection);
        // It is a client's once the server has said its settings.
        requests.ready().await.unwrap();
    }
}

#[tokio::test]
async fn http_2_is_named_in_the_handshake_and_http_1_need_not_be() {
    let (authority, server) = encrypted().await;
    let refused = authority.connect(&server.address(), &TLS13, &[b"h3"]).await.unwrap_err();
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");

    let unnamed = authority.connect(&server.address(), &TLS13, &[]).await.unwrap();
    let (_requests, connection) = handshake(unnamed).await.unwrap();
    let told = connection.await.unwrap_err().to_string();
    assert!(told.contains("name `h2` in the handshake"), "{told}");

    for named in [&[][..], &[&b"http/1.1"[..]]] {
        let mut stream = authority.connect(&server.address(), &TLS13, named).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{named:?}: {answer}");
    }
}

#[tokio::test]
async fn a_caller_without_tls_is_told_in_what_it_speaks() {
    let (_authority, server) = encrypted().await;
    let mut stream = TcpStream::connect(bare(&server.address())).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 505 ") && answer.ends_with("write https://\n"), "{answer}");

    let stream = TcpStream::connect(bare(&server.address())).await.unwrap();
    let (_requests, connection) = handshake(stream).await.unwrap();
    let told = connection.await.unwrap_err();
    assert_eq!(told.reason(), Some(h2::Reason::INADEQUATE_SECURITY));
    assert!(told.to_string().contains("write https://"), "{told}");
}

#[tokio::test]
async fn tls_to_a_server_without_it_gets_what_every_library_takes_for_no_tls() {
    let server = start().await;
    let authority = Authority::new();
    let refused = authority.connect(&server.address(), &TLS13, &[b"h2"]).await.unwrap_err();
    assert!(refused.to_string().contains("InvalidContentType"), "{refused}");
}
