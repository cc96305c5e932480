//! The recorded traces of Keras' `ModelCheckpoint`, read into domain types: what was configured,
//! what was reported, and what came of it. Comparing is left to the tests.

use std::collections::BTreeMap;
use std::io::Read;

use flate2::read::GzDecoder;
use keepbest::domain::event::{Event, EventKind};
use keepbest::domain::metric::{Direction, Directions, MetricValue, Metrics, Mode};
use keepbest::domain::strategy::{SaveFrequency, Strategy};
use serde_json::Value;

/// Why nothing that is read from a trace can be missing.
const WELL_FORMED: &str = "the recorded traces are well formed";

/// Which Keras a trace was driven through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Keras 3.15.1.
    Keras3,
    /// `tf.keras` 2.15.0.
    TfKeras2,
}

/// A Python exception.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exception {
    /// The name of its class.
    pub(crate) type_name: String,
    /// `str()` of it.
    pub(crate) text: String,
}

/// What one event led to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// A save was due.
    pub(crate) attempt: bool,
    /// The formatted path, also when nothing was saved.
    pub(crate) path: Option<String>,
    /// Something was saved.
    pub(crate) saved: bool,
    /// What was saved: `model` or `weights`.
    pub(crate) kind: Option<String>,
    /// The best value afterwards.
    pub(crate) best: Option<f64>,
    /// Batches counted since a save was last due.
    pub(crate) seen: i64,
    /// Verbose lines, each with its line feed in front.
    pub(crate) messages: Vec<String>,
    /// Texts of warnings.
    pub(crate) warnings: Vec<String>,
    /// What was raised.
    pub(crate) error: Option<Exception>,
    /// The aliases that the W&B callback gives, where it gives any.
    pub(crate) aliases: Option<Vec<String>>,
}

impl Outcome {
    /// The names of the fields in which `ours` differs.
    pub(crate) fn differences(&self, ours: &Self) -> Vec<&'static str> {
        let aliases_agree = self.aliases.is_none() || self.aliases == ours.aliases;
        [
            ("attempt", self.attempt == ours.attempt),
            ("path", self.path == ours.path),
            ("saved", self.saved == ours.saved),
            ("kind", self.kind == ours.kind),
            ("best", self.best == ours.best),
            ("seen", self.seen == ours.seen),
            ("messages", self.messages == ours.messages),
            ("warnings", self.warnings == ours.warnings),
            ("error", self.error == ours.error),
            ("aliases", aliases_agree),
        ]
        .into_iter()
        .filter_map(|(field, agree)| (!agree).then_some(field))
        .collect()
    }
}

/// One event of a trace with its outcome. The begin of an epoch is not an event.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// What the trainer reports.
    pub(crate) event: Event,
    /// The save fails with this.
    pub(crate) save_raises: Option<Exception>,
    /// What Keras did.
    pub(crate) expected: Outcome,
}

/// One training as Keras saw it.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    /// Its name; both dialects have the same plans.
    pub(crate) id: String,
    /// `core`, `edge` or `exotic`.
    pub(crate) tier: String,
    /// The constructor's arguments on top of the dialect's choices; `None` if a strategy cannot
    /// say them (a frequency that is neither `epoch` nor a number).
    pub(crate) strategy: Option<Strategy>,
    /// What the trainer knows of its metrics.
    pub(crate) directions: Directions,
    /// What the constructor raised.
    pub(crate) init_error: Option<Exception>,
    /// What the constructor warned of.
    pub(crate) init_warnings: Vec<String>,
    /// The best value before the first event.
    pub(crate) init_best: Option<f64>,
    /// The events up to the last one that was recorded: most trainings end at an exception.
    pub(crate) steps: Vec<Step>,
}

/// All traces of a dialect, in the order of their ids.
pub(crate) fn load(dialect: Dialect) -> Vec<Trace> {
    let plans = lines(include_bytes!("../../traces/keras3.jsonl.gz"));
    let outcomes: BTreeMap<String, Value> = match dialect {
        Dialect::Keras3 => plans.clone(),
        Dialect::TfKeras2 => lines(include_bytes!("../../traces/tf_keras2.jsonl.gz")),
    };
    plans.iter().map(|(id, plan)| trace(dialect, plan, &outcomes[id])).collect()
}

fn lines(compressed: &[u8]) -> BTreeMap<String, Value> {
    let mut text = String::new();
    GzDecoder::new(compressed).read_to_string(&mut text).expect(WELL_FORMED);
    let values = text.lines().map(|line| serde_json::from_str::<Value>(line).expect(WELL_FORMED));
    values.map(|value| (string(&value["id"]), value)).collect()
}

fn trace(dialect: Dialect, plan: &Value, outcome: &Value) -> Trace {
    Trace {
        id: string(&plan["id"]),
        tier: string(&plan["tier"]),
        strategy: strategy(dialect, &plan["config"]),
        directions: directions(&plan["metric_directions"]),
        init_error: exception(&outcome["init"]["exc"]),
        init_warnings: strings(&outcome["init"]["warn"]),
        init_best: metric(&outcome["init"]["best"]).as_f64(),
        steps: steps(&plan["events"], &outcome["out"]),
    }
}

