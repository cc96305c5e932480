//! Retries: exponential backoff with full jitter, within a budget of time.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, UPLOAD_SUPERSEDED, WAITED_OUT};
use crate::patience::Patience;

/// How often an upload takes its file back after another stream took it over, which may be an earlier one of its own that was
/// cancelled and that the server reads late.
/// Without a limit, two processes that upload the same file by mistake would take it from each other for ever.
const MAX_TAKEOVERS: u32 = 3;

/// When a failed call is retried. Only errors that can go away by themselves are: see [`Error::is_retryable`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// How long a call may go on failing before its last error is returned. The clock starts with the first try that fails, and
    /// starts again whenever an upload or a download makes progress. Zero: no retries.
    ///
    /// After a call has spent all of it in vain, the next ones may spend a sixteenth, until one of them is answered. So a server
    /// that is away costs a training its budget once, not at every report.
    pub budget: Duration,
    /// The longest pause after the first failure. After each further one it may be twice as long.
    pub first_delay: Duration,
    /// The longest pause. If the server says how long to wait (`RetryInfo`), the pause is at least that, plus a random time of
    /// up to as long again, or of up to the pause that would be due otherwise if that is longer.
    pub max_delay: Duration,
}

impl Default for Retry {
    /// Two minutes, with pauses from at most 100 ms to at most 10 s: longer than a restart of the server or a failover of its
    /// database takes.
    fn default() -> Self {
        Retry {
            budget: Duration::from_secs(120),
            first_delay: Duration::from_millis(100),
            max_delay: Duration::from_secs(10),
        }
    }
}

impl Retry {
    /// No retries: each call is tried once.
    pub fn never() -> Retry {
        Retry { budget: Duration::ZERO, ..Retry::default() }
    }

    /// Counts the failures of a new call to the server that `patience` is about.
    pub(crate) fn start<'a>(&'a self, patience: &'a Patience) -> Backoff<'a> {
        Backoff {
            retry: self,
            patience,
            budget: patience.budget(self.budget),
            failures: 0,
            failing_since: None,
            takeovers: 0,
        }
    }

    /// The longest pause after so many failures.
    fn ceiling(&self, failures: u32) -> Duration {
        let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first_delay.saturating_mul(factor).min(self.max_delay)
    }
}

/// Counts the failures of one call, and of an upload or a download as a whole.
#[derive(Debug)]
pub(crate) struct Backoff<'a> {
    retry: &'a Retry,
    patience: &'a Patience,
    budget: Duration,
    failures: u32,
    failing_since: Option<Instant>,
    takeovers: u32,
}

impl Backoff<'_> {
    /// Progress was made: the whole budget is available again.
    pub(crate) fn progressed(&mut self) {
        self.budget = self.retry.budget;
        self.failures = 0;
        self.failing_since = None;
    }

    /// How many tries have failed since the last progress.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// As [`Backoff::pause`], but the time that the failed try itself took counts against the budget.
    pub(crate) async fn pause_since(&mut self, begun: Instant, error: Error) -> Result<(), Error> {
        self.failing_since.get_or_insert(begun);
        self.pause(error).await
    }

    /// Waits before the next try; returns the error if there is to be none.
    pub(crate) async fn pause(&mut self, error: Error) -> Result<(), Error> {
        match self.delay(&error, Instant::now(), random_fraction()) {
            Some(delay) => {
                tokio::time::sleep(delay).await;
                Ok(())
            }
            None => Err(error),
        }
    }

    /// The pause after a failure, if a retry is allowed. Full jitter: trainers that lost the same server come back at times that
    /// are spread over the whole pause. If the server told all of them to wait equally long, they are spread over the time
    /// after that.
    fn delay(&mut self, error: &Error, now: Instant, fraction: f64) -> Option<Duration> {
        if !self.may_go_on(error) {
            self.patience.ended();
            return None;
        }
        let failing_since = *self.failing_since.get_or_insert(now);
        self.failures += 1;
        // Whatever exceeds the budget ends the call. Capped, it cannot overflow.
        let told = error.retry_after().unwrap_or_default().min(self.budget);
        let delay = told.saturating_add(self.retry.ceiling(self.failures).max(told).mul_f64(fraction));
        let goes_on = (now - failing_since).saturating_add(delay) < self.budget;
        if !goes_on {
            self.patience.gave_up();
        }
        goes_on.then_some(delay)
    }

    fn may_go_on(&mut self, error: &Error) -> bool {
        if WAITED_OUT.contains(&error.reason()) {
            return false;
        }
        if error.reason() == UPLOAD_SUPERSEDED {
            self.takeovers += 1;
            return self.takeovers <= MAX_TAKEOVERS;
        }
        error.is_retryable()
    }
}

