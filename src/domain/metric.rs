//! Metric values, the direction in which a metric improves, and the one place that says what an
//! improvement is. Which metric is watched, and when, is left to the strategy.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One reported value, as much of it as a rule or a file name can use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MetricValue {
    /// A floating point number; `NaN` and the infinities are allowed and survive storage.
    Number(#[serde(with = "exact")] f64),
    /// A whole number, kept apart because file names print it differently (`3`, not `3.0`).
    Integer(i64),
    /// A text, useful in file names only.
    Text(String),
    /// Something without a single value (an array); holds what the trainer prints for it.
    NotScalar(String),
    /// Reported without a value (`None` in Python): the same as not reported.
    Missing,
}

impl MetricValue {
    /// The value as a double, if it is a number at all.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Number(value) => Some(*value),
            Self::Integer(value) => Some(*value as f64),
            Self::Text(_) | Self::NotScalar(_) | Self::Missing => None,
        }
    }
}

/// The metrics of one event, by name.
pub type Metrics = BTreeMap<String, MetricValue>;

/// The directions that a trainer knows of its metrics; `None` is a metric without a direction.
pub type Directions = BTreeMap<String, Option<Direction>>;

/// Whether lower or higher values are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Direction {
    /// Lower is better.
    Min,
    /// Higher is better.
    Max,
}

impl Direction {
    /// The value that every other number improves on.
    pub fn worst(self) -> f64 {
        match self {
            Self::Min => f64::INFINITY,
            Self::Max => f64::NEG_INFINITY,
        }
    }

    /// The rule in words, for reasons.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Min => "lower is better",
            Self::Max => "higher is better",
        }
    }
}

/// The direction as the person who trains states it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Mode {
    /// To be found out when the run starts.
    #[default]
    Auto,
    /// Lower is better.
    Min,
    /// Higher is better.
    Max,
}

/// How `Mode::Auto` finds the direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DirectionInference {
    /// From the directions that the trainer sends, else from a name that leaves no doubt.
    #[default]
    Default,
    /// As Keras 3.11 and later: `loss` and the directions that the trainer sends, nothing else.
    MetricDirections,
    /// As `tf.keras` 2.15: `acc` anywhere or `fmeasure` in front is max, everything else min.
    Name,
}

/// Why no direction was found; the text says what to pass.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DirectionError {
    /// Neither the trainer nor the name tells the direction.
    #[error("direction of monitor `{0}` is unknown: pass mode `min` or mode `max`")]
    Unknown(String),
    /// The name speaks for both directions.
    #[error("direction of monitor `{0}` is ambiguous by its name: pass mode `min` or mode `max`")]
    Ambiguous(String),
    /// Not known to the trainer's metrics, where these alone decide; the text is Keras' own.
    #[error(
        "ModelCheckpoint callback received monitor={0}, but Keras isn't able to automatically \
         determine whether that metric should be maximized or minimized. Pass `mode='max'` in \
         order to monitor based on the highest metric value, or pass `mode='min'` in order to \
         use the lowest value."
    )]
    NotAmongMetrics(String),
}

/// Whether `candidate` beats `best`, by more than `min_delta` (in the metric's own unit).
///
/// Strict: a tie is no improvement, and `NaN` never is. Without a best, any number wins.
/// `min_delta` is taken off the candidate before comparing, as Keras does it.
pub fn improves(candidate: f64, best: Option<f64>, direction: Direction, min_delta: f64) -> bool {
    if candidate.is_nan() {
        return false;
    }
    match (best, direction) {
        (None, _) => true,
        (Some(best), Direction::Min) => candidate + min_delta < best,
        (Some(best), Direction::Max) => candidate - min_delta > best,
    }
}

