//! What a person or a script is told: which thing a name was taken for, epochs from 1, errors in the words that were typed, and slips
//! that would otherwise do something else in silence.

use std::process::Command;

use keepbest_client::Client;
use keepbest_client::Run;
use keepbest_client::v1;
use keepbest_client::well_known::Kind;
use keepbest_client::well_known::Struct;
use keepbest_client::well_known::Value as AnyValue;
use serde_json::Value;

use super::Desk;
use super::Done;
use super::keepbest;
use crate::support::requests::best_only;
use crate::support::requests::epoch_end;
use crate::support::requests::start_request;

#[test]
fn epochs_are_counted_from_1_in_names_filters_and_tables() {
    let desk = Desk::new();
    for (loss, epoch) in [("0.5", "6"), ("0.4", "7"), ("0.3", "8")] {
        desk.push(loss.as_bytes(), loss, epoch);
    }
    let of = |arguments: &[&str]| desk.json(arguments)["versions"][0]["number"].clone();
    assert_eq!(of(&["versions", "cnn", "--filter", "epoch = 7"]), 1);
    assert_eq!(of(&["versions", "cnn", "--filter", "epoch < 7"]), 0);
    let seventh = desk.json(&["show", "cnn:epoch_7"]);
    assert_eq!(
        (&seventh["number"], &seventh["epoch"], &seventh["epoch_number"]),
        (&1.into(), &6.into(), &7.into())
    );
    let full = "teams/default/projects/default/artifacts/cnn/versions/epoch_6";
    assert_eq!(desk.json(&["show", full])["number"], 1);

    let shown = desk.ok(&["show", "cnn:v1"]);
    assert!(shown.contains("7 (6 counted from 0)"), "{shown}");
    assert!(shown.contains("epoch_7 (epoch_6 counted from 0)"), "{shown}");
    let listed = desk.ok(&["versions", "cnn"]);
    let line = listed.lines().find(|it| it.starts_with("v1 ")).unwrap();
    assert!(line.contains(" 7 ") && line.contains("epoch_7") && !line.contains("epoch_6"), "{line}");
    desk.ok(&["alias", "set", "cnn", "seventh", "epoch_7"]);
    assert_eq!(desk.json(&["show", "cnn:seventh"])["number"], 1);
    desk.ok(&["pull", "cnn:epoch_8", "eighth"]);
    assert_eq!(desk.read("eighth/model.bin"), b"0.3");

    let none = desk.run(&["show", "cnn:epoch_0"]);
    assert!(none.code == 2 && none.stderr.contains("from 1"), "{}", none.stderr);
    let missing = desk.run(&["show", "cnn:epoch_9"]);
    assert!(
        missing.code == 3 && missing.stderr.contains("default/default/cnn:epoch_9"),
        "{}",
        missing.stderr
    );
}

#[test]
fn best_says_what_a_name_was_taken_for() {
    let desk = Desk::new();
    desk.push(b"a", "0.5", "1");
    desk.push(b"b", "0.4", "2");
    let run = desk.json(&["show", "cnn:v0"])["run"].as_str().unwrap().to_owned();
    let run = run.rsplit('/').next().unwrap();
    for (name, place, number) in [
        ("cnn", "artifact default/default/cnn", 1),
        (run, &*format!("run default/default/{run}"), 0),
        ("default", "team default", 1),
        ("default/default", "project default/default", 1),
        ("default/default/cnn", "artifact default/default/cnn", 1),
    ] {
        let printed = desk.ok(&["best", name]);
        assert!(printed.starts_with("best in") && printed.contains(place), "{name}: {printed}");
        assert_eq!(desk.json(&["best", name])["number"], number, "{name}");
    }
    // An artifact goes before the team of its name.
    desk.write("other.bin", b"other");
    desk.ok(&["push", "other.bin", "cnn/elsewhere/net", "--metric", "val_loss=0.1"]);
    assert_eq!(desk.json(&["best", "cnn"])["best_in"], "teams/default/projects/default/artifacts/cnn");
    assert_eq!(desk.json(&["best", "teams/cnn"])["best_in"], "teams/cnn");
}

