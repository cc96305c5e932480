//! Strategies and directions.

use std::collections::BTreeMap;

use keepbest_proto::v1;
use keepbest_proto::v1::strategy::SaveFrequency as WireFrequency;

use crate::domain::metric::Direction;
use crate::domain::metric::DirectionInference;
use crate::domain::metric::Directions;
use crate::domain::metric::Mode;
use crate::domain::refusal::Refusal;
use crate::domain::strategy::InitialBest;
use crate::domain::strategy::SaveFrequency;
use crate::domain::strategy::Strategy;
use crate::domain::strategy::WhenKeyMissing;
use crate::domain::strategy::WhenUnusable;
use crate::grpc::convert::json_of;
use crate::grpc::convert::struct_of;

/// A rule that this server does not know must not be dropped silently.
fn unknown(field: &str, value: i32) -> Refusal {
    let message = format!(
        "`{field}` has value {value}, which this server does not know: upgrade it, or choose another"
    );
    Refusal::invalid("BAD_STRATEGY", message).with("field", format!("strategy.{field}"))
}

/// The wire's mode; none: auto.
pub(crate) fn mode_of(value: i32) -> Result<Option<Direction>, Refusal> {
    match v1::Mode::try_from(value) {
        Ok(v1::Mode::Unspecified) => Ok(None),
        Ok(v1::Mode::Min) => Ok(Some(Direction::Min)),
        Ok(v1::Mode::Max) => Ok(Some(Direction::Max)),
        Err(_) => Err(unknown("mode", value)),
    }
}

fn when_unusable(field: &str, value: i32) -> Result<WhenUnusable, Refusal> {
    match v1::WhenMissing::try_from(value) {
        Ok(v1::WhenMissing::Unspecified | v1::WhenMissing::Skip) => Ok(WhenUnusable::Skip),
        Ok(v1::WhenMissing::Save) => Ok(WhenUnusable::Save),
        Ok(v1::WhenMissing::Fail) => Ok(WhenUnusable::Fail),
        Err(_) => Err(unknown(field, value)),
    }
}

fn when_unusable_to(value: WhenUnusable) -> i32 {
    match value {
        WhenUnusable::Skip => v1::WhenMissing::Skip,
        WhenUnusable::Save => v1::WhenMissing::Save,
        WhenUnusable::Fail => v1::WhenMissing::Fail,
    }
    .into()
}

fn key_missing(value: i32) -> Result<WhenKeyMissing, Refusal> {
    match v1::WhenTemplateKeyMissing::try_from(value) {
        Ok(v1::WhenTemplateKeyMissing::Unspecified | v1::WhenTemplateKeyMissing::PrintNone) => {
            Ok(WhenKeyMissing::PrintNone)
        }
        Ok(v1::WhenTemplateKeyMissing::Fail) => Ok(WhenKeyMissing::Fail),
        Err(_) => Err(unknown("when_template_key_missing", value)),
    }
}

fn initial_best(value: i32) -> Result<InitialBest, Refusal> {
    match v1::InitialBest::try_from(value) {
        Ok(v1::InitialBest::Unspecified | v1::InitialBest::None) => Ok(InitialBest::None),
        Ok(v1::InitialBest::Worst) => Ok(InitialBest::Worst),
        Err(_) => Err(unknown("initial_best", value)),
    }
}

fn inference(value: i32) -> Result<DirectionInference, Refusal> {
    match v1::DirectionInference::try_from(value) {
        Ok(v1::DirectionInference::Unspecified) => Ok(DirectionInference::Default),
        Ok(v1::DirectionInference::MetricDirections) => Ok(DirectionInference::MetricDirections),
        Ok(v1::DirectionInference::Name) => Ok(DirectionInference::Name),
        Err(_) => Err(unknown("direction_inference", value)),
    }
}

fn frequency(value: Option<WireFrequency>) -> Result<SaveFrequency, Refusal> {
    match value {
        None | Some(WireFrequency::EveryEpoch(true)) => Ok(SaveFrequency::Epoch),
        Some(WireFrequency::EveryBatches(every)) => Ok(SaveFrequency::Batches(every)),
        Some(WireFrequency::EveryEpoch(false)) => {
            let message = "`every_epoch` is false: set it to true, or set `every_batches`";
            Err(Refusal::invalid("BAD_STRATEGY", message).with("field", "strategy.every_epoch"))
        }
    }
}

