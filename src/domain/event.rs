//! Events: what a trainer reports, and the limits of what it may report.
//! Their order and their sequence numbers are left to the use cases.

use serde::{Deserialize, Serialize};

use crate::domain::metric::{MetricValue, Metrics};

/// The largest epoch, batch, step or time: the last whole number that a double holds exactly,
/// because many trainers (and JSON) keep counters in doubles.
pub const COUNTER_MAX: i64 = 1 << 53;
/// Most metrics of one event: more than any real model reports, and at 256 bytes a name and 1 KiB
/// a text still only 1.3 MB, below the limit of one message.
pub const METRICS_MAX: usize = 1_000;
/// Longest metric name in bytes; names become columns, labels and parts of file names.
pub const METRIC_NAME_BYTES_MAX: usize = 256;
/// Longest text value of a metric in bytes.
pub const METRIC_TEXT_BYTES_MAX: usize = 1_024;

/// The text of a last event that says why the training failed; the clients write it (`Run.failure` in the contract).
const FAILURE: &str = "failure";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EventKind {
    /// One training batch (or the group of batches that ran as one).
    BatchEnd,
    /// One epoch, with its validation if it had one.
    EpochEnd,
    /// The whole training; never a reason to save.
    TrainEnd,
}

/// One report of a trainer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub kind: EventKind,
    /// 0-based epoch.
    pub epoch: i64,
    /// 0-based index of the batch in its epoch.
    #[serde(default)]
    pub batch: Option<i64>,
    /// Optimizer steps since the start of the run, if the trainer counts them.
    #[serde(default)]
    pub step: Option<i64>,
    /// The trainer's clock: microseconds since 1970, if it said.
    #[serde(default)]
    pub wall_time_us: Option<i64>,
    /// What was measured.
    #[serde(default)]
    pub metrics: Metrics,
}

/// What is wrong with an event; each text says what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// A number outside of its range.
    #[error("`{field}` is {value}: must be from 0 to {COUNTER_MAX}")]
    OutOfRange {
        /// The field of the event.
        field: &'static str,
        /// What was sent.
        value: i64,
    },
    /// A batch that ended without saying which.
    #[error("`batch` is missing in a batch end event: must be the 0-based index of the batch")]
    BatchMissing,
    /// More metrics than allowed.
    #[error("`metrics` has {0} entries: at most {METRICS_MAX} are allowed in one event")]
    TooManyMetrics(usize),
    /// A metric whose name cannot be used.
    #[error(
        "metric name `{shown}` {problem}: must be 1 to {METRIC_NAME_BYTES_MAX} bytes without control characters"
    )]
    Name {
        /// The name, escaped and cut for printing.
        shown: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A text that is too long.
    #[error("text of metric `{name}` has {bytes} bytes: at most {METRIC_TEXT_BYTES_MAX} are allowed")]
    Text {
        /// The metric.
        name: String,
        /// Length of the text.
        bytes: usize,
    },
}

impl EventError {
    /// The field to blame, as a path in the request.
    pub fn field(&self) -> &'static str {
        match self {
            Self::OutOfRange { field, .. } => field,
            Self::BatchMissing => "batch",
            Self::TooManyMetrics(_) | Self::Name { .. } | Self::Text { .. } => "metrics",
        }
    }
}

impl Event {
    /// Whether the trainer is at the end of this batch, or of this epoch, or behind it.
    pub fn reaches(&self, epoch: i64, batch: Option<i64>) -> bool {
        match self.kind {
            EventKind::BatchEnd => (self.epoch, self.batch) >= (epoch, Some(batch.unwrap_or(i64::MAX))),
            EventKind::EpochEnd | EventKind::TrainEnd => self.epoch >= epoch,
        }
    }

    /// Why the training failed, as the trainer told in its last event.
    pub fn failure(&self) -> Option<String> {
        match self.metrics.get(FAILURE) {
            Some(MetricValue::Text(text)) => Some(text.clone()),
            _ => None,
        }
    }

    /// Checks everything that the rules rely on. An event that fails is refused as a whole.
    pub fn validate(&self) -> Result<(), EventError> {
        if self.kind == EventKind::BatchEnd && self.batch.is_none() {
            return Err(EventError::BatchMissing);
        }
        check_counter("epoch", Some(self.epoch))?;
        check_counter("batch", self.batch)?;
        check_counter("step", self.step)?;
        check_counter("wall_time_us", self.wall_time_us)?;
        if self.metrics.len() > METRICS_MAX {
            return Err(EventError::TooManyMetrics(self.metrics.len()));
        }
        for (name, value) in &self.metrics {
            check_name(name)?;
            check_text(name, value)?;
        }
        Ok(())
    }
}

