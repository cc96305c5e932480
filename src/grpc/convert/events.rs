//! Events and metric values.

use keepbest_proto::v1;
use keepbest_proto::v1::metric_value::Kind;

use crate::domain::event::Event;
use crate::domain::event::EventKind;
use crate::domain::ids::shown;
use crate::domain::metric::MetricValue;
use crate::domain::metric::Metrics;
use crate::domain::refusal::Refusal;
use crate::grpc::convert::timestamp_of;
use crate::grpc::convert::timestamp_to;

/// An event from the wire; its limits are checked by the domain.
pub(crate) fn event_of(index: usize, wire: v1::Event) -> Result<Event, Refusal> {
    let refuse = |text: String| Refusal::invalid("BAD_EVENT", format!("event {index}: {text}"));
    let kind = match v1::EventKind::try_from(wire.kind) {
        Ok(v1::EventKind::BatchEnd) => EventKind::BatchEnd,
        Ok(v1::EventKind::EpochEnd) => EventKind::EpochEnd,
        Ok(v1::EventKind::TrainEnd) => EventKind::TrainEnd,
        _ => return Err(refuse(format!("kind {} is not BATCH_END, EPOCH_END or TRAIN_END", wire.kind))),
    };
    let mut metrics: Metrics =
        wire.metrics.into_iter().map(|(name, value)| (name, MetricValue::Number(value))).collect();
    for (name, value) in wire.typed_metrics {
        let value = match value.kind {
            Some(Kind::Number(it)) => MetricValue::Number(it),
            Some(Kind::Integer(it)) => MetricValue::Integer(it),
            Some(Kind::Text(it)) => MetricValue::Text(it),
            Some(Kind::NotScalar(it)) => MetricValue::NotScalar(it),
            Some(Kind::Missing(_)) => MetricValue::Missing,
            None => return Err(refuse(format!("metric `{}` has no value", shown(&name)))),
        };
        if metrics.contains_key(&name) {
            let text = format!("metric `{}` stands in both maps: one value is right", shown(&name));
            return Err(refuse(text));
        }
        metrics.insert(name, value);
    }
    let wall_time_us =
        wire.wall_time.as_ref().map(timestamp_of).transpose().map_err(|refusal| refuse(refusal.message))?;
    Ok(Event { kind, epoch: wire.epoch, batch: wire.batch, step: wire.step, wall_time_us, metrics })
}

/// A stored event for the wire, with only the metrics that were asked for.
pub(crate) fn event_to(event: Event, only: &[String]) -> v1::Event {
    let kind = match event.kind {
        EventKind::BatchEnd => v1::EventKind::BatchEnd,
        EventKind::EpochEnd => v1::EventKind::EpochEnd,
        EventKind::TrainEnd => v1::EventKind::TrainEnd,
    };
    let mut wire = v1::Event {
        kind: kind.into(),
        epoch: event.epoch,
        batch: event.batch,
        step: event.step,
        wall_time: event.wall_time_us.map(timestamp_to),
        ..v1::Event::default()
    };
    for (name, value) in event.metrics {
        if !only.is_empty() && !only.contains(&name) {
            continue;
        }
        let kind = match value {
            // An entry of a map whose value equals the default is sent without it, and -0.0 equals 0.0.
            MetricValue::Number(it) if it == 0.0 && it.is_sign_negative() => Kind::Number(it),
            MetricValue::Number(it) => {
                wire.metrics.insert(name, it);
                continue;
            }
            MetricValue::Integer(it) => Kind::Integer(it),
            MetricValue::Text(it) => Kind::Text(it),
            MetricValue::NotScalar(it) => Kind::NotScalar(it),
            MetricValue::Missing => Kind::Missing(true),
        };
        wire.typed_metrics.insert(name, v1::MetricValue { kind: Some(kind) });
    }
    wire
}
