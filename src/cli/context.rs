//! What every command needs: where the server is, where names are looked up, where output goes.

use std::time::Duration;

use keepbest_client::{Client, ProjectName, Retry};

use super::args::Global;
use super::failure::Failure;
use super::output::Output;
use crate::clock::Clock;

/// How long a command goes on when its server breaks off or does not answer: a restart takes that long.
const RETRY_BUDGET: Duration = Duration::from_secs(30);
/// The largest page the server gives.
pub(super) const MAX_PAGE: u32 = 1_000;

#[derive(Debug)]
pub(super) struct Context {
    server: String,
    pub(super) project: ProjectName,
    pub(super) output: Output,
    /// Microseconds since 1970 when the command began; ages are told from it.
    pub(super) now_us: i64,
}

impl Context {
    pub(super) fn new(global: Global) -> Result<Context, Failure> {
        Ok(Context {
            project: ProjectName::parse(&global.project)?,
            server: global.server,
            output: Output::stdout(global.json),
            now_us: Clock::System.now_us(),
        })
    }

    /// A client that is connected. Where nothing listens, who typed the command is told at once; what else is wrong with a
    /// connection may pass.
    pub(super) async fn connect(&self) -> Result<Client, Failure> {
        let retry = Retry { budget: RETRY_BUDGET, ..Retry::default() };
        Ok(Client::builder(&self.server).retry(retry).fail_when_refused(true).connect().await?)
    }
}

/// How large the next page is, of what is still wanted.
pub(super) fn page_size(limit: u32, have: usize) -> i32 {
    let left = limit.saturating_sub(u32::try_from(have).unwrap_or(u32::MAX));
    i32::try_from(left.min(MAX_PAGE)).expect("a page is at most 1,000")
}
