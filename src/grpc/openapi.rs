//! The contract as a document of `OpenAPI`, made from the descriptors and their comments: for whoever calls by JSON.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost_reflect::Cardinality;
use prost_reflect::FieldDescriptor;
use prost_reflect::FileDescriptor;
use prost_reflect::Kind;
use prost_reflect::MessageDescriptor;
use prost_reflect::MethodDescriptor;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::grpc::json::pool;

/// Whose services the document has; those of others (health, reflection) have documents of their own.
const PACKAGE: &str = "keepbest.v1";

const ABOUT: &str = "Every unary method of the gRPC contract, called by a POST with its request as JSON (the mapping of proto3: 64-bit integers are \
    strings, bytes are base64). These are calls of Connect's unary protocol, so its clients work, too. Streams (WriteFile, ReadFile, StreamEvents) \
    need gRPC.";

static DOCUMENT: LazyLock<String> = LazyLock::new(|| document().to_string());

/// The document as JSON.
pub(super) fn text() -> &'static str {
    &DOCUMENT
}

fn document() -> Value {
    let mut comments = Comments::default();
    let mut paths = Map::new();
    let mut tags = Vec::new();
    for service in pool().services().filter(|it| it.package_name() == PACKAGE) {
        tags.push(json!({
            "name": service.name(),
            "description": comments.of(&service.parent_file(), service.path()),
        }));
        for method in service.methods().filter(|it| !it.is_client_streaming() && !it.is_server_streaming()) {
            let path = format!("/{}/{}", service.full_name(), method.name());
            paths.insert(path, json!({ "post": operation(&method, &mut comments) }));
        }
    }
    let messages = pool().all_messages().filter(|it| it.package_name() == PACKAGE && !it.is_map_entry());
    let mut schemas: Map<String, Value> =
        messages.map(|it| (name_of(&it), schema(&it, &mut comments))).collect();
    schemas.insert("Error".to_owned(), error());
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Keepbest", "version": env!("CARGO_PKG_VERSION"), "description": ABOUT },
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
        // A server on loopback asks nobody who calls.
        "security": [{ "token": [] }, {}],
    })
}

fn operation(method: &MethodDescriptor, comments: &mut Comments) -> Value {
    let content = |schema: Value| json!({ "application/json": { "schema": schema } });
    json!({
        "tags": [method.parent_service().name()],
        "operationId": format!("{}.{}", method.parent_service().name(), method.name()),
        "description": comments.of(&method.parent_file(), method.path()),
        "requestBody": { "required": true, "content": content(reference(&method.input())) },
        "responses": {
            "200": { "description": "The answer.", "content": content(reference(&method.output())) },
            "default": {
                "description": "An error: its code, message, and reason in the details.",
                "content": content(json!({ "$ref": "#/components/schemas/Error" })),
            },
        },
    })
}

/// What an error is, by Connect's unary protocol.
fn error() -> Value {
    json!({
        "type": "object",
        "required": ["code", "message"],
        "properties": {
            "code": { "type": "string", "description": "The code of gRPC, as `not_found`." },
            "message": { "type": "string" },
            "details": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "type": { "type": "string", "description": "As `google.rpc.ErrorInfo`." },
                        "value": { "type": "string", "description": "The message, as base64 without padding." },
                        "debug": { "type": "object", "description": "The same as JSON: of an ErrorInfo `reason` and `metadata`." },
                    },
                },
            },
        },
    })
}

fn schema(message: &MessageDescriptor, comments: &mut Comments) -> Value {
    let file = message.parent_file();
    let properties: Map<String, Value> = message
        .fields()
        .map(|field| {
            let mut schema = of_field(&field);
            let about = comments.of(&file, field.path());
            if let (Some(schema), false) = (schema.as_object_mut(), about.is_empty()) {
                schema.insert("description".to_owned(), about.into());
            }
            (field.json_name().to_owned(), schema)
        })
        .collect();
    let about = comments.of(&file, message.path());
    json!({ "type": "object", "description": about, "properties": properties, "additionalProperties": false })
}

fn of_field(field: &FieldDescriptor) -> Value {
    if field.is_map() {
        let Kind::Message(entry) = field.kind() else { return json!({}) };
        return json!({ "type": "object", "additionalProperties": of_kind(&entry.map_entry_value_field().kind()) });
    }
    let one = of_kind(&field.kind());
    if field.cardinality() == Cardinality::Repeated { json!({ "type": "array", "items": one }) } else { one }
}

