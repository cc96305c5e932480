//! What every command needs: where the server is, where names are looked up, where output goes.

use std::time::Duration;

use keepbest_client::{Client, ProjectName, Retry};

use super::args::Global;
use super::failure::Failure;
use super::output::Output;
use crate::clock::Clock;

/// How long a command keeps trying if its server breaks off or does not answer. A restart of the server takes less.
const RETRY_BUDGET: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Context {
    server: String,
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
            output: Output::new(global.json),
            now_us: Clock::System.now_us(),
        })
    }

    /// Connects to the server. If nothing listens at the address, the user is told at once; any other failure is retried.
    pub(super) async fn connect(&self) -> Result<Client, Failure> {
        let retry = Retry { budget: RETRY_BUDGET, ..Retry::default() };
        Ok(Client::builder(&self.server).retry(retry).fail_when_refused(true).connect().await?)
    }
}
