//! Postgres and S3 instead of a data folder: how they are opened, and that replicas share nothing else.

use std::time::Duration;

use keepbest::db::Db;
use keepbest::db::Postgres;
use keepbest::store::Store;
use keepbest_client::Client;
use keepbest_client::Run;
use keepbest_client::v1;
use rustix::process::Pid;
use rustix::process::Signal;
use sqlx::Connection as _;
use sqlx::PgConnection;
use sqlx::migrate::Migrate as _;

use crate::support::databases::postgres_url;
use crate::support::ports::free_port;
use crate::support::replicas::Replicas;
use crate::support::requests::Trainer;
use crate::support::requests::best_only;
use crate::support::requests::epoch_end;
use crate::support::requests::every_epoch;
use crate::support::requests::start_request;
use crate::support::s3::S3;
use crate::support::s3::s3;
use crate::support::server;

fn open(place: &S3, changed: &[(&str, &str)]) -> Store {
    let options = place.options();
    let mut options: Vec<_> = options.iter().map(|(name, value)| (*name, value.as_str())).collect();
    options.extend(changed);
    Store::open(&place.url, &options, &[]).unwrap()
}

/// A stream of `model.bin` from an offset on, in messages of 1 MiB.
fn messages(
    checkpoint: &str,
    attempt: i64,
    offset_bytes: i64,
    data: &[u8],
    finish: bool,
) -> Vec<v1::WriteFileRequest> {
    let message = |data: &[u8]| v1::WriteFileRequest {
        data: bytes::Bytes::copy_from_slice(data),
        ..Default::default()
    };
    let mut messages: Vec<_> = data.chunks(1 << 20).map(message).collect();
    let (checkpoint, path) = (checkpoint.to_owned(), "model.bin".to_owned());
    messages[0] = v1::WriteFileRequest { checkpoint, attempt, path, offset_bytes, ..messages[0].clone() };
    messages.last_mut().unwrap().finish = finish;
    messages
}

/// An error with its causes.
fn said(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(it) = cause {
        text.push_str(&format!(": {it}"));
        cause = it.source();
    }
    text
}

#[tokio::test]
async fn objects_go_to_s3_and_come_back() {
    let place = s3().await;
    let store = open(&place, &[]);
    store.probe().await.unwrap();
    let data: Vec<u8> = (0..9_000_000_u32).map(|it| (it % 251) as u8).collect();
    let pieces = data.chunks(1 << 20).map(bytes::Bytes::copy_from_slice).collect();
    store.put("chunks/2026-01-01/one", pieces).await.unwrap();
    assert_eq!(store.get("chunks/2026-01-01/one").await.unwrap(), data);
    assert_eq!(store.size_bytes("chunks/2026-01-01/one").await.unwrap(), 9_000_000);
    let elsewhere = open(&s3().await, &[]);
    assert!(matches!(elsewhere.get("chunks/2026-01-01/one").await, Err(keepbest::store::Error::Missing(_))));
    store.delete("chunks/2026-01-01/one").await.unwrap();
    store.delete("chunks/2026-01-01/one").await.unwrap();
    let gone = store.get("chunks/2026-01-01/one").await.unwrap_err();
    assert_eq!(gone.to_string(), "object `chunks/2026-01-01/one` is missing");
}

