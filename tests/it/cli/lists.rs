//! Lists: how much of one is printed, of how many, and how to get the rest; and places that do not exist.

use keepbest_client::Client;
use keepbest_client::Run;
use keepbest_client::v1;
use serde_json::Value;

use super::Desk;
use crate::support::requests::best_only;
use crate::support::requests::epoch_end;
use crate::support::requests::start_request;

const PROJECT: &str = "default/digits";

fn array<'v>(document: &'v Value, key: &str) -> &'v Vec<Value> {
    document[key].as_array().unwrap()
}

fn epochs(document: &Value) -> Vec<i64> {
    array(document, "decisions").iter().map(|it| it["epoch_number"].as_i64().unwrap()).collect()
}

/// A run that has decided so many times.
async fn decided(address: String, run: &str, count: i64) {
    let client = Client::connect_lazy(address).unwrap();
    let mut run = Run::start(&client, start_request(run, best_only())).await.unwrap();
    // Each is worse than the one before, so that one alone asks for a save.
    let events = (0..count).map(|epoch| epoch_end(epoch, epoch as f64)).collect();
    run.report(events).await.unwrap();
    run.finish(v1::RunState::Finished).await.unwrap();
}

#[test]
fn decisions_are_the_newest_ones_and_json_has_all() {
    let desk = Desk::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(decided(desk.server.address(), "long", 1_200));
    let name = format!("{PROJECT}/long");

    let printed = desk.run(&["decisions", &name]);
    let lines: Vec<_> = printed.stdout.lines().collect();
    assert_eq!(lines.len(), 51, "{}", printed.stdout);
    assert!(lines[1].trim_start().starts_with("1151 "), "{}", lines[1]);
    assert!(lines[50].trim_start().starts_with("1200 "), "{}", lines[50]);
    assert!(printed.stderr.starts_with("note: 50 of 1,200 decisions"), "{}", printed.stderr);
    assert!(printed.stderr.contains("`--all`") && printed.stderr.contains("`--limit"), "{}", printed.stderr);

    let all = desk.run(&["decisions", &name, "--all"]);
    assert_eq!((all.stdout.lines().count(), all.stderr.as_str()), (1_201, ""));
    assert_eq!(epochs(&desk.json(&["decisions", &name])), (1..=1_200).collect::<Vec<_>>());

    let newest = desk.json(&["decisions", &name, "--limit", "3"]);
    assert_eq!(epochs(&newest), [1_198, 1_199, 1_200]);
    let token = newest["next_page_token"].as_str().unwrap();
    let older = desk.json(&["decisions", &name, "--limit", "2", "--page-token", token]);
    assert_eq!(epochs(&older), [1_196, 1_197]);
}

#[test]
fn a_table_says_of_how_many_and_pages_have_tokens() {
    let desk = Desk::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        for run in 0..55 {
            decided(desk.server.address(), &format!("r{run}"), 1).await;
        }
    });
    for (command, key) in [("runs", "runs"), ("artifacts", "artifacts")] {
        let printed = desk.run(&[command, PROJECT]);
        assert_eq!(printed.stdout.lines().count(), 51, "{}", printed.stdout);
        assert!(printed.stderr.contains(&format!("50 of 55 {key}")), "{}", printed.stderr);
        let all = desk.run(&[command, PROJECT, "--all"]);
        assert_eq!((all.stdout.lines().count(), all.stderr.as_str()), (56, ""), "{command}");
        assert_eq!(array(&desk.json(&[command, PROJECT]), key).len(), 55, "{command}");

        let mut names = Vec::new();
        let mut token = String::new();
        loop {
            let mut arguments = vec![command, PROJECT, "--limit", "20"];
            if !token.is_empty() {
                arguments.extend(["--page-token", &token]);
            }
            let page = desk.json(&arguments);
            names.extend(array(&page, key).iter().map(|it| it["name"].as_str().unwrap().to_owned()));
            let next = page["next_page_token"].as_str().unwrap().to_owned();
            if next.is_empty() {
                break;
            }
            token = next;
        }
        let all = desk.json(&[command, PROJECT]);
        let whole: Vec<_> = array(&all, key).iter().map(|it| it["name"].as_str().unwrap()).collect();
        assert_eq!(names, whole, "{command}");
    }
    let alone = desk.run(&["runs", PROJECT, "--page-token", "x"]);
    assert!(alone.code == 2 && alone.stderr.contains("--limit"), "{}", alone.stderr);
}

