//! Another store than the database's own: a disk that is not mounted, a wrong bucket, a store of another server.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use keepbest::maintenance::open_store;
use keepbest::store::MARK;
use keepbest_client::Client;
use keepbest_client::PullOptions;
use keepbest_client::Retry;
use keepbest_client::Run;
use keepbest_client::v1;
use sqlx::Connection as _;
use sqlx::SqliteConnection;
use tonic::Code;

use crate::support::replicas::Replicas;
use crate::support::requests::best_only;
use crate::support::requests::epoch_end;
use crate::support::requests::start_request;
use crate::support::server::ServerProcess;

/// A folder of objects beside data folders.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let place = Place { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(place.store()).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn store(&self) -> PathBuf {
        self.path("store")
    }

    fn store_url(&self) -> String {
        format!("file:{}", self.store().display())
    }

    fn serve(&self, data: &str) -> ServerProcess {
        ServerProcess::start_with(&self.path(data), &[("KEEPBEST_STORE_URL", &self.store_url())])
    }

    /// The exit code of a command on a data folder, and what it printed.
    fn run(&self, command: &[&str], data: &str) -> (Option<i32>, String) {
        let mut program = Command::new(env!("CARGO_BIN_EXE_keepbest"));
        program.args(command).arg("--data").arg(self.path(data)).env("KEEPBEST_STORE_URL", self.store_url());
        let done = program.output().unwrap();
        let text = [done.stdout, done.stderr].map(|it| String::from_utf8_lossy(&it).into_owned()).concat();
        (done.status.code(), text)
    }

    /// What a server that does not start says.
    fn refused(&self, data: &str) -> String {
        let (code, said) = self.run(&["serve", "--listen", "127.0.0.1:0"], data);
        assert_eq!(code, Some(1), "{said}");
        said
    }
}

/// One trainer, whose calls are not repeated.
struct Saver {
    client: Client,
    run: Run,
    folder: tempfile::TempDir,
}

impl Saver {
    async fn start(address: String) -> Saver {
        let client = Client::builder(address).retry(Retry::never()).connect_lazy().unwrap();
        let run = Run::start(&client, start_request("mounted", best_only())).await.unwrap();
        Saver { client, run, folder: tempfile::tempdir().unwrap() }
    }

    async fn decide(&mut self, epoch: i64, val_loss: f64) -> v1::Decision {
        self.run.report(vec![epoch_end(epoch, val_loss)]).await.unwrap().pop().unwrap()
    }

    async fn save(&self, decision: &v1::Decision, text: &str) -> keepbest_client::Result<v1::Version> {
        let path = self.folder.path().join("model.txt");
        fs::write(&path, text).unwrap();
        self.run.save(decision, &path).await
    }

