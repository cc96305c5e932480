//! `keepbest watch`: what it prints, where it goes on, and the command that it runs.

use std::fs;

use serde_json::Value;

use super::Desk;

/// Stores versions with these values.
fn push(desk: &Desk, losses: &[f64]) {
    for loss in losses {
        let (file, metric) = (desk.folder.path().join("m.bin"), format!("val_loss={loss}"));
        fs::write(file, loss.to_string()).unwrap();
        desk.ok(&["push", "m.bin", "cnn", "--metric", &metric]);
    }
}

#[test]
fn versions_are_printed_once_and_a_file_keeps_the_place() {
    let desk = Desk::new();
    push(&desk, &[0.5, 0.7, 0.3]);
    let printed = desk.ok(&["watch", "cnn", "--from-start", "--count", "3"]);
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(
        lines,
        [
            "default/default/cnn:v0  epoch 1  val_loss 0.5  best",
            "default/default/cnn:v1  epoch 1  val_loss 0.7",
            "default/default/cnn:v2  epoch 1  val_loss 0.3  best"
        ]
    );
    let kept = ["watch", "--from-start", "--cursor-file", "place", "--json", "--count"];
    let first = desk.ok(&[&kept[..], &["1"]].concat());
    let rest = desk.ok(&[&kept[..], &["2"]].concat());
    let numbers = |text: &str| -> Vec<i64> {
        let line =
            |it: &str| serde_json::from_str::<Value>(it).unwrap()["version"]["number"].as_i64().unwrap();
        text.lines().map(line).collect()
    };
    assert_eq!((numbers(&first), numbers(&rest)), (vec![0], vec![1, 2]));
    let best = desk.ok(&["watch", "cnn", "--best", "--from-start", "--json", "--count", "2"]);
    assert_eq!(numbers(&best), [0, 2]);
}

#[test]
fn a_command_has_each_version_pulled_and_one_that_fails_has_it_again() {
    let desk = Desk::new();
    push(&desk, &[0.5, 0.4]);
    let watch = [
        "watch",
        "cnn",
        "--from-start",
        "--cursor-file",
        "place",
        "--count",
        "2",
        "--directory",
        "now",
        "--exec",
    ];
    let script = "grep -q 0.5 $1/m.bin || exit 3; echo $2 >> seen";
    // `--exec` takes all that follows.
    let address = desk.server.address();
    let with_server = |script: &str| {
        let before = ["--server", &address];
        let all = [&before[..], &watch[..], &["sh", "-c", script, "sh", "{path}", "{version}"]].concat();
        super::keepbest(&all, desk.folder.path())
    };
    let failed = with_server(script);
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    assert!(
        failed.stderr.contains("`sh` failed for default/default/cnn:v1: exit status: 3"),
        "{}",
        failed.stderr
    );
    assert!(failed.stderr.contains("--cursor-file begins with it"), "{}", failed.stderr);
    // The count is of a watch: this one waits for a second version, which does not come, unless its command fails.
    let again = with_server("echo $2 >> seen; false");
    let seen = fs::read_to_string(desk.folder.path().join("seen")).unwrap();
    assert_eq!(seen, "default/default/cnn:v0\ndefault/default/cnn:v1\n", "{}", again.stderr);
}

#[test]
fn what_cannot_be_watched_is_told() {
    let desk = Desk::new();
    push(&desk, &[0.5]);
    let done = desk.run(&["watch", "cnm", "--count", "1"]);
    assert_eq!(done.code, 3, "{}", done.stderr);
    assert!(done.stderr.contains("cnm"), "{}", done.stderr);
    fs::write(desk.folder.path().join("place"), "x".repeat(1_000)).unwrap();
    let done = desk.run(&["watch", "cnn", "--cursor-file", "place"]);
    assert_eq!(done.code, 2, "{}", done.stderr);
    assert!(done.stderr.contains("holds no cursor"), "{}", done.stderr);
    let done = desk.run(&["watch", "cnn", "--cursor", "0f.1"]);
    assert!(done.code != 0 && done.stderr.contains("the cursor is of another feed"), "{}", done.stderr);
}
