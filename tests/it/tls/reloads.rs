//! Certificates that are replaced while the server runs.

use std::fs;

use keepbest_client::Client;
use keepbest_client::Run;
use keepbest_proto::v1;
use keepbest_proto::v1::checkpoints_client::CheckpointsClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Certificate;
use tonic::transport::Channel;
use tonic::transport::ClientTlsConfig;

use crate::support::authority::Authority;
use crate::support::authority::LOCAL;
use crate::support::authority::Pair;
use crate::support::authority::https;
use crate::support::requests::epoch_end;
use crate::support::requests::every_epoch;
use crate::support::requests::start_request;
use crate::support::server::ServerProcess;

const READ: &str = "Read the certificate";
const KEPT: &str = "Kept the certificate";

/// A server as a process, with the files that it reads.
fn serving(authority: &Authority) -> (tempfile::TempDir, Pair, ServerProcess) {
    let data = tempfile::tempdir().unwrap();
    let pair = authority.issue("server", &LOCAL);
    let server = ServerProcess::start_with(data.path(), &pair.environment());
    (data, pair, server)
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections_and_streams_go_on() {
    let authority = Authority::new();
    let (_data, pair, server) = serving(&authority);
    let first = pair.der.clone();
    let ca = Certificate::from_pem(fs::read(authority.file()).unwrap());
    let channel = Channel::from_shared(https(&server.address())).unwrap();
    let channel =
        channel.tls_config(ClientTlsConfig::new().ca_certificate(ca)).unwrap().connect().await.unwrap();

    let client = Client::builder(https(&server.address())).tls(authority.trusted()).connect_lazy().unwrap();
    let mut run = Run::start(&client, start_request("r", every_epoch())).await.unwrap();
    let decision = run.report(vec![epoch_end(0, 0.5)]).await.unwrap().remove(0);
    let attempt = decision.attempt;
    let mut checkpoints = CheckpointsClient::new(channel);
    let prepared = v1::PrepareFileRequest {
        checkpoint: decision.checkpoint.clone(),
        attempt,
        path: "m.bin".to_owned(),
        size_bytes: 4,
        ..Default::default()
    };
    checkpoints.prepare_file(prepared).await.unwrap();
    let piece = |data: &'static [u8], finish| v1::WriteFileRequest {
        checkpoint: decision.checkpoint.clone(),
        attempt,
        path: "m.bin".to_owned(),
        data: data.into(),
        finish,
        ..Default::default()
    };
    let (pieces, told) = mpsc::channel(1);
    let writing = tokio::spawn(async move { checkpoints.write_file(ReceiverStream::new(told)).await });
    pieces.send(piece(b"ab", false)).await.unwrap();

    let second = authority.issue("second", &LOCAL);
    assert_eq!(authority.shown_by(&server.address()).await, first);
    pair.replace_by(&second);
    server.hang_up();
    server.until_logged(READ, 2).await;
    assert_eq!(authority.shown_by(&server.address()).await, second.der);
    pieces
        .send(v1::WriteFileRequest { data: b"cd".as_slice().into(), finish: true, ..Default::default() })
        .await
        .unwrap();
    drop(pieces);
    let written = writing.await.unwrap().unwrap().into_inner();
    assert_eq!(written.state(), v1::FileState::Complete);
}

#[tokio::test]
async fn files_that_do_not_fit_keep_what_was_read_before_and_are_named() {
    let authority = Authority::new();
    let (_data, pair, server) = serving(&authority);
    let first = pair.der.clone();
    let second = authority.issue("second", &LOCAL);
    let key = fs::read(&pair.key).unwrap();

    fs::copy(&second.certificate, &pair.certificate).unwrap();
    server.hang_up();
    server.until_logged("does not belong to the certificate", 1).await;
    assert_eq!(authority.shown_by(&server.address()).await, first);

    fs::write(&pair.key, "no key").unwrap();
    server.hang_up();
    server.until_logged("has no private key", 1).await;
    fs::remove_file(&pair.key).unwrap();
    server.hang_up();
    server.until_logged("cannot be read", 1).await;
    assert_eq!(server.logged(KEPT), server.logged("ERROR"));
    assert_eq!(server.logged(pair.key.to_str().unwrap()), server.logged(KEPT));
    assert_eq!(authority.shown_by(&server.address()).await, first);

    // No secret is in what was said.
    let secret = String::from_utf8(key).unwrap();
    let secret = secret.lines().nth(1).unwrap().to_owned();
    assert_eq!(server.logged(&secret), 0);
    fs::copy(&second.key, &pair.key).unwrap();
    server.hang_up();
    server.until_logged(READ, 2).await;
    assert_eq!(authority.shown_by(&server.address()).await, second.der);
}

#[tokio::test]
async fn files_are_looked_at_without_being_told() {
    let authority = Authority::new();
    let (_data, pair, server) = serving(&authority);
    let second = authority.issue("second", &LOCAL);
    pair.replace_by(&second);
    server.until_logged(READ, 2).await;
    assert_eq!(authority.shown_by(&server.address()).await, second.der);
}
