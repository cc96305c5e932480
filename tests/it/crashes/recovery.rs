//! A server that was killed answers soon, however much it keeps: what it reads of its database at the start does not grow.

use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use futures::future::join_all;
use keepbest::db::Db;
use keepbest::db::Postgres;
use keepbest_client::Client;
use keepbest_client::Retry;
use keepbest_client::Run;
use keepbest_client::v1;
use sqlx::AssertSqlSafe;
use sqlx::ConnectOptions;
use sqlx::Connection;
use sqlx::PgConnection;
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteConnectOptions;
use tempfile::TempDir;

use super::patient;
use crate::support::databases::postgres_url;
use crate::support::requests::PROJECT;
use crate::support::requests::best_only;
use crate::support::requests::epoch_end;
use crate::support::requests::every_epoch;
use crate::support::requests::start_request;
use crate::support::server::ServerProcess;

const VERSIONS: u64 = 100_000;
const EVENTS: u64 = 1_000_000;
/// Kills with one save, and as many with all of the above.
const KILLS: usize = 5;
/// How long trainers report before each.
const REPORTS: Duration = Duration::from_millis(300);
/// What may be read more than with one save: deeper indexes, and more of the log that was not yet in its place.
const MORE_BYTES: u64 = 8 << 20;

/// The rows of a server, seen from outside.
enum Rows {
    Sqlite(PathBuf),
    Postgres(String),
}

impl Rows {
    async fn sqlite(path: &PathBuf) -> SqliteConnection {
        SqliteConnectOptions::new().filename(path).connect().await.unwrap()
    }

    async fn execute(&self, sql: &str) {
        let sql = AssertSqlSafe(sql.to_owned());
        match self {
            Rows::Sqlite(path) => {
                let mut connection = Self::sqlite(path).await;
                sqlx::query(sql).execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
            }
            Rows::Postgres(url) => {
                let mut connection = PgConnection::connect(url).await.unwrap();
                sqlx::query(sql).execute(&mut connection).await.unwrap();
            }
        }
    }

    /// The names of a table's columns.
    async fn columns(&self, table: &str) -> Vec<String> {
        match self {
            Rows::Sqlite(path) => {
                let sql = "SELECT name FROM pragma_table_info($1)";
                sqlx::query_scalar(sql).bind(table).fetch_all(&mut Self::sqlite(path).await).await.unwrap()
            }
            Rows::Postgres(url) => {
                let sql = "SELECT column_name::text FROM information_schema.columns WHERE table_name = $1";
                let mut connection = PgConnection::connect(url).await.unwrap();
                sqlx::query_scalar(sql).bind(table).fetch_all(&mut connection).await.unwrap()
            }
        }
    }

    /// Copies the one row of a table, with some columns computed from `n`, which counts from 1.
    async fn copy(&self, table: &str, changed: &[(&str, &str)], count: u64) {
        let columns = self.columns(table).await;
        let value = |column: &String| {
            let changed = changed.iter().find(|(name, _)| name == column);
            changed.map_or_else(|| format!("one.{column}"), |(_, value)| (*value).to_owned())
        };
        let values: Vec<String> = columns.iter().map(value).collect();
        let (columns, values) = (columns.join(", "), values.join(", "));
        let sql = format!(
            "INSERT INTO {table} ({columns}) \
             WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count}), \
             one AS (SELECT * FROM {table} LIMIT 1) SELECT {values} FROM one, numbers"
        );
        self.execute(&sql).await;
    }

    /// Makes many versions and events of the one that stands.
    async fn multiply(&self) {
        let version = [("uid", "one.uid || '-' || n"), ("version", "n")];
        self.copy("checkpoints", &version, VERSIONS - 1).await;
        let checkpoint = ("checkpoint_uid", "one.checkpoint_uid || '-' || n");
        let metric = [checkpoint, ("value", "one.value + n"), ("commit_time_us", "one.commit_time_us + n")];
        self.copy("version_metrics", &metric, VERSIONS - 1).await;
        self.copy("files", &[("uid", "one.uid || '-' || n"), checkpoint], VERSIONS - 1).await;
        self.copy("file_chunks", &[("file_uid", "one.file_uid || '-' || n")], VERSIONS - 1).await;
        self.copy("events", &[("position", "n + 9"), ("first_sequence", "n + 9")], EVENTS - 1).await;
        self.execute(&format!("UPDATE artifacts SET next_version = {VERSIONS}")).await;
        self.execute(&format!("UPDATE runs SET event_count = {EVENTS}")).await;
        self.execute(&format!("UPDATE run_writers SET next_sequence = {EVENTS}")).await;
        // Autovacuum does it sooner or later.
        self.execute("ANALYZE").await;
    }

    async fn size_bytes(&self) -> u64 {
        match self {
            Rows::Sqlite(path) => std::fs::metadata(path).unwrap().len(),
            Rows::Postgres(_) => self.number("SELECT pg_database_size(current_database())").await,
        }
    }

    /// Of Postgres.
    async fn number(&self, sql: &'static str) -> u64 {
        let Rows::Postgres(url) = self else { panic!("Postgres only") };
        let mut connection = PgConnection::connect(url).await.unwrap();
        let number: i64 = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
        u64::try_from(number).unwrap()
    }

