//! Unary calls as JSON: the same calls, answers and errors as by gRPC.

use bytes::Bytes;
use keepbest_proto::v1;
use prost::Message;
use serde_json::Value;
use serde_json::json;
use tonic::Code;

use crate::support::calls::methods;
use crate::support::http1::call;
use crate::support::http1::get;
use crate::support::http1::send;
use crate::support::logs::Logs;
use crate::support::raw;
use crate::support::requests::PROJECT;
use crate::support::server;
use crate::support::teams;

const JSON: (&str, &str) = ("content-type", "application/json");

/// The reason of an error.
fn reason(error: &Value) -> &str {
    error["details"][0]["debug"]["reason"].as_str().unwrap_or_else(|| panic!("{error}"))
}

#[tokio::test]
async fn a_small_file_is_saved_and_the_best_is_found() {
    let server = server::start().await;
    let address = server.address();
    let ask = async |method: &str, request: Value| {
        let answer = call(&address, None, method, &request).await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, Some("application/json")),
            "{answer:?}"
        );
        answer.json()
    };
    let strategy = json!({ "filepath": "best.bin", "monitor": "val_loss", "saveBestOnly": true });
    let started =
        ask("Runs/StartRun", json!({ "parent": PROJECT, "runId": "curl", "strategy": strategy })).await;
    // 64 bits are a text, and what is 0 is there.
    assert_eq!((&started["attempt"], &started["nextSequence"]), (&json!("1"), &json!("0")), "{started}");
    let run = started["run"]["name"].clone();
    for (sequence, loss) in [(0, 0.5), (1, 0.7)] {
        let event =
            json!({ "kind": "EVENT_KIND_EPOCH_END", "epoch": sequence, "metrics": { "val_loss": loss } });
        let report = json!({ "run": run, "attempt": "1", "firstSequence": sequence, "events": [event] });
        let reported = ask("Runs/ReportEvents", report).await;
        let decision = &reported["decisions"][0];
        let action = if sequence == 0 { "ACTION_SAVE" } else { "ACTION_SKIP" };
        assert_eq!(decision["action"], action, "{reported}");
        let Some(checkpoint) = decision["checkpoint"].as_str().filter(|it| !it.is_empty()) else { continue };
        let file = json!({ "path": "model.bin", "data": "d2VpZ2h0cw==" });
        let files = json!({ "checkpoint": checkpoint, "attempt": 1, "files": [file] });
        ask("Checkpoints/WriteSmallFiles", files).await;
        let commit = json!({ "checkpoint": checkpoint, "attempt": 1, "fileCount": 1, "metadata": { "by": ["curl", 7] } });
        ask("Checkpoints/CommitCheckpoint", commit).await;
    }
    let best = ask("Artifacts/GetBestVersion", json!({ "parent": run, "includeFiles": true })).await;
    let name = format!("{PROJECT}/artifacts/run-curl-model/versions/v0");
    assert_eq!((&best["name"], &best["metrics"]["val_loss"]), (&json!(name), &json!(0.5)), "{best}");
    assert_eq!((&best["epoch"], &best["files"][0]["sizeBytes"]), (&json!("0"), &json!("7")), "{best}");
    assert_eq!(best["metadata"], json!({ "by": ["curl", 7.0] }));
}

#[tokio::test]
async fn each_method_refuses_by_json_what_it_refuses_by_grpc() {
    let server = server::start().await;
    let (address, channel) = (server.address(), server.channel());
    let mut streams = 0;
    for method in methods() {
        let by_grpc = raw::call(&channel, &method, Bytes::new()).await;
        let answer = send(&address, "POST", &method, &[JSON], b"{}").await;
        let short = method.rsplit('/').next().unwrap();
        if ["StreamEvents", "WriteFile", "ReadFile", "WatchVersions"].contains(&short) {
            streams += 1;
            assert_eq!((answer.status, reason(&answer.json())), (501, "STREAM"), "{method}");
            continue;
        }
        match by_grpc {
            Ok(_) => assert_eq!(answer.status, 200, "{method}: {answer:?}"),
            Err(status) => {
                let error = answer.json();
                assert_eq!(error["message"], status.message(), "{method}");
                let code: String = format!("{:?}", status.code()).to_ascii_lowercase();
                assert_eq!(error["code"].as_str().unwrap().replace('_', ""), code, "{method}");
            }
        }
    }
    assert_eq!(streams, 4);
}

