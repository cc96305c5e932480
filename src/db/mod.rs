//! Metadata in SQLite or Postgres. The only room that names `sqlx`; no transaction leaves it.
//!
//! Rules that must read, decide and write in one transaction hand the deciding part in as a function of the domain.

mod aliases;
mod attempts;
mod check;
mod checkpoints;
mod chunks;
mod collect;
mod commits;
mod connection;
mod decisions;
mod deletions;
mod error;
mod events;
mod files;
mod job;
mod manifests;
mod marks;
mod parts;
mod postgres;
mod queue;
mod rebuild;
mod reports;
mod runs;
mod schema;
mod tx;
mod uploads;
mod version_queries;
mod versions;
mod writer;

use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use sqlx::ConnectOptions;
use sqlx::Connection as _;
use sqlx::SqlitePool;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::sqlite::SqliteJournalMode;
use sqlx::sqlite::SqlitePoolOptions;
use sqlx::sqlite::SqliteSynchronous;
use tokio_util::sync::CancellationToken;

use crate::db::connection::Connection;
use crate::db::connection::Row;
use crate::db::connection::Value;
use crate::db::job::Rare;
use crate::db::job::Turn;
use crate::db::job::Work;
use crate::db::job::Write;
use crate::db::postgres::Pool;
use crate::db::postgres::in_time;
use crate::db::tx::Tx;
use crate::db::writer::Writer;
use crate::domain::ids::RunName;

pub use aliases::AliasRow;
pub use aliases::Expected;
pub use attempts::Started;
pub use check::CheckChunk;
pub use check::CheckFile;
pub use check::CheckVersion;
pub use checkpoints::ExpireTimes;
pub use chunks::HeldChunk;
pub use chunks::PlacedChunk;
pub use chunks::Stored;
pub use collect::Graces;
pub use collect::Left;
pub use collect::ManifestKey;
pub use collect::Step;
pub use commits::Commit;
pub use commits::Committed;
pub use decisions::DecisionFilter;
pub use decisions::DecisionRow;
pub use error::Error;
pub use events::EventRow;
pub use files::FileChunk;
pub use manifests::ManifestPage;
pub use manifests::StoredManifest;
pub use marks::StoreMark;
pub use parts::CompletePart;
pub use parts::PartRow;
pub use parts::Standing;
pub use postgres::Postgres;
pub use rebuild::Rebuilt;
pub use rebuild::RebuiltVersion;
pub use reports::Reported;
pub use uploads::FileStep;
pub use uploads::WriteFiles;
pub use version_queries::BestQuery;
pub use version_queries::BestScope;
pub use version_queries::VersionQuery;
pub use versions::ArtifactRow;
pub use versions::VersionRow;

/// How long a read of SQLite waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long SQLite waits for a lock of another process (`keepbest gc` beside the server).
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Readers of SQLite; each is a thread, and reads are short.
const SQLITE_READERS: u32 = 4;
/// Prepared statements kept by a connection: all of ours, so none is parsed twice.
const STATEMENTS: usize = 256;

/// About how many rows a write has that is rare and says nothing else.
const RARE_ROWS: usize = 20;

/// Where reads go.
enum Database {
    Sqlite(SqlitePool),
    Postgres(Pool),
}

/// The metadata of all teams, in one database.
pub struct Db {
    database: Database,
    writer: Writer,
    unsynced: CancellationToken,
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.database {
            Database::Sqlite(_) => "Db(sqlite)",
            Database::Postgres(_) => "Db(postgres)",
        })
    }
}

/// A database's sign of life.
#[derive(Clone, Copy, Debug)]
pub struct Sign {
    /// Microseconds since 1970 by the database's own clock; SQLite has none.
    pub time_us: Option<i64>,
    /// Just before it was asked.
    pub asked: Instant,
    /// Just after it had answered.
    pub answered: Instant,
}