/// The direction of `monitor`: an explicit mode wins, else `inference` says where to look.
pub fn resolve_direction(
    mode: Mode,
    monitor: &str,
    directions: &Directions,
    inference: DirectionInference,
) -> Result<Direction, DirectionError> {
    match (mode, inference) {
        (Mode::Min, _) => Ok(Direction::Min),
        (Mode::Max, _) => Ok(Direction::Max),
        (Mode::Auto, DirectionInference::Name) => Ok(by_old_name_rule(monitor)),
        (Mode::Auto, DirectionInference::MetricDirections) => {
            by_metrics(monitor, directions).ok_or_else(|| DirectionError::NotAmongMetrics(monitor.to_owned()))
        }
        (Mode::Auto, DirectionInference::Default) => {
            let stated = directions.get(monitor).copied().flatten();
            match stated.or_else(|| by_metrics(monitor, directions)) {
                Some(direction) => Ok(direction),
                None => by_clear_name(monitor),
            }
        }
    }
}

/// A metric is compiled once and reported twice, as `x` and as `val_x`.
fn without_val_prefix(monitor: &str) -> &str {
    monitor.strip_prefix("val_").unwrap_or(monitor)
}

/// A metric that is named `loss` and knows its direction overrides what `loss` usually means.
fn by_metrics(monitor: &str, directions: &Directions) -> Option<Direction> {
    let name = without_val_prefix(monitor);
    let usual = (name == "loss").then_some(Direction::Min);
    directions.get(name).copied().flatten().or(usual)
}

fn by_old_name_rule(monitor: &str) -> Direction {
    if monitor.contains("acc") || monitor.starts_with("fmeasure") { Direction::Max } else { Direction::Min }
}

fn by_clear_name(monitor: &str) -> Result<Direction, DirectionError> {
    /// Errors that are known by their initials.
    const ERRORS: [&str; 5] = ["mae", "mse", "rmse", "mape", "msle"];
    let name = without_val_prefix(monitor).to_lowercase();
    let last_word = name.rsplit(|c: char| !c.is_alphanumeric()).next();
    let max = name.contains("acc") || name.starts_with("fmeasure");
    let min = name.ends_with("loss")
        || name.ends_with("error")
        || last_word.is_some_and(|word| ERRORS.contains(&word));
    match (min, max) {
        (true, false) => Ok(Direction::Min),
        (false, true) => Ok(Direction::Max),
        (true, true) => Err(DirectionError::Ambiguous(monitor.to_owned())),
        (false, false) => Err(DirectionError::Unknown(monitor.to_owned())),
    }
}

/// Stores a double so that `NaN` and the infinities survive formats that have no such numbers
/// (JSON would turn them into `null`): they become the texts `nan`, `inf` and `-inf`.
pub mod exact {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Stored {
        Number(f64),
        Text(String),
    }

    impl From<f64> for Stored {
        fn from(value: f64) -> Self {
            match value {
                v if v.is_nan() => Self::Text("nan".to_owned()),
                f64::INFINITY => Self::Text("inf".to_owned()),
                f64::NEG_INFINITY => Self::Text("-inf".to_owned()),
                v => Self::Number(v),
            }
        }
    }

    impl Stored {
        fn value<E: Error>(self) -> Result<f64, E> {
            match self {
                Self::Number(value) => Ok(value),
                Self::Text(text) => match text.as_str() {
                    "nan" => Ok(f64::NAN),
                    "inf" => Ok(f64::INFINITY),
                    "-inf" => Ok(f64::NEG_INFINITY),
                    _ => Err(E::custom(format!(
                        "`{text}` is not a number: expected a number, `nan`, `inf` or `-inf`"
                    ))),
                },
            }
        }
    }

