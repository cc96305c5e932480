//! A push leaves a version or nothing, whatever ends it; and what was cut off goes on.

use std::fs;
use std::fs::File;
use std::io::BufRead as _;
use std::io::BufReader;
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::symlink;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use keepbest_client::Client;
use keepbest_client::v1;
use rustix::process::Pid;
use rustix::process::Signal;
use uuid::Uuid;

use super::Desk;
use super::bytes;

const PARENT: &str = "teams/default/projects/default";

impl Desk {
    /// A file of which the server has no chunk, so that it takes time to push: mostly holes, and each chunk with a number of its own.
    fn large(&self, name: &str, size_bytes: u64) {
        let file = File::create(self.folder.path().join(name)).unwrap();
        file.set_len(size_bytes).unwrap();
        for offset in (0..size_bytes).step_by(1 << 20) {
            file.write_all_at(Uuid::new_v4().as_bytes(), offset).unwrap();
        }
    }

    /// Begins a command.
    fn begin(&self, arguments: &[&str]) -> Child {
        let mut program = Command::new(env!("CARGO_BIN_EXE_keepbest"));
        program.args(arguments).args(["--server", &self.server.address()]).current_dir(self.folder.path());
        program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn names(&self, command: &str) -> Vec<String> {
        let listed = self.json(&[command]);
        listed[command].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect()
    }
}

/// Waits until a push has stored some bytes, and says in which checkpoint.
fn underway(address: String, push: &mut Child) -> String {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let client = Client::connect_lazy(address).unwrap();
        loop {
            assert!(push.try_wait().unwrap().is_none(), "the push ended before it was interrupted");
            let request = v1::ListRunsRequest { parent: PARENT.to_owned(), ..Default::default() };
            let runs = client.list_runs(request).await.unwrap().runs;
            let Some(checkpoint) = runs.iter().find_map(|run| run.monitor_state.as_ref()?.in_flight.first())
            else {
                continue;
            };
            let files = client.get_checkpoint(checkpoint, true).await.unwrap().files;
            if files.iter().any(|file| file.durable_bytes > 0) {
                return checkpoint.clone();
            }
        }
    })
}

#[test]
fn a_push_that_is_refused_leaves_nothing() {
    let desk = Desk::new();
    desk.write("model.bin", b"model");
    let long = format!("{}=1", "m".repeat(300));
    let refused = desk.run(&["push", "model.bin", "cnn", "--metric", "loss=1", "--metric", &long]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert_eq!((desk.names("runs"), desk.names("artifacts")), (vec![], vec![]));
    // An artifact that was there before stays.
    desk.ok(&["push", "model.bin", "cnn", "--metric", "loss=1"]);
    assert_eq!(desk.run(&["push", "model.bin", "cnn", "--metric", "loss=2", "--metric", &long]).code, 2);
    assert_eq!((desk.names("runs").len(), desk.names("artifacts").len()), (1, 1));
}

#[test]
fn a_push_that_is_interrupted_leaves_nothing() {
    let desk = Desk::new();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        desk.large("model.bin", 1 << 30);
        let mut push = desk.begin(&["push", "model.bin", "cnn", "--metric", "loss=1"]);
        underway(desk.server.address(), &mut push);
        self::signal(&push, signal);
        let done = push.wait_with_output().unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(code), "{said}");
        assert!(said.contains("error: interrupted by "), "{said}");
        assert_eq!((desk.names("runs"), desk.names("artifacts")), (vec![], vec![]), "{said}");
    }
}

#[test]
fn a_push_that_was_killed_goes_on() {
    let desk = Desk::new();
    desk.large("model.bin", 192 << 20);
    let arguments = ["push", "model.bin", "cnn", "--metric", "loss=1"];
    let mut push = desk.begin(&arguments);
    let checkpoint = underway(desk.server.address(), &mut push);
    push.kill().unwrap();
    push.wait().unwrap();
    let again = desk.run(&arguments);
    assert_eq!(again.code, 0, "{}", again.stderr);
    assert!(again.stderr.contains("going on with the push"), "{}", again.stderr);
    let version = desk.json(&["show", "cnn:v0"]);
    assert_eq!(version["checkpoint"], checkpoint);
    assert_eq!((desk.names("runs").len(), &version["size_bytes"]), (1, &(192u64 << 20).into()));
    // One that has ended is not gone on with: the same push again is another version.
    let third = desk.run(&arguments);
    assert!(third.code == 0 && third.stdout.contains("cnn:v1"), "{} {}", third.stdout, third.stderr);
}

/// Of equal pushes at once the later one goes on with the run of the earlier one.
#[test]
fn of_two_equal_pushes_none_takes_away_what_the_other_saves() {
    let desk = Desk::new();
    desk.large("model.bin", 1 << 30);
    let arguments = ["push", "model.bin", "cnn", "--metric", "loss=1"];
    // The earlier one stands still until the later one has saved, and is told to end then.
    let mut first = desk.begin(&arguments);
    let checkpoint = underway(desk.server.address(), &mut first);
    signal(&first, Signal::STOP);
    let second = desk.run(&arguments);
    assert!(second.code == 0 && second.stderr.contains("going on with the push"), "{}", second.stderr);
    signal(&first, Signal::INT);
    signal(&first, Signal::CONT);
    let done = first.wait_with_output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.code() == Some(130) && said.contains("it was stored by then"), "{said}");
    assert_eq!(desk.json(&["show", "cnn:v0"])["checkpoint"], checkpoint);
    assert_eq!(desk.json(&["runs"])["runs"][0]["state"], "finished");
}

