//! The Rust client where it takes a real server to see what it does: around restarts, and when calls are repeated.

use std::collections::BTreeSet;
use std::fs;
use std::io::BufRead as _;
use std::io::BufReader;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use futures::StreamExt;
use keepbest_client::Client;
use keepbest_client::Error;
use keepbest_client::Part;
use keepbest_client::PullOptions;
use keepbest_client::Run;
use keepbest_client::UploadOptions;
use keepbest_client::v1;

use crate::support::requests::epoch_end;
use crate::support::requests::every_epoch;
use crate::support::requests::noise;
use crate::support::requests::start_request;
use crate::support::server::ServerProcess;
use crate::support::server::TestServer;
use crate::support::server::start;

#[tokio::test]
async fn a_client_connects_while_its_server_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = ServerProcess::start(folder.path());
    server.kill();
    let connecting = tokio::spawn(Client::builder(server.address()).connect());
    // A process takes longer to start than a connection to be refused.
    tokio::task::yield_now().await;
    let restart = move || {
        server.kill_and_restart();
        server
    };
    let _server = tokio::task::spawn_blocking(restart).await.unwrap();
    let client = connecting.await.unwrap().unwrap();
    let error = client.get_run("teams/t/projects/p/runs/r").await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
}

#[tokio::test]
async fn lists_of_more_than_a_page_are_read_whole() {
    const COUNT: usize = 1_100;
    let server = start().await;
    let (run, decision) = run_with_decision(&server).await;
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for number in 0..COUNT {
        fs::write(source.path().join(number.to_string()), number.to_string()).unwrap();
    }
    let version = run.save(&decision, source.path()).await.unwrap();
    let client = Client::connect_lazy(server.address()).unwrap();
    let options = PullOptions::default();
    let pulled = keepbest_client::pull(&client, &version.name, target.path(), &options);
    let pulled = pulled.await.unwrap().version;
    assert_eq!(pulled.files.len(), COUNT);
    for number in 0..COUNT {
        let path = target.path().join(number.to_string());
        assert_eq!(fs::read_to_string(path).unwrap(), number.to_string());
    }
    let request =
        v1::GetBestVersionRequest { parent: version.run.clone(), include_files: true, ..Default::default() };
    assert_eq!(client.get_best_version(request).await.unwrap(), pulled);
    assert_eq!(client.get_checkpoint(&decision.checkpoint, true).await.unwrap().files, pulled.files);

    let (artifact, _) = version.name.rsplit_once("/versions/").unwrap();
    let set = |number: usize| {
        let (artifact, alias) = (artifact.to_owned(), format!("a{number}"));
        client.set_alias(v1::SetAliasRequest {
            artifact,
            alias,
            version: "v0".to_owned(),
            ..Default::default()
        })
    };
    futures::stream::iter((0..COUNT).map(set)).buffer_unordered(64).map(Result::unwrap).count().await;
    let told = client.get_artifact(artifact, true).await.unwrap();
    let names: BTreeSet<String> = told.aliases.into_iter().map(|it| it.alias).collect();
    assert_eq!(names.len(), COUNT + 3);
    assert!(client.get_artifact(artifact, false).await.unwrap().aliases.is_empty());
}

/// More than a file that goes with others in one call.
const LARGE_BYTES: usize = 300 << 10;

/// A file on a stream of its own, and one that goes with others in one call.
fn write_model(folder: &Path, seed: u64) {
    fs::write(folder.join("large.bin"), noise(seed, LARGE_BYTES)).unwrap();
    fs::write(folder.join("small.bin"), noise(seed, 100)).unwrap();
}

async fn run_with_decision(server: &TestServer) -> (Run, v1::Decision) {
    let client = Client::connect_lazy(server.address()).unwrap();
    let mut run = Run::start(&client, start_request("r", every_epoch())).await.unwrap();
    let decision = run.report(vec![epoch_end(0, 0.5)]).await.unwrap().remove(0);
    (run, decision)
}

#[tokio::test]
async fn a_save_may_be_repeated_after_its_commit() {
    let server = start().await;
    let (run, decision) = run_with_decision(&server).await;
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), 1);
    let version = run.save(&decision, folder.path()).await.unwrap();
    assert_eq!(run.save(&decision, folder.path()).await.unwrap(), version);
    let again = run.upload(&decision.checkpoint, folder.path(), &UploadOptions::default()).await;
    assert_eq!(again.unwrap().file_count, 2);
    // What was not declared before the commit cannot be kept any more.
    let declared = UploadOptions { sha256: true, ..UploadOptions::default() };
    let refused = run.upload(&decision.checkpoint, folder.path(), &declared).await.unwrap_err();
    assert_eq!(refused.reason(), "FILE_EXISTS");
    let artifact = Client::connect_lazy(server.address()).unwrap();
    let artifact =
        artifact.get_artifact(version.name.rsplit_once("/versions/").unwrap().0, true).await.unwrap();
    assert_eq!(artifact.version_count, 1);
}

