//! Models over TLS: they go up, on after a kill, and down.

use std::fs;

use keepbest_client::Client;
use keepbest_client::PullOptions;
use keepbest_client::Run;
use keepbest_client::pull;

use crate::support::authority::Authority;
use crate::support::authority::LOCAL;
use crate::support::authority::https;
use crate::support::disk::files_below;
use crate::support::requests::epoch_end;
use crate::support::requests::every_epoch;
use crate::support::requests::noise;
use crate::support::requests::start_request;
use crate::support::server::ServerProcess;

/// Several chunks, so that some are durable when the server is killed.
const BYTES: usize = 40 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_after_a_kill_and_comes_back_whole() {
    let authority = Authority::new();
    let pair = authority.issue("server", &LOCAL);
    let (data, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut server = ServerProcess::start_with(data.path(), &pair.environment());
    let client = Client::builder(https(&server.address())).tls(authority.trusted()).connect_lazy().unwrap();
    let mut run = Run::start(&client, start_request("r", every_epoch())).await.unwrap();
    let decision = run.report(vec![epoch_end(0, 0.5)]).await.unwrap().remove(0);
    let source = folder.path().join("model.bin");
    fs::write(&source, noise(1, BYTES)).unwrap();

    let saving = tokio::spawn(async move { run.save(&decision, &source).await });
    // Some of it is stored.
    let objects = data.path().join("objects");
    let is_large = |path: &String| fs::metadata(objects.join(path)).is_ok_and(|it| it.len() > 1 << 20);
    while !files_below(&objects).iter().any(is_large) {
        tokio::task::yield_now().await;
    }
    let server = tokio::task::spawn_blocking(move || {
        server.kill_and_restart();
        server
    });
    let _server = server.await.unwrap();
    let version = saving.await.unwrap().unwrap();
    let target = folder.path().join("pulled");
    pull(&client, &version.name, &target, &PullOptions::default()).await.unwrap();
    assert!(fs::read(target.join("model.bin")).unwrap() == noise(1, BYTES));
}