#[test]
fn a_push_that_is_interrupted_leaves_what_an_equal_one_has_begun() {
    let desk = Desk::new();
    desk.large("model.bin", 1 << 30);
    let arguments = ["push", "model.bin", "cnn", "--metric", "loss=1"];
    let mut first = desk.begin(&arguments);
    let checkpoint = underway(desk.server.address(), &mut first);
    signal(&first, Signal::STOP);
    let mut second = desk.begin(&arguments);
    wait_for_note(&mut second, "going on with the push");
    signal(&second, Signal::INT);
    assert_eq!(second.wait().unwrap().code(), Some(130));
    signal(&first, Signal::CONT);
    let done = first.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8(done.stderr).unwrap());
    assert_eq!(desk.json(&["show", "cnn:v0"])["checkpoint"], checkpoint);
}

fn signal(push: &Child, signal: Signal) {
    rustix::process::kill_process(Pid::from_child(push), signal).unwrap();
}

/// Waits until a push has said a text.
fn wait_for_note(push: &mut Child, text: &str) {
    let mut lines = BufReader::new(push.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains(text)), "`{text}` was not said");
}

#[test]
fn a_push_names_and_describes_its_version() {
    let desk = Desk::new();
    desk.write("model.bin", b"model");
    let more =
        ["--alias", "production", "--alias", "blue", "--metadata", "lr=0.5", "--metadata", "data=mnist"];
    let version = desk.json(&[&["push", "model.bin", "cnn", "--metric", "loss=1"], more.as_slice()].concat());
    for alias in ["production", "blue", "best", "latest"] {
        assert!(super::aliases(&version).contains(&alias), "{alias}: {version}");
    }
    assert_eq!(version["metadata"], serde_json::json!({"lr": 0.5, "data": "mnist"}));
    assert!(desk.ok(&["show", "cnn:blue"]).contains(r#"{"data":"mnist","lr":0.5}"#));
    let servers = desk.run(&["push", "model.bin", "other", "--alias", "v3"]);
    assert!(servers.code == 2 && servers.stderr.contains("`v3`"), "{}", servers.stderr);
    assert_eq!(desk.names("artifacts").len(), 1);
    let lacks = desk.run(&["push", "model.bin", "cnn", "--metric", "lsos=0.5"]);
    assert!(lacks.code == 0 && lacks.stderr.contains("cannot become `best`"), "{}", lacks.stderr);
}

#[test]
fn a_push_says_what_it_does_not_keep_and_follows_links_if_asked() {
    let desk = Desk::new();
    desk.write("saved/model.pb", b"graph");
    desk.write("shards/one", b"1");
    let saved = desk.folder.path().join("saved");
    fs::create_dir(saved.join("assets")).unwrap();
    fs::set_permissions(saved.join("model.pb"), fs::Permissions::from_mode(0o755)).unwrap();
    let pushed = desk.run(&["push", "saved", "net", "--metric", "loss=1"]);
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    assert!(pushed.stderr.contains("1 folder without files"), "{}", pushed.stderr);
    assert!(pushed.stderr.contains("1 executable file"), "{}", pushed.stderr);

    symlink(desk.folder.path().join("shards"), saved.join("shards")).unwrap();
    let refused = desk.run(&["push", "saved", "net", "--metric", "loss=1"]);
    assert!(refused.code == 2 && refused.stderr.contains("--follow-links"), "{}", refused.stderr);
    desk.ok(&["push", "saved", "net", "--metric", "loss=1", "--follow-links"]);
    desk.ok(&["pull", "net:latest", "back"]);
    assert_eq!(desk.read("back/shards/one"), b"1");
}

#[test]
fn a_pull_into_a_used_folder_leaves_no_file_of_the_version_before() {
    let desk = Desk::new();
    for (shards, loss) in [(3, "loss=2"), (2, "loss=1")] {
        for shard in 0..shards {
            desk.write(&format!("saved-{shards}/model-{shard}-of-{shards}.bin"), &bytes(10 + shard));
        }
        desk.ok(&["push", &format!("saved-{shards}"), "net", "--metric", loss]);
    }
    desk.ok(&["pull", "net:v0", "out"]);
    desk.write("out/notes.txt", b"mine");
    let pulled = desk.run(&["pull", "net:v1", "out"]);
    assert_eq!(pulled.code, 0, "{}", pulled.stderr);
    assert!(pulled.stdout.ends_with("removed 3 files of an earlier pull\n"), "{}", pulled.stdout);
    assert!(
        pulled.stderr.contains("not of this version, and left there: out/notes.txt"),
        "{}",
        pulled.stderr
    );
    let left = fs::read_dir(desk.folder.path().join("out")).unwrap().map(|it| it.unwrap().file_name());
    let mut left: Vec<_> = left.collect();
    left.sort();
    assert_eq!(left, ["model-0-of-2.bin", "model-1-of-2.bin", "notes.txt"]);
    let again = desk.json(&["pull", "net:v1", "out"]);
    assert_eq!((&again["removed_files"], &again["other_files"]), (&0.into(), &1.into()));
}