fn strategy(dialect: Dialect, config: &Value) -> Option<Strategy> {
    let preset = match dialect {
        Dialect::Keras3 => Strategy::keras3(),
        Dialect::TfKeras2 => Strategy::tf_keras2(),
    };
    let save_frequency = match &config["save_freq"] {
        Value::Number(every) => SaveFrequency::Batches(every.as_i64()?),
        Value::String(text) if text == "epoch" => SaveFrequency::Epoch,
        _ => return None,
    };
    Some(Strategy {
        filepath: string(&config["filepath"]),
        monitor: string(&config["monitor"]),
        verbose: u32::try_from(config["verbose"].as_u64()?).ok()?,
        save_best_only: config["save_best_only"].as_bool()?,
        save_weights_only: config["save_weights_only"].as_bool()?,
        mode: match config["mode"].as_str() {
            Some("min") => Mode::Min,
            Some("max") => Mode::Max,
            _ => Mode::Auto,
        },
        save_frequency,
        initial_value_threshold: metric(&config["initial_value_threshold"]).as_f64(),
        ..preset
    })
}

fn directions(map: &Value) -> Directions {
    let direction = |value: &Value| match value.as_str() {
        Some("up") => Some(Direction::Max),
        Some("down") => Some(Direction::Min),
        _ => None,
    };
    map.as_object().expect(WELL_FORMED).iter().map(|(name, value)| (name.clone(), direction(value))).collect()
}

fn steps(events: &Value, outcomes: &Value) -> Vec<Step> {
    let mut epoch = 0;
    let mut steps = Vec::new();
    let pairs = events.as_array().expect(WELL_FORMED).iter().zip(outcomes.as_array().expect(WELL_FORMED));
    for (event, outcome) in pairs {
        epoch = event["epoch"].as_i64().unwrap_or(epoch);
        let kind = match event["ev"].as_str() {
            Some("batch_end") => EventKind::BatchEnd,
            Some("epoch_end") => EventKind::EpochEnd,
            _ => continue,
        };
        steps.push(Step {
            event: Event {
                kind,
                epoch,
                batch: event["batch"].as_i64(),
                step: None,
                wall_time_us: None,
                metrics: metrics(&event["logs"]),
            },
            save_raises: exception(&event["save_raises"]),
            expected: expected(outcome),
        });
    }
    steps
}

fn expected(outcome: &Value) -> Outcome {
    Outcome {
        attempt: outcome["attempt"].as_bool().expect(WELL_FORMED),
        path: outcome["path"].as_str().map(str::to_owned),
        saved: outcome["saved"].as_bool().expect(WELL_FORMED),
        kind: outcome["kind"].as_str().map(str::to_owned),
        best: metric(&outcome["best"]).as_f64(),
        seen: outcome["seen"].as_i64().expect(WELL_FORMED),
        messages: strings(&outcome["msgs"]),
        warnings: strings(&outcome["warn"]),
        error: exception(&outcome["exc"]),
        aliases: outcome.get("wandb_aliases").map(strings),
    }
}

fn metrics(logs: &Value) -> Metrics {
    let named = logs.as_object().into_iter().flatten();
    named.map(|(name, value)| (name.clone(), metric(value))).collect()
}

/// A value as the traces write it: plain JSON, `{"$f": "nan"}` for numbers that JSON lacks,
/// `{"$np": dtype, "v": x}` for a scalar of numpy and `{"$nd": [...]}` for an array.
fn metric(value: &Value) -> MetricValue {
    match value {
        Value::Null => MetricValue::Missing,
        Value::String(text) => MetricValue::Text(text.clone()),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => MetricValue::Integer(whole),
            None => MetricValue::Number(number.as_f64().expect(WELL_FORMED)),
        },
        Value::Object(special) => match (special.get("$f"), special.get("v")) {
            (Some(name), _) => {
                MetricValue::Number(name.as_str().expect(WELL_FORMED).parse().expect(WELL_FORMED))
            }
            (None, Some(scalar)) => metric(scalar),
            (None, None) => MetricValue::NotScalar(value["$nd"].to_string()),
        },
        other => MetricValue::NotScalar(other.to_string()),
    }
}

/// An exception as an outcome has it (`{type, text}`) or as a plan has it (`[type, text]`).
fn exception(value: &Value) -> Option<Exception> {
    let (type_name, text) = match value {
        Value::Object(fields) => (&fields["type"], &fields["text"]),
        Value::Array(parts) => (&parts[0], &parts[1]),
        _ => return None,
    };
    Some(Exception { type_name: string(type_name), text: string(text) })
}

fn string(value: &Value) -> String {
    value.as_str().expect(WELL_FORMED).to_owned()
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(string).collect()
}
