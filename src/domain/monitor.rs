//! What a run remembers between events: the best that is committed, what is in flight, and how
//! many batches passed since the last save was due. What follows from it is left to the decision.

use serde::{Deserialize, Serialize};

use crate::domain::metric::{Direction, exact, improves};
use crate::domain::strategy::{InitialBest, Strategy};

/// A checkpoint that was decided and is not yet committed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InFlight {
    pub checkpoint: String,
    /// The monitored value, if the decision saw an improvement in it. Never `NaN`.
    #[serde(default, with = "exact::optional")]
    pub value: Option<f64>,
}

/// The monitor state of a run. It outlives the trainer's process and the server's.
///
/// `best` only ever holds the start value or the value of a committed checkpoint, never `NaN`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MonitorState {
    /// The best committed value, or the value to start from.
    #[serde(with = "exact::optional")]
    pub best: Option<f64>,
    /// The checkpoint that `best` comes from; `None` for a start value.
    pub best_checkpoint: Option<String>,
    /// Batches since a save was last due; only counted when saving every so many batches.
    pub batches_since_save: i64,
    /// 0-based index of the last batch that was counted.
    pub last_batch: Option<i64>,
    /// What was decided and may still be committed.
    pub in_flight: Vec<InFlight>,
}

/// Most checkpoints of a run that are decided and not committed. Clients upload one or two at a time.
pub const IN_FLIGHT_MAX: usize = 100;

impl MonitorState {
    /// The state of a run that has just begun.
    pub fn start(strategy: &Strategy, direction: Direction) -> Self {
        Self { best: start_value(strategy, direction), ..Self::default() }
    }

    /// The better of the committed best and everything in flight: what a new value has to beat.
    pub fn value_to_beat(&self, direction: Direction) -> Option<f64> {
        let in_flight = self.in_flight.iter().filter_map(|saving| saving.value);
        in_flight.fold(
            self.best,
            |best, value| {
                if improves(value, best, direction, 0.0) { Some(value) } else { best }
            },
        )
    }

    /// A decision to save became the pending `checkpoint`. `improvement` is its monitored value if
    /// it was an improvement, else `None`. Saying the same twice changes nothing. Answers the oldest
    /// checkpoint in flight if it has to be given up for this one: a trainer with so many unfinished
    /// saves does not upload them, and its state must not grow for ever.
    pub fn save_started(&mut self, checkpoint: &str, improvement: Option<f64>) -> Option<String> {
        self.abandoned(checkpoint);
        let value = improvement.filter(|value| !value.is_nan());
        self.in_flight.push(InFlight { checkpoint: checkpoint.to_owned(), value });
        (self.in_flight.len() > IN_FLIGHT_MAX).then(|| self.in_flight.remove(0).checkpoint)
    }

    /// `checkpoint` is committed. Best moves here and only here, and only to something strictly
    /// better than what stands, so commits may come in any order. Tells whether best moved.
    pub fn committed(&mut self, checkpoint: &str, direction: Direction) -> bool {
        let Some(index) = self.in_flight.iter().position(|s| s.checkpoint == checkpoint) else {
            return false;
        };
        let saved = self.in_flight.remove(index);
        let moves = saved.value.is_some_and(|value| improves(value, self.best, direction, 0.0));
        if moves {
            self.best = saved.value;
            self.best_checkpoint = Some(saved.checkpoint);
        }
        moves
    }

    /// `checkpoint` will never be committed: what it would have beaten stands again.
    pub fn abandoned(&mut self, checkpoint: &str) {
        self.in_flight.retain(|saving| saving.checkpoint != checkpoint);
    }

    /// A new attempt began: nothing that an older one had in flight can be committed any more.
    /// Counters stay, as a save every N batches goes on where the older attempt stopped.
    pub fn new_attempt(&mut self) {
        self.in_flight.clear();
    }

    /// The best checkpoint was deleted: the best of what remains (checkpoint and value) stands,
    /// or the value that a run starts from, where nothing that remains is better.
    pub fn best_replaced(&mut self, best: Option<(String, f64)>, strategy: &Strategy, direction: Direction) {
        let start = start_value(strategy, direction);
        match best.filter(|(_, value)| improves(*value, start, direction, 0.0)) {
            Some((checkpoint, value)) => {
                self.best = Some(value);
                self.best_checkpoint = Some(checkpoint);
            }
            None => {
                self.best = start;
                self.best_checkpoint = None;
            }
        }
    }
}