    /// For `#[serde(with)]` on an `f64`.
    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        Stored::from(*value).serialize(serializer)
    }

    /// For `#[serde(with)]` on an `f64`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Stored::deserialize(deserializer)?.value()
    }

    /// The same for an `Option<f64>`.
    pub mod optional {
        use serde::{Deserialize, Deserializer, Serialize, Serializer};

        use super::Stored;

        /// For `#[serde(with)]` on an `Option<f64>`.
        pub fn serialize<S: Serializer>(value: &Option<f64>, s: S) -> Result<S::Ok, S::Error> {
            value.map(Stored::from).serialize(s)
        }

        /// For `#[serde(with)]` on an `Option<f64>`.
        pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<f64>, D::Error> {
            Option::<Stored>::deserialize(d)?.map(Stored::value).transpose()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INF: f64 = f64::INFINITY;

    #[test]
    fn an_improvement_is_strict_and_never_nan() {
        use Direction::{Max, Min};
        let table = [
            (1.0, None, Min, 0.0, true),
            (f64::NAN, None, Min, 0.0, false),
            (f64::NAN, Some(1.0), Max, 0.0, false),
            (INF, None, Min, 0.0, true),
            (INF, Some(INF), Min, 0.0, false),
            (-INF, Some(-INF), Min, 0.1, false),
            (0.9, Some(1.0), Min, 0.0, true),
            (1.0, Some(1.0), Min, 0.0, false),
            (-0.0, Some(0.0), Min, 0.0, false),
            (1.1, Some(1.0), Max, 0.0, true),
            (0.75, Some(1.0), Min, 0.25, false),
            (0.5, Some(1.0), Min, 0.25, true),
            (1.25, Some(1.0), Max, 0.25, false),
            (1.5, Some(1.0), Max, 0.25, true),
            (0.1 + 1e-9, Some(0.1), Max, 0.0, true),
        ];
        for (candidate, best, direction, min_delta, expected) in table {
            let row = format!("{candidate} against {best:?}, {direction:?}, {min_delta}");
            assert_eq!(improves(candidate, best, direction, min_delta), expected, "{row}");
        }
    }

    #[test]
    fn each_inference_finds_its_direction_or_says_what_to_pass() {
        use DirectionInference::{Default, MetricDirections, Name};
        let (min, max) = (Some(Direction::Min), Some(Direction::Max));
        let known = Directions::from([
            ("auc".to_owned(), max),
            ("val_own".to_owned(), min),
            ("mean".to_owned(), None),
        ]);
        let table = [
            ("loss", min, min, min),
            ("val_loss", min, min, min),
            ("val_val_loss", min, None, min),
            ("val_auc", max, max, min),
            ("val_own", min, None, min),
            ("mean", None, None, min),
            ("val_acc", max, None, max),
            ("fmeasure_2", max, None, max),
            ("val_fmeasure", max, None, min),
            ("vacc_loss", None, None, max),
            ("train/RMSE", min, None, min),
            ("val_a_mean_error", min, None, min),
            ("reward", None, None, min),
        ];
        for (monitor, by_default, by_metrics, by_name) in table {
            for (inference, expected) in
                [(Default, by_default), (MetricDirections, by_metrics), (Name, by_name)]
            {
                let found = resolve_direction(Mode::Auto, monitor, &known, inference);
                assert_eq!(found.ok(), expected, "{monitor} {inference:?}");
                let stated = resolve_direction(Mode::Max, monitor, &known, inference);
                assert_eq!(stated, Ok(Direction::Max));
            }
        }
        let refused = resolve_direction(Mode::Auto, "reward", &known, Default);
        assert_eq!(
            refused.unwrap_err().to_string(),
            "direction of monitor `reward` is unknown: pass mode `min` or mode `max`"
        );
    }

    #[test]
    fn a_metric_named_loss_overrides_what_loss_usually_means() {
        let up = Directions::from([("loss".to_owned(), Some(Direction::Max))]);
        for inference in [DirectionInference::Default, DirectionInference::MetricDirections] {
            let found = resolve_direction(Mode::Auto, "val_loss", &up, inference);
            assert_eq!(found, Ok(Direction::Max));
        }
    }

    #[test]
    fn numbers_that_json_lacks_survive_storage() {
        for value in [f64::NAN, INF, -INF, -0.0, 5e-324, 0.1 + 0.2, 1e308, 3.0] {
            let stored = serde_json::to_string(&MetricValue::Number(value)).unwrap();
            let read: MetricValue = serde_json::from_str(&stored).unwrap();
            let read = read.as_f64().unwrap();
            assert!(read.to_bits() == value.to_bits() || (read.is_nan() && value.is_nan()));
        }
    }
}
