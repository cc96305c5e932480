//! The Rust client where it takes a real server to see what it does: around restarts, and when calls are repeated.

use keepbest_client::Client;

use crate::support::server::ServerProcess;

#[tokio::test]
async fn a_client_connects_while_its_server_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = ServerProcess::start(folder.path());
    server.kill();
    let connecting = tokio::spawn(Client::builder(server.address()).connect());
    // A process takes longer to start than a connection to be refused.
    tokio::task::yield_now().await;
    let restart = move || {
        server.kill_and_restart();
        server
    };
    let _server = tokio::task::spawn_blocking(restart).await.unwrap();
    let client = connecting.await.unwrap().unwrap();
    let error = client.get_run("teams/t/projects/p/runs/r").await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
}
