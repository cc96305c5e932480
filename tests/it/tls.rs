//! TLS: who gets in, with what, and what is said to those who do not; with certificates that are made for the tests.

mod begins;
mod cli;
mod clients;
mod floods;
mod proxies;
mod reloads;
mod transfers;

use keepbest_client::Client;
use keepbest_client::Error;
use keepbest_client::Fault;
use keepbest_client::Tls;

use crate::support::authority::Authority;
use crate::support::authority::LOCAL;
use crate::support::server::TestServer;
use crate::support::server::start_with;

/// A name that no server has.
const NOBODY: &str = "teams/t/projects/p/runs/nobody";

/// A server with a certificate for this machine.
async fn encrypted() -> (Authority, TestServer) {
    let authority = Authority::new();
    let pair = authority.issue("server", &LOCAL);
    let server = start_with(|config| config.tls = pair.settings()).await;
    (authority, server)
}

/// Asks a server for what it does not have; an error is of the connection.
async fn ask(address: &str, tls: Tls) -> Result<(), (Fault, String)> {
    let client = Client::builder(address).tls(tls).connect_lazy().unwrap();
    match client.get_run(NOBODY).await.unwrap_err() {
        error if error.is_not_found() => Ok(()),
        error @ Error::Unreachable { fault, .. } => {
            assert!(!error.is_retryable(), "what cannot pass is not tried again: {error}");
            Err((fault, error.to_string()))
        }
        error => panic!("{error:?}"),
    }
}
