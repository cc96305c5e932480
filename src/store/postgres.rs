//! The pool of connections to Postgres: how long anything may take, and that a commit is durable when it returns.
//!
//! A database that is away must answer soon: a caller is told within two seconds to come back, instead of queueing.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::Connection as _;
use sqlx::Executor as _;
use sqlx::PgConnection;
use sqlx::PgPool;
use sqlx::migrate::Migrate as _;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgConnectOptions;
use sqlx::postgres::PgPoolOptions;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;

use crate::store::Error;
use crate::store::STATEMENTS;
use crate::store::connection::Connection;
use crate::store::schema;

/// How long a call waits for a connection. With the next one it stays below the two seconds that a caller may wait.
const ACQUIRE_TIMEOUT: Duration = Duration::from_millis(1_300);
/// How long the first connection of a process may take: nobody waits yet, and a server that starts beside it needs a while.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a write waits for its turn to ask for a connection.
const PLACE_TIMEOUT: Duration = Duration::from_millis(400);
/// Writes that have their turn, for each connection: a storm of cancelled calls makes no crowd of tasks.
const PLACES_PER_CONNECTION: usize = 2;
/// A section that takes longer has lost its database: the cable is cut, or the server hangs. Longer than what the session
/// itself may take.
const SECTION_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a connection that was left in the middle may take to say that it is whole. A living database takes
/// milliseconds; without an end, a cable that was cut would keep the connection's place until TCP gives up: a quarter of an
/// hour.
const MEND_TIMEOUT: Duration = Duration::from_secs(2);
/// Ends whatever transaction a connection is in. BEGIN first, since a bare ROLLBACK makes Postgres warn.
const OUT_OF_TRANSACTION: &str = "BEGIN; ROLLBACK";

/// What every session is told. A statement of ours takes milliseconds; one that waits for a row that another replica has
/// locked gives up; a session whose replica was paused inside a transaction is ended, so that its locks go. Commits wait
/// for the disk, and for the standby where there is a synchronous one, whatever the database's own default is.
const SESSION: &str = "SET statement_timeout = '10s'; SET lock_timeout = '5s'; \
    SET idle_in_transaction_session_timeout = '5s'; \
    SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit') \
    WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false)";

/// What a session that migrates is told on top of it: it waits for another one as long as that takes, and so may each of its
/// statements, for a table may be large.
const MIGRATES: &str = "SET statement_timeout = 0; SET lock_timeout = 0";
/// But it gives up where a table is locked: while it waits for that, everything else would wait behind it.
const CHANGES_TABLES: &str = "SET lock_timeout = '5s'";

/// How to use a Postgres database.
#[derive(Clone, Copy, Debug)]
pub struct Postgres {
    /// Connections at most.
    pub connections: u32,
    /// Whether to bring the schema up to date; else one that is behind is refused.
    pub migrate: bool,
}

/// Connections, and places for writes.
#[derive(Clone)]
pub(super) struct Pool {
    connections: PgPool,
    places: Arc<Semaphore>,
}

impl Pool {
    pub(super) async fn open(url: &str, options: Postgres) -> Result<Pool, Error> {
        let connect = url.parse::<PgConnectOptions>()?.application_name("keepbest");
        let mut session = first_session(&connect).await?;
        if options.migrate {
            migrate(&mut session).await?;
        }
        schema::expect(&mut session).await?;
        // Whatever it was told for the migration, and the migration's lock, go with it.
        session.close().await?;
        let pool = PgPoolOptions::new()
            .max_connections(options.connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // `before_acquire` asks already.
            .test_before_acquire(false)
            .after_connect(|connection, _| Box::pin(prepare(connection)))
            .before_acquire(|connection, _| {
                Box::pin(async move {
                    // See writer.rs: a connection must never come back inside somebody's transaction.
                    connection.execute(OUT_OF_TRANSACTION).await?;
                    Ok(true)
                })
            })
            .connect_lazy_with(connect.statement_cache_capacity(STATEMENTS));
        let places = usize::try_from(options.connections).unwrap_or(usize::MAX);
        let places = places.saturating_mul(PLACES_PER_CONNECTION).min(Semaphore::MAX_PERMITS);
        Ok(Pool { connections: pool, places: Arc::new(Semaphore::new(places)) })
    }

    pub(super) fn connections(&self) -> &PgPool {
        &self.connections
    }

    /// A connection, for one section.
    pub(super) async fn lend(&self) -> Result<Lent, Error> {
        Ok(Lent(Some(self.connections.acquire().await?)))
    }

    /// A place for a write.
    pub(super) async fn place(&self) -> Result<OwnedSemaphorePermit, Error> {
        match tokio::time::timeout(PLACE_TIMEOUT, Arc::clone(&self.places).acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) => Err(Error::stopped()),
            Err(_) => Err(Error::from(sqlx::Error::PoolTimedOut)),
        }
    }
}

/// A connection on loan. One that is dropped before it is given back was left in the middle of a statement: its caller
/// went away, or it took too long.
pub(super) struct Lent(Option<PoolConnection<sqlx::Postgres>>);

impl Lent {
    pub(super) fn connection(&mut self) -> Result<Connection<'_>, Error> {
        Ok(Connection::Postgres(self.0.as_mut().ok_or_else(Error::stopped)?))
    }

    /// The section came to its end.
    pub(super) fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let (Some(mut connection), Ok(runtime)) = (self.0.take(), Handle::try_current()) else { return };
        runtime.spawn(async move {
            let mended = tokio::time::timeout(MEND_TIMEOUT, connection.execute(OUT_OF_TRANSACTION)).await;
            if !matches!(mended, Ok(Ok(_))) {
                // Closed at once, without a word to a server that may not listen.
                drop(connection.detach());
            }
        });
    }
}

/// What the section answers, or that the database is away.
pub(super) async fn in_time<T>(section: impl Future<Output = T>) -> Result<T, Error> {
    let answer = tokio::time::timeout(SECTION_TIMEOUT, section).await;
    answer.map_err(|_| Error::from(sqlx::Error::Io(io::ErrorKind::TimedOut.into())))
}

/// A session outside of the pool. The pool would repeat what is refused until its time is over, and then say only that;
/// this one says why the database cannot be reached.
async fn first_session(connect: &PgConnectOptions) -> Result<PgConnection, Error> {
    let session = tokio::time::timeout(START_TIMEOUT, async {
        let mut session = connect.connect().await?;
        prepare(&mut session).await?;
        Ok(session)
    });
    session
        .await
        .unwrap_or_else(|_| {
            let why = format!("it gave no answer within {} s", START_TIMEOUT.as_secs());
            Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, why)))
        })
        .map_err(Error::from)
}

/// Brings the schema up to date. Of several that start at once one migrates and the others wait.
async fn migrate(session: &mut PgConnection) -> Result<(), Error> {
    sqlx::raw_sql(MIGRATES).execute(&mut *session).await?;
    session.lock().await.map_err(schema::from_migration)?;
    sqlx::raw_sql(CHANGES_TABLES).execute(&mut *session).await?;
    let mut migrator = schema::migrator();
    let migrated = migrator.set_locking(false).run_direct(None, session, false).await;
    migrated.map_err(schema::from_migration)
}

/// Sets a new session up, and refuses a standby: it could only read, and what it reads may be old.
async fn prepare(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(SESSION).execute(&mut *connection).await?;
    let standby: bool = sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(connection).await?;
    if standby {
        let why = "the server is a standby: the address must lead to the primary";
        return Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::NotConnected, why)));
    }
    Ok(())
}
