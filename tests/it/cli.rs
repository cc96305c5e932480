//! The command line as a person uses it: the built program against a running server.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod away;
mod escapes;
mod lists;
mod pushes;
mod recover;
mod remove;
mod told;
mod watch;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::server::ServerProcess;

/// A server and a folder to work in.
struct Desk {
    server: ServerProcess,
    data: TempDir,
    folder: TempDir,
}

/// What a command came to.
struct Done {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Desk {
    fn new() -> Desk {
        let data = tempfile::tempdir().unwrap();
        Desk { server: ServerProcess::start(data.path()), data, folder: tempfile::tempdir().unwrap() }
    }

    fn run(&self, arguments: &[&str]) -> Done {
        let mut all = arguments.to_vec();
        let address = self.server.address();
        all.extend(["--server", &address]);
        keepbest(&all, self.folder.path())
    }

    /// Runs a command that must succeed, and gives what it printed.
    fn ok(&self, arguments: &[&str]) -> String {
        let done = self.run(arguments);
        assert_eq!(done.code, 0, "{arguments:?}: {}", done.stderr);
        done.stdout
    }

    /// Runs a command with `--json` that must succeed, and parses what it printed.
    fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.push("--json");
        serde_json::from_str(&self.ok(&all)).unwrap()
    }

    fn write(&self, name: &str, data: &[u8]) {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, data).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.folder.path().join(name)).unwrap()
    }

    /// Pushes `model.bin` with a validation loss.
    fn push(&self, data: &[u8], val_loss: &str, epoch: &str) -> Value {
        self.write("model.bin", data);
        self.json(&[
            "push",
            "model.bin",
            "cnn",
            "--metric",
            &format!("val_loss={val_loss}"),
            "--epoch",
            epoch,
        ])
    }
}

/// Runs the program without any variable of the caller's that would change what it does.
fn keepbest(arguments: &[&str], folder: &Path) -> Done {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keepbest"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KEEPBEST_") {
            command.env_remove(name);
        }
    }
    let Output { status, stdout, stderr } = command.args(arguments).current_dir(folder).output().unwrap();
    Done {
        code: status.code().unwrap(),
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
    }
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index / 7 % 249) as u8).collect()
}

fn aliases(version: &Value) -> Vec<&str> {
    version["aliases"].as_array().unwrap().iter().map(|alias| alias.as_str().unwrap()).collect()
}

#[test]
fn a_file_is_pushed_found_and_pulled() {
    let desk = Desk::new();
    let data = bytes(300_000);
    let version = desk.push(&data, "0.25", "7");
    assert_eq!(version["name"], "teams/default/projects/default/artifacts/cnn/versions/v0");
    assert_eq!((&version["epoch"], &version["file_count"]), (&6.into(), &1.into()));
    assert_eq!(version["metrics"]["val_loss"], 0.25);
    assert!(aliases(&version).contains(&"latest") && aliases(&version).contains(&"best"));

    let printed = desk.ok(&["pull", "cnn:best"]);
    assert!(printed.starts_with("pulled default/default/cnn:v0 to cnn-v0: 1 file, 293 KiB"), "{printed}");
    assert!(
        printed.contains(&format!("verified: BLAKE3 {}", version["digest"].as_str().unwrap())),
        "{printed}"
    );
    assert!(desk.read("cnn-v0/model.bin") == data);
}

#[test]
fn a_directory_is_pushed_and_pulled() {
    let desk = Desk::new();
    let large = bytes(20 << 20);
    desk.write("saved/variables/large.bin", &large);
    desk.write("saved/model.pb", b"graph");
    desk.write("saved/empty", b"");
    desk.write("saved/x.keepbest-part/y", b"y");
    let printed = desk.ok(&["push", "saved", "vision/mnist/net", "--metric", "f1=0.5", "--mode", "max"]);
    assert!(printed.starts_with("pushed vision/mnist/net:v0: 4 files, 20.0 MiB"), "{printed}");

    desk.ok(&["pull", "vision/mnist/net:latest", "copy"]);
    assert!(desk.read("copy/variables/large.bin") == large);
    assert_eq!(desk.read("copy/model.pb"), b"graph");
    assert_eq!(desk.read("copy/empty"), b"");
    assert_eq!(desk.read("copy/x.keepbest-part/y"), b"y");
    let again = desk.json(&["pull", "vision/mnist/net:latest", "copy"]);
    assert_eq!((&again["received_bytes"], &again["skipped_files"]), (&0.into(), &4.into()));
}

