//! How long one try of a call may take, and what a client remembers about a server that does not answer. When a failed call is
//! retried is decided in `retry`.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// After this time at the latest the server answers `AwaitDecision` and the commit of a part, even if what they wait for has not
/// happened.
const SERVER_WAIT: Duration = Duration::from_secs(25);
/// How many times longer a call may take that writes objects than one that only touches rows: the server waits up to a minute for
/// its object store.
const OBJECTS_FACTOR: u32 = 4;
/// The same for one that deletes many versions: ten minutes, in which some 100,000 go. What is left the server finishes by itself.
const DELETION_FACTOR: u32 = 24;
/// After a try without any answer, the next one has an eighth of the time (three halvings), the one after that a quarter, and so
/// on. A server that hangs then costs little, and one that is only slow still gets the whole time with the fourth try.
const SHORTENED: u32 = 3;
/// After a call has spent its whole budget in vain, the budget of the next ones is divided by this, until one of them ends with an
/// answer.
const VAIN_FACTOR: u32 = 16;

/// What a call makes the server do, which decides how long it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Reads or writes rows of the database.
    Rows,
    /// Also writes to the object store.
    Objects,
    /// Deletes any number of versions, some at a time.
    Deletion,
    /// Waits until another process has reported.
    WaitForReport,
    /// Waits until other processes are done, and then writes objects.
    WaitForParts,
}

impl Work {
    /// How long a try may take, given how long one may take that only touches rows.
    pub(crate) fn time(self, rows: Duration) -> Duration {
        match self {
            Work::Rows => rows,
            Work::Objects => rows.saturating_mul(OBJECTS_FACTOR),
            Work::Deletion => rows.saturating_mul(DELETION_FACTOR),
            Work::WaitForReport => rows.saturating_add(SERVER_WAIT),
            Work::WaitForParts => rows.saturating_mul(OBJECTS_FACTOR).saturating_add(SERVER_WAIT),
        }
    }
}

/// What all calls of a client, and of its clones, know about the server.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    /// The last try waited for long and got no answer.
    hangs: AtomicBool,
    /// The last call spent its whole budget.
    in_vain: AtomicBool,
    /// The connection that calls use. After a silent try it is the next one, which may lead to another replica.
    connection: AtomicUsize,
}

impl Patience {
    pub(crate) fn connection(&self) -> usize {
        self.connection.load(Ordering::Relaxed)
    }

    /// How long the next try may take. `failures`: how many tries of this call failed before.
    pub(crate) fn time(&self, work: Work, rows: Duration, failures: u32) -> Duration {
        let halvings = SHORTENED.saturating_sub(failures);
        if self.hangs.load(Ordering::Relaxed) { work.time(rows / (1 << halvings)) } else { work.time(rows) }
    }

    /// How much of a budget a call may spend.
    pub(crate) fn budget(&self, budget: Duration) -> Duration {
        if self.in_vain.load(Ordering::Relaxed) { budget / VAIN_FACTOR } else { budget }
    }

    /// The server has answered, if only to say that it cannot work now.
    pub(crate) fn answered(&self) {
        self.hangs.store(false, Ordering::Relaxed);
    }

    /// A try has ended without an answer. If it broke off soon, the server does not hang; it may be restarting.
    pub(crate) fn silent(&self, took: Duration, rows: Duration) {
        if took >= rows / (1 << SHORTENED) {
            self.hangs.store(true, Ordering::Relaxed);
            self.connection.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A call has ended with an answer: it succeeded, or was refused for good.
    pub(crate) fn ended(&self) {
        self.in_vain.store(false, Ordering::Relaxed);
    }

    /// A call has spent its whole budget.
    pub(crate) fn gave_up(&self) {
        self.in_vain.store(true, Ordering::Relaxed);
    }
}

/// When an upload's stream last took a message.
#[derive(Debug)]
pub(crate) struct Movement(Mutex<Instant>);

impl Movement {
    pub(crate) fn begin() -> Movement {
        Movement(Mutex::new(Instant::now()))
    }

    pub(crate) fn moved(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Waits for the answer to the stream; none if the stream has not moved for `longest` and there is still no answer.
    pub(crate) async fn answer<T>(&self, longest: Duration, answer: impl Future<Output = T>) -> Option<T> {
        let mut answer = std::pin::pin!(answer);
        loop {
            let end = *self.0.lock().unwrap_or_else(PoisonError::into_inner) + longest;
            if end <= Instant::now() {
                return None;
            }
            if let Ok(answer) = tokio::time::timeout_at(end, &mut answer).await {
                return Some(answer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Patience, Work};

    const ROWS: Duration = Duration::from_secs(16);

    #[test]
    fn a_server_that_hangs_gets_less_time_until_it_answers() {
        let patience = Patience::default();
        let times = |patience: &Patience| {
            [0, 1, 2, 3, 9].map(|failures| patience.time(Work::Rows, ROWS, failures).as_secs())
        };
        assert_eq!(times(&patience), [16; 5]);
        patience.silent(Duration::from_secs(1), ROWS);
        assert_eq!(times(&patience), [16; 5], "a connection that breaks off is no hang");
        patience.silent(Duration::from_secs(2), ROWS);
        assert_eq!(times(&patience), [2, 4, 8, 16, 16]);
        patience.answered();
        assert_eq!(times(&patience), [16; 5]);
    }

    #[test]
    fn what_the_server_may_wait_for_is_never_cut() {
        let patience = Patience::default();
        patience.silent(ROWS, ROWS);
        assert_eq!(patience.time(Work::WaitForReport, ROWS, 0).as_secs(), 25 + 2);
        assert_eq!(patience.time(Work::WaitForParts, ROWS, 0).as_secs(), 25 + 4 * 2);
        assert_eq!(patience.time(Work::Objects, ROWS, 3).as_secs(), 4 * 16);
    }

    #[test]
    fn a_budget_that_was_spent_in_vain_is_not_spent_again() {
        let patience = Patience::default();
        patience.gave_up();
        assert_eq!(patience.budget(ROWS), Duration::from_secs(1));
        patience.ended();
        assert_eq!(patience.budget(ROWS), ROWS);
    }
}
