//! Servers that are not there yet, or take connections and say nothing. The clock of most tests stands still while anything
//! can happen and leaps when everything waits, so they measure what a client would wait without waiting for it.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keepbest_client::{Client, Error, Fault, PullOptions, Run, UploadOptions, pull, upload, v1};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::Instant;

use crate::fake::{MIB, VERSION, bytes, start};

/// A port on which nobody listens yet.
fn bound() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    (socket, address)
}

/// Takes connections and never answers a call.
async fn hang(listener: TcpListener) {
    let mut held = Vec::new();
    while let Ok(connection) = listener.accept().await {
        held.push(connection);
    }
}

#[tokio::test(start_paused = true)]
async fn connecting_waits_for_a_server_that_starts() {
    let (socket, address) = bound();
    let connecting = tokio::spawn(Client::builder(address).connect());
    // By then it was refused several times.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let _listener = socket.listen(8).unwrap();
    connecting.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn connecting_ends_with_the_budget_or_at_once_where_nothing_listens() {
    let (_socket, address) = bound();
    let begun = Instant::now();
    let error = Client::builder(address.clone()).connect().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!((60..=120).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());

    let begun = Instant::now();
    let error = Client::builder(address).gives_up_soon(true).connect().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

/// In real time, for a name is looked up by a thread.
#[tokio::test]
async fn connecting_for_a_person_ends_soon_where_no_server_can_be() {
    const TLS: &[u8] = &[0x16, 0x03, 0x03, 0x00, 0x31];
    /// Says a text to each that connects, and ends the connection.
    async fn says(text: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let mut greeting = [0; 33];
                let _ = connection.read_exact(&mut greeting).await;
                // As OpenSSL does: no word to what is not TLS.
                if text != TLS || greeting[0] == text[0] {
                    let _ = connection.write_all(text).await;
                }
            }
        });
        address
    }
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_address = silent.local_addr().unwrap().to_string();
    tokio::spawn(hang(silent));
    for (address, expected, most) in [
        (says(b"HTTP/1.1 400 Bad Request\r\n\r\n").await, Fault::OtherProtocol, 1),
        (says(TLS).await, Fault::WantsTls, 1),
        (says(&[0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x46]).await, Fault::WantsTls, 1),
        (says(b"").await, Fault::Silent, 4),
        (silent_address, Fault::Silent, 4),
        ("no..host:7400".to_owned(), Fault::UnknownHost, 4),
    ] {
        let begun = Instant::now();
        let client = Client::builder(&address).gives_up_soon(true).connect_timeout(Duration::from_secs(2));
        let error = client.connect().await.unwrap_err();
        let Error::Unreachable { fault, .. } = &error else { panic!("{error:?}") };
        assert_eq!(*fault, expected, "{address}: {error}");
        assert!(begun.elapsed() < Duration::from_secs(most + 1), "{address}: {:?}", begun.elapsed());
    }
    let (_fake, client) = start().await;
    Client::builder(client.address()).gives_up_soon(true).connect().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_calls_and_hangs_costs_its_time_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(hang(listener));
    let client = Client::connect_lazy(address).unwrap();

    let begun = Instant::now();
    let error = client.get_run("teams/t/projects/p/runs/r").await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(begun.elapsed() <= Duration::from_secs(120 + 25), "{:?}", begun.elapsed());

    for _ in 0..20 {
        let begun = Instant::now();
        client.finish_run(v1::FinishRunRequest::default()).await.unwrap_err();
        assert!(begun.elapsed() <= Duration::from_secs(20), "{:?}", begun.elapsed());
    }
    let begun = Instant::now();
    Run::start(&client, v1::StartRunRequest::default()).await.unwrap_err();
    assert!(begun.elapsed() <= Duration::from_secs(20), "{:?}", begun.elapsed());
}

/// In real time, for threads that read and write files do not know the other clock.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_nobody_answers_are_begun_again() {
    let (fake, client) = start().await;
    let client = Client::builder(client.address()).call_timeout(Duration::from_millis(250));
    let client = client.connect_lazy().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("model.bin");
    fs::write(&source, bytes(2 * MIB)).unwrap();
    fake.hanging_streams.store(1, Ordering::SeqCst);
    upload(&client, "c", 1, &source, &UploadOptions::default()).await.unwrap();

    fake.hanging_streams.store(1, Ordering::SeqCst);
    let target = folder.path().join("pulled");
    pull(&client, VERSION, &target, &PullOptions::default()).await.unwrap();
    assert!(fs::read(target.join("model.bin")).unwrap() == bytes(2 * MIB));
    assert_eq!(fake.hanging_streams.load(Ordering::SeqCst), 0, "both hung");
}
