//! The contract's messages as JSON, by their descriptors alone: the mapping of proto3, for all methods that are no stream.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use keepbest_proto::FILE_DESCRIPTOR_SET;
use prost::Message as _;
use prost_reflect::DescriptorPool;
use prost_reflect::DynamicMessage;
use prost_reflect::MessageDescriptor;
use prost_reflect::SerializeOptions;
use serde::Serialize;
use serde_json::Value;
use tonic::Code;
use tonic::Status;

use crate::domain::refusal::Refusal;

/// The most values in a body: one costs about 150 bytes while a message is made of them. A report of 10,000 events with ten metrics each
/// has 160,000.
const MAX_VALUES: usize = 200_000;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let mut pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the build made it");
    let health = tonic_health::pb::FILE_DESCRIPTOR_SET;
    pool.decode_file_descriptor_set(health).expect("its build made it");
    pool
});

/// All that is described.
pub(super) fn pool() -> &'static DescriptorPool {
    &POOL
}

/// A method as callers of JSON know it.
#[derive(Clone, Debug)]
pub(crate) struct JsonMethod {
    request: MessageDescriptor,
    answer: MessageDescriptor,
}

impl JsonMethod {
    /// The method at a path like `/keepbest.v1.Runs/StartRun`. An error: there is none, or it is a stream.
    pub(crate) fn at(path: &str) -> Result<JsonMethod, Refusal> {
        let found = path.strip_prefix('/').and_then(|it| it.split_once('/')).and_then(|(service, method)| {
            pool().get_service_by_name(service)?.methods().find(|it| it.name() == method)
        });
        let Some(method) = found else {
            let message = format!("this server has no method `{path}`: see /openapi.json for those it has");
            return Err(Refusal::unimplemented("UNKNOWN_METHOD", message));
        };
        if method.is_client_streaming() || method.is_server_streaming() {
            let instead =
                if method.name() == "WriteFile" { "; small files go by WriteSmallFiles" } else { "" };
            let message = format!(
                "`{}` is a stream, which JSON cannot carry: call it by gRPC or gRPC-Web{instead}",
                method.name()
            );
            return Err(Refusal::unimplemented("STREAM", message));
        }
        Ok(JsonMethod { request: method.input(), answer: method.output() })
    }

    /// A request's message, from its JSON.
    pub(crate) fn request(&self, json: &[u8]) -> Result<Vec<u8>, Refusal> {
        let name = self.request.name();
        let bad =
            |why: String| Refusal::invalid("BAD_MESSAGE", format!("the body is no JSON of {name}: {why}"));
        if json.trim_ascii().is_empty() {
            return Err(bad("it is empty; a request without fields is `{}`".to_owned()));
        }
        if values(json) > MAX_VALUES {
            let message = format!("the body has more than {MAX_VALUES} values: send it in parts");
            return Err(Refusal::exhausted("LIMIT_EXCEEDED", message));
        }
        let mut json = serde_json::Deserializer::from_slice(json);
        let message = DynamicMessage::deserialize(self.request.clone(), &mut json);
        let message = message.and_then(|it| json.end().map(|()| it)).map_err(|it| bad(it.to_string()))?;
        Ok(message.encode_to_vec())
    }

    /// An answer's message as JSON; fields that are zero or empty are there, too.
    pub(crate) fn answer(&self, message: &[u8]) -> Result<String, Status> {
        let message = DynamicMessage::decode(self.answer.clone(), message);
        let message = message.map_err(|it| super::internal(&format!("an answer cannot be read: {it}")))?;
        write(&message).map_err(|it| super::internal(&format!("an answer cannot be written as JSON: {it}")))
    }
}

fn write(message: &DynamicMessage) -> Result<String, serde_json::Error> {
    let mut json = serde_json::Serializer::new(Vec::new());
    message.serialize_with_options(&mut json, &SerializeOptions::new().skip_default_fields(false))?;
    Ok(String::from_utf8(json.into_inner()).expect("JSON is UTF-8"))
}

/// How many values stand in a text, if it is JSON: each but the first comes after a comma or a bracket.
fn values(json: &[u8]) -> usize {
    let (mut values, mut in_text, mut is_escaped) = (1, false, false);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_text => is_escaped = true,
            b'"' => in_text = !in_text,
            b',' | b'{' | b'[' if !in_text => values += 1,
            _ => {}
        }
    }
    values
}

/// An error as Connect writes it.
#[derive(Serialize)]
struct ErrorBody<'a> {
    code: &'static str,
    message: &'a str,
    details: Vec<Detail>,
}

#[derive(Serialize)]
struct Detail {
    r#type: String,
    value: String,
    debug: Value,
}

