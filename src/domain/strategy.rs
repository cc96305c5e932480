//! The strategy: when a run saves, as the trainer stated it, and its check when the run starts.
//! Applying it to an event is left to the decision.
//!
//! The names are those of Keras' `ModelCheckpoint`. Wherever its versions take different
//! decisions, the difference is a field of its own with the safe choice as its default.

use serde::{Deserialize, Serialize};

use crate::domain::event::{METRIC_NAME_BYTES_MAX, metric_name_problem, shown_name};
use crate::domain::metric::{
    Direction, DirectionError, DirectionInference, Directions, Mode, exact, resolve_direction,
};
use crate::domain::template::{Template, TemplateError};

/// Longest `options` in bytes. They are only passed through; 16 KiB is far more than any framework takes, and they are
/// kept with every run.
pub const OPTIONS_BYTES_MAX: usize = 16 * 1024;
/// Longest `local_directory` in bytes: `PATH_MAX` of Linux.
pub const LOCAL_DIRECTORY_BYTES_MAX: usize = 4_096;

/// When a save is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SaveFrequency {
    /// At the end of every epoch.
    #[default]
    Epoch,
    /// After every so many batches, counted across epochs; 0 or less is every batch.
    Batches(i64),
}

/// What to do when saving the best only and the monitored value cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum WhenUnusable {
    /// Do not save: nothing says that this moment is better than the best.
    #[default]
    Skip,
    /// Save all the same; best does not move.
    Save,
    /// Let the training fail.
    Fail,
}

/// What to do when the template names a metric that the event does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum WhenKeyMissing {
    /// Go on, print `none` and warn: a file name is no reason to lose a checkpoint.
    #[default]
    PrintNone,
    /// Let the training fail, as Keras does.
    Fail,
}

/// The best before there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum InitialBest {
    /// Nothing: the first number is an improvement, even an infinite one.
    #[default]
    None,
    /// The worst number of the direction: an infinitely bad first value is no improvement.
    Worst,
}

/// When to save. Made by the trainer, checked once by [`Strategy::validate`], then kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Strategy {
    /// Template of the path of a checkpoint, `{epoch}` and `{batch}` 1-based.
    pub filepath: String,
    /// The metric to watch.
    pub monitor: String,
    /// 0 is silent; anything else asks for the lines that Keras prints.
    pub verbose: u32,
    /// Save improvements only.
    pub save_best_only: bool,
    /// Save the weights instead of the whole model.
    pub save_weights_only: bool,
    /// Which way the monitored metric improves.
    pub mode: Mode,
    /// When a save is due.
    pub save_frequency: SaveFrequency,
    /// JSON for the framework that saves, passed through unread; empty for none.
    pub options: String,
    /// What the first value has to beat, in the metric's unit.
    #[serde(with = "exact::optional")]
    pub initial_value_threshold: Option<f64>,
    /// An improvement is better than the best by more than this, in the metric's unit.
    #[serde(with = "exact")]
    pub min_delta: f64,
    /// The monitored metric is not in the event (save best only).
    pub when_monitor_missing: WhenUnusable,
    /// The monitored metric is not a number (save best only).
    pub when_monitor_not_scalar: WhenUnusable,
    /// The template names a metric that is not in the event.
    pub when_template_key_missing: WhenKeyMissing,
    /// The best before there is one.
    pub initial_best: InitialBest,
    /// Whether best also follows improvements when every due checkpoint is saved. No save
    /// depends on it; Keras leaves its `best` untouched then.
    pub best_follows_every_save: bool,
    /// Whether `verbose` also prints a line when the checkpoint is saved (Keras 3.13 and later).
    pub announce_finished: bool,
    /// Directory of the trainer that paths are shown under in messages; empty for none.
    pub local_directory: String,
    /// How `mode: auto` finds the direction.
    pub direction_inference: DirectionInference,
}

/// What a strategy comes to, found once when the run starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Validated {
    /// `filepath`, parsed.
    pub template: Template,
    /// The direction of the monitored metric for the whole run.
    pub direction: Direction,
}