#[tokio::test]
async fn a_part_may_be_saved_again_after_its_commit() {
    let server = start().await;
    let (run, decision) = run_with_decision(&server).await;
    let folder = tempfile::tempdir().unwrap();
    let mut parts = Vec::new();
    for number in 0..2 {
        let folder = folder.path().join(format!("rank-{number}"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(format!("{number}.bin")), noise(number as u64, LARGE_BYTES)).unwrap();
        parts.push((folder, Part { number, count: 2 }));
    }
    let [(first, zero), (second, one)] = &parts[..] else { panic!("two parts") };
    let saved =
        tokio::try_join!(run.save_part(&decision, first, *zero), run.save_part(&decision, second, *one));
    let (version, _) = saved.unwrap();
    assert_eq!(run.save_part(&decision, second, *one).await.unwrap(), version);
}

#[tokio::test]
async fn what_was_not_committed_is_not_acknowledged_after_the_commit() {
    let server = start().await;
    let (run, decision) = run_with_decision(&server).await;
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), 1);
    let version = run.save(&decision, folder.path()).await.unwrap();

    let other = tempfile::tempdir().unwrap();
    let save = async || run.save(&decision, other.path()).await;
    for name in ["large.bin", "small.bin"] {
        write_model(other.path(), 1);
        let bytes = noise(2, fs::metadata(other.path().join(name)).unwrap().len() as usize);
        fs::write(other.path().join(name), bytes).unwrap();
        let error = save().await.unwrap_err();
        assert!(error.to_string().contains(name), "other bytes: {error}");
    }
    write_model(other.path(), 1);
    fs::write(other.path().join("more.bin"), "more").unwrap();
    assert!(matches!(save().await.unwrap_err(), Error::Corrupt(_) | Error::Refused(_)), "a further file");
    fs::remove_file(other.path().join("more.bin")).unwrap();
    fs::remove_file(other.path().join("small.bin")).unwrap();
    assert!(matches!(save().await.unwrap_err(), Error::Corrupt(_) | Error::Refused(_)), "a missing file");
    assert_eq!(run.save(&decision, folder.path()).await.unwrap(), version, "the version stands");
}

/// `clients/rust/examples/train.rs`. It is built with the tests of the whole workspace, as by `make test-rust`.
fn example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join("examples/train");
    assert!(path.exists(), "there is no {}: `cargo build -p keepbest-client --examples`", path.display());
    path
}

/// The epoch in a line that begins with these words.
fn epoch_behind(words: &str, line: &str) -> i64 {
    let rest = line.strip_prefix(words).unwrap_or_else(|| panic!("`{line}` does not begin with `{words}`"));
    rest.split([' ', ',']).next().unwrap().parse().unwrap()
}

#[test]
fn the_example_of_the_client_goes_on_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(folder.path());
    let train = |epochs: i64| {
        let mut command = Command::new(example());
        command.arg(server.address()).arg("line").arg(folder.path().join("out")).arg(epochs.to_string());
        command
    };
    let mut first = train(1_000_000_000).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(first.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut saved = lines.filter(|line| line.contains(" saved as "));
    let third = saved.nth(2).expect("three epochs that are better than those before");
    first.kill().unwrap();
    first.wait().unwrap();
    let last = epoch_behind("epoch ", &saved.last().unwrap_or(third));

    let second = train(last + 60).output().unwrap();
    assert!(second.status.success(), "{}", String::from_utf8_lossy(&second.stderr));
    let told = String::from_utf8(second.stdout).unwrap();
    let (first_line, last_line) = (told.lines().next().unwrap(), told.lines().last().unwrap());
    // Perhaps another one was committed before the kill, and not told any more.
    assert!(epoch_behind("going on behind epoch ", first_line) >= last, "{told}");
    assert!(epoch_behind("best is epoch ", last_line) >= last, "{told}");
    // What the noise leaves of it, which is 0.03, and not the 4.7 of the first weights.
    let (_, val_loss) = last_line.rsplit_once(' ').unwrap();
    assert!(val_loss.parse::<f64>().unwrap() < 0.05, "{told}");
}