/// A status as Connect writes errors: its code, its message, and its details in the contract's bytes and as JSON.
pub(crate) fn error(status: &Status) -> String {
    let details = details(status).unwrap_or_default();
    let body = ErrorBody { code: code_name(status.code()), message: status.message(), details };
    serde_json::to_string(&body).expect("its keys are texts")
}

fn details(status: &Status) -> Option<Vec<Detail>> {
    let status = tonic_types::pb::Status::decode(status.details()).ok()?;
    let detail = |any: &prost_types::Any| {
        let name = any.type_url.rsplit('/').next().unwrap_or_default();
        let message = pool().get_message_by_name(name)?;
        let message = DynamicMessage::decode(message, any.value.as_slice()).ok()?;
        let debug: Value = serde_json::from_str(&write(&message).ok()?).ok()?;
        Some(Detail { r#type: name.to_owned(), value: STANDARD_NO_PAD.encode(&any.value), debug })
    };
    Some(status.details.iter().filter_map(detail).collect())
}

/// A code as Connect calls it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "canceled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_that_is_no_stream_has_its_json() {
        let mut methods = 0;
        for service in pool().services() {
            for method in service.methods() {
                let path = format!("/{}/{}", service.full_name(), method.name());
                let is_stream = method.is_client_streaming() || method.is_server_streaming();
                assert_eq!(JsonMethod::at(&path).is_err(), is_stream, "{path}");
                methods += 1;
            }
        }
        assert!(methods > 40, "{methods}");
        let unknown = JsonMethod::at("/keepbest.v1.Runs/NoSuch").unwrap_err();
        assert_eq!(unknown.reason, "UNKNOWN_METHOD");
    }

    #[test]
    fn a_message_goes_to_json_and_back_as_it_is() {
        let method = JsonMethod::at("/keepbest.v1.Runs/ReportEvents").unwrap();
        let text = r#"{"run": "teams/a/projects/b/runs/c", "attempt": "9007199254740993", "events":
            [{"kind": "EVENT_KIND_EPOCH_END", "epoch": 3, "metrics": {"loss": "NaN", "acc": -0.5}}]}"#;
        let bytes = method.request(text.as_bytes()).unwrap();
        let report = keepbest_proto::v1::ReportEventsRequest::decode(bytes.as_slice()).unwrap();
        assert_eq!((report.attempt, report.events[0].epoch), (9_007_199_254_740_993, 3));
        assert!(report.events[0].metrics["loss"].is_nan());
        assert_eq!(report.events[0].metrics["acc"].to_string(), "-0.5");
        let same = JsonMethod { answer: method.request.clone(), ..method };
        let written: Value = serde_json::from_str(&same.answer(&bytes).unwrap()).unwrap();
        assert_eq!(written["attempt"], "9007199254740993");
        assert_eq!(written["events"][0]["metrics"]["loss"], "NaN");
    }

    #[test]
    fn what_is_no_message_is_refused_with_its_place() {
        let method = JsonMethod::at("/keepbest.v1.Runs/GetRun").unwrap();
        for (body, says) in [
            (&b""[..], "it is empty"),
            (b" \n", "it is empty"),
            (b"{\"nam\": \"x\"}", "line 1 column"),
            (b"{\"name\": 3}", "line 1 column"),
            (b"{} {}", "trailing characters"),
            (b"[]", "line 1 column"),
            (b"{\"name\": \"\xff\"}", "line 1 column"),
        ] {
            let refusal = method.request(body).unwrap_err();
            assert!(
                refusal.message.contains(says),
                "{:?}: {}",
                String::from_utf8_lossy(body),
                refusal.message
            );
            assert!(
                refusal.message.starts_with("the body is no JSON of GetRunRequest: "),
                "{}",
                refusal.message
            );
        }
        let nested = "[".repeat(100_000);
        assert!(method.request(nested.as_bytes()).is_err());
    }

    #[test]
    fn values_are_counted_before_they_are_built() {
        assert_eq!(values(br#"{"a": [1, 2], "b,{[": "\",[", "c": {}}"#), 7);
        let many = format!("{{\"events\": [{}{{}}]}}", "{},".repeat(MAX_VALUES));
        let method = JsonMethod::at("/keepbest.v1.Runs/ReportEvents").unwrap();
        assert_eq!(method.request(many.as_bytes()).unwrap_err().reason, "LIMIT_EXCEEDED");
    }

    #[test]
    fn an_error_says_its_reason_in_json() {
        let status = super::super::status::refused(&Refusal::not_found("run", "teams/a/projects/b/runs/c"));
        let error: Value = serde_json::from_str(&error(&status)).unwrap();
        assert_eq!(error["code"], "not_found");
        assert_eq!(error["details"][0]["type"], "google.rpc.ErrorInfo");
        assert_eq!(error["details"][0]["debug"]["domain"], "keepbest");
        assert!(!error["details"][0]["value"].as_str().unwrap().ends_with('='));
    }
}
