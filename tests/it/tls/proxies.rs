//! Behind a proxy: whose word about the caller's address is taken.

use bytes::Bytes;
use http::Request;

use crate::support::server::ServerProcess;
use crate::support::wire::Wire;
use crate::support::wire::status_of;

/// A call as a proxy would send it on.
async fn call(server: &ServerProcess, forwarded: &str) {
    let mut wire = Wire::connect(&server.address(), 1 << 16).await;
    let request = Request::post("http://keepbest/keepbest.v1.Runs/GetRun")
        .header("content-type", "application/grpc")
        .header("x-forwarded-for", forwarded);
    let response = wire.send(request.body(()).unwrap(), Bytes::from_static(&[0; 5])).await;
    assert_eq!(status_of(response).await.as_deref(), Some("3"), "the empty name of a run");
    server.until_logged("Answered", 1).await;
}

#[tokio::test]
async fn the_address_of_a_caller_is_taken_from_a_trusted_proxy_alone() {
    let data = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(data.path());
    call(&server, "198.51.100.7").await;
    assert_eq!((server.logged("peer.address=127.0.0.1:"), server.logged("198.51.100.7")), (1, 0));
    drop(server);

    let trusted = [("KEEPBEST_PROXY_TRUSTED", "10.0.0.0/8,127.0.0.0/8")];
    let server = ServerProcess::start_with(data.path(), &trusted);
    call(&server, "203.0.113.9, 198.51.100.7").await;
    assert_eq!(server.logged("peer.address=198.51.100.7 peer.proxy=127.0.0.1:"), 1);
    assert_eq!(server.logged("203.0.113.9"), 0);
}