#[tokio::test]
async fn errors_have_the_status_of_their_code_and_say_their_reason() {
    let server = server::start().await;
    let address = server.address();
    let get_run = "/keepbest.v1.Runs/GetRun";
    let name = json!({ "name": format!("{PROJECT}/runs/none") }).to_string();
    let long = format!("{{\"name\": \"{}\"}}", "x".repeat(4 << 20));
    let many = format!("{{\"events\": [{}{{}}]}}", "{},".repeat(300_000));
    for (path, headers, body, expected) in [
        (get_run, &[JSON][..], name.as_str(), (404, "not_found", "NOT_FOUND")),
        (get_run, &[JSON], "{\"nam\": \"x\"}", (400, "invalid_argument", "BAD_MESSAGE")),
        (get_run, &[JSON], "", (400, "invalid_argument", "BAD_MESSAGE")),
        (
            get_run,
            &[("content-type", "application/proto")],
            "\u{1}garbage",
            (400, "invalid_argument", "BAD_MESSAGE"),
        ),
        (get_run, &[JSON], &long, (429, "resource_exhausted", "LIMIT_EXCEEDED")),
        ("/keepbest.v1.Runs/ReportEvents", &[JSON], &many, (429, "resource_exhausted", "LIMIT_EXCEEDED")),
        ("/keepbest.v1.Runs/NoSuch", &[JSON], "{}", (501, "unimplemented", "UNKNOWN_METHOD")),
        (get_run, &[JSON, ("content-encoding", "gzip")], "{}", (501, "unimplemented", "COMPRESSED")),
        (get_run, &[JSON, ("connect-protocol-version", "2")], "{}", (400, "invalid_argument", "BAD_MESSAGE")),
        (get_run, &[JSON, ("connect-timeout-ms", "soon")], "{}", (400, "invalid_argument", "BAD_MESSAGE")),
        (
            get_run,
            &[JSON, ("connect-timeout-ms", "0")],
            "{}",
            (504, "deadline_exceeded", "DEADLINE_EXCEEDED"),
        ),
    ] {
        let answer = send(&address, "POST", path, headers, body.as_bytes()).await;
        let error = answer.json();
        let found = (answer.status, error["code"].as_str().unwrap(), reason(&error));
        assert_eq!(found, expected, "{path} {headers:?} {:.40}: {error}", body);
        assert!(answer.header("x-request-id").is_some(), "{answer:?}");
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_whole_is_ended() {
    let server = server::start_with(|config| config.limits.request_seconds = 1).await;
    let head = "POST /keepbest.v1.Runs/GetRun HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n";
    let request = format!("{head}content-length: 100\r\n\r\n{{\"name\":");
    let answer = crate::support::http1::exchange(&server.address(), request.as_bytes()).await;
    assert_eq!((answer.status, reason(&answer.json())), (504, "BODY_TIMEOUT"), "{answer:?}");
}

#[tokio::test]
async fn messages_may_go_as_they_are() {
    let server = server::start().await;
    let request = v1::ListRunsRequest { parent: PROJECT.to_owned(), ..Default::default() }.encode_to_vec();
    let proto = [("content-type", "application/proto"), ("connect-protocol-version", "1")];
    let answer = send(&server.address(), "POST", "/keepbest.v1.Runs/ListRuns", &proto, &request).await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("application/proto")),
        "{answer:?}"
    );
    assert_eq!(
        v1::ListRunsResponse::decode(answer.body.as_slice()).unwrap(),
        v1::ListRunsResponse::default()
    );
}

#[tokio::test]
async fn who_calls_is_asked_of_these_callers_too() {
    let guarded = teams::start().await;
    let address = guarded.server.address();
    let (mine, foreign) = (guarded.token("a", "reader").await, guarded.token("b", "trainer").await);
    let list = json!({ "parent": "teams/a/projects/-" });
    let ask = async |token: Option<&str>| call(&address, token, "Runs/ListRuns", &list).await;
    assert_eq!(ask(Some(&mine)).await.status, 200);
    let missing = ask(None).await;
    assert_eq!((missing.status, missing.header("www-authenticate")), (401, Some("Bearer")));
    assert_eq!(reason(&missing.json()), "TOKEN_MISSING");
    assert_eq!(ask(Some(&foreign)).await.status, 404);
    // A foreign thing is as one that is missing, byte for byte.
    let name = |team: &str| json!({ "parent": format!("teams/{team}/projects/-") });
    let of_a = call(&address, Some(&foreign), "Runs/ListRuns", &name("a"))
        .await
        .text()
        .replace("teams/a", "teams/x");
    let of_x = call(&address, Some(&foreign), "Runs/ListRuns", &name("x")).await.text().to_owned();
    assert_eq!(of_a, of_x);
    let start =
        call(&address, Some(&mine), "Runs/StartRun", &json!({ "parent": "teams/a/projects/p" })).await;
    assert_eq!((start.status, start.json()["code"].clone()), (403, json!("permission_denied")));
    // Health is open, what the contract says is not.
    let health = send(&address, "POST", "/grpc.health.v1.Health/Check", &[JSON], b"{}").await;
    assert_eq!((health.status, health.text()), (200, r#"{"status":"SERVING"}"#));
    let document = get(&address, "/openapi.json").await;
    assert_eq!((document.status, document.header("www-authenticate")), (401, Some("Bearer")), "{document:?}");
    let bearer = format!("Bearer {mine}");
    let document = send(&address, "GET", "/openapi.json", &[("authorization", &bearer)], b"").await;
    assert_eq!((document.status, document.json()["openapi"].clone()), (200, json!("3.1.0")));
}

#[tokio::test]
async fn the_log_tells_the_code_and_the_status() {
    let logs = Logs::begin();
    let server = server::start().await;
    let address = server.address();
    let list = json!({ "parent": PROJECT });
    assert_eq!(call(&address, None, "Runs/ListRuns", &list).await.status, 200);
    assert_eq!(call(&address, None, "Runs/ListRuns", &json!({ "parent": "x" })).await.status, 400);
    assert_eq!(get(&address, "/").await.status, 200);
    for part in [
        "Runs/ListRuns http.status=200 rpc.code=Ok",
        "Runs/ListRuns http.status=400 rpc.code=InvalidArgument",
        "rpc.method= http.status=200 rpc.code=Ok",
    ] {
        let words: Vec<&str> = part.split(' ').collect();
        let told = || logs.with("Answered").into_iter().any(|line| words.iter().all(|it| line.contains(it)));
        while !told() {
            tokio::task::yield_now().await;
        }
    }
    let code =
        raw::call(&server.channel(), "/keepbest.v1.Runs/ListRuns", Bytes::new()).await.unwrap_err().code();
    assert_eq!(code, Code::InvalidArgument);
}
