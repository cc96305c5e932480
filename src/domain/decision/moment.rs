//! One due decision in the making: the path, the rule that applies, and what it says to people.
//! When a decision is due is left to the parent.

use super::{Action, Decision, Reason};
use crate::domain::event::{Event, EventKind};
use crate::domain::metric::{Direction, MetricValue, improves};
use crate::domain::monitor::MonitorState;
use crate::domain::strategy::{SaveFrequency, Strategy, WhenKeyMissing, WhenUnusable};
use crate::domain::template::{Fields, MissingKeys, RenderError, Template};

/// Everything that a due decision looks at.
pub(super) struct Moment<'a> {
    strategy: &'a Strategy,
    direction: Direction,
    event: &'a Event,
    /// 0-based; `None` at the end of an epoch, whatever the event says.
    batch: Option<i64>,
    best: Option<f64>,
}

impl<'a> Moment<'a> {
    pub(super) fn new(
        strategy: &'a Strategy,
        direction: Direction,
        state: &MonitorState,
        event: &'a Event,
    ) -> Self {
        let batch = event.batch.filter(|_| event.kind == EventKind::BatchEnd);
        Self { strategy, direction, event, batch, best: state.value_to_beat(direction) }
    }

    /// Makes the path, with warnings; or the decision to fail because it cannot be made.
    pub(super) fn path(&self, template: &Template) -> Result<(String, Vec<String>), Box<Decision>> {
        let fields = Fields {
            epoch: self.event.epoch.saturating_add(1),
            batch: self.batch.map(|batch| batch.saturating_add(1)),
            metrics: &self.event.metrics,
        };
        match self.strategy.when_template_key_missing {
            WhenKeyMissing::PrintNone => Ok(self.lenient_path(template, &fields)),
            WhenKeyMissing::Fail => match template.render(&fields, MissingKeys::Fail) {
                Ok(rendered) => Ok((rendered.path, Vec::new())),
                Err(error) => Err(Box::new(self.template_failure(&error))),
            },
        }
    }

    /// Always a path: a name that cannot be made must not lose a checkpoint.
    fn lenient_path(&self, template: &Template, fields: &Fields<'_>) -> (String, Vec<String>) {
        // A metric without a value is one that was not reported.
        let mut metrics = fields.metrics.clone();
        metrics.retain(|_, value| *value != MetricValue::Missing);
        let fields = Fields { metrics: &metrics, ..*fields };
        match template.render(&fields, MissingKeys::PrintNone) {
            Ok(rendered) => {
                let warning = |key| format!("`{key}` is not in the event: printed as `none` in the path");
                (rendered.path, rendered.missing.iter().map(warning).collect())
            }
            Err(error) => {
                let (path, python) = (self.plain_path(), error.to_string());
                let warning =
                    format!("template makes no path of this event ({python}): saved as `{path}` instead");
                (path, vec![warning])
            }
        }
    }

    /// A path for when the template fails at a value: the moment (1-based, as templates print it)
    /// and the template's extension, which tells frameworks the format.
    fn plain_path(&self) -> String {
        /// Longer than any real extension (`.weights.h5`), and far below the limit of a file name.
        const EXTENSION_BYTES_MAX: usize = 32;
        let epoch = self.event.epoch.saturating_add(1);
        let batch = self.batch.map(|batch| format!("-{}", batch.saturating_add(1)));
        let name = self.strategy.filepath.rsplit(['}', '/']).next().unwrap_or_default();
        let extension = name.find('.').map(|dot| &name[dot..]);
        let extension = extension.filter(|text| text.len() <= EXTENSION_BYTES_MAX).unwrap_or_default();
        format!("checkpoint-{epoch}{}{extension}", batch.unwrap_or_default())
    }

