//! Text from outside at a terminal: whatever somebody reported, no control character and no change of the direction of writing
//! reaches it, and JSON says the same text.

use keepbest_client::Client;
use keepbest_client::Run;
use keepbest_client::v1;
use serde_json::Value;

use super::Desk;
use super::Done;
use super::keepbest;
use crate::support::requests::start_request;

/// Sets the title of a window, clears it, writes backwards, and forges a line.
const HOSTILE: &str = "\u{1b}]0;title\u{7}\u{1b}[2J\u{9b}31m\u{7f}\u{202e}\u{2066}\r\nerror: forged\t";

/// What the server takes in names too.
const BACKWARDS: &str = "\u{202e}ssol";

fn is_harmless(printed: &str) -> bool {
    let directs = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    printed.chars().all(|c| c == '\n' || !(c.is_control() || directs(c)))
}

fn check(arguments: &[&str], done: &Done) {
    assert!(is_harmless(&done.stdout), "{arguments:?}: {:?}", done.stdout);
    assert!(is_harmless(&done.stderr), "{arguments:?}: {:?}", done.stderr);
    assert!(!done.stdout.lines().any(|line| line.starts_with("error: forged")), "{:?}", done.stdout);
}

/// A version whose metrics and file have hostile names, and whose reason is told with a hostile text.
async fn hostile_version(address: String) -> v1::Version {
    let client = Client::connect_lazy(address).unwrap();
    let strategy = v1::Strategy {
        filepath: "model-\u{202e}5h.bin".to_owned(),
        monitor: BACKWARDS.to_owned(),
        mode: v1::Mode::Min.into(),
        save_best_only: true,
        when_monitor_not_scalar: v1::WhenMissing::Save.into(),
        ..v1::Strategy::default()
    };
    let request = v1::StartRunRequest {
        parent: "teams/default/projects/default".to_owned(),
        artifact_id: "cnn".to_owned(),
        ..start_request("r", strategy)
    };
    let mut run = Run::start(&client, request).await.unwrap();
    let text = v1::metric_value::Kind::Text(HOSTILE.to_owned());
    let event = v1::Event {
        kind: v1::EventKind::EpochEnd.into(),
        metrics: [(format!("x{BACKWARDS}"), 0.5)].into(),
        typed_metrics: [(BACKWARDS.to_owned(), v1::MetricValue { kind: Some(text) })].into(),
        ..v1::Event::default()
    };
    let decision = run.report(vec![event]).await.unwrap().remove(0);
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("model-\u{202e}5h.bin");
    std::fs::write(&source, "model").unwrap();
    run.save(&decision, &source).await.unwrap()
}

#[test]
fn what_others_reported_cannot_reach_the_terminal() {
    let desk = Desk::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(hostile_version(desk.server.address()));
    let hostile_folder = format!("folder{HOSTILE}");
    let commands: &[&[&str]] = &[
        &["runs"],
        &["show", "default/default/r"],
        &["show", "teams/default/projects/default/runs/r"],
        &["show", "cnn"],
        &["show", "cnn:latest"],
        &["best"],
        &["versions", "cnn"],
        &["versions", "cnn", "--order-by", "metrics.x"],
        &["decisions", "r"],
        &["pull", "cnn:latest", &hostile_folder],
        &["alias", "set", "cnn", "a", "v0"],
        &["rm", "cnn:v0"],
        &["rm", "cnn:v0", "--force"],
    ];
    for arguments in commands {
        check(arguments, &desk.run(arguments));
    }
    let wrong: &[&[&str]] = &[
        &["show", HOSTILE],
        &["pull", HOSTILE],
        &["best", "--metric", HOSTILE, "--mode", "min"],
        &["versions", "cnn", "--filter", HOSTILE],
        &["push", HOSTILE, "cnn"],
        &["alias", "set", "cnn", HOSTILE, "v0"],
        &["check-config", "--config", HOSTILE],
        &["runs", "--limit", HOSTILE],
        &[HOSTILE],
    ];
    for arguments in wrong {
        let done = desk.run(arguments);
        assert!(done.code > 0, "{arguments:?}");
        check(arguments, &done);
    }
    let done = keepbest(&["runs", "--server", &format!("http://{HOSTILE}:1")], desk.folder.path());
    check(&["runs"], &done);
}

#[test]
fn json_says_the_same_text_without_a_character_that_a_terminal_obeys() {
    let desk = Desk::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(hostile_version(desk.server.address()));
    let printed = desk.ok(&["show", "cnn:latest", "--json"]);
    assert!(is_harmless(&printed), "{printed:?}");
    let version: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(version["metrics"][format!("x{BACKWARDS}")], 0.5);
    assert!(version["reason_text"].as_str().unwrap().contains(HOSTILE), "{version}");
    assert_eq!(version["files"][0]["path"], "model-\u{202e}5h.bin");
}
