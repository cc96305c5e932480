//! The decision: whether this event is worth a checkpoint, and why.
//! Storing it, making the checkpoint and moving best are left to others.

use serde::{Deserialize, Serialize};

use self::moment::Moment;
use crate::domain::event::{Event, EventKind};
use crate::domain::metric::{Direction, exact};
use crate::domain::monitor::MonitorState;
use crate::domain::strategy::{SaveFrequency, Strategy};
use crate::domain::template::Template;

mod moment;

/// What the trainer has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Action {
    /// Save a checkpoint.
    Save,
    /// Go on training.
    Skip,
    /// Raise the error of the decision, as the strategy asks for.
    Fail,
}

/// Why, as a code that programs can rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Reason {
    /// The monitored value beats the best.
    Improved,
    /// The monitored value does not beat the best.
    NotImproved,
    /// Every epoch is saved.
    EveryEpoch,
    /// Every so many batches are saved.
    EveryBatches,
    /// The event has no monitored value.
    MonitorMissing,
    /// The monitored value is not a number.
    MonitorNotScalar,
    /// The monitored value is `NaN`.
    MonitorNan,
    /// The template names a metric that the event does not have.
    TemplateKeyMissing,
    /// The template cannot print a value of the event.
    TemplateError,
}

impl Reason {
    /// The code as it is stored and sent.
    pub fn code(self) -> &'static str {
        match self {
            Self::Improved => "IMPROVED",
            Self::NotImproved => "NOT_IMPROVED",
            Self::EveryEpoch => "EVERY_EPOCH",
            Self::EveryBatches => "EVERY_BATCHES",
            Self::MonitorMissing => "MONITOR_MISSING",
            Self::MonitorNotScalar => "MONITOR_NOT_SCALAR",
            Self::MonitorNan => "MONITOR_NAN",
            Self::TemplateKeyMissing => "TEMPLATE_KEY_MISSING",
            Self::TemplateError => "TEMPLATE_ERROR",
        }
    }
}

/// The answer to an event at which a save was due.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    pub action: Action,
    /// Why, for programs.
    pub reason: Reason,
    /// Why, as a sentence for people.
    pub reason_text: String,
    /// The path that the template gives, also when nothing is saved; `None` if it gives none.
    pub path: Option<String>,
    /// Save the weights only, not the whole model.
    pub weights_only: bool,
    /// What to print now: the lines of Keras, each with its line feed in front; empty for nothing.
    pub message: String,
    /// What to print once the checkpoint is saved; empty for nothing.
    pub finished_message: String,
    /// What to warn of.
    pub warnings: Vec<String>,
    /// The Python exception to raise; only with [`Action::Fail`].
    pub error_type: Option<String>,
    /// The text of that exception.
    pub error_text: Option<String>,
    /// The monitored value, if it is a number; never `NaN`.
    #[serde(with = "exact::optional")]
    pub value: Option<f64>,
    /// The value that had to be beaten, counting what is in flight.
    #[serde(with = "exact::optional")]
    pub best_before: Option<f64>,
    /// Whether the checkpoint becomes the best once it is committed, unless a better one came first.
    pub improvement: bool,
    /// Names that the version gets besides `latest` and `best`; epoch and batch are 0-based.
    pub aliases: Vec<String>,
}

impl Decision {
    /// What [`MonitorState::save_started`] wants to know: the value, if it is an improvement.
    pub fn improved_value(&self) -> Option<f64> {
        self.value.filter(|_| self.improvement)
    }
}

/// When the next decision can come, so that a trainer knows which events it has to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum NextDue {
    /// At the end of the epoch.
    EpochEnd,
    /// With the last of this many more batches at the earliest, if their indices are consecutive.
    Batches(i64),
    /// With every batch.
    EveryBatch,
}

/// When the next decision can come after `state`.
pub fn next_due(strategy: &Strategy, state: &MonitorState) -> NextDue {
    match strategy.save_frequency {
        SaveFrequency::Epoch => NextDue::EpochEnd,
        SaveFrequency::Batches(every) if every <= 1 => NextDue::EveryBatch,
        SaveFrequency::Batches(every) => {
            NextDue::Batches(every.saturating_sub(state.batches_since_save).max(1))
        }
    }
}

/// Decides about `event`. Without a decision no save was due. The returned state has its counters
/// moved on; a save that follows is told to it with [`MonitorState::save_started`].
///
/// The order is Keras': the counter is reset first, so that a failure does not repeat itself at
/// the next batch; then the path is made, also when nothing will be saved; then best is asked.
pub fn decide(
    strategy: &Strategy,
    template: &Template,
    direction: Direction,
    state: &MonitorState,
    event: &Event,
) -> (MonitorState, Option<Decision>) {
    let (state, due) = count(strategy, state, event);
    if !due {
        return (state, None);
    }
    let moment = Moment::new(strategy, direction, &state, event);
    let decision = match moment.path(template) {
        Ok((path, warnings)) => {
            let mut decision = moment.decide_with(path);
            decision.warnings.splice(0..0, warnings);
            decision
        }
        Err(failed) => *failed,
    };
    (state, Some(decision))
}

/// Counts the batch, if batches count, and tells whether a save is due.
fn count(strategy: &Strategy, state: &MonitorState, event: &Event) -> (MonitorState, bool) {
    let mut state = state.clone();
    let due = match (strategy.save_frequency, event.kind, event.batch) {
        (SaveFrequency::Epoch, EventKind::EpochEnd, _) => true,
        (SaveFrequency::Batches(every), EventKind::BatchEnd, Some(batch)) => {
            // An index that is not larger than the last one began a new epoch at 0. One that
            // leaps stands for a group of batches that ran as one.
            let passed = match state.last_batch {
                Some(last) if batch > last => batch.saturating_sub(last),
                _ => batch.saturating_add(1),
            };
            let seen = state.batches_since_save.saturating_add(passed);
            let due = seen >= every;
            state.last_batch = Some(batch);
            state.batches_since_save = if due { 0 } else { seen };
            due
        }
        (SaveFrequency::Epoch, EventKind::BatchEnd, Some(batch)) => {
            // A later strategy may count batches, from the one that follows this.
            state.last_batch = Some(batch);
            false
        }
        _ => false,
    };
    (state, due)
}

#[cfg(test)]
mod tests;
