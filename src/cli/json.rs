//! Messages as JSON: the fields of the `.proto` files by their names, digests in hexadecimal digits, times in RFC 3339,
//! enums in lower case without their prefix. `epoch` and `batch` are counted from 0 as there; beside them stand `epoch_number` and
//! `batch_number`, counted from 1 as everywhere else on the command line.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use keepbest_client::well_known::{self, Kind, Struct, Timestamp};
use keepbest_client::{hex, v1};
use serde_json::{Map, Value, json};

use super::human::{enum_name, mode};

pub(super) fn run(run: &v1::Run) -> Value {
    let state = run.monitor_state.clone().unwrap_or_default();
    let strategy = run.strategy.as_ref();
    json!({
        "name": run.name,
        "state": enum_name(run.state().as_str_name(), "RUN_STATE_"),
        "artifact": run.artifact,
        "attempt": run.attempt,
        "monitor": strategy.map(|strategy| &strategy.monitor),
        "direction": mode(run.direction()),
        "filepath": strategy.map(|strategy| &strategy.filepath),
        "save_best_only": strategy.map(|strategy| strategy.save_best_only),
        "contact": enum_name(run.contact().as_str_name(), "CONTACT_"),
        "heard_time": time(run.heard_time.as_ref()),
        "best": state.best.filter(|_| !state.best_checkpoint.is_empty()).map(number),
        "value_to_beat": state.best.map(number),
        "best_checkpoint": state.best_checkpoint,
        "in_flight": state.in_flight,
        "event_count": run.event_count,
        "last_epoch": run.last_epoch,
        "last_epoch_number": run.last_epoch.map(|epoch| epoch.saturating_add(1)),
        "create_time": time(run.create_time.as_ref()),
        "update_time": time(run.update_time.as_ref()),
        "finish_time": time(run.finish_time.as_ref()),
        "failure": run.failure,
        "config": run.config.as_ref().map(object),
    })
}

/// An artifact of a list, which does not tell its aliases.
pub(super) fn artifact_of_list(artifact: &v1::Artifact) -> Value {
    json!({
        "name": artifact.name,
        "type": artifact.r#type,
        "monitor": artifact.monitor,
        "direction": mode(artifact.direction()),
        "version_count": artifact.version_count,
        "create_time": time(artifact.create_time.as_ref()),
    })
}

pub(super) fn artifact(artifact: &v1::Artifact) -> Value {
    let aliases: Value = artifact
        .aliases
        .iter()
        .map(|alias| {
            json!({
                "alias": alias.alias,
                "version": alias.version,
                "update_time": time(alias.update_time.as_ref()),
            })
        })
        .collect();
    let mut value = artifact_of_list(artifact);
    value["aliases"] = aliases;
    value
}

pub(super) fn version(version: &v1::Version) -> Value {
    let mut value = json!({
        "name": version.name,
        "number": version.number,
        "run": version.run,
        "checkpoint": version.checkpoint,
        "attempt": version.attempt,
        "epoch": version.epoch,
        "epoch_number": version.epoch.saturating_add(1),
        "batch": version.batch,
        "batch_number": version.batch.map(|batch| batch.saturating_add(1)),
        "step": version.step,
        "path": version.path,
        "weights_only": version.weights_only,
        "size_bytes": version.size_bytes,
        "file_count": version.file_count,
        "digest": hex(&version.digest),
        "metrics": metrics(&version.metrics),
        "aliases": version.aliases,
        "alias_count": version.alias_count,
        "reason": enum_name(version.reason().as_str_name(), "REASON_"),
        "reason_text": version.reason_text,
        "create_time": time(version.create_time.as_ref()),
        "metadata": version.metadata.as_ref().map(object),
    });
    if !version.files.is_empty() {
        value["files"] = version.files.iter().map(file).collect();
    }
    value
}