/// A run that fails, with a save that is committed, one that is given up and one that is open; and a run that has none.
async fn failing(address: String) -> v1::Run {
    let client = Client::connect_lazy(address).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.bin");
    std::fs::write(&model, "model").unwrap();
    let mut run = Run::start(&client, start_request("failing", best_only())).await.unwrap();
    let mut decisions = Vec::new();
    for epoch in 0..4 {
        let value = 0.5 - 0.1 * f64::from(epoch);
        decisions.push(run.report(vec![epoch_end(epoch.into(), value)]).await.unwrap().remove(0));
        if epoch < 2 {
            run.save(&decisions[decisions.len() - 1], &model).await.unwrap();
        }
    }
    run.abandon(&decisions[2].checkpoint).await.unwrap();
    let artifact = run.started().run.clone().unwrap().artifact;
    client
        .delete_version(v1::DeleteVersionRequest {
            name: format!("{artifact}/versions/v0"),
            delete_aliases: true,
            ..Default::default()
        })
        .await
        .unwrap();
    let why = v1::MetricValue { kind: Some(v1::metric_value::Kind::Text("KeyError: 'x'".to_owned())) };
    let last = v1::Event {
        kind: v1::EventKind::TrainEnd.into(),
        epoch: 3,
        typed_metrics: [("failure".to_owned(), why)].into(),
        ..Default::default()
    };
    run.report(vec![last]).await.unwrap();
    run.finish(v1::RunState::Failed).await.unwrap();
    client.get_run("teams/default/projects/digits/runs/failing").await.unwrap()
}

#[test]
fn decisions_tell_what_became_of_a_save_and_a_run_why_it_failed() {
    let desk = Desk::new();
    let run = tokio::runtime::Runtime::new().unwrap().block_on(failing(desk.server.address()));
    assert_eq!(run.failure, "KeyError: 'x'");
    let listed = desk.json(&["decisions", "default/digits/failing"]);
    let of = |key: &str| -> Vec<String> {
        let decisions = listed["decisions"].as_array().unwrap();
        decisions.iter().map(|it| it[key].as_str().unwrap().rsplit('/').next().unwrap().to_owned()).collect()
    };
    assert_eq!(of("outcome"), ["deleted", "committed", "given_up", "open"]);
    assert_eq!(of("version"), ["v0", "v1", "", ""]);
    let table = desk.ok(&["decisions", "default/digits/failing"]);
    assert!(!table.contains(".;"), "{table}");
    for (line, text) in table.lines().skip(1).zip(["v0, deleted", "v1", "given up", "open"]) {
        assert!(line.contains(&format!(" save    {text} ")), "{text} is not in {table}");
    }
    let shown = desk.ok(&["show", "default/digits/failing"]);
    assert!(shown.contains("failure          KeyError: 'x'"), "{shown}");
    assert_eq!(desk.json(&["runs", "default/digits"])["runs"][0]["failure"], "KeyError: 'x'");
}

#[test]
fn a_runs_name_leads_to_its_artifact() {
    let desk = Desk::new();
    tokio::runtime::Runtime::new().unwrap().block_on(configured(desk.server.address()));
    let hint = "`default/digits/configured` is a run; its artifact is `default/digits/run-configured-model`";
    for (arguments, code) in [
        (["pull", "default/digits/configured:best"], 3),
        (["pull", "default/digits/configured"], 2),
        (["versions", "default/digits/configured"], 3),
        (["show", "default/digits/configured:v0"], 3),
        (["rm", "default/digits/configured:v0"], 3),
    ] {
        let done = desk.run(&arguments);
        assert!(
            done.code == code && done.stderr.contains(hint),
            "{arguments:?}: {} {}",
            done.code,
            done.stderr
        );
    }
    // What there is goes before what it may be.
    desk.push(b"a", "0.5", "1");
    let missing = desk.run(&["pull", "cnn:v9"]);
    assert!(missing.code == 3 && !missing.stderr.contains("is a run"), "{}", missing.stderr);
    assert!(!missing.stderr.contains("aliases"), "{}", missing.stderr);
    // An alias that is like none of those that are there.
    let missing = desk.run(&["pull", "cnn:production"]);
    assert!(missing.code == 3 && missing.stderr.contains("its aliases are `best`"), "{}", missing.stderr);
}

#[test]
fn the_artifact_that_a_deleted_run_leaves_is_named() {
    let desk = Desk::new();
    tokio::runtime::Runtime::new().unwrap().block_on(configured(desk.server.address()));
    let gone = desk.run(&["rm", "default/digits/configured", "--force", "--yes"]);
    let note = "its artifact `default/digits/run-configured-model` stays, without a version";
    assert!(gone.code == 0 && gone.stderr.contains(note), "{}", gone.stderr);
    desk.ok(&["rm", "default/digits/run-configured-model", "--yes"]);
    let none = desk.run(&["artifacts", "default/digits"]);
    assert!(!none.stdout.contains("run-configured-model"), "{}", none.stdout);
}