/// Why a strategy is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum StrategyError {
    /// A template that cannot be parsed.
    #[error(transparent)]
    Filepath(#[from] TemplateError),
    /// `{batch}` where no batch is ever known.
    #[error(
        "`filepath` names `{{batch}}`, but at the end of an epoch there is no batch: leave it out, \
         or save every so many batches"
    )]
    FilepathBatch,
    /// A monitor that cannot be the name of a metric.
    #[error(
        "`monitor` `{shown}` {problem}: must be a metric name of 1 to {METRIC_NAME_BYTES_MAX} bytes \
         without control characters"
    )]
    Monitor {
        /// The name, escaped and cut for printing.
        shown: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A threshold that nothing can beat.
    #[error("`initial_value_threshold` is NaN, which no value can beat: must be a number or left out")]
    Threshold,
    /// A `min_delta` that is no distance.
    #[error("`min_delta` is {0}: must be a finite number, 0 or more")]
    MinDelta(f64),
    /// No direction for `mode: auto`.
    #[error(transparent)]
    Mode(#[from] DirectionError),
    /// Options that are too long.
    #[error("`options` has {0} bytes: at most {OPTIONS_BYTES_MAX} are allowed")]
    Options(usize),
    /// A local directory that is too long.
    #[error("`local_directory` has {0} bytes: at most {LOCAL_DIRECTORY_BYTES_MAX} are allowed")]
    LocalDirectory(usize),
}

impl StrategyError {
    /// The field to blame, as a path in the request.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Filepath(_) | Self::FilepathBatch => "strategy.filepath",
            Self::Monitor { .. } => "strategy.monitor",
            Self::Threshold => "strategy.initial_value_threshold",
            Self::MinDelta(_) => "strategy.min_delta",
            Self::Mode(_) => "strategy.mode",
            Self::Options(_) => "strategy.options",
            Self::LocalDirectory(_) => "strategy.local_directory",
        }
    }
}

impl Default for Strategy {
    fn default() -> Self {
        Self {
            filepath: String::new(),
            monitor: "val_loss".to_owned(),
            verbose: 0,
            save_best_only: false,
            save_weights_only: false,
            mode: Mode::Auto,
            save_frequency: SaveFrequency::Epoch,
            options: String::new(),
            initial_value_threshold: None,
            min_delta: 0.0,
            when_monitor_missing: WhenUnusable::Skip,
            when_monitor_not_scalar: WhenUnusable::Skip,
            when_template_key_missing: WhenKeyMissing::PrintNone,
            initial_best: InitialBest::None,
            best_follows_every_save: true,
            announce_finished: true,
            local_directory: String::new(),
            direction_inference: DirectionInference::Default,
        }
    }
}

impl Strategy {
    /// The choices of Keras 3.13 and later, with everything else at its default.
    pub fn keras3() -> Self {
        Self {
            when_monitor_missing: WhenUnusable::Save,
            when_monitor_not_scalar: WhenUnusable::Save,
            when_template_key_missing: WhenKeyMissing::Fail,
            initial_best: InitialBest::None,
            best_follows_every_save: false,
            announce_finished: true,
            direction_inference: DirectionInference::MetricDirections,
            ..Self::default()
        }
    }

    /// The choices of `tf.keras` 2.15, with everything else at its default.
    pub fn tf_keras2() -> Self {
        Self {
            when_monitor_missing: WhenUnusable::Skip,
            when_monitor_not_scalar: WhenUnusable::Fail,
            when_template_key_missing: WhenKeyMissing::Fail,
            initial_best: InitialBest::Worst,
            best_follows_every_save: false,
            announce_finished: false,
            direction_inference: DirectionInference::Name,
            ..Self::default()
        }
    }

