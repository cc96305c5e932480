//! Metadata in SQLite or Postgres. The only room that names `sqlx`; no transaction leaves it.
//!
//! Rules that must read, decide and write in one transaction hand the deciding part in as a function of the domain.

mod access;
mod aliases;
mod attempts;
mod audit;
mod check;
mod checkpoints;
mod chunks;
mod collect;
mod commits;
mod connection;
mod contradictions;
mod decisions;
mod deletions;
mod error;
mod events;
mod feed;
mod files;
mod filters;
mod job;
mod manifests;
mod marks;
mod members;
mod metrics;
mod parts;
mod places;
mod postgres;
mod queue;
mod reads;
mod rebuild;
mod reports;
mod run_lists;
mod runs;
mod schema;
mod sqlite;
mod tx;
mod uploads;
mod version_lists;
mod version_queries;
mod versions;
#[cfg(debug_assertions)]
mod watch;
mod writer;

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use sqlx::ConnectOptions;
use sqlx::Connection as _;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::sqlite::SqliteJournalMode;
use sqlx::sqlite::SqliteSynchronous;
use tokio_util::sync::CancellationToken;

use crate::db::audit::NewEntry;
use crate::db::connection::Connection;
use crate::db::job::Rare;
use crate::db::job::Turn;
use crate::db::job::Work;
use crate::db::job::Write;
use crate::db::metrics::Metrics;
use crate::db::postgres::Pool;
use crate::db::sqlite::Readers;
use crate::db::writer::Writer;
use crate::domain::audit::Caller;
use crate::domain::ids::RunName;

pub use access::Team;
pub use aliases::AliasRow;
pub use aliases::Expected;
pub use attempts::Started;
pub use audit::Chain;
pub use check::CheckChunk;
pub use check::CheckFile;
pub use check::CheckPage;
pub use check::CheckVersion;
pub use check::ChunkKey;
pub use checkpoints::ExpireTimes;
pub use checkpoints::LedTo;
pub use chunks::HeldChunk;
pub use chunks::PlacedChunk;
pub use chunks::Stored;
pub use collect::Graces;
pub use collect::Left;
pub use collect::ManifestKey;
pub use collect::Step;
pub use commits::Commit;
pub use commits::Committed;
pub use commits::Published;
pub use decisions::DecisionFilter;
pub use decisions::DecisionRow;
pub use deletions::DeletedVersion;
pub use deletions::owners::Begun;
pub use deletions::reads::Doomed;
pub use deletions::reads::Owner;
pub use deletions::slices::DeleteSlice;
pub use deletions::slices::DeletedSlice;
pub use error::Error;
pub use events::EventRow;
pub use feed::FeedEnd;
pub use feed::FeedEntry;
pub use files::Before;
pub use files::FileChunk;
pub use manifests::ManifestPage;
pub use manifests::StoredManifest;
pub use marks::StoreMark;
pub use metrics::Backlog;
pub use parts::CompletePart;
pub use parts::PartRow;
pub use parts::Standing;
pub use postgres::Postgres;
pub use rebuild::LostVersions;
pub use rebuild::Rebuilt;
pub use rebuild::RebuiltVersion;
pub use reports::Reported;
pub use run_lists::RunPage;
pub use run_lists::RunPlace;
pub use uploads::FileStep;
pub use uploads::WriteFiles;
pub use version_lists::VersionPage;
pub use version_lists::VersionQuery;
pub use version_queries::BestQuery;
pub use version_queries::BestScope;
pub use versions::ArtifactRow;
pub use versions::VersionRow;
#[cfg(debug_assertions)]
pub use watch::ReadCost;

/// How long SQLite waits for a lock of another process (`keepbest gc` beside the server).
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Prepared statements kept by a connection: all of ours, so none is parsed twice.
const STATEMENTS: usize = 256;
/// The same for the connection that writes to SQLite, which keeps one for each number of rows that a set is rounded up to: some
/// ten MiB if all are in use.
const WRITE_STATEMENTS: usize = 1_024;

/// About how many rows a write has that is rare and says nothing else.
const RARE_ROWS: usize = 20;

/// Where reads go.
enum Database {
    Sqlite(Arc<Readers>),
    Postgres(Pool),
}

/// The metadata of all teams, in one database; cheap to clone.
#[derive(Clone)]
pub struct Db {
    shared: Arc<Shared>,
    /// What the audit log is to say of what is changed here.
    entry: Option<Arc<NewEntry>>,
}

/// What all clones of a [`Db`] share.
pub struct Shared {
    database: Database,
    writer: Writer,
    unsynced: CancellationToken,
    metrics: Arc<Metrics>,
    #[cfg(debug_assertions)]
    watch: watch::Watch,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

impl Deref for Db {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
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
        let mut connection = options.clone().statement_cache_capacity(WRITE_STATEMENTS).connect().await?;
        // One at a time: `keepbest gc` may open the database in the moment in which a newer server changes its schema.
        let mut whole = connection.begin_with("BEGIN IMMEDIATE").await?;
        let migrated = schema::migrator().run_direct(None, &mut *whole, false).await;
        migrated.map_err(schema::from_migration)?;
        whole.commit().await?;
        assert_durable(&mut connection).await?;
        // What a statement or a savepoint may have to undo would go to a file in the system's folder, made anew for each
        // transaction. Only now: a migration sorts whole tables.
        Connection::Sqlite(&mut connection).control("PRAGMA temp_store = MEMORY").await?;
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
        let readers = Readers::open(options.create_if_missing(false).read_only(true)).await?;
        let (unsynced, metrics) = (CancellationToken::new(), Arc::<Metrics>::default());
        let writer = Writer::on_sqlite(connection, unsynced.clone(), Arc::clone(&metrics))?;
        let db = Db::over(Database::Sqlite(readers), writer, unsynced, metrics);
        db.refuse_unfinished_rebuild().await?;
        Ok(db)
    }

    pub async fn open_postgres(url: &str, options: Postgres) -> Result<Db, Error> {
        let pool = Pool::open(url, options).await?;
        let metrics = Arc::<Metrics>::default();
        let writer = Writer::on_postgres(pool.clone(), Arc::clone(&metrics));
        let db = Db::over(Database::Postgres(pool), writer, CancellationToken::new(), metrics);
        postgres::at_start(|| db.refuse_unfinished_rebuild()).await?;
        Ok(db)
    }

    fn over(database: Database, writer: Writer, unsynced: CancellationToken, metrics: Arc<Metrics>) -> Db {
        let shared = Shared {
            database,
            writer,
            unsynced,
            metrics,
            #[cfg(debug_assertions)]
            watch: watch::Watch::default(),
        };
        Db { shared: Arc::new(shared), entry: None }
    }

    /// The same database for one call: the audit log tells of it once, in the first transaction that changes anything for it.
    pub fn by(&self, caller: &Caller) -> Result<Db, Error> {
        Ok(Db { entry: Some(Arc::new(NewEntry::of(caller)?)), ..self.clone() })
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
            Database::Sqlite(readers) => {
                readers.close().await;
                // Last, since the last one to close copies the log into the database.
                self.writer.close().await;
            }
            Database::Postgres(pool) => pool.close().await,
        }
    }

    /// Carries a write out, to its end even if the caller goes away. Answers after the commit.
    async fn change<W: Write>(&self, write: W) -> Result<W::Answer, Error> {
        let entry = self.entry.clone().filter(|_| W::AUDITED);
        let (begin, kind) = (Instant::now(), write.turn().kind());
        let written = self.writer.write(write, entry).await;
        self.metrics.written(kind, begin, written.as_ref().err());
        written
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
