//! The signals that end a push: Ctrl-C, the end of a job, a terminal that was closed.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::failure::Failure;

/// From here on the signals end nothing by themselves.
pub(in crate::cli) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    pub(in crate::cli) fn listen() -> Result<Signals, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::failed(format!("signals cannot be listened for: {error}")))
        };
        Ok(Signals {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// What the work comes to, unless a signal comes first: then the failure about it.
    pub(in crate::cli) async fn or<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            signal = self.next() => Err(signal),
            done = work => Ok(done),
        }
    }

    async fn next(&mut self) -> Failure {
        let (number, by) = tokio::select! {
            _ = self.interrupt.recv() => (2, "Ctrl-C"),
            _ = self.terminate.recv() => (15, "SIGTERM"),
            _ = self.hangup.recv() => (1, "SIGHUP"),
        };
        Failure::interrupted(number, format!("interrupted by {by}"))
    }
}
