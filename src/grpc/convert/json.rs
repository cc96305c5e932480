//! `google.protobuf.Struct` to JSON text and back.

use prost_types::Struct;
use prost_types::Value;
use prost_types::value::Kind;

use crate::domain::refusal::Refusal;

/// Deepest nesting; prost itself stops at 100.
const MAX_DEPTH: usize = 32;

/// The struct as JSON text. NaN and infinities have no JSON form and are refused.
pub(crate) fn json_of(what: &str, fields: Option<Struct>) -> Result<Option<String>, Refusal> {
    let Some(fields) = fields else { return Ok(None) };
    Ok(Some(object(what, fields, 0)?.to_string()))
}

fn object(what: &str, fields: Struct, depth: usize) -> Result<serde_json::Value, Refusal> {
    if depth > MAX_DEPTH {
        return Err(Refusal::invalid("BAD_METADATA", format!("{what} is nested more than {MAX_DEPTH} deep")));
    }
    let entries = fields.fields.into_iter().map(|(key, value)| Ok((key, json_value(what, value, depth)?)));
    Ok(serde_json::Value::Object(entries.collect::<Result<_, Refusal>>()?))
}

fn json_value(what: &str, value: Value, depth: usize) -> Result<serde_json::Value, Refusal> {
    Ok(match value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(it)) => it.into(),
        Some(Kind::StringValue(it)) => it.into(),
        Some(Kind::NumberValue(it)) => match serde_json::Number::from_f64(it) {
            Some(number) => serde_json::Value::Number(number),
            None => {
                return Err(Refusal::invalid(
                    "BAD_METADATA",
                    format!("{what} holds {it}, which JSON cannot say"),
                ));
            }
        },
        Some(Kind::ListValue(list)) if depth <= MAX_DEPTH => {
            let values = list.values.into_iter().map(|value| json_value(what, value, depth + 1));
            serde_json::Value::Array(values.collect::<Result<_, Refusal>>()?)
        }
        Some(Kind::ListValue(_)) => {
            return Err(Refusal::invalid(
                "BAD_METADATA",
                format!("{what} is nested more than {MAX_DEPTH} deep"),
            ));
        }
        Some(Kind::StructValue(fields)) => object(what, fields, depth + 1)?,
    })
}

/// JSON text, stored by `json_of`, as a struct.
pub(crate) fn struct_of(json: Option<&str>) -> Option<Struct> {
    match serde_json::from_str(json?) {
        Ok(serde_json::Value::Object(fields)) => Some(struct_value(fields)),
        _ => None,
    }
}

fn struct_value(fields: serde_json::Map<String, serde_json::Value>) -> Struct {
    Struct { fields: fields.into_iter().map(|(key, value)| (key, proto_value(value))).collect() }
}

fn proto_value(value: serde_json::Value) -> Value {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(it) => Kind::BoolValue(it),
        serde_json::Value::Number(it) => Kind::NumberValue(it.as_f64().unwrap_or_default()),
        serde_json::Value::String(it) => Kind::StringValue(it),
        serde_json::Value::Array(values) => {
            Kind::ListValue(prost_types::ListValue { values: values.into_iter().map(proto_value).collect() })
        }
        serde_json::Value::Object(fields) => Kind::StructValue(struct_value(fields)),
    };
    Value { kind: Some(kind) }
}