/// A strategy from the wire; its rules are checked by the domain.
pub(crate) fn strategy_of(wire: Option<v1::Strategy>) -> Result<Strategy, Refusal> {
    let wire = wire.unwrap_or_default();
    let mode = match mode_of(wire.mode)? {
        None => Mode::Auto,
        Some(Direction::Min) => Mode::Min,
        Some(Direction::Max) => Mode::Max,
    };
    let default = Strategy::default();
    Ok(Strategy {
        filepath: wire.filepath,
        monitor: if wire.monitor.is_empty() { default.monitor } else { wire.monitor },
        verbose: u32::try_from(wire.verbose.max(0)).unwrap_or(0),
        save_best_only: wire.save_best_only,
        save_weights_only: wire.save_weights_only,
        mode,
        save_frequency: frequency(wire.save_frequency)?,
        options: json_of("options", wire.options)?.unwrap_or_default(),
        initial_value_threshold: wire.initial_value_threshold,
        min_delta: wire.min_delta,
        when_monitor_missing: when_unusable("when_monitor_missing", wire.when_monitor_missing)?,
        when_monitor_not_scalar: when_unusable("when_monitor_not_scalar", wire.when_monitor_not_scalar)?,
        when_template_key_missing: key_missing(wire.when_template_key_missing)?,
        initial_best: initial_best(wire.initial_best)?,
        best_follows_every_save: default.best_follows_every_save,
        announce_finished: wire.announce_finished,
        local_directory: wire.local_directory,
        direction_inference: inference(wire.direction_inference)?,
    })
}

/// A stored strategy for the wire.
pub(crate) fn strategy_to(strategy: &Strategy) -> v1::Strategy {
    let mode = match strategy.mode {
        Mode::Auto => v1::Mode::Unspecified,
        Mode::Min => v1::Mode::Min,
        Mode::Max => v1::Mode::Max,
    };
    let save_frequency = match strategy.save_frequency {
        SaveFrequency::Epoch => WireFrequency::EveryEpoch(true),
        SaveFrequency::Batches(every) => WireFrequency::EveryBatches(every),
    };
    let key_missing = match strategy.when_template_key_missing {
        WhenKeyMissing::PrintNone => v1::WhenTemplateKeyMissing::PrintNone,
        WhenKeyMissing::Fail => v1::WhenTemplateKeyMissing::Fail,
    };
    let initial_best = match strategy.initial_best {
        InitialBest::None => v1::InitialBest::None,
        InitialBest::Worst => v1::InitialBest::Worst,
    };
    let inference = match strategy.direction_inference {
        DirectionInference::Default => v1::DirectionInference::Unspecified,
        DirectionInference::MetricDirections => v1::DirectionInference::MetricDirections,
        DirectionInference::Name => v1::DirectionInference::Name,
    };
    v1::Strategy {
        filepath: strategy.filepath.clone(),
        monitor: strategy.monitor.clone(),
        verbose: i32::try_from(strategy.verbose).unwrap_or(i32::MAX),
        save_best_only: strategy.save_best_only,
        save_weights_only: strategy.save_weights_only,
        mode: mode.into(),
        save_frequency: Some(save_frequency),
        options: struct_of(Some(&strategy.options)),
        initial_value_threshold: strategy.initial_value_threshold,
        min_delta: strategy.min_delta,
        when_monitor_missing: when_unusable_to(strategy.when_monitor_missing),
        when_monitor_not_scalar: when_unusable_to(strategy.when_monitor_not_scalar),
        when_template_key_missing: key_missing.into(),
        initial_best: initial_best.into(),
        announce_finished: strategy.announce_finished,
        local_directory: strategy.local_directory.clone(),
        direction_inference: inference.into(),
    }
}

/// What the framework knows of its metrics.
pub(crate) fn directions_of(wire: BTreeMap<String, i32>) -> Result<Directions, Refusal> {
    let direction = |(name, value): (String, i32)| match v1::MetricDirection::try_from(value) {
        Ok(v1::MetricDirection::Unspecified) => Ok((name, None)),
        Ok(v1::MetricDirection::Down) => Ok((name, Some(Direction::Min))),
        Ok(v1::MetricDirection::Up) => Ok((name, Some(Direction::Max))),
        Err(_) => Err(unknown("metric_directions", value)),
    };
    wire.into_iter().map(direction).collect()
}