/// A number from 0 to 1, from the system's source of randomness.
fn random_fraction() -> f64 {
    let (high, _) = uuid::Uuid::new_v4().as_u64_pair();
    f64::from(u32::try_from(high >> 32).expect("32 bits are left")) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use tokio::time::Instant;
    use tonic::Status;
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::{Retry, random_fraction};
    use crate::error::Error;
    use crate::patience::Patience;

    fn unavailable() -> Error {
        Error::from_status("GetRun", &Status::unavailable("the server is stopping"))
    }

    #[test]
    fn pauses_grow_up_to_the_longest() {
        let retry = Retry::default();
        let ceilings: Vec<_> = [1, 2, 3, 8, 40].map(|failures| retry.ceiling(failures).as_millis()).into();
        assert_eq!(ceilings, [100, 200, 400, 10_000, 10_000]);
        assert!((0.0..=1.0).contains(&random_fraction()));
    }

    #[test]
    fn trying_ends_with_the_budget_and_progress_renews_it() {
        let (retry, patience) =
            (Retry { budget: Duration::from_secs(30), ..Retry::default() }, Patience::default());
        let mut backoff = retry.start(&patience);
        let mut now = Instant::now();
        let started = now;
        while let Some(delay) = backoff.delay(&unavailable(), now, 1.0) {
            now += delay;
        }
        assert_eq!((now - started).as_millis(), 100 + 200 + 400 + 800 + 1_600 + 3_200 + 6_400 + 10_000);
        backoff.progressed();
        assert_eq!(backoff.delay(&unavailable(), now, 0.5), Some(Duration::from_millis(50)));
    }

    #[test]
    fn callers_that_are_all_told_the_same_pause_come_back_spread_above_it() {
        let told = |seconds| {
            let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(seconds)));
            let status = Status::with_error_details(tonic::Code::ResourceExhausted, "busy", details);
            Error::from_status("WriteFile", &status)
        };
        let (retry, patience, now) = (Retry::default(), Patience::default(), Instant::now());
        let delay = |error, failures, fraction| {
            let mut backoff = retry.start(&patience);
            let _ = (1..failures).map(|_| backoff.delay(&unavailable(), now, 0.0)).count();
            backoff.delay(&error, now, fraction).map(|delay| delay.as_millis())
        };
        for (fraction, millis) in [(0.0, 7_000), (0.5, 10_500), (1.0, 14_000)] {
            assert_eq!(delay(told(7), 1, fraction), Some(millis), "up to twice what was told");
        }
        assert_eq!(delay(told(1), 8, 1.0), Some(11_000), "after many failures by the pause that is due then");
    }

    #[test]
    fn a_file_that_was_taken_over_is_taken_back_and_not_for_ever() {
        let details = ErrorDetails::with_error_info("UPLOAD_SUPERSEDED", "keepbest", HashMap::new());
        let status = Status::with_error_details(tonic::Code::Aborted, "another stream", details);
        let taken = Error::from_status("WriteFile", &status);
        let (retry, patience, now) = (Retry::default(), Patience::default(), Instant::now());
        let mut backoff = retry.start(&patience);
        for _ in 0..3 {
            assert_eq!(backoff.delay(&taken, now, 0.0), Some(Duration::ZERO));
            backoff.progressed();
        }
        assert_eq!(backoff.delay(&taken, now, 0.0), None, "somebody else writes it too");
    }

    #[test]
    fn without_a_budget_there_is_no_second_try() {
        assert_eq!(
            Retry::never().start(&Patience::default()).delay(&unavailable(), Instant::now(), 0.0),
            None
        );
    }
}