    /// The bytes that the server has read since it started, after which it is dead: of SQLite all that it read from files,
    /// of Postgres the pages of the tables and indexes that its sessions looked at, `before` of which were others'.
    async fn read_by(&self, server: &mut ServerProcess, before: u64) -> u64 {
        match self {
            Rows::Sqlite(_) => {
                let read = server.read_bytes();
                server.kill();
                read
            }
            Rows::Postgres(_) => {
                server.kill();
                self.pages_read().await - before
            }
        }
    }

    /// In bytes, of Postgres: what its sessions have counted at their ends.
    async fn pages_read(&self) -> u64 {
        let sessions = "SELECT COUNT(*) FROM pg_stat_activity \
            WHERE datname = current_database() AND application_name = 'keepbest'";
        while self.number(sessions).await > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let read = "SELECT CAST(SUM(COALESCE(heap_blks_read + heap_blks_hit, 0) + COALESCE(idx_blks_read + idx_blks_hit, 0)) \
            * 8192 AS BIGINT) FROM pg_statio_user_tables";
        self.number(read).await
    }
}

async fn best(client: &Client) -> v1::Version {
    let request = v1::GetBestVersionRequest {
        parent: PROJECT.to_owned(),
        metric: "val_loss".to_owned(),
        mode: v1::Mode::Min.into(),
        ..v1::GetBestVersionRequest::default()
    };
    client.get_best_version(request).await.unwrap()
}

/// One save, of which the rest is copied.
async fn save(client: &Client) {
    let mut run = Run::start(client, start_request("first", every_epoch())).await.unwrap();
    let decision = run.report(vec![epoch_end(0, 0.5)]).await.unwrap().pop().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.bin");
    std::fs::write(&model, b"weights").unwrap();
    run.save(&decision, &model).await.unwrap();
}

/// Reports until the server is dead.
async fn report(address: String, run: String) {
    let client = Client::builder(address).retry(Retry::never()).connect_lazy().unwrap();
    let parent = "teams/default/projects/load".to_owned();
    let request = v1::StartRunRequest { parent, ..start_request(&run, best_only()) };
    let Ok(mut run) = Run::start(&client, request).await else { return };
    let mut epoch = 0;
    while run.report(vec![epoch_end(epoch, 1.0)]).await.is_ok() {
        epoch += 1;
    }
}

/// What a server needed to answer after each kill: time, and bytes read.
struct Recovery {
    times: Vec<Duration>,
    most_read: u64,
    size_bytes: u64,
}

async fn recover(folder: &TempDir, database_url: Option<&str>, many: bool) -> Recovery {
    let settings: Vec<_> = database_url.iter().map(|url| ("KEEPBEST_DATABASE_URL", *url)).collect();
    std::fs::create_dir(folder.path().join("kept")).unwrap();
    let objects = format!("file:{}", folder.path().join("kept").display());
    let settings: Vec<_> = match database_url {
        Some(_) => settings.into_iter().chain([("KEEPBEST_STORE_URL", objects.as_str())]).collect(),
        None => settings,
    };
    if let Some(url) = database_url {
        let migrate = Postgres { connections: 2, migrate: true };
        Db::open_postgres(url, migrate).await.unwrap().close().await;
    }
    let rows = match database_url {
        None => Rows::Sqlite(folder.path().join("keepbest.db")),
        Some(url) => Rows::Postgres(url.to_owned()),
    };
    let mut server = ServerProcess::start_with(folder.path(), &settings);
    save(&patient(&server)).await;
    let first = best(&patient(&server)).await;
    server.terminate();
    if many {
        rows.multiply().await;
    }
    let mut recovery = Recovery { times: Vec::new(), most_read: 0, size_bytes: rows.size_bytes().await };
    for kill in 0..KILLS {
        server.kill_and_restart();
        let loads = (0..4).map(|load| tokio::spawn(report(server.address(), format!("load-{kill}-{load}"))));
        let loads: Vec<_> = loads.collect();
        tokio::time::sleep(REPORTS).await;
        server.kill();
        for load in join_all(loads).await {
            load.unwrap();
        }
        let before = match &rows {
            Rows::Sqlite(_) => 0,
            Rows::Postgres(_) => rows.pages_read().await,
        };
        let begun = Instant::now();
        server.kill_and_restart();
        assert_eq!(best(&patient(&server)).await.name, first.name);
        recovery.times.push(begun.elapsed());
        recovery.most_read = recovery.most_read.max(rows.read_by(&mut server, before).await);
    }
    recovery.times.sort_unstable();
    recovery
}

async fn recovery_does_not_grow(place: &str, databases: [Option<String>; 2]) {
    let [few, many] = databases;
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let few = recover(&folders[0], few.as_deref(), false).await;
    let many = recover(&folders[1], many.as_deref(), true).await;
    for (what, it) in [("one save", &few), ("100,000 versions and 1,000,000 events", &many)] {
        println!(
            "{place}, {what}: {KILLS} kills, answered after {:.0?} (median), {:.0?} (worst); read {} of {} KiB",
            it.times[it.times.len() / 2],
            it.times[it.times.len() - 1],
            it.most_read >> 10,
            it.size_bytes >> 10,
        );
    }
    assert!(many.size_bytes > 20 * MORE_BYTES, "{} bytes cannot show it", many.size_bytes);
    assert!(many.most_read < few.most_read + MORE_BYTES, "{} and {}", few.most_read, many.most_read);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_sqlite_database_is_not_read_at_the_start() {
    recovery_does_not_grow("SQLite", [None, None]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_postgres_database_is_not_read_at_the_start() {
    recovery_does_not_grow("Postgres", [Some(postgres_url().await), Some(postgres_url().await)]).await;
}
