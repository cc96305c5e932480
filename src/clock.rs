//! The time: the database's where replicas share one, the system's, or one that a test turns.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

/// A clock drifts by less than a part of so many: a thousandth is ten times what cheap ones do.
const DRIFT: u32 = 1_000;

/// Tells microseconds since 1970.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The system's.
    System,
    /// Another clock's, as of its last answer, and what has passed since: the system's clock has no say in it, so replicas that
    /// ask the same one agree however wrong their own clocks are.
    Shared(Arc<Mutex<Reading>>),
    /// Stands still until it is turned.
    ByHand(Arc<AtomicI64>),
}

/// What a clock told.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    time_us: i64,
    /// The middle of the time in which it told it.
    at: Instant,
    /// How far off it may be: half of that time.
    error: Duration,
}

impl Reading {
    /// `time_us`, in microseconds since 1970, was told between these two moments.
    pub fn new(time_us: i64, asked: Instant, answered: Instant) -> Reading {
        let error = answered.saturating_duration_since(asked) / 2;
        Reading { time_us, at: asked + error, error }
    }

    fn now_us(self) -> i64 {
        self.time_us.saturating_add(i64::try_from(self.at.elapsed().as_micros()).unwrap_or(i64::MAX))
    }

    /// What it may be off by now: two clocks may drift apart.
    fn error_now(self) -> Duration {
        self.error + self.at.elapsed() / DRIFT
    }
}

impl Clock {
    /// The clock that told this.
    pub fn of(reading: Reading) -> Clock {
        Clock::Shared(Arc::new(Mutex::new(reading)))
    }

    /// Goes by a later reading, unless that is less exact; only a shared clock does.
    pub fn correct(&self, reading: Reading) {
        if let Clock::Shared(last) = self {
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if reading.error <= last.error_now() {
                *last = reading;
            }
        }
    }

    /// Microseconds since 1970, UTC.
    #[expect(clippy::disallowed_methods, reason = "the one place that may ask the system")]
    pub fn now_us(&self) -> i64 {
        match self {
            Clock::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
            }
            Clock::Shared(last) => last.lock().unwrap_or_else(PoisonError::into_inner).now_us(),
            Clock::ByHand(time_us) => time_us.load(Ordering::SeqCst),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_shared_clock_goes_on_from_its_last_reading_but_for_a_less_exact_one() {
        let now = Instant::now();
        let minute_ago = now.checked_sub(60 * SECOND).unwrap();
        let clock = Clock::of(Reading::new(1_000_000, minute_ago, minute_ago));
        let is_after = |least: i64| (least..least + 3_600_000_000).contains(&clock.now_us());
        assert!(is_after(61_000_000), "{}", clock.now_us());
        // It may be off by a second, and the one before by a tenth: that one still stands.
        clock.correct(Reading::new(0, now.checked_sub(2 * SECOND).unwrap(), now));
        assert!(is_after(61_000_000), "{}", clock.now_us());
        clock.clone().correct(Reading::new(9_000_000_000, now, now));
        assert!(is_after(9_000_000_000), "{}", clock.now_us());
    }
}