#[test]
fn a_pull_that_was_cut_goes_on_with_what_is_verified() {
    let desk = Desk::new();
    let chunk = 8 << 20;
    let data = bytes(2 * chunk + 5);
    desk.push(&data, "1", "1");
    let shown = desk.json(&["show", "cnn:v0"]);
    // What a pull leaves that was killed after the first chunk.
    let mut part = vec![0; data.len()];
    part[..chunk].copy_from_slice(&data[..chunk]);
    let name = &blake3::hash(b"model.bin").to_hex()[..32];
    desk.write(&format!("out/.keepbest-pull/{name}.part"), &part);
    let record = format!(
        "keepbest-part 1 {} {}\n0 {}\n1 {}\n2 tor",
        data.len(),
        shown["files"][0]["digest"].as_str().unwrap(),
        blake3::hash(&data[..chunk]).to_hex(),
        blake3::hash(&data[chunk..2 * chunk]).to_hex(),
    );
    desk.write(&format!("out/.keepbest-pull/{name}.record"), record.as_bytes());

    let pulled = desk.json(&["pull", "cnn:v0", "out"]);
    assert_eq!(pulled["received_bytes"], data.len() - chunk);
    assert!(desk.read("out/model.bin") == data);
    assert_eq!(fs::read_dir(desk.folder.path().join("out")).unwrap().count(), 1);
}

#[test]
fn the_best_version_is_found_and_shown() {
    let desk = Desk::new();
    for (data, val_loss, epoch) in
        [("a", "0.5", "1"), ("b", "0.2", "2"), ("c", "0.9", "3"), ("d", "nan", "4")]
    {
        desk.push(data.as_bytes(), val_loss, epoch);
    }
    assert_eq!(desk.json(&["best"])["number"], 1);
    assert_eq!(desk.json(&["best", "default"])["number"], 1);
    assert_eq!(
        desk.json(&["best", "default/default/cnn", "--metric", "val_loss", "--mode", "max"])["number"],
        2
    );
    let run = desk.json(&["show", "cnn:v2"])["run"].as_str().unwrap().to_owned();
    assert_eq!(desk.json(&["best", "--run", &run])["number"], 2);
    assert_eq!(desk.json(&["show", "cnn:v3"])["metrics"]["val_loss"], "NaN");

    let shown = desk.ok(&["show", "cnn:best"]);
    for text in ["default/default/cnn:v1", "val_loss=0.2", "model.bin", "epoch    2"] {
        assert!(shown.contains(text), "{text} is not in {shown}");
    }
    let artifact = desk.ok(&["show", "cnn"]);
    assert!(artifact.contains("val_loss (min)") && artifact.contains("latest"), "{artifact}");
}