/// What is wrong with the name of a metric, if anything: the rule for reported names and monitors.
pub fn metric_name_problem(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("is empty")
    } else if name.len() > METRIC_NAME_BYTES_MAX {
        Some("is too long")
    } else if name.chars().any(char::is_control) {
        Some("has control characters")
    } else {
        None
    }
}

/// A name as it can be printed in an error: escaped, and cut when it is long.
pub fn shown_name(name: &str) -> String {
    /// Enough to recognise a name by.
    const SHOWN_CHARS: usize = 64;
    let mut shown: String = name.chars().take(SHOWN_CHARS).flat_map(char::escape_debug).collect();
    if name.chars().nth(SHOWN_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

fn check_counter(field: &'static str, value: Option<i64>) -> Result<(), EventError> {
    match value {
        Some(value) if !(0..=COUNTER_MAX).contains(&value) => Err(EventError::OutOfRange { field, value }),
        _ => Ok(()),
    }
}

fn check_name(name: &str) -> Result<(), EventError> {
    match metric_name_problem(name) {
        Some(problem) => Err(EventError::Name { shown: shown_name(name), problem }),
        None => Ok(()),
    }
}

fn check_text(name: &str, value: &MetricValue) -> Result<(), EventError> {
    match value {
        MetricValue::Text(text) | MetricValue::NotScalar(text) if text.len() > METRIC_TEXT_BYTES_MAX => {
            Err(EventError::Text { name: name.to_owned(), bytes: text.len() })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trainer_is_behind_a_moment_or_reaches_it() {
        use EventKind::{BatchEnd, EpochEnd, TrainEnd};
        for (kind, epoch, batch, asked, reaches) in [
            (BatchEnd, 3, Some(7), (3, Some(8)), false),
            (BatchEnd, 3, Some(7), (3, Some(7)), true),
            (BatchEnd, 3, Some(0), (2, Some(9)), true),
            (BatchEnd, 3, Some(7), (3, None), false),
            (BatchEnd, 3, Some(7), (2, None), true),
            (EpochEnd, 3, None, (3, None), true),
            (EpochEnd, 3, None, (3, Some(999)), true),
            (EpochEnd, 3, None, (4, Some(0)), false),
            (TrainEnd, 3, None, (3, None), true),
            (TrainEnd, 3, None, (4, None), false),
        ] {
            let event = Event { kind, epoch, batch, ..event() };
            assert_eq!(event.reaches(asked.0, asked.1), reaches, "{kind:?} {epoch} {batch:?}: {asked:?}");
        }
    }

    fn event() -> Event {
        Event {
            kind: EventKind::BatchEnd,
            epoch: 0,
            batch: Some(0),
            step: None,
            wall_time_us: None,
            metrics: Metrics::from([("loss".to_owned(), MetricValue::Number(f64::NAN))]),
        }
    }

    #[test]
    fn an_ordinary_event_passes_even_with_nan() {
        assert_eq!(event().validate(), Ok(()));
        let at_the_end = Event { kind: EventKind::EpochEnd, batch: None, ..event() };
        assert_eq!(at_the_end.validate(), Ok(()));
    }

    #[test]
    fn each_limit_is_named_in_its_error() {
        let metric = |name: String, value| Metrics::from([(name, value)]);
        let many = (0..1_001).map(|n| (n.to_string(), MetricValue::Missing)).collect();
        let long = MetricValue::Text("x".repeat(1_025));
        let table = [
            (Event { batch: None, ..event() }, "batch", "`batch` is missing"),
            (Event { batch: Some(-1), ..event() }, "batch", "`batch` is -1: must be from 0 to"),
            (Event { epoch: -1, ..event() }, "epoch", "`epoch` is -1: must be"),
            (Event { epoch: i64::MAX, ..event() }, "epoch", "`epoch` is 9223372036854775807"),
            (Event { step: Some(-3), ..event() }, "step", "`step` is -3"),
            (Event { wall_time_us: Some(-3), ..event() }, "wall_time_us", "`wall_time_us` is -3"),
            (Event { metrics: many, ..event() }, "metrics", "`metrics` has 1001 entries"),
            (
                Event { metrics: metric("a\nb".to_owned(), MetricValue::Missing), ..event() },
                "metrics",
                "metric name `a\\nb` has control characters: must be 1 to 256 bytes",
            ),
            (
                Event { metrics: metric("x".repeat(257), MetricValue::Missing), ..event() },
                "metrics",
                "x…` is too long",
            ),
            (
                Event { metrics: metric(String::new(), MetricValue::Missing), ..event() },
                "metrics",
                "metric name `` is empty",
            ),
            (
                Event { metrics: metric("note".to_owned(), long), ..event() },
                "metrics",
                "text of metric `note` has 1025 bytes: at most 1024",
            ),
        ];
        for (event, field, text) in table {
            let error = event.validate().unwrap_err();
            assert_eq!(error.field(), field);
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