fn start_value(strategy: &Strategy, direction: Direction) -> Option<f64> {
    strategy.initial_value_threshold.or(match strategy.initial_best {
        InitialBest::None => None,
        InitialBest::Worst => Some(direction.worst()),
    })
}

#[cfg(test)]
mod tests {
    use proptest::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    const MIN: Direction = Direction::Min;

    fn fresh() -> MonitorState {
        MonitorState::start(&Strategy::default(), MIN)
    }

    #[test]
    fn the_oldest_save_in_flight_is_given_up_when_there_are_too_many() {
        let mut state = MonitorState::default();
        let given_up: Vec<String> = (0..IN_FLIGHT_MAX + 2)
            .filter_map(|number| state.save_started(&number.to_string(), None))
            .collect();
        assert_eq!(given_up, ["0", "1"]);
        assert_eq!(state.in_flight.len(), IN_FLIGHT_MAX);
    }

    #[test]
    fn a_run_starts_from_its_threshold_or_as_the_strategy_says() {
        let mut strategy = Strategy::default();
        assert_eq!(MonitorState::start(&strategy, MIN).best, None);
        strategy.initial_best = InitialBest::Worst;
        assert_eq!(MonitorState::start(&strategy, MIN).best, Some(f64::INFINITY));
        assert_eq!(MonitorState::start(&strategy, Direction::Max).best, Some(f64::NEG_INFINITY));
        strategy.initial_value_threshold = Some(0.5);
        assert_eq!(MonitorState::start(&strategy, MIN).best, Some(0.5));
    }

    #[test]
    fn what_is_in_flight_counts_until_it_is_abandoned() {
        let mut state = fresh();
        state.save_started("a", Some(0.5));
        assert_eq!((state.best, state.value_to_beat(MIN)), (None, Some(0.5)));
        assert!(state.committed("a", MIN));
        state.save_started("b", Some(0.25));
        assert_eq!((state.best, state.value_to_beat(MIN)), (Some(0.5), Some(0.25)));
        state.abandoned("b");
        assert_eq!(state.value_to_beat(MIN), Some(0.5));
        state.save_started("c", Some(0.125));
        state.new_attempt();
        assert!(!state.committed("c", MIN));
        assert_eq!(state.best_checkpoint.as_deref(), Some("a"));
    }

    #[test]
    fn commits_in_any_order_leave_the_better_one_best() {
        let mut state = fresh();
        state.save_started("a", Some(0.5));
        state.save_started("b", Some(0.4));
        state.save_started("plain", None);
        assert!(state.committed("b", MIN));
        assert!(!state.committed("plain", MIN));
        assert!(!state.committed("a", MIN));
        assert_eq!(state.best, Some(0.4));
        assert_eq!(state.best_checkpoint.as_deref(), Some("b"));
    }

    #[test]
    fn after_a_deletion_the_best_of_the_rest_stands() {
        let (mut state, strategy) = (fresh(), Strategy::default());
        state.save_started("a", Some(0.5));
        state.committed("a", MIN);
        state.best_replaced(Some(("z".to_owned(), 0.75)), &strategy, MIN);
        assert_eq!((state.best, state.best_checkpoint.as_deref()), (Some(0.75), Some("z")));
        state.best_replaced(None, &strategy, MIN);
        assert_eq!((state.best, state.best_checkpoint), (None, None));
    }

    #[test]
    fn a_state_survives_storage_and_old_states_still_read() {
        let mut state = fresh();
        state.best = Some(f64::INFINITY);
        state.save_started("a", Some(f64::NEG_INFINITY));
        let stored = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<MonitorState>(&stored).unwrap(), state);
        assert_eq!(serde_json::from_str::<MonitorState>("{}").unwrap(), MonitorState::default());
    }

    proptest! {
        #[test]
        fn best_is_monotone_and_never_nan(
            values in proptest::collection::vec((proptest::num::f64::ANY, proptest::bool::ANY), 0..40),
        ) {
            let mut state = fresh();
            for (index, (value, kept)) in values.into_iter().enumerate() {
                let (before, id) = (state.best, index.to_string());
                state.save_started(&id, Some(value));
                if kept { state.committed(&id, MIN); } else { state.abandoned(&id); }
                prop_assert!(!state.best.is_some_and(f64::is_nan));
                prop_assert!(before.is_none() || state.best <= before);
                prop_assert_eq!(state.value_to_beat(MIN), state.best);
            }
        }
    }
}