#[test]
fn versions_and_runs_are_listed() {
    let desk = Desk::new();
    for (val_loss, epoch) in [("0.5", "1"), ("0.2", "2"), ("0.4", "3")] {
        desk.push(val_loss.as_bytes(), val_loss, epoch);
    }
    let numbers = |arguments: &[&str]| -> Vec<i64> {
        let listed = desk.json(&[&["versions", "cnn"], arguments].concat());
        listed["versions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|version| version["number"].as_i64().unwrap())
            .collect()
    };
    assert_eq!(numbers(&[]), [2, 1, 0]);
    assert_eq!(numbers(&["--limit", "2"]), [2, 1]);
    assert_eq!(numbers(&["--order-by", "metrics.val_loss asc"]), [1, 2, 0]);
    assert_eq!(numbers(&["--filter", "metrics.val_loss < 0.45 AND epoch >= 2"]), [2, 1]);
    assert_eq!(numbers(&["--filter", "metrics.val_loss < 0.45 AND epoch >= 3"]), [2]);
    let printed = desk.ok(&["versions", "cnn"]);
    assert_eq!(printed.lines().count(), 4);
    assert!(printed.starts_with("VERSION  EPOCH  val_loss"), "{printed}");

    let runs = desk.json(&["runs"]);
    assert_eq!(runs["runs"].as_array().unwrap().len(), 3);
    assert_eq!(runs["runs"][0]["state"], "finished");
    assert_eq!(desk.ok(&["runs", "default/default", "--pushes"]).lines().count(), 4);
}

#[test]
fn decisions_say_why() {
    let desk = Desk::new();
    let run = desk.push(b"a", "0.5", "7")["run"].as_str().unwrap().to_owned();
    let decisions = desk.json(&["decisions", &run, "--epoch", "7", "--action", "save"]);
    let decision = &decisions["decisions"][0];
    assert_eq!((&decision["epoch"], &decision["action"]), (&6.into(), &"save".into()));
    let printed = desk.ok(&["decisions", &run]);
    assert!(
        printed.contains("save") && printed.contains(decision["reason_text"].as_str().unwrap()),
        "{printed}"
    );
    let table = desk.ok(&["decisions", &run]);
    assert!(table.contains("ATTEMPT  ACTION  BECAME") && table.contains("1  save    v0 "), "{table}");
    assert_eq!(
        (&decision["outcome"], decision["version"].as_str().unwrap().ends_with("/v0")),
        (&"committed".into(), true)
    );
    let none = desk.json(&["decisions", &run, "--action", "fail"]);
    assert_eq!(none["decisions"].as_array().unwrap().len(), 0);
}

#[test]
fn an_alias_is_made_moved_and_removed() {
    let desk = Desk::new();
    desk.push(b"a", "0.5", "1");
    desk.push(b"b", "0.4", "2");
    let set = desk.json(&["alias", "set", "cnn", "production", "v0", "--expect", "none"]);
    assert!(aliases(&set).contains(&"production"));
    let moved = desk.run(&["alias", "set", "cnn", "production", "v1", "--expect", "v1"]);
    assert_eq!(moved.code, 1);
    assert_eq!(desk.json(&["show", "cnn:production"])["number"], 0);
    desk.ok(&["alias", "set", "cnn", "production", "v1", "--expect", "v0"]);
    assert_eq!(desk.json(&["show", "cnn:production"])["number"], 1);
    desk.ok(&["alias", "rm", "cnn", "production"]);
    assert_eq!(desk.run(&["show", "cnn:production"]).code, 3);
}

#[test]
fn a_version_with_aliases_of_ones_own_is_not_deleted_by_chance() {
    let desk = Desk::new();
    desk.push(b"a", "0.5", "1");
    desk.push(b"b", "0.6", "2");
    desk.ok(&["alias", "set", "cnn", "production", "v0"]);
    let refused = desk.run(&["rm", "cnn:v0"]);
    assert_eq!(refused.code, 1);
    assert!(
        refused.stderr.contains("production") && refused.stderr.contains("--force"),
        "{}",
        refused.stderr
    );
    assert_eq!(desk.run(&["rm", "cnn:best"]).code, 2);
    desk.ok(&["rm", "cnn:v0", "--force"]);
    assert_eq!(desk.run(&["show", "cnn:v0"]).code, 3);
    assert_eq!(desk.json(&["best"])["number"], 1);
}

#[test]
fn exit_codes_tell_what_is_wrong() {
    let desk = Desk::new();
    desk.write("model.bin", b"a");
    let table = [
        (vec!["show", "missing"], 3),
        (vec!["show", "missing:v1"], 3),
        (vec!["pull", "missing:best"], 3),
        (vec!["decisions", "missing"], 3),
        (vec!["pull", "cnn"], 2),
        (vec!["show", "a/b"], 2),
        (vec!["push", "missing.bin", "cnn"], 2),
        (vec!["push", "model.bin", "cnn", "--metric", "val_loss"], 2),
        (vec!["best", "--mode", "most"], 2),
        (vec!["no-such-command"], 2),
    ];
    for (arguments, code) in table {
        let done = desk.run(&arguments);
        assert_eq!(done.code, code, "{arguments:?}: {}", done.stderr);
        assert!(
            done.stderr.starts_with("error: ") && done.stdout.is_empty(),
            "{arguments:?}: {}",
            done.stderr
        );
    }
}

#[test]
fn the_settings_are_checked_without_a_server() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("right.toml"), "[limits]\ndrain_seconds = 5").unwrap();
    fs::write(folder.path().join("wrong.toml"), "[limits]\ndrain = 5").unwrap();
    let right = keepbest(&["check-config", "--config", "right.toml", "--json"], folder.path());
    let settings: Value = serde_json::from_str(&right.stdout).unwrap();
    assert_eq!(settings["settings"]["limits.drain_seconds"], 5);
    for command in ["check-config", "serve"] {
        let wrong = keepbest(&[command, "--config", "wrong.toml"], folder.path());
        assert_eq!(wrong.code, 2);
        assert!(wrong.stderr.contains("`limits.drain` in `wrong.toml` is unknown"), "{}", wrong.stderr);
        assert!(wrong.stderr.contains("`drain_seconds`"), "{}", wrong.stderr);
    }
    let remote = keepbest(&["serve", "--listen", "0.0.0.0:0"], folder.path());
    assert_eq!(remote.code, 2);
    assert!(remote.stderr.contains("allow_remote = true"), "{}", remote.stderr);
}

