//! A run's signs of life, while its training computes for long and reports nothing.

use std::time::Duration;

use keepbest_proto::v1;
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::error::Error;

/// How long to wait with the first one; each answer says how long to wait with the next.
const FIRST: Duration = Duration::from_secs(30);
/// No more often than this, whatever a server answers.
const SHORTEST: Duration = Duration::from_secs(1);

/// A task that says now and then that a process lives. It ends with this value, or when the attempt or the run has ended.
#[derive(Debug)]
pub(crate) struct Heartbeat(JoinHandle<()>);

impl Heartbeat {
    /// Begins; must be called inside a tokio runtime.
    pub(crate) fn begin(client: &Client, run: &str, attempt: i64) -> Heartbeat {
        let (client, run) = (client.clone(), run.to_owned());
        Heartbeat(tokio::spawn(async move {
            let mut pause = FIRST;
            loop {
                tokio::time::sleep(pause).await;
                match client.heartbeat(v1::HeartbeatRequest { run: run.clone(), attempt }).await {
                    Ok(answer) => {
                        let told = answer.interval.and_then(|it| Duration::try_from(it).ok());
                        pause = told.unwrap_or(FIRST).max(SHORTEST);
                    }
                    // The next report tells why.
                    Err(Error::Refused(refusal)) if !refusal.is_retryable() => return,
                    Err(_) => {}
                }
            }
        }))
    }

    /// Says nothing any more.
    pub(crate) fn end(&self) {
        self.0.abort();
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.end();
    }
}