#[test]
fn a_team_alone_stands_for_all_its_projects() {
    let desk = Desk::new();
    tokio::runtime::Runtime::new().unwrap().block_on(configured(desk.server.address()));
    desk.write("other.bin", b"other");
    desk.ok(&["push", "other.bin", "vision/mnist/net", "--metric", "loss=1"]);
    assert_eq!(desk.json(&["runs", "vision"])["runs"].as_array().unwrap().len(), 1);
    assert_eq!(desk.json(&["artifacts", "vision"])["artifacts"].as_array().unwrap().len(), 1);
    let digits = desk.run(&["runs", "digits"]);
    assert!(
        digits.code == 3
            && digits.stderr.contains("no team `digits`")
            && digits.stderr.contains("`default/digits`"),
        "{}",
        digits.stderr
    );
}

#[test]
fn the_runs_of_pushes_flood_no_list() {
    let desk = Desk::new();
    desk.push(b"a", "0.5", "1");
    desk.push(b"b", "0.4", "2");
    let none = desk.run(&["runs"]);
    assert!(none.code == 0 && none.stdout.contains("`--pushes` lists them"), "{}", none.stdout);
    let run = desk.json(&["runs"])["runs"].as_array().unwrap().len();
    assert_eq!(run, 2, "JSON is whole");
    assert_eq!(desk.ok(&["runs", "--pushes"]).lines().count(), 3);
    assert_eq!(desk.ok(&["runs", "--filter", "monitor = 'val_loss'"]).lines().count(), 3);
    tokio::runtime::Runtime::new().unwrap().block_on(configured(desk.server.address()));
    let some = desk.run(&["runs", "default"]);
    assert_eq!(some.stdout.lines().count(), 2, "{}", some.stdout);
    assert!(some.stderr.contains("left out") && some.stderr.contains("`--pushes`"), "{}", some.stderr);
}

#[test]
fn a_push_without_a_metric_says_what_it_settles() {
    let desk = Desk::new();
    desk.write("model.bin", b"model");
    let first = desk.run(&["push", "model.bin", "cnn"]);
    assert!(first.code == 0 && first.stderr.contains("`val_loss` (min) decides"), "{}", first.stderr);
    let other = desk.run(&["push", "model.bin", "cnn", "--metric", "acc=0.9", "--mode", "max"]);
    assert_eq!(other.code, 1, "{}", other.stderr);
    for text in ["`val_loss` (min)", "`acc` (max)", "`keepbest rm default/default/cnn`", "--mode out"] {
        assert!(other.stderr.contains(text), "{text} is not in {}", other.stderr);
    }
    // What it says works.
    desk.ok(&["push", "model.bin", "cnn", "--metric", "acc=0.9"]);
    desk.ok(&["rm", "default/default/cnn", "--yes"]);
    desk.ok(&["push", "model.bin", "cnn", "--metric", "acc=0.9", "--mode", "max"]);
    assert_eq!(desk.json(&["show", "cnn:best"])["metrics"]["acc"], 0.9);
    let again = desk.run(&["push", "model.bin", "cnn"]);
    assert!(!again.stderr.contains("decides"), "{}", again.stderr);
}

async fn configured(address: String) {
    let client = Client::connect_lazy(address).unwrap();
    let value = |kind| AnyValue { kind: Some(kind) };
    let config = [
        ("lr".to_owned(), value(Kind::NumberValue(0.125))),
        ("data".to_owned(), value(Kind::StringValue("mnist".to_owned()))),
    ];
    let mut request = start_request("configured", best_only());
    request.config = Some(Struct { fields: config.into() });
    let mut run = Run::start(&client, request).await.unwrap();
    let decision = run.report(vec![epoch_end(0, 0.5)]).await.unwrap().remove(0);
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.bin");
    std::fs::write(&model, "model").unwrap();
    run.save(&decision, &model).await.unwrap();
}

#[test]
fn a_run_shows_its_settings_and_its_best_version() {
    let desk = Desk::new();
    tokio::runtime::Runtime::new().unwrap().block_on(configured(desk.server.address()));
    let shown = desk.ok(&["show", "default/digits/configured"]);
    for text in ["0.5 default/digits/run-configured-model:v0", "lr      0.125", "data    mnist"] {
        assert!(shown.contains(text), "{text} is not in {shown}");
    }
    assert!(!shown.contains("checkpoints/"), "{shown}");
    let best = "teams/default/projects/digits/artifacts/run-configured-model/versions/v0";
    assert_eq!(desk.json(&["show", "default/digits/configured"])["best_version"], best);
}

fn error(done: &Done) -> Value {
    assert!(done.stdout.is_empty(), "{}", done.stdout);
    let document: Value = serde_json::from_str(&done.stderr).unwrap();
    assert_eq!(document["error"]["exit_code"], done.code);
    document["error"].clone()
}