#[tokio::test]
async fn the_probe_says_what_is_wrong_with_the_store() {
    let place = s3().await;
    let nowhere = S3 { url: "s3://no-such-bucket/x".to_owned(), ..place.clone() };
    let wrong = said(&open(&nowhere, &[]).probe().await.unwrap_err());
    assert!(wrong.starts_with("cannot write `probes/") && wrong.contains("NoSuchBucket"), "{wrong}");
    let wrong = said(&open(&place, &[("aws_secret_access_key", "guessed")]).probe().await.unwrap_err());
    assert!(wrong.contains("SignatureDoesNotMatch") && !wrong.contains("guessed"), "{wrong}");
    let wrong = said(&open(&place, &[("aws_endpoint", "http://127.0.0.1:1")]).probe().await.unwrap_err());
    assert!(wrong.contains("127.0.0.1:1"), "{wrong}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_save_goes_on_at_whatever_replica_a_call_reaches() {
    let replicas = Replicas::start(3, &[]).await;
    let clients: Vec<Client> = replicas
        .addresses()
        .into_iter()
        .map(|address| Client::builder(address).connect_lazy().unwrap())
        .collect();
    let [first, second, third] = [0, 1, 2].map(|it| &clients[it]);

    let run = Run::start(first, start_request("shared", best_only())).await.unwrap();
    let report = v1::ReportEventsRequest {
        run: run.name().to_owned(),
        attempt: run.attempt(),
        events: vec![epoch_end(0, 0.5)],
        ..Default::default()
    };
    let decided = second.report_events(report.clone()).await.unwrap();
    let again = third.report_events(report).await.unwrap();
    assert_eq!(again.decisions, decided.decisions);
    assert_eq!(again.duplicate_count, 1);

    let checkpoint = decided.decisions[0].checkpoint.clone();
    let data: Vec<u8> = (0..20_000_000_u32).map(|it| (it % 253) as u8).collect();
    let file = v1::PrepareFileRequest {
        checkpoint: checkpoint.clone(),
        attempt: run.attempt(),
        path: "model.bin".to_owned(),
        size_bytes: data.len() as i64,
        ..Default::default()
    };
    assert_eq!(third.prepare_file(file.clone()).await.unwrap().durable_bytes, 0);
    // Cut after 12 MB: one chunk is durable, and another replica goes on behind it.
    let cut = messages(&checkpoint, run.attempt(), 0, &data[..12_000_000], false);
    assert!(first.write_file(futures::stream::iter(cut)).await.is_err());
    let durable = second.prepare_file(file).await.unwrap().durable_bytes;
    assert_eq!(durable, 8 << 20);
    let rest = &data[usize::try_from(durable).unwrap()..];
    let rest = messages(&checkpoint, run.attempt(), durable, rest, true);
    second.write_file(futures::stream::iter(rest)).await.unwrap();

    let commit = v1::CommitCheckpointRequest { checkpoint, attempt: run.attempt(), ..Default::default() };
    let version = third.commit_checkpoint(commit.clone()).await.unwrap();
    assert_eq!(first.commit_checkpoint(commit).await.unwrap(), version);
    let query = v1::GetBestVersionRequest { parent: run.name().to_owned(), ..Default::default() };
    for client in &clients {
        assert_eq!(client.get_best_version(query.clone()).await.unwrap().name, version.name);
    }

    let (code, said) = replicas.run(&["check", "--read-data"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("no problem was found"), "{said}");
    assert!(replicas.is_folder_empty(), "a replica keeps nothing for itself");
}

#[tokio::test]
async fn a_database_without_the_schema_is_refused_until_it_is_migrated() {
    let url = postgres_url().await;
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_keepbest"));
        command.args(arguments).arg("--data").arg(folder.path()).env("DATABASE_URL", &url);
        let done = command.output().unwrap();
        let text = [done.stdout, done.stderr].map(|it| String::from_utf8_lossy(&it).into_owned()).concat();
        (done.status.code(), text)
    };
    let (code, said) = run(&["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("lacks the migrations 0001_init") && said.contains("run `keepbest migrate`"),
        "{said}"
    );
    for _ in 0..2 {
        let (code, said) = run(&["migrate"]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("has schema ") && !said.contains("error"), "{said}");
    }
    let (code, said) = run(&["check"]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_database_that_cannot_be_reached_is_told_with_the_reason() {
    let port = free_port();
    let folder = tempfile::tempdir().unwrap();
    // Else the log says that it is open to everybody.
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    for command in [["migrate"].as_slice(), &["serve", "--listen", "127.0.0.1:0"], &["check"]] {
        let mut server = std::process::Command::new(env!("CARGO_BIN_EXE_keepbest"));
        server.args(command).arg("--data").arg(folder.path());
        let done =
            server.env("DATABASE_URL", format!("postgres://a:b@127.0.0.1:{port}/db")).output().unwrap();
        assert_eq!(done.status.code(), Some(1));
        assert_eq!(
            String::from_utf8_lossy(&done.stderr),
            format!(
                "error: open the database `postgres://a:***@127.0.0.1:{port}/db`: the database is not available: error \
                 communicating with database: Connection refused (os error 111)\n"
            )
        );
    }
}

/// A store that takes connections and never answers: the probe would wait for a minute.
#[test]
fn a_server_that_is_stopped_while_it_starts_ends_at_once() {
    let db = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut server = std::process::Command::new(env!("CARGO_BIN_EXE_keepbest"));
    server.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(folder.path());
    server
        .env("KEEPBEST_STORE_URL", "s3://bucket")
        .env("AWS_ENDPOINT", format!("http://{}", db.local_addr().unwrap()));
    let mut server = server.env("AWS_ACCESS_KEY_ID", "a").env("AWS_SECRET_ACCESS_KEY", "b").spawn().unwrap();
    let _asked = db.accept().unwrap();
    rustix::process::kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
    assert_eq!(server.wait().unwrap().code(), Some(0), "the probe's own end is an error");
}

/// Longer than a session that serves may wait for a lock, and than one of its statements may take.
const LONG_MIGRATION: Duration = Duration::from_secs(11);

#[tokio::test]
async fn a_migration_waits_for_another_as_long_as_that_takes() {
    let url = postgres_url().await;
    let mut other = PgConnection::connect(&url).await.unwrap();
    other.lock().await.unwrap();
    let opening = tokio::spawn({
        let url = url.clone();
        async move { Db::open_postgres(&url, Postgres { connections: 2, migrate: true }).await }
    });
    tokio::time::sleep(LONG_MIGRATION).await;
    assert!(!opening.is_finished());
    other.unlock().await.unwrap();
    opening.await.unwrap().unwrap().ping().await.unwrap();
}

#[tokio::test]
async fn a_database_that_is_slow_at_the_start_is_waited_for() {
    let url = postgres_url().await;
    let (address, folder) = url.split_once("?host=").unwrap();
    let socket = format!("{}/.s.PGSQL.5432", folder.split('&').next().unwrap());
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let through = tokio::spawn(async move {
        for number in 0.. {
            let (mut from, _) = listener.accept().await.unwrap();
            let socket = socket.clone();
            tokio::spawn(async move {
                // The pool's first, after the session that looks at the schema.
                if number == 1 {
                    tokio::time::sleep(Duration::from_millis(2_500)).await;
                }
                let mut to = tokio::net::UnixStream::connect(socket).await.unwrap();
                drop(tokio::io::copy_bidirectional(&mut from, &mut to).await);
            });
        }
    });
    let url = address.replace("localhost", &format!("127.0.0.1:{port}")) + "?sslmode=disable";
    let db = Db::open_postgres(&url, Postgres { connections: 4, migrate: true }).await.unwrap();
    db.close().await;
    through.abort();
}

/// How far the database's clock is behind the machine's.
const BEHIND_DAYS: i64 = 10;
/// What a session of such a database sees instead of the clock of the server.
const CLOCK: &str = "CREATE SCHEMA behind; CREATE FUNCTION behind.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS \
    $$ SELECT pg_catalog.clock_timestamp() - interval '10 days' $$";

#[tokio::test]
async fn the_time_is_the_databases_and_not_the_machines() {
    let url = postgres_url().await;
    let mut session = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql(CLOCK).execute(&mut session).await.unwrap();
    let url = format!("{url}&options[search_path]=behind,pg_catalog");
    let server = server::start_on_postgres(&[("KEEPBEST_DATABASE_URL", &url)]).await;
    let mut trainer = Trainer::start(&server, "r", every_epoch()).await;
    let version = trainer.save(0, 0.5, b"model").await;
    let run =
        server.runs().get_run(v1::GetRunRequest { name: trainer.run.clone() }).await.unwrap().into_inner();
    let sql = "SELECT CAST(EXTRACT(EPOCH FROM now()) AS BIGINT)";
    let now: i64 = sqlx::query_scalar(sql).fetch_one(&mut session).await.unwrap();
    for time in [run.create_time, run.update_time, version.create_time] {
        let days = (now - time.unwrap().seconds) as f64 / 86_400.0;
        assert_eq!(days.round() as i64, BEHIND_DAYS, "{time:?}");
    }
}