    /// The decision that the strategy comes to with this path.
    pub(super) fn decide_with(&self, path: String) -> Decision {
        if !self.strategy.save_best_only {
            return self.every_time(path);
        }
        match self.event.metrics.get(&self.strategy.monitor) {
            None | Some(MetricValue::Missing) => self.without_value(path),
            Some(MetricValue::Text(shown) | MetricValue::NotScalar(shown)) => {
                self.without_number(path, shown)
            }
            Some(MetricValue::Number(value)) => self.best_only(path, *value),
            Some(MetricValue::Integer(value)) => self.best_only(path, *value as f64),
        }
    }

    fn every_time(&self, path: String) -> Decision {
        let value = self.event.metrics.get(&self.strategy.monitor).and_then(MetricValue::as_f64);
        let improvement =
            self.strategy.best_follows_every_save && value.is_some_and(|value| self.beats_best(value));
        let (reason, rule) = match self.strategy.save_frequency {
            SaveFrequency::Epoch => (Reason::EveryEpoch, "every epoch is saved".to_owned()),
            SaveFrequency::Batches(every) if every <= 1 => {
                (Reason::EveryBatches, "every batch is saved".to_owned())
            }
            SaveFrequency::Batches(every) => {
                (Reason::EveryBatches, format!("a checkpoint is saved every {every} batches"))
            }
        };
        let monitor = &self.strategy.monitor;
        let text = format!("The strategy does not ask for the best only: {rule}, whatever `{monitor}` is.");
        let message = self.line(&format!("saving model to {}", self.shown_path(&path)));
        Decision {
            message,
            value: value.filter(|value| !value.is_nan()),
            improvement,
            ..self.decision(Action::Save, reason, text, path)
        }
    }

    fn best_only(&self, path: String, value: f64) -> Decision {
        let (monitor, rule) = (&self.strategy.monitor, self.rule());
        let standing = python_number(self.best);
        let best = self
            .best
            .map_or("there is no best yet".to_owned(), |best| format!("the value to beat is {best:?}"));
        if self.beats_best(value) {
            let text = format!("`{monitor}` improved: it is {value:?} and {best} ({rule}).");
            let message = self.line(&format!(
                "{monitor} improved from {standing} to {}, saving model to {}",
                python_number(Some(value)),
                self.shown_path(&path)
            ));
            let decision = self.decision(Action::Save, Reason::Improved, text, path);
            return Decision { message, value: Some(value), improvement: true, ..decision };
        }
        let (reason, text) = if value.is_nan() {
            (
                Reason::MonitorNan,
                format!("`{monitor}` is NaN, which is never an improvement; {best} ({rule})."),
            )
        } else {
            (
                Reason::NotImproved,
                format!("`{monitor}` did not improve: it is {value:?} and {best} ({rule})."),
            )
        };
        Decision {
            message: self.line(&format!("{monitor} did not improve from {standing}")),
            value: Some(value).filter(|value| !value.is_nan()),
            ..self.decision(Action::Skip, reason, text, path)
        }
    }

    fn without_value(&self, path: String) -> Decision {
        let monitor = &self.strategy.monitor;
        let keras = format!("Can save best model only with {monitor} available");
        let (action, then, warning) = match self.strategy.when_monitor_missing {
            WhenUnusable::Skip => (Action::Skip, "skip", Some(format!("{keras}, skipping."))),
            WhenUnusable::Save => (Action::Save, "save all the same", Some(format!("{keras}."))),
            WhenUnusable::Fail => (Action::Fail, "fail", None),
        };
        let text = format!("`{monitor}` has no value in this event, and the strategy says to {then} then.");
        let failed = action == Action::Fail;
        Decision {
            warnings: warning.into_iter().collect(),
            error_type: failed.then(|| "KeyError".to_owned()),
            error_text: failed.then(|| format!("{keras}.")),
            ..self.decision(action, Reason::MonitorMissing, text, path)
        }
    }