#[test]
fn errors_are_in_the_words_that_were_typed() {
    let desk = Desk::new();
    desk.push(b"a", "0.5", "1");
    desk.push(b"b", "0.4", "2");
    desk.ok(&["alias", "set", "cnn", "production", "v0"]);
    let table: &[(&[&str], i32, &[&str])] = &[
        (&["best", "--metric", "f1"], 2, &["`--mode min`", "`default/default`"]),
        (&["versions", "cnn", "--filter", "epohc = 1"], 2, &["`epohc`", "epoch"]),
        (&["versions", "cnn", "--order-by", "batch"], 2, &["`batch`"]),
        (&["alias", "set", "cnn", "production", "v1", "--expect", "v1"], 1, &["`--expect`", "points at v0"]),
        (&["alias", "set", "cnn", "production", "v1", "--expect", "x"], 2, &["`--expect`"]),
        (&["alias", "rm", "cnn", "prodcution"], 3, &["no alias `prodcution`", "did you mean `production`?"]),
        (&["alias", "rm", "cnn", "best"], 2, &["`best`"]),
        (&["show", "cnn:v9"], 3, &["`default/default/cnn:v9`"]),
        (&["runs", "--limit", "2", "--page-token", "x"], 2, &["`--page-token`"]),
        (
            &["push", "model.bin", "cnn", "--monitor", "val_los", "--metric", "val_loss=1"],
            2,
            &["did you mean `val_loss`?"],
        ),
        (
            &["push", "model.bin", "cnn", "--metric", "acc=1", "--monitor", "acc", "--mode", "max"],
            1,
            &["`val_loss`", "push"],
        ),
    ];
    for (arguments, code, says) in table {
        let done = desk.run(arguments);
        assert_eq!(done.code, *code, "{arguments:?}: {}", done.stderr);
        for text in *says {
            assert!(done.stderr.contains(text), "{arguments:?}: {text} is not in {}", done.stderr);
        }
        for word in ["teams/", "MIN", "expected_version", "page_token ", "order_by"] {
            assert!(!done.stderr.contains(word), "{arguments:?}: {word} is in {}", done.stderr);
        }
        let told = error(&desk.run(&[*arguments, &["--json"]].concat()));
        let kind = ["", "failed", "wrong_arguments", "not_found"][usize::try_from(*code).unwrap()];
        assert_eq!(told["kind"], kind, "{arguments:?}");
    }
    let moved = ["alias", "set", "cnn", "production", "v1", "--expect", "v1", "--json"];
    assert_eq!(error(&desk.run(&moved))["reason"], "ALIAS_MOVED");
    assert_eq!(error(&desk.run(&["no-such-command", "--json"]))["kind"], "wrong_arguments");
    let folder = tempfile::tempdir().unwrap();
    let away = keepbest(&["runs", "--json", "--server", "http://127.0.0.1:1"], folder.path());
    assert_eq!(error(&away)["kind"], "unreachable");
}

#[test]
fn a_misspelt_variable_or_log_filter_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, value: &str| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_keepbest"));
        let done = program.arg("check-config").env(name, value).current_dir(folder.path()).output().unwrap();
        (done.status.code().unwrap(), String::from_utf8(done.stderr).unwrap())
    };
    for (name, value, says) in [
        ("KEEPBEST_DATA_DRI", "/x", "`KEEPBEST_DATA_DIR`"),
        ("KEEPBEST_ADRESS", "x", "`KEEPBEST_ADDRESS`"),
        ("KEEPBEST_LOG_FILTER", "inof", "`info`"),
        ("KEEPBEST_LOG_FILTER", "keepbset=debug", "`keepbest`"),
    ] {
        let (code, said) = run(name, value);
        assert!(code == 2 && said.contains(says), "{name}={value}: {said}");
    }
    for (name, value) in
        [("KEEPBEST_PORT_7400_TCP", "tcp://10.0.0.1:7400"), ("KEEPBEST_LOG_FILTER", "warn,h2=off")]
    {
        assert_eq!(run(name, value).0, 0, "{name}");
    }
}

#[test]
fn a_misspelt_data_folder_becomes_no_service() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("msispelt");
    let data = missing.to_str().unwrap();
    for command in ["rebuild", "migrate", "check", "gc"] {
        let done = keepbest(&[command, "--data", data], folder.path());
        assert!(done.code == 1 && done.stderr.contains("msispelt"), "{command}: {}", done.stderr);
        assert!(!missing.exists(), "{command}");
    }
    // A folder that is there and holds nothing stays empty too.
    std::fs::create_dir_all(missing.join("objects")).unwrap();
    let done = keepbest(&["rebuild", "--data", data], folder.path());
    assert!(done.code == 1 && done.stderr.contains("no manifests"), "{}", done.stderr);
    assert_eq!(std::fs::read_dir(&missing).unwrap().count(), 1);
}
