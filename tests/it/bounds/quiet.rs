//! Callers that say nothing for long: a trainer of one thread that computes is no dead one.

use std::time::Duration;

use bytes::Bytes;
use h2::client::Builder;
use http::Request;
use tokio::net::TcpStream;

use crate::support::server;
use crate::support::wire::framed;
use crate::support::wire::status_of;

/// How long the trainer computes: longer than any time after which a server might ask whether it lives, and give it up.
const COMPUTES: Duration = Duration::from_secs(600);

#[tokio::test]
async fn a_trainer_that_answers_no_ping_while_it_computes_goes_on_with_its_connection() {
    let server = server::start().await;
    let stream = TcpStream::connect(server.address().trim_start_matches("http://")).await.unwrap();
    let (mut requests, mut connection) = Builder::new().handshake::<_, Bytes>(stream).await.unwrap();
    let mut pings = connection.ping_pong().unwrap();
    // The connection is established once both have answered each other.
    tokio::select! {
        _ = &mut connection => panic!("the server closed the connection"),
        pong = pings.ping(h2::Ping::opaque()) => { pong.unwrap(); }
    }
    // Nobody reads from it now. The server is in this runtime, and its clock is turned second by second.
    tokio::time::pause();
    for _ in 0..COMPUTES.as_secs() {
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    tokio::time::resume();
    tokio::spawn(connection);
    let request = Request::post("http://keepbest/keepbest.v1.Runs/GetRun")
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let (response, mut body) = requests.send_request(request, false).unwrap();
    body.send_data(framed(b""), true).unwrap();
    let response = response.await.expect("the connection lives");
    assert_eq!(status_of(response).await.as_deref(), Some("3"), "the empty name of a run");
}

#[tokio::test]
async fn the_kernel_of_a_caller_is_asked_whether_it_lives() {
    let server = server::start().await;
    let stream = TcpStream::connect(server.address().trim_start_matches("http://")).await.unwrap();
    let (own, its) = (stream.local_addr().unwrap().port(), stream.peer_addr().unwrap().port());
    let (_requests, connection) = Builder::new().handshake::<_, Bytes>(stream).await.unwrap();
    tokio::spawn(connection);
    // `02`: the timer that runs on the server's end is the one for keepalive. Before, what it sent must be acknowledged.
    while timer_of(its, own).as_deref() != Some("02") {
        tokio::task::yield_now().await;
    }
}

/// Which timer runs on a connection of this machine, by the ports of this end and of the other.
fn timer_of(local: u16, remote: u16) -> Option<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let port = |address: &str| address.rsplit(':').next().and_then(|it| u16::from_str_radix(it, 16).ok());
    let mut found =
        fields.filter(|it| it.len() > 5 && port(it[1]) == Some(local) && port(it[2]) == Some(remote));
    found.next().map(|it| it[5][..2].to_owned())
}