    fn without_number(&self, path: String, shown: &str) -> Decision {
        let keras = format!("Can save best model only when `monitor` is a scalar value. Received: {shown}.");
        let (action, then, warning) = match self.strategy.when_monitor_not_scalar {
            WhenUnusable::Skip => (Action::Skip, "skip", Some(format!("{keras} Skipping."))),
            WhenUnusable::Save => {
                let warning = format!("{keras} Falling back to `save_best_only=False`.");
                (Action::Save, "save all the same", Some(warning))
            }
            WhenUnusable::Fail => (Action::Fail, "fail", None),
        };
        let monitor = &self.strategy.monitor;
        let text =
            format!("`{monitor}` is not a number but `{shown}`, and the strategy says to {then} then.");
        let failed = action == Action::Fail;
        Decision {
            warnings: warning.into_iter().collect(),
            error_type: failed.then(|| "ValueError".to_owned()),
            error_text: failed.then_some(keras),
            ..self.decision(action, Reason::MonitorNotScalar, text, path)
        }
    }

    fn template_failure(&self, error: &RenderError) -> Decision {
        let (filepath, error_type, python) =
            (&self.strategy.filepath, error.python_type(), error.to_string());
        let (reason, error_text) = match error_type {
            "KeyError" => {
                let text =
                    format!("Failed to format this callback filepath: \"{filepath}\". Reason: {python}");
                (Reason::TemplateKeyMissing, text)
            }
            _ => (Reason::TemplateError, python.clone()),
        };
        let text = format!(
            "The template `{filepath}` makes no path of this event ({error_type}: {python}), and the strategy says to fail then."
        );
        Decision {
            path: None,
            error_type: Some(error_type.to_owned()),
            error_text: Some(error_text),
            ..self.decision(Action::Fail, reason, text, String::new())
        }
    }

    /// What all decisions of this moment share.
    fn decision(&self, action: Action, reason: Reason, reason_text: String, path: String) -> Decision {
        let finished_message = if action == Action::Save && self.strategy.announce_finished {
            self.line(&format!("finished saving model to {}", self.shown_path(&path)))
        } else {
            String::new()
        };
        let epoch = self.event.epoch;
        let alias = match self.batch {
            Some(batch) => format!("epoch_{epoch}_batch_{batch}"),
            None => format!("epoch_{epoch}"),
        };
        Decision {
            action,
            reason,
            reason_text,
            path: Some(path),
            weights_only: self.strategy.save_weights_only,
            message: String::new(),
            finished_message,
            warnings: Vec::new(),
            error_type: None,
            error_text: None,
            value: None,
            best_before: self.best,
            improvement: false,
            aliases: vec![alias],
        }
    }

    fn beats_best(&self, value: f64) -> bool {
        improves(value, self.best, self.direction, self.strategy.min_delta)
    }

    /// What counts as an improvement, in words.
    fn rule(&self) -> String {
        let (rule, min_delta) = (self.direction.in_words(), self.strategy.min_delta);
        if min_delta == 0.0 { rule.to_owned() } else { format!("{rule}, by more than {min_delta:?}") }
    }

    /// A line of output, or nothing for a silent run.
    fn line(&self, text: &str) -> String {
        match self.strategy.verbose {
            0 => String::new(),
            _ => format!("\nEpoch {}: {text}", self.event.epoch.saturating_add(1)),
        }
    }

    /// The path where the trainer will see it.
    fn shown_path(&self, path: &str) -> String {
        match self.strategy.local_directory.as_str() {
            "" => path.to_owned(),
            // A separator or the colon of a drive, as the trainer's system has them.
            directory if directory.ends_with(['/', '\\', ':']) => format!("{directory}{path}"),
            directory => format!("{directory}/{path}"),
        }
    }
}

/// A number as Python's `:.5f` prints it, and no number as `None`.
fn python_number(value: Option<f64>) -> String {
    match value {
        None => "None".to_owned(),
        Some(value) if value.is_nan() => "nan".to_owned(),
        Some(value) => format!("{value:.5}"),
    }
}