fn of_kind(kind: &Kind) -> Value {
    match kind {
        // NaN and the infinities are texts.
        Kind::Double | Kind::Float => json!({ "type": ["number", "string"], "format": "double" }),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({ "type": "integer", "format": "int32" }),
        Kind::Uint32 | Kind::Fixed32 => json!({ "type": "integer", "format": "int64", "minimum": 0 }),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            json!({ "type": ["string", "integer"], "format": "int64" })
        }
        Kind::Uint64 | Kind::Fixed64 => json!({ "type": ["string", "integer"], "format": "uint64" }),
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::String => json!({ "type": "string" }),
        Kind::Bytes => json!({ "type": "string", "contentEncoding": "base64" }),
        Kind::Enum(it) => {
            json!({ "type": "string", "enum": it.values().map(|it| it.name().to_owned()).collect::<Vec<_>>() })
        }
        Kind::Message(it) => reference(it),
    }
}

/// A message, where it is one of ours; those of protobuf itself have forms of their own in JSON.
fn reference(message: &MessageDescriptor) -> Value {
    match message.full_name() {
        "google.protobuf.Timestamp" => json!({ "type": "string", "format": "date-time" }),
        "google.protobuf.Duration" => json!({ "type": "string", "description": "Seconds, as `1.5s`." }),
        "google.protobuf.FieldMask" => json!({ "type": "string" }),
        "google.protobuf.Struct" | "google.protobuf.Empty" => json!({ "type": "object" }),
        "google.protobuf.ListValue" => json!({ "type": "array" }),
        other if other.starts_with("google.protobuf.") => json!({}),
        _ => json!({ "$ref": format!("#/components/schemas/{}", name_of(message)) }),
    }
}

/// Its name within the package: one that stands in another message is named after that, too.
fn name_of(message: &MessageDescriptor) -> String {
    message
        .full_name()
        .strip_prefix(PACKAGE)
        .unwrap_or(message.full_name())
        .trim_start_matches('.')
        .to_owned()
}

/// The comments of files, by where they stand.
#[derive(Default)]
struct Comments(HashMap<String, HashMap<Vec<i32>, String>>);

impl Comments {
    fn of(&mut self, file: &FileDescriptor, path: &[i32]) -> String {
        let comments = self.0.entry(file.name().to_owned()).or_insert_with(|| {
            let about = file.file_descriptor_proto().source_code_info.clone().unwrap_or_default();
            let leading = |it: prost_types::source_code_info::Location| {
                let text = it.leading_comments.or(it.trailing_comments)?;
                let lines: Vec<&str> = text.lines().map(str::trim).collect();
                Some((it.path, lines.join("\n").trim().to_owned()))
            };
            about.location.into_iter().filter_map(leading).collect()
        });
        comments.get(path).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that a value refers to.
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(key, value)| match value.as_str() {
                Some(name) if key == "$ref" => found.push(name.replace("#/components/schemas/", "")),
                _ => references(value, found),
            }),
            Value::Array(items) => items.iter().for_each(|it| references(it, found)),
            _ => {}
        }
    }

    #[test]
    fn the_document_has_every_unary_method_and_all_it_refers_to() {
        let document: Value = serde_json::from_str(text()).unwrap();
        let paths = document["paths"].as_object().unwrap();
        let unary = pool()
            .services()
            .filter(|it| it.package_name() == PACKAGE)
            .flat_map(|it| it.methods().collect::<Vec<_>>())
            .filter(|it| !it.is_client_streaming() && !it.is_server_streaming());
        assert_eq!(paths.len(), unary.count());
        let start = &paths["/keepbest.v1.Runs/StartRun"]["post"];
        assert!(!start["description"].as_str().unwrap().is_empty());
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 100, "{}", found.len());
        let missing: Vec<&String> = found.iter().filter(|it| !schemas.contains_key(*it)).collect();
        assert!(missing.is_empty(), "{missing:?}");
        // Names as they stand in JSON, and each told.
        let run = schemas["Run"]["properties"].as_object().unwrap();
        assert!(run.contains_key("lastEpoch") && !run.contains_key("last_epoch"), "{:?}", run.keys());
        let untold: Vec<&String> = schemas.keys().filter(|it| schemas[*it]["properties"].is_null()).collect();
        assert!(untold.is_empty(), "{untold:?}");
    }
}
