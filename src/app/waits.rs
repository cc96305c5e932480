//! Waiting for another process, which may talk to another replica: the database is asked again, seldom and without
//! a connection held between.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::app::App;

/// The longest a call waits: shorter than what balancers and clients allow a call (a minute, and 30 s in our own).
pub(super) const MAX_WAIT: Duration = Duration::from_secs(25);
/// How long it waits unless it says.
pub(super) const DEFAULT_WAIT: Duration = Duration::from_secs(20);
/// Processes of one training are often milliseconds apart, so the first pause is short; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause: 4,096 processes that wait ask 2,048 times a second, a read of one row each. A wait of 20 s asks 15
/// times.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What is left of a wait.
#[derive(Debug)]
pub(super) struct Wait {
    until: Instant,
    pause: Duration,
    stopping: CancellationToken,
}

impl Wait {
    /// Begins; no longer than [`MAX_WAIT`], and than until the server stops: the caller goes on waiting at another one.
    pub(super) fn of(app: &App, wait: Option<Duration>) -> Wait {
        let wait = wait.unwrap_or(DEFAULT_WAIT).min(MAX_WAIT);
        Wait { until: Instant::now() + wait, pause: FIRST_PAUSE, stopping: app.stopping.clone() }
    }

    /// Pauses before the next look; false: the time is over.
    pub(super) async fn pause(&mut self) -> bool {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        tokio::select! {
            () = self.stopping.cancelled() => return false,
            () = tokio::time::sleep(self.pause.min(left)) => {}
        }
        self.pause = (2 * self.pause).min(LONGEST_PAUSE);
        true
    }
}