#[test]
fn an_order_by_a_metric_tells_how_many_it_leaves_out() {
    let desk = Desk::new();
    for (metric, epoch) in [("acc=0.5", "1"), ("acc=0.75", "2"), ("loss=1", "3"), ("acc=nan", "4")] {
        desk.write("model.bin", metric.as_bytes());
        desk.ok(&["push", "model.bin", "cnn", "--metric", metric, "--epoch", epoch, "--mode", "max"]);
    }
    let ordered = ["versions", "cnn", "--order-by", "metrics.acc desc"];
    let printed = desk.run(&ordered);
    assert_eq!(printed.stdout.lines().count(), 3, "{}", printed.stdout);
    assert!(printed.stderr.contains("2 versions have no number as `acc`"), "{}", printed.stderr);
    assert_eq!(desk.json(&ordered)["left_out"], 2);
    let one = desk.run(&["versions", "cnn", "--order-by", "metrics.acc", "--filter", "epoch < 4"]);
    assert!(one.stderr.contains("1 version has no number as `acc`"), "{}", one.stderr);
    let none = desk.run(&["versions", "cnn", "--order-by", "metrics.acc", "--filter", "epoch <= 2"]);
    assert_eq!((none.stdout.lines().count(), none.stderr.as_str()), (3, ""));
    assert!(desk.json(&["versions", "cnn"]).get("left_out").is_none());
}

#[test]
fn projects_are_listed_and_a_misspelt_place_is_told() {
    let desk = Desk::new();
    // A new server has nothing, and nothing is wrong.
    assert!(desk.ok(&["runs"]).starts_with("no runs in default/default"));
    desk.write("model.bin", b"model");
    for artifact in ["vision/mnist/cnn", "vision/cifar/net", "cnn"] {
        desk.ok(&["push", "model.bin", artifact, "--metric", "loss=1"]);
    }
    let printed = desk.ok(&["projects", "vision"]);
    assert_eq!(printed.lines().collect::<Vec<_>>(), ["PROJECT", "vision/cifar", "vision/mnist"]);
    assert_eq!(array(&desk.json(&["projects"]), "projects").len(), 1);
    let printed = desk.ok(&["artifacts", "vision/-"]);
    assert!(printed.contains("vision/cifar/net") && printed.contains("vision/mnist/cnn"), "{printed}");

    for (arguments, says) in [
        (vec!["runs", "vision/mnits"], "`vision/mnist`"),
        (vec!["artifacts", "vision/cifra"], "`vision/cifar`"),
        (vec!["runs", "visoin/mnist"], "there is no team `visoin`"),
        (vec!["projects", "visoin"], "there is no team `visoin`"),
        (vec!["versions", "vision/mnist/cnm"], "`vision/mnist/cnn`"),
        (vec!["show", "vision/mnist/cnm"], "`vision/mnist/cnn`"),
        (vec!["pull", "vision/mnist/cnm:best"], "`vision/mnist/cnn`"),
        (vec!["show", "vision/mnist/cnn:bset"], "`best`"),
        (vec!["best", "cnm"], "`default/default/cnn`"),
    ] {
        let done = desk.run(&arguments);
        assert_eq!(done.code, 3, "{arguments:?}: {}", done.stderr);
        assert!(done.stderr.contains(says) && done.stdout.is_empty(), "{arguments:?}: {}", done.stderr);
    }
}
