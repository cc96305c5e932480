//! How much one team may ask of this server in a second, so that its flood is its own trouble.
//!
//! Each server counts for itself: of three replicas a team may ask three times as much, if its calls reach all of them.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::Quota;
use governor::RateLimiter;
use governor::clock::Clock as _;
use governor::clock::DefaultClock;
use governor::state::keyed::HashMapStateStore;

use crate::app::App;
use crate::app::Error;
use crate::domain::ids::Id;
use crate::domain::refusal::Refusal;
use crate::metrics::Counter;
use crate::metrics::Each;

/// A team may ask for as much at once as it may in so many seconds, after it has been quiet: a training reports an epoch's batches
/// together.
const BURST_SECONDS: u32 = 2;
/// The least pause that is told.
const LEAST_PAUSE: Duration = Duration::from_millis(10);

/// What is counted.
const WORDS: [&str; 2] = ["requests", "events"];

/// What a team may ask for in a second; none: as much as it likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Most {
    pub requests: Option<NonZeroU32>,
    pub events: Option<NonZeroU32>,
}

/// What each team has asked for of late.
#[derive(Debug)]
pub(super) struct Rates {
    requests: Option<Rate>,
    events: Option<Rate>,
    refusals: Each<Counter, 2>,
}

#[derive(Debug)]
struct Rate {
    what: &'static str,
    most: NonZeroU32,
    limiter: RateLimiter<Id, HashMapStateStore<Id>, DefaultClock>,
    clock: DefaultClock,
}

impl Rates {
    pub(super) fn new(most: Most) -> Rates {
        let rate = |what, most: Option<NonZeroU32>| most.map(|most| Rate::new(what, most));
        let refusals = Each::of(&WORDS);
        Rates { requests: rate(WORDS[0], most.requests), events: rate(WORDS[1], most.events), refusals }
    }

    /// Counts a request with so many events, or refuses it.
    pub(super) fn take(&self, team: &Id, events: usize) -> Result<(), Refusal> {
        if let Some(rate) = &self.requests {
            self.counted(0, rate.take(team, 1))?;
        }
        match &self.events {
            Some(rate) if events > 0 => {
                self.counted(1, rate.take(team, u32::try_from(events).unwrap_or(u32::MAX)))
            }
            _ => Ok(()),
        }
    }

    fn counted(&self, place: usize, taken: Result<(), Refusal>) -> Result<(), Refusal> {
        self.refusals.at(place).add(u64::from(taken.is_err()));
        taken
    }

    /// How often each rate was exceeded.
    pub(super) fn refusals(&self) -> &Each<Counter, 2> {
        &self.refusals
    }
}

impl Rate {
    fn new(what: &'static str, most: NonZeroU32) -> Rate {
        let burst = most.saturating_mul(NonZeroU32::MIN.saturating_add(BURST_SECONDS - 1));
        let limiter = RateLimiter::hashmap(Quota::per_second(most).allow_burst(burst));
        Rate { what, most, limiter, clock: DefaultClock::default() }
    }

    fn take(&self, team: &Id, count: u32) -> Result<(), Refusal> {
        let burst = self.most.get().saturating_mul(BURST_SECONDS);
        // What is more than could ever be taken at once counts as all of that.
        let count = NonZeroU32::new(count.min(burst)).unwrap_or(NonZeroU32::MIN);
        let Ok(Err(until)) = self.limiter.check_key_n(team, count) else { return Ok(()) };
        let pause = until.wait_time_from(self.clock.now()).max(LEAST_PAUSE);
        let message = format!(
            "team `teams/{team}` asks for more than {} {} a second: come back after {} ms",
            self.most,
            self.what,
            pause.as_millis()
        );
        Err(Refusal::exhausted("RATE_EXCEEDED", message).with("limit", self.most).retry_after(pause))
    }
}

impl App {
    /// Counts a request of a team with so many events, or refuses it.
    pub fn take_rate(&self, team: &Id, events: usize) -> Result<(), Error> {
        Ok(self.rates.take(team, events)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(requests: u32, events: u32) -> Rates {
        Rates::new(Most { requests: NonZeroU32::new(requests), events: NonZeroU32::new(events) })
    }

    fn team(text: &str) -> Id {
        Id::parse("team", text).unwrap()
    }

    #[test]
    fn a_team_has_its_own_share_and_is_told_when_to_come_back() {
        let rates = rates(5, 0);
        let taken = (0..1_000).filter(|_| rates.take(&team("a"), 1_000_000).is_ok()).count();
        // Those of two seconds, and one or two that came free meanwhile.
        assert!((10..20).contains(&taken), "{taken}");
        let refusal = rates.take(&team("a"), 0).unwrap_err();
        assert_eq!(refusal.reason, "RATE_EXCEEDED");
        assert!(refusal.retry_after.is_some_and(|it| it <= Duration::from_millis(200)));
        assert!(rates.take(&team("b"), 0).is_ok());
    }

    #[test]
    fn events_count_each() {
        let rates = rates(0, 100);
        assert!(rates.take(&team("a"), 150).is_ok());
        assert_eq!(rates.take(&team("a"), 100).unwrap_err().metadata, [("limit", "100".to_owned())]);
        assert!(rates.take(&team("a"), 0).is_ok());
        // A batch that is larger than all that may come at once is not refused for ever.
        assert!(rates.take(&team("b"), 10_000).is_ok());
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let rates = rates(0, 0);
        assert!((0..10_000).all(|_| rates.take(&team("a"), 10_000).is_ok()));
    }
}