pub(super) fn decision(decision: &v1::Decision) -> Value {
    json!({
        "writer": decision.writer,
        "sequence": decision.sequence,
        "attempt": decision.attempt,
        "epoch": decision.epoch,
        "epoch_number": decision.epoch.saturating_add(1),
        "batch": decision.batch,
        "batch_number": decision.batch.map(|batch| batch.saturating_add(1)),
        "action": enum_name(decision.action().as_str_name(), "ACTION_"),
        "reason": enum_name(decision.reason().as_str_name(), "REASON_"),
        "reason_text": decision.reason_text,
        "improvement": decision.improvement,
        "value": decision.value.map(number),
        "best_before": decision.best_before.map(number),
        "path": decision.path,
        "checkpoint": decision.checkpoint,
        "outcome": (!decision.checkpoint.is_empty())
            .then(|| enum_name(decision.outcome().as_str_name(), "OUTCOME_")),
        "version": decision.version,
        "weights_only": decision.weights_only,
        "warnings": decision.warnings,
        "error_type": decision.error_type,
        "decide_time": time(decision.decide_time.as_ref()),
    })
}

fn file(file: &v1::File) -> Value {
    json!({
        "path": file.path,
        "size_bytes": file.size_bytes,
        "digest": hex(&file.digest),
        "sha256": (!file.sha256.is_empty()).then(|| hex(&file.sha256)),
    })
}

fn metrics(metrics: &BTreeMap<String, f64>) -> Value {
    metrics.iter().map(|(name, value)| (name.clone(), number(*value))).collect::<Map<_, _>>().into()
}

/// JSON has no NaN and no infinities. They become strings, as in the JSON form of protobuf.
fn number(value: f64) -> Value {
    match value {
        value if value.is_nan() => "NaN".into(),
        f64::INFINITY => "Infinity".into(),
        f64::NEG_INFINITY => "-Infinity".into(),
        value => value.into(),
    }
}

pub(super) fn time(time: Option<&Timestamp>) -> Value {
    let Some(time) = time else { return Value::Null };
    let since =
        Duration::new(u64::try_from(time.seconds).unwrap_or(0), u32::try_from(time.nanos).unwrap_or(0));
    humantime::format_rfc3339_micros(UNIX_EPOCH + since).to_string().into()
}

/// Free JSON that was stored.
pub(super) fn object(fields: &Struct) -> Value {
    fields.fields.iter().map(|(name, value)| (name.clone(), any(value))).collect::<Map<_, _>>().into()
}

/// JSON as it is sent. Numbers are sent as doubles.
pub(super) fn to_struct(fields: Map<String, Value>) -> Struct {
    Struct { fields: fields.into_iter().map(|(name, value)| (name, to_any(value))).collect() }
}

fn to_any(value: Value) -> well_known::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(flag),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(values) => {
            Kind::ListValue(well_known::ListValue { values: values.into_iter().map(to_any).collect() })
        }
        Value::Object(fields) => Kind::StructValue(to_struct(fields)),
    };
    well_known::Value { kind: Some(kind) }
}

fn any(value: &well_known::Value) -> Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::NumberValue(value)) => number(*value),
        Some(Kind::StringValue(text)) => text.as_str().into(),
        Some(Kind::BoolValue(flag)) => (*flag).into(),
        Some(Kind::StructValue(fields)) => object(fields),
        Some(Kind::ListValue(list)) => list.values.iter().map(any).collect(),
    }
}

#[cfg(test)]
mod tests {
    use keepbest_client::v1;
    use keepbest_client::well_known::Timestamp;

    use super::version;

    #[test]
    fn a_version_has_the_names_of_the_proto() {
        let value = version(&v1::Version {
            name: "teams/a/projects/b/artifacts/c/versions/v1".into(),
            epoch: 6,
            digest: vec![171; 2].into(),
            metrics: [("a", -0.0), ("loss", f64::NAN), ("val_loss", 0.25)]
                .map(|(name, value)| (name.to_owned(), value))
                .into(),
            reason: v1::Reason::EveryEpoch.into(),
            create_time: Some(Timestamp { seconds: 86_400, nanos: 5_000 }),
            ..Default::default()
        });
        assert_eq!((&value["epoch"], &value["epoch_number"]), (&6.into(), &7.into()));
        assert_eq!(value["digest"], "abab");
        assert_eq!(value["metrics"]["a"].to_string(), "-0.0");
        assert_eq!(value["metrics"]["loss"], "NaN");
        assert_eq!(value["metrics"]["val_loss"], 0.25);
        assert_eq!(value["reason"], "every_epoch");
        assert_eq!(value["create_time"], "1970-01-02T00:00:00.000005Z");
        assert!(value["batch"].is_null() && value.get("files").is_none());
    }
}