    /// Checks everything that can be checked before the first event, so that nothing that could
    /// have been refused at the start ends a training later.
    pub fn validate(&self, directions: &Directions) -> Result<Validated, StrategyError> {
        let template = Template::parse(&self.filepath)?;
        let lenient = self.when_template_key_missing == WhenKeyMissing::PrintNone;
        let epochs_only = self.save_frequency == SaveFrequency::Epoch;
        if lenient && epochs_only && names_batch(&template) {
            return Err(StrategyError::FilepathBatch);
        }
        if let Some(problem) = metric_name_problem(&self.monitor) {
            return Err(StrategyError::Monitor { shown: shown_name(&self.monitor), problem });
        }
        if self.initial_value_threshold.is_some_and(f64::is_nan) {
            return Err(StrategyError::Threshold);
        }
        if !self.min_delta.is_finite() || self.min_delta < 0.0 {
            return Err(StrategyError::MinDelta(self.min_delta));
        }
        if self.options.len() > OPTIONS_BYTES_MAX {
            return Err(StrategyError::Options(self.options.len()));
        }
        if self.local_directory.len() > LOCAL_DIRECTORY_BYTES_MAX {
            return Err(StrategyError::LocalDirectory(self.local_directory.len()));
        }
        let direction = resolve_direction(self.mode, &self.monitor, directions, self.direction_inference)?;
        Ok(Validated { template, direction })
    }
}

fn names_batch(template: &Template) -> bool {
    template.fields().any(|field| field == "batch")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strategy() -> Strategy {
        Strategy { filepath: "m-{epoch:02d}.keras".to_owned(), ..Strategy::default() }
    }

    #[test]
    fn an_ordinary_strategy_passes_and_knows_its_direction() {
        let validated = strategy().validate(&Directions::new()).unwrap();
        assert_eq!(validated.direction, Direction::Min);
    }

    #[test]
    fn each_refusal_names_its_field() {
        let text = str::to_owned;
        let table = [
            (Strategy { filepath: text(""), ..strategy() }, "strategy.filepath"),
            (Strategy { filepath: text("m-{epoch"), ..strategy() }, "strategy.filepath"),
            (Strategy { filepath: text("m-{batch}"), ..strategy() }, "strategy.filepath"),
            (Strategy { monitor: text(""), ..strategy() }, "strategy.monitor"),
            (Strategy { monitor: text("a\u{7}"), ..strategy() }, "strategy.monitor"),
            (Strategy { monitor: "x".repeat(257), ..strategy() }, "strategy.monitor"),
            (Strategy { monitor: text("reward"), ..strategy() }, "strategy.mode"),
            (
                Strategy { initial_value_threshold: Some(f64::NAN), ..strategy() },
                "strategy.initial_value_threshold",
            ),
            (Strategy { min_delta: -0.1, ..strategy() }, "strategy.min_delta"),
            (Strategy { min_delta: f64::NAN, ..strategy() }, "strategy.min_delta"),
            (Strategy { min_delta: f64::INFINITY, ..strategy() }, "strategy.min_delta"),
            (Strategy { options: "x".repeat(65_537), ..strategy() }, "strategy.options"),
            (Strategy { local_directory: "x".repeat(4_097), ..strategy() }, "strategy.local_directory"),
        ];
        for (strategy, field) in table {
            let error = strategy.validate(&Directions::new()).unwrap_err();
            assert_eq!(error.field(), field, "{error}");
        }
    }

    #[test]
    fn a_batch_in_the_name_is_fine_with_batches_or_where_keras_fails_later() {
        let filepath = "m-{batch}".to_owned();
        let by_batches =
            Strategy { filepath: filepath.clone(), save_frequency: SaveFrequency::Batches(5), ..strategy() };
        assert!(by_batches.validate(&Directions::new()).is_ok());
        let as_keras = Strategy { filepath, ..Strategy::keras3() };
        assert!(as_keras.validate(&Directions::new()).is_ok());
    }

    #[test]
    fn a_strategy_survives_storage_and_old_ones_still_read() {
        let threshold = Some(f64::NEG_INFINITY);
        let now = Strategy { initial_value_threshold: threshold, ..Strategy::tf_keras2() };
        let stored = serde_json::to_string(&now).unwrap();
        assert_eq!(serde_json::from_str::<Strategy>(&stored).unwrap(), now);
        let old: Strategy = serde_json::from_str(r#"{"save_frequency":{"BATCHES":7}}"#).unwrap();
        let expected = Strategy { save_frequency: SaveFrequency::Batches(7), ..Strategy::default() };
        assert_eq!(old, expected);
    }
}
