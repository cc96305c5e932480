//! Both databases for the store's suite: SQLite in a temporary file, and a throwaway Postgres from the installed binaries.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use keepbest::store::Postgres;
use keepbest::store::Store;
use sqlx::ConnectOptions;
use sqlx::Connection;
use sqlx::PgConnection;
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::sqlite::SqliteJournalMode;
use tempfile::TempDir;

/// A database of its own for one test; a folder goes with it.
pub(crate) enum TestDatabase {
    Sqlite(TempDir),
    Postgres(String),
}

/// A fresh SQLite database.
pub(crate) async fn sqlite() -> TestDatabase {
    TestDatabase::Sqlite(tempfile::tempdir().unwrap())
}

/// A fresh database in the one Postgres cluster of this test binary.
pub(crate) async fn postgres() -> TestDatabase {
    TestDatabase::Postgres(postgres_url().await)
}

/// The address of such a database, empty.
pub(crate) async fn postgres_url() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    let database = format!("test_{}", NEXT.fetch_add(1, Ordering::SeqCst));
    let create = move || CLUSTER.get_or_init(Cluster::start).create(&database);
    tokio::task::spawn_blocking(create).await.unwrap()
}

impl TestDatabase {
    /// Another fresh database of the same kind.
    pub(crate) async fn another(&self) -> TestDatabase {
        match self {
            TestDatabase::Sqlite(_) => sqlite().await,
            TestDatabase::Postgres(_) => postgres().await,
        }
    }

    /// Opens it, as each replica does.
    pub(crate) async fn open(&self) -> Store {
        self.try_open().await.unwrap()
    }

    /// The same, where it may be refused.
    pub(crate) async fn try_open(&self) -> Result<Store, keepbest::store::Error> {
        match self {
            TestDatabase::Sqlite(folder) => Store::open_sqlite(&folder.path().join("test.db")).await,
            TestDatabase::Postgres(url) => {
                Store::open_postgres(url, Postgres { connections: 16, migrate: true }).await
            }
        }
    }

    /// A connection to Postgres, for transactions that a test holds open.
    pub(crate) async fn postgres_connection(&self) -> PgConnection {
        match self {
            TestDatabase::Sqlite(_) => panic!("SQLite has one writer: nothing can be held open"),
            TestDatabase::Postgres(url) => PgConnection::connect(url).await.unwrap(),
        }
    }

    /// Changes rows behind the service's back; the text is the test's own.
    pub(crate) async fn execute(&self, sql: &'static str) -> u64 {
        match self {
            TestDatabase::Sqlite(folder) => {
                let mut connection = raw(folder).await;
                sqlx::query(sql).execute(&mut connection).await.unwrap().rows_affected()
            }
            TestDatabase::Postgres(url) => {
                let mut connection = PgConnection::connect(url).await.unwrap();
                sqlx::query(sql).execute(&mut connection).await.unwrap().rows_affected()
            }
        }
    }

    /// The first column of a query, which is a text.
    pub(crate) async fn texts(&self, sql: &'static str) -> Vec<String> {
        match self {
            TestDatabase::Sqlite(folder) => {
                let mut connection = raw(folder).await;
                sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap()
            }
            TestDatabase::Postgres(url) => {
                let mut connection = PgConnection::connect(url).await.unwrap();
                sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap()
            }
        }
    }
}

async fn raw(folder: &TempDir) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(folder.path().join("test.db")).create_if_missing(true);
    options.journal_mode(SqliteJournalMode::Wal).connect().await.unwrap()
}

/// Makes each body a case on SQLite and a case on Postgres.
macro_rules! on_both_databases {
    ($($name:ident)*) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::support::databases::sqlite().await).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::support::databases::postgres().await).await;
            })*
        }
    };
}
pub(crate) use on_both_databases;

struct Cluster {
    folder: PathBuf,
    bin: PathBuf,
    user: Option<(u32, u32)>,
    // Its input is held open: when this process ends, however it ends, the shell stops the server and cleans up.
    _guard: std::process::Child,
}

/// The folder with initdb and postgres: the newest installed.
fn binaries() -> PathBuf {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    found.sort();
    found
        .pop()
        .expect("the server programs of Postgres are installed (on Debian: apt-get install postgresql)")
}

/// Postgres refuses to run as root: then it runs as the user that its package made.
fn user() -> Option<(u32, u32)> {
    if !rustix::process::getuid().is_root() {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.starts_with("postgres:")).expect("the user `postgres` exists");
    let mut ids = line.split(':').skip(2).map(|it| it.parse::<u32>().unwrap());
    Some((ids.next().unwrap(), ids.next().unwrap()))
}

impl Cluster {
    fn start() -> Cluster {
        let folder = tempfile::Builder::new().prefix("keepbest-postgres-").tempdir().unwrap().keep();
        let (bin, user) = (binaries(), user());
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(&folder, Some(uid), Some(gid)).unwrap();
        }
        let data = folder.join("data");
        let made = command(&bin.join("initdb"), user)
            .args(["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "--locale=C", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let script = format!(
            "'{postgres}' -D '{data}' -k '{folder}' -c listen_addresses= -c fsync=off -c max_connections=500 \
             >'{folder}/log' 2>&1 </dev/null & p=$!; cat; kill -QUIT $p; wait $p; rm -rf '{folder}'",
            postgres = bin.join("postgres").display(),
            data = data.display(),
            folder = folder.display(),
        );
        let guard = command(Path::new("/bin/sh"), user)
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let cluster = Cluster { folder, bin, user, _guard: guard };
        let started = Instant::now();
        while !cluster.run("SELECT 1") {
            assert!(started.elapsed() < Duration::from_secs(60), "Postgres did not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        cluster
    }

    fn run(&self, sql: &str) -> bool {
        let psql = command(&self.bin.join("psql"), self.user)
            .args(["-U", "postgres", "-d", "postgres", "-c", sql, "-h"])
            .arg(&self.folder)
            .output();
        psql.unwrap().status.success()
    }

    fn create(&self, name: &str) -> String {
        assert!(self.run(&format!("CREATE DATABASE {name}")), "create database {name}");
        format!("postgres://postgres@localhost/{name}?host={}", self.folder.display())
    }
}

fn command(program: &Path, user: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").stdout(Stdio::null()).stderr(Stdio::null());
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command
}
