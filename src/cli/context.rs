//! What every command needs: where the server is, where names are looked up, where output goes.

use std::time::Duration;

use keepbest_client::{Builder, Client, ProjectName, Retry, Tls};

use super::args::Global;
use super::failure::Failure;
use super::output::Output;
use crate::clock::Clock;

/// How long a command keeps trying if its server breaks off or does not answer. A restart of the server takes less.
const RETRY_BUDGET: Duration = Duration::from_secs(30);
/// A person who waits longer than this for a connection wants to know for what.
const TELLS_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Context {
    server: String,
    tls: Tls,
    pub(super) project: ProjectName,
    pub(super) output: Output,
    /// When the command began, in microseconds since 1970. Ages are relative to it.
    pub(super) now_us: i64,
}

impl Context {
    pub(super) fn new(global: Global) -> Result<Context, Failure> {
        Ok(Context {
            project: ProjectName::parse(&global.project)?,
            server: global.server,
            tls: Tls { ca: global.ca, client_cert: global.client_cert, client_key: global.client_key },
            output: Output::new(global.json),
            now_us: Clock::System.now_us(),
        })
    }

    /// Connects to the server. If no server is found at the address, the user is told at once, or after some seconds; a call that fails
    /// later is retried.
    pub(super) async fn connect(&self) -> Result<Client, Failure> {
        let retry = Retry { budget: RETRY_BUDGET, ..Retry::default() };
        let mut connecting = std::pin::pin!(self.builder().retry(retry).gives_up_soon(true).connect());
        if let Ok(connected) = tokio::time::timeout(TELLS_AFTER, &mut connecting).await {
            return Ok(connected?);
        }
        self.output.note(&format!("no answer from `{}` yet: trying for some seconds", self.server));
        Ok(connecting.await?)
    }

    fn builder(&self) -> Builder {
        Client::builder(&self.server).tls(self.tls.clone())
    }
}