impl Db {
    /// Opens the SQLite database at `path`, makes it if it is missing, and brings its schema up to date.
    pub async fn open_sqlite(path: &Path) -> Result<Db, Error> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A commit is durable when it returns; NORMAL would lose the last ones with the power.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true)
            .statement_cache_capacity(STATEMENTS);
        let mut connection = options.connect().await?;
        // One at a time: `keepbest gc` may open the database in the moment in which a newer server changes its schema.
        let mut whole = connection.begin_with("BEGIN IMMEDIATE").await?;
        let migrated = schema::migrator().run_direct(None, &mut *whole, false).await;
        migrated.map_err(schema::from_migration)?;
        whole.commit().await?;
        assert_durable(&mut connection).await?;
        // What an earlier process left in the log may be there only because the kernel remembers it: if its last sync failed, a
        // second one would say nothing. Copied into the database and synced there it is durable, before anybody is told of it.
        match Connection::Sqlite(&mut connection).row("PRAGMA wal_checkpoint(PASSIVE)", vec![]).await {
            // Readers find it in the log.
            Err(Error::Full(_)) => {
                tracing::warn!(
                    "The disk of the database is full: what it holds is served, and nothing is written"
                );
            }
            copied => drop(copied?),
        }
        let readers = SqlitePoolOptions::new()
            .max_connections(SQLITE_READERS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // A file does not go away as a server does: asking first doubles what a read costs.
            .test_before_acquire(false)
            .connect_with(options.create_if_missing(false).read_only(true))
            .await?;
        let unsynced = CancellationToken::new();
        let writer = Writer::on_sqlite(connection, unsynced.clone());
        let db = Db { database: Database::Sqlite(readers), writer, unsynced };
        db.refuse_unfinished_rebuild().await?;
        Ok(db)
    }

    /// Opens a Postgres database.
    pub async fn open_postgres(url: &str, options: Postgres) -> Result<Db, Error> {
        let pool = Pool::open(url, options).await?;
        let writer = Writer::on_postgres(pool.clone());
        let db = Db { database: Database::Postgres(pool), writer, unsynced: CancellationToken::new() };
        postgres::at_start(|| db.refuse_unfinished_rebuild()).await?;
        Ok(db)
    }

    /// Looks at an address of a Postgres database without asking for it.
    pub fn check_postgres_url(url: &str) -> Result<(), Error> {
        postgres::options_of(url).map(drop)
    }

    /// Returns when a sync has failed. From then on nothing is written any more.
    pub async fn sync_failed(&self) {
        self.unsynced.cancelled().await;
    }

    /// Closes it: what was acknowledged is durable anyhow, this only frees the connections.
    pub async fn close(&self) {
        match &self.database {
            Database::Sqlite(readers) => readers.close().await,
            Database::Postgres(pool) => pool.connections().close().await,
        }
    }

    /// Carries a write out, to its end even if the caller goes away. Answers after the commit.
    async fn change<W: Write>(&self, write: W) -> Result<W::Answer, Error> {
        self.writer.write(write).await
    }

    /// The same for a closure.
    async fn write<T: Send + 'static>(&self, work: impl Work<T>) -> Result<T, Error> {
        self.change(Rare::new(work, Turn::own(RARE_ROWS))).await
    }

    /// The same where it locks rows of a run: those of other runs do not wait behind it.
    async fn write_of<T: Send + 'static>(&self, run: &RunName, work: impl Work<T>) -> Result<T, Error> {
        self.change(Rare::new(work, Turn::of(run, RARE_ROWS))).await
    }

    /// Statements of all write transactions so far, without those that begin and end one.
    pub fn statements(&self) -> u64 {
        self.writer.statements()
    }

    /// All rows of a query, outside of a transaction.
    async fn rows(&self, sql: &str, values: Vec<Value>) -> Result<Vec<Row>, Error> {
        match &self.database {
            Database::Sqlite(readers) => {
                Connection::Sqlite(&mut *readers.acquire().await?).rows(sql, values).await
            }
            Database::Postgres(pool) => {
                let mut lent = pool.lend().await?;
                let rows = in_time(lent.connection()?.rows(sql, values)).await?;
                lent.give_back();
                rows
            }
        }
    }

    /// All rows of a query over a set, outside of a transaction.
    async fn rows_of(&self, sql: &str, set: Vec<Vec<Value>>) -> Result<Vec<Row>, Error> {
        match &self.database {
            Database::Sqlite(readers) => {
                let mut reader = readers.acquire().await?;
                Tx::new(Connection::Sqlite(&mut reader), false).rows_of(sql, set).await
            }
            Database::Postgres(pool) => {
                let mut lent = pool.lend().await?;
                let rows = in_time(Tx::new(lent.connection()?, false).rows_of(sql, set)).await?;
                lent.give_back();
                rows
            }
        }
    }

    /// The first sign of life, for which a process waits a while.
    pub async fn first_sign(&self) -> Result<Sign, Error> {
        match self.database {
            Database::Sqlite(_) => self.ping().await,
            Database::Postgres(_) => postgres::at_start(|| self.ping()).await,
        }
    }

    /// Asks the database for a sign of life, and for its time.
    pub async fn ping(&self) -> Result<Sign, Error> {
        let sql = match self.database {
            Database::Sqlite(_) => "SELECT CAST(NULL AS BIGINT)",
            Database::Postgres(_) => "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)",
        };
        let asked = Instant::now();
        let row = self.row(sql, Vec::new()).await?;
        let answered = Instant::now();
        let time_us = row.map_or(Ok(None), |row| row.int_or_null(0))?;
        Ok(Sign { time_us, asked, answered })
    }

    /// The first row of a query, outside of a transaction.
    async fn row(&self, sql: &str, values: Vec<Value>) -> Result<Option<Row>, Error> {
        Ok(self.rows(sql, values).await?.into_iter().next())
    }
}

/// Reads the settings back: a file system or a build that ignores them would lose acknowledged commits.
async fn assert_durable(connection: &mut sqlx::SqliteConnection) -> Result<(), Error> {
    let mut connection = Connection::Sqlite(connection);
    let journal = connection.row("PRAGMA journal_mode", vec![]).await?;
    let synchronous = connection.row("PRAGMA synchronous", vec![]).await?;
    let journal = journal.map(|row| row.text(0)).transpose()?.unwrap_or_default();
    let synchronous = synchronous.map(|row| row.int(0)).transpose()?.unwrap_or_default();
    if journal == "wal" && synchronous == 2 {
        return Ok(());
    }
    Err(Error::unreadable(
        "settings",
        format!("journal_mode is `{journal}` and synchronous {synchronous}, not wal and 2"),
    ))
}

/// JSON of a domain value, for a TEXT column.
fn to_json(value: &impl serde::Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|error| Error::unreadable("value", error))
}

/// A domain value from the JSON of a TEXT column.
fn from_json<T: serde::de::DeserializeOwned>(what: &'static str, text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|error| Error::unreadable(what, error))
}

/// A new unique id; later ones sort later.
fn new_uid() -> String {
    uuid::Uuid::now_v7().simple().to_string()
}
