//! What every command needs: where the server is, where names are looked up, where output goes.

use std::path::PathBuf;
use std::time::Duration;

use keepbest_client::{Builder, Client, ProjectName, Retry, Tls};

use super::args::Global;
use super::failure::Failure;
use super::output::Output;
use crate::clock::Clock;
use crate::config;

/// How long a command keeps trying if its server breaks off or does not answer. A restart of the server takes less.
const RETRY_BUDGET: Duration = Duration::from_secs(30);
/// A person who waits longer than this for a connection wants to know for what.
const TELLS_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Context {
    server: String,
    token_file: Option<PathBuf>,
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
            token_file: global.token_file,
            tls: Tls { ca: global.ca, client_cert: global.client_cert, client_key: global.client_key },
            output: Output::new(global.json),
            now_us: Clock::System.now_us(),
        })
    }

    /// The token of whoever calls, and where it was found: a file that is named goes before the environment.
    fn token(&self) -> Result<Option<(String, String)>, Failure> {
        let Some(path) = &self.token_file else {
            return Ok(config::token().map(|token| (token, "KEEPBEST_TOKEN".to_owned())));
        };
        let whence = format!("`{}`", path.display());
        match std::fs::read_to_string(path) {
            Ok(token) => Ok(Some((token, whence))),
            Err(error) => Err(Failure::usage(format!("the token in {whence} cannot be read: {error}"))),
        }
    }

    /// Connects to the server. If no server is found at the address, the user is told at once, or after some seconds; a call that fails
    /// later is retried.
    pub(super) async fn connect(&self) -> Result<Client, Failure> {
        let retry = Retry { budget: RETRY_BUDGET, ..Retry::default() };
        let builder = self.builder()?.retry(retry).gives_up_soon(true);
        let mut connecting = std::pin::pin!(builder.connect());
        if let Ok(connected) = tokio::time::timeout(TELLS_AFTER, &mut connecting).await {
            return Ok(connected?);
        }
        self.output.note(&format!("no answer from `{}` yet: trying for some seconds", self.server));
        Ok(connecting.await?)
    }

    fn builder(&self) -> Result<Builder, Failure> {
        let builder = Client::builder(&self.server).tls(self.tls.clone());
        match self.token()? {
            None => Ok(builder),
            Some((token, whence)) => {
                builder.token(&token).map_err(|error| Failure::usage(format!("{whence}: {error}")))
            }
        }
    }
}
