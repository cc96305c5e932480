//! Both databases for the store's suite: SQLite in a temporary file, and a throwaway Postgres from the installed binaries.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use keepbest::db::Db;
use keepbest::db::Postgres;
use sqlx::ConnectOptions;
use sqlx::Connection;
use sqlx::PgConnection;
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::sqlite::SqliteJournalMode;
use tempfile::TempDir;

use crate::support::cluster::Cluster;
use crate::support::distance::distant;

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

/// The same through a proxy that makes each round trip longer.
pub(crate) async fn distant_postgres() -> TestDatabase {
    TestDatabase::Postgres(distant(&postgres_url().await))
}

/// The address of such a database, empty.
pub(crate) async fn postgres_url() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    let database = format!("test_{}", NEXT.fetch_add(1, Ordering::SeqCst));
    let create = move || CLUSTER.get_or_init(|| Cluster::start(None)).create(&database);
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
    pub(crate) async fn open(&self) -> Db {
        self.try_open().await.unwrap()
    }

    /// The same, where it may be refused.
    pub(crate) async fn try_open(&self) -> Result<Db, keepbest::db::Error> {
        match self {
            TestDatabase::Sqlite(folder) => Db::open_sqlite(&folder.path().join("test.db")).await,
            TestDatabase::Postgres(url) => {
                Db::open_postgres(url, Postgres { connections: 16, migrate: true }).await
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

/// Makes each body a case on SQLite, one on Postgres, and one on a Postgres that is far away.
macro_rules! on_all_databases {
    ($($name:ident)*) => {
        $crate::support::databases::on_both_databases! { $($name)* }
        mod distant {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::support::databases::distant_postgres().await).await;
            })*
        }
    };
}
pub(crate) use on_all_databases;

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