    async fn pull(&self, version: &v1::Version) -> keepbest_client::Result<String> {
        let target = tempfile::tempdir().unwrap();
        keepbest_client::pull(&self.client, &version.name, target.path(), &PullOptions::default()).await?;
        Ok(fs::read_to_string(target.path().join("model.txt")).unwrap())
    }
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

#[tokio::test]
async fn a_disk_that_is_not_mounted_loses_nothing_and_takes_nothing() {
    let place = Place::new();
    let server = place.serve("data");
    let mut saver = Saver::start(server.address()).await;
    let first = saver.decide(0, 0.5).await;
    let version = saver.save(&first, "first").await.unwrap();
    let second = saver.decide(1, 0.4).await;
    let doomed = saver.decide(2, 0.3).await;
    let doomed = saver.save(&doomed, "doomed").await.unwrap();

    // The disk goes, and the folder over which it was mounted is empty.
    fs::rename(place.store(), place.path("unmounted")).unwrap();
    fs::create_dir(place.store()).unwrap();
    let lost = saver.pull(&version).await.unwrap_err();
    assert_eq!(lost.code(), Some(Code::Unavailable), "no byte is lost: {lost}");
    let refused = saver.save(&second, "second").await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::Unavailable), "{refused}");
    let deletion = v1::DeleteVersionRequest { name: doomed.name.clone(), ..Default::default() };
    saver.client.delete_version(deletion).await.unwrap();
    for command in [["check"].as_slice(), &["check", "--read-data"], &["gc", "--now"]] {
        let (code, said) = place.run(command, "data");
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("is not the one that this database was used with"), "{said}");
    }
    assert!(is_empty(&place.store()), "what is written here would be lost");
    drop(server);
    let said = place.refused("data");
    assert!(
        said.contains("has no `keepbest-store.json`: is the address right, and the folder mounted?"),
        "{said}"
    );
    assert!(said.contains(r#"write it again: {"store_id":"#), "{said}");

    fs::remove_dir_all(place.store()).unwrap();
    fs::rename(place.path("unmounted"), place.store()).unwrap();
    let server = place.serve("data");
    let saver = Saver { client: Client::connect_lazy(server.address()).unwrap(), ..saver };
    assert_eq!(saver.pull(&version).await.unwrap(), "first");
    let mut again = Saver::start(server.address()).await;
    let third = again.decide(3, 0.2).await;
    let third = again.save(&third, "third").await.unwrap();
    assert_eq!(again.pull(&third).await.unwrap(), "third");
    let (code, said) = place.run(&["gc", "--now"], "data");
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = place.run(&["check", "--read-data"], "data");
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test]
async fn a_store_serves_no_other_database_until_it_is_rebuilt_from_it() {
    let place = Place::new();
    let server = place.serve("data");
    let mut saver = Saver::start(server.address()).await;
    let decision = saver.decide(0, 0.5).await;
    let version = saver.save(&decision, "kept").await.unwrap();
    drop(server);
    // A database that has a store of its own, and a new one.
    let other = tempfile::tempdir().unwrap();
    let url = format!("file:{}", other.path().display());
    drop(ServerProcess::start_with(&place.path("other"), &[("KEEPBEST_STORE_URL", &url)]));
    let said = place.refused("other");
    assert!(
        said.contains("belongs to another database") && said.contains("name the store of this one"),
        "{said}"
    );
    let said = place.refused("new");
    assert!(said.contains("belongs to another database") && said.contains("`keepbest rebuild`"), "{said}");
    // Neither took it over.
    drop(place.serve("data"));

    fs::remove_dir_all(place.path("new")).unwrap();
    let (code, said) = place.run(&["rebuild"], "new");
    assert_eq!(code, Some(0), "{said}");
    let server = place.serve("new");
    let saver = Saver { client: Client::connect_lazy(server.address()).unwrap(), ..saver };
    assert_eq!(saver.pull(&version).await.unwrap(), "kept");
}

#[tokio::test]
async fn a_server_that_died_before_it_had_marked_the_store_marks_it_later() {
    let place = Place::new();
    drop(place.serve("data"));
    let database = format!("sqlite:{}", place.path("data/keepbest.db").display());
    let mut database = SqliteConnection::connect(&database).await.unwrap();
    sqlx::query("UPDATE store_marks SET is_written = 0").execute(&mut database).await.unwrap();
    database.close().await.unwrap();
    fs::remove_file(place.store().join(MARK)).unwrap();
    drop(place.serve("data"));
    assert!(place.store().join(MARK).is_file());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_start_at_once_agree_and_a_bucket_that_is_another_has_lost_nothing() {
    let mut replicas = Replicas::start(0, &[]).await;
    replicas.add(3).await;
    let mut saver = Saver::start(replicas.servers[0].address()).await;
    let decision = saver.decide(0, 0.5).await;
    let version = saver.save(&decision, "kept").await.unwrap();
    for server in &replicas.servers {
        let saver = Saver::start(server.address()).await;
        assert_eq!(saver.pull(&version).await.unwrap(), "kept");
    }

    let store = open_store(&replicas.config()).unwrap();
    let mark = store.get(MARK).await.unwrap();
    for day in store.folders("chunks").await.unwrap() {
        for key in store.keys(&day).await.unwrap() {
            store.delete(&key).await.unwrap();
        }
    }
    let lost = saver.pull(&version).await.unwrap_err();
    assert_eq!(lost.code(), Some(Code::DataLoss), "this is the store, and the chunk is gone: {lost}");
    store.delete(MARK).await.unwrap();
    let away = saver.pull(&version).await.unwrap_err();
    assert_eq!(away.code(), Some(Code::Unavailable), "{away}");
    let (code, said) = replicas.run(&["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(std::str::from_utf8(&mark).unwrap()), "{said}");
    store.put(MARK, vec![mark]).await.unwrap();
    replicas.kill_and_restart(&[0, 1, 2]);
}
