//! `keepbest rm` says what would go before it goes, and listings tell the living from the ended.

use keepbest_proto::v1;
use keepbest_proto::v1::runs_client::RunsClient;
use serde_json::Value;

use crate::cli::Desk;
use crate::support::requests::best_only;

#[test]
fn what_would_go_is_said_first_and_goes_with_yes() {
    let desk = Desk::new();
    for (value, epoch) in [("0.5", "1"), ("0.3", "2"), ("0.4", "3")] {
        desk.push(epoch.as_bytes(), value, epoch);
    }
    let dry = desk.ok(&["rm", "cnn", "--filter", "epoch >= 0", "--keep-newest", "1"]);
    let expected = "default/default/cnn: would delete 1 version, which frees 1 B of 1 B\n\
        1 version that match stay: `best` or an alias of yours points at them\nnothing was deleted: --yes does it\n";
    assert_eq!(dry, expected);
    assert_eq!(desk.json(&["versions", "cnn"])["versions"].as_array().unwrap().len(), 3);
    desk.ok(&["rm", "cnn", "--keep-newest", "1", "--delete-best", "--yes"]);
    assert_eq!(desk.json(&["versions", "cnn"])["versions"].as_array().unwrap().len(), 1);

    let dry = desk.json(&["rm", "cnn"]);
    assert_eq!(
        (&dry["deleted"], &dry["artifact_count"], &dry["version_count"]),
        (&false.into(), &1.into(), &1.into())
    );
    desk.ok(&["alias", "set", "cnn", "production", "v2"]);
    let refused = desk.run(&["rm", "cnn", "--yes"]);
    assert!(refused.code == 1 && refused.stderr.contains("cnn:production"), "{}", refused.stderr);
    assert_eq!(desk.run(&["rm", "nothing", "--yes"]).code, 3);
    assert_eq!(desk.run(&["rm", "cnn:v2", "--dry-run"]).code, 1, "refused in earnest, refused in a dry run");
    let done = desk.json(&["rm", "cnn", "--yes", "--force"]);
    assert_eq!((&done["deleted"], &done["version_count"]), (&true.into(), &1.into()));
    assert_eq!(desk.run(&["show", "cnn"]).code, 3);
    desk.ok(&["rm", "default/default", "--kind", "project", "--yes"]);
    assert_eq!(desk.json(&["runs"])["runs"].as_array().unwrap().len(), 0);
    assert_eq!(desk.run(&["rm", "default/default", "--kind", "project", "--yes"]).code, 3);
}

#[test]
fn an_alias_that_is_not_there_is_told() {
    let desk = Desk::new();
    desk.push(b"a", "0.5", "1");
    let missing = desk.run(&["alias", "rm", "cnn", "production"]);
    assert!(missing.code == 3 && missing.stderr.contains("production"), "{}", missing.stderr);
}

#[test]
fn a_misspelt_metric_is_told() {
    let desk = Desk::new();
    desk.push(b"a", "0.5", "1");
    let listed = desk.ok(&["versions", "cnn", "--filter", "metrics.val_los < 1"]);
    assert!(listed.contains("`val_loss` is nearly called so"), "{listed}");
    let best = desk.run(&["best", "--metric", "val_los", "--mode", "min"]);
    assert!(best.code == 3 && best.stderr.contains("`val_loss`"), "{}", best.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_has_not_ended_is_shown_with_its_last_sign_of_life() {
    let desk = Desk::new();
    let mut runs = RunsClient::connect(desk.server.address()).await.unwrap();
    let request = v1::StartRunRequest {
        parent: "teams/default/projects/default".to_owned(),
        run_id: "alone".to_owned(),
        strategy: Some(v1::Strategy { initial_value_threshold: Some(0.5), ..best_only() }),
        ..Default::default()
    };
    let begun = runs.start_run(request).await.unwrap().into_inner();
    let listed = desk.ok(&["runs"]);
    let line = listed.lines().find(|it| it.contains("alone")).unwrap();
    assert!(line.contains("heard ") && !line.contains("active"), "{line}");
    assert!(!line.contains("0.5"), "a threshold is no best value: {line}");
    let shown = desk.json(&["show", "alone"]);
    assert_eq!((&shown["state"], &shown["contact"]), (&"active".into(), &"alive".into()));
    assert_eq!((&shown["best"], &shown["value_to_beat"]), (&Value::Null, &0.5.into()));
    let refused = desk.run(&["rm", "alone", "--kind", "run", "--yes"]);
    assert!(refused.code == 1 && refused.stderr.contains("is alive"), "{}", refused.stderr);
    let beat = v1::HeartbeatRequest { run: begun.run.unwrap().name, attempt: begun.attempt };
    assert_eq!(runs.heartbeat(beat).await.unwrap().into_inner().interval.unwrap().seconds, 30);
    desk.ok(&["rm", "alone", "--kind", "run", "--yes", "--force"]);
    assert_eq!(desk.run(&["show", "alone"]).code, 3);
}