#[test]
fn an_address_of_a_database_is_checked_without_it_and_tells_no_password() {
    let folder = tempfile::tempdir().unwrap();
    let table = [
        ("db:notaport/x", "invalid port number"),
        ("db/x?sslmode=bogus", "unknown value \"bogus\" for `ssl_mode`"),
        ("db/x?sslmod=require", "its parameter `sslmod` is not known; known are sslmode"),
        ("db/x?pasword=hunter2", "its parameter `pasword` is not known"),
        ("db?hunter2@host/x", "of its password `?` must be written as `%3F`"),
    ];
    for (address, why) in table {
        let text = format!("database_url = 'postgres://keep:hunter2@{address}'");
        fs::write(folder.path().join("wrong.toml"), text).unwrap();
        let wrong = keepbest(&["check-config", "--config", "wrong.toml"], folder.path());
        assert_eq!(wrong.code, 2, "{}", wrong.stderr);
        assert!(wrong.stderr.contains(why) && !wrong.stderr.contains("hunter2"), "{}", wrong.stderr);
    }
    let mut program = Command::new(env!("CARGO_BIN_EXE_keepbest"));
    let name = OsStr::from_bytes(b"postgres://keep:\xe4@db/x");
    let done = program.arg("check-config").env("KEEPBEST_DATABASE_URL", name).output().unwrap();
    assert_eq!(done.status.code(), Some(2));
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(said.contains("`KEEPBEST_DATABASE_URL` is no UTF-8"), "{said}");
}

#[test]
fn the_data_folder_is_checked_and_collected_beside_a_server() {
    let desk = Desk::new();
    desk.push(&bytes(100_000), "0.5", "1");
    desk.push(&bytes(200_000), "0.4", "2");
    desk.ok(&["rm", "cnn:v0"]);
    let data = desk.data.path().to_str().unwrap().to_owned();
    let collected = desk.json(&["gc", "--data", &data, "--now"]);
    assert!(collected["removed_checkpoints"].as_u64().unwrap() >= 1, "{collected}");
    let checked = desk.json(&["check", "--data", &data, "--read-data"]);
    assert_eq!((&checked["versions"], &checked["problems"]), (&1.into(), &Value::Array(Vec::new())));
    desk.ok(&["pull", "cnn:v1"]);
    assert!(desk.read("cnn-v1/model.bin") == bytes(200_000));
}

#[test]
fn help_is_there_for_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let help = keepbest(&["--help"], folder.path()).stdout;
    assert!(help.contains("Exit codes:") && help.contains("Examples:"), "{help}");
    let commands =
        ["serve", "check-config", "runs", "show", "best", "versions", "pull", "push", "decisions", "rm"];
    for command in commands.into_iter().chain(["gc", "check", "rebuild"]) {
        let done = keepbest(&[command, "--help"], folder.path());
        assert!(done.code == 0 && done.stdout.contains("Usage: keepbest "), "{command}: {}", done.stderr);
    }
}
