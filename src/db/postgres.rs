//! The pool of connections to Postgres: how long anything may take, and that a commit is durable when it returns.
//!
//! A database that is away must answer soon: a caller is told within two seconds to come back, instead of queueing.

use std::future::Future;
use std::io;
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
use tokio::time::Instant;

use crate::db::Error;
use crate::db::STATEMENTS;
use crate::db::connection::Connection;
use crate::db::places::Places;
use crate::db::places::Read;
use crate::db::schema;
use crate::turns::Taken;

/// How long a call waits until a connection is its own: below the two seconds after which a caller shall know.
const TURN_TIMEOUT: Duration = Duration::from_millis(1_700);
/// How long the first connection of a process may take: nobody waits yet, and a server that starts beside it needs a while.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two tries at the start.
const START_PAUSE: Duration = Duration::from_millis(100);
/// Of so many connections one is for short reads, whose callers wait.
const SHARE_OF_SHORT_READS: u64 = 6;
/// Of so many connections one is for long reads.
const SHARE_OF_LONG_READS: u64 = 8;
/// One for each kind of reads, for the question whether the database is there, and for writes.
pub(super) const FEWEST_CONNECTIONS: u32 = 4;
/// A section that takes longer has lost its database: the cable is cut, or the server hangs. Longer than what the session
/// itself may take.
const SECTION_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a connection that was left in the middle may take to say that it is whole. A living database takes
/// milliseconds; without an end, a cable that was cut would keep the connection's place until TCP gives up: a quarter of an
/// hour.
const MEND_TIMEOUT: Duration = Duration::from_secs(2);
/// Ends whatever transaction a connection is in. BEGIN first, since a bare ROLLBACK makes Postgres warn.
const OUT_OF_TRANSACTION: &str = "BEGIN; ROLLBACK";

/// The settings of every session. Our statements take milliseconds; one that waits for a row that another replica has
/// locked gives up; a session whose replica was paused inside a transaction is ended, so that its locks go. Commits wait
/// for the disk, and for the standby where there is a synchronous one, whatever the database's own default is.
const SESSION: &str = "SET statement_timeout = '10s'; SET lock_timeout = '2s'; \
    SET idle_in_transaction_session_timeout = '5s'; \
    SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit') \
    WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false)";

/// Further settings of a session that migrates: it waits for another one as long as that takes, and so may each of its
/// statements, for a table may be large.
const MIGRATES: &str = "SET statement_timeout = 0; SET lock_timeout = 0";
/// But it gives up where a table is locked: while it waits for that, everything else would wait behind it.
const CHANGES_TABLES: &str = "SET lock_timeout = '5s'";

/// The parameters of an address that the driver takes; it would ignore another one, and log its value. `options[NAME]` is a
/// parameter of the session.
const PARAMETERS: [&str; 17] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// What an address says. Nothing of it is in the error, which may be a part of the password.
pub(super) fn options_of(url: &str) -> Result<PgConnectOptions, Error> {
    let parameters = url.split_once('?').map_or("", |(_, parameters)| parameters);
    if parameters.contains('@') {
        let why = "of its password `?` must be written as `%3F`, `@` as `%40`, `/` as `%2F` and `#` as `%23`";
        return Err(Error::Address(why.to_owned()));
    }
    for parameter in parameters.split('&').filter(|it| !it.is_empty()) {
        let key = parameter.split_once('=').map_or(parameter, |(key, _)| key);
        if !PARAMETERS.contains(&key) && !key.starts_with("options[") {
            let known = PARAMETERS.join(", ");
            return Err(Error::Address(format!("its parameter `{key}` is not known; known are {known}")));
        }
    }
    url.parse().map_err(|error: sqlx::Error| match error {
        sqlx::Error::Configuration(why) => Error::Address(why.to_string()),
        other => Error::from(other),
    })
}

/// How to use a Postgres database.
#[derive(Clone, Copy, Debug)]
pub struct Postgres {
    /// Connections at most.
    pub connections: u32,
    /// Whether to bring the schema up to date; else one that is behind is refused.
    pub migrate: bool,
}

/// Connections, and how many of them are for writes.
#[derive(Clone)]
pub(super) struct Pool {
    connections: PgPool,
    reads: Places,
    /// Of writes.
    places: usize,
}

impl Pool {
    pub(super) async fn open(url: &str, options: Postgres) -> Result<Pool, Error> {
        let connect = options_of(url)?.application_name("keepbest");
        let mut session = first_session(&connect).await?;
        if options.migrate {
            migrate(&mut session).await?;
        }
        schema::expect(&mut session).await?;
        // Whatever it was told for the migration, and the migration's lock, go with it.
        session.close().await?;
        let pool = PgPoolOptions::new()
            .max_connections(options.connections.max(FEWEST_CONNECTIONS))
            .acquire_timeout(TURN_TIMEOUT)
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
        let connections = u64::from(options.connections.max(FEWEST_CONNECTIONS));
        let (short, long) =
            (connections.div_ceil(SHARE_OF_SHORT_READS), (connections / SHARE_OF_LONG_READS).max(1));
        // Writes have what is left: they wait for rows that others have locked, and reads do not.
        let writes = usize::try_from((connections - short - long - 1).max(1)).unwrap_or(usize::MAX);
        Ok(Pool { connections: pool, reads: Places::new(short, long), places: writes })
    }

    pub(super) async fn close(&self) {
        self.reads.close();
        self.connections.close().await;
    }

    /// A connection, for one section.
    pub(super) async fn lend(&self) -> Result<Lent, Error> {
        Ok(Lent { connection: Some(self.connections.acquire().await?), place: None })
    }

    /// A connection for a read, once it has its place.
    pub(super) async fn lend_read(&self, read: Read) -> Result<Lent, Error> {
        let taken = self.reads.take(read);
        let place = match read {
            Read::Long => taken.await?,
            Read::Ping | Read::Short => {
                let late = |_| Err(Error::from(sqlx::Error::PoolTimedOut));
                tokio::time::timeout(TURN_TIMEOUT, taken).await.unwrap_or_else(late)?
            }
        };
        let mut lent = self.lend().await?;
        lent.place = Some(place);
        Ok(lent)
    }

    /// Of reads.
    pub(super) fn read_places(&self) -> &Places {
        &self.reads
    }

    /// How many connections are open, and how many of them are idle.
    pub(super) fn connections(&self) -> (u64, u64) {
        (u64::from(self.connections.size()), self.connections.num_idle() as u64)
    }

    /// How many writes have a connection at once.
    pub(super) fn places(&self) -> usize {
        self.places
    }

    /// When a write that waits from now on must have begun.
    pub(super) fn turn_until(&self) -> Instant {
        Instant::now() + TURN_TIMEOUT
    }

    /// A connection for a write that must have begun by then.
    pub(super) async fn lend_until(&self, until: Option<Instant>) -> Result<Lent, Error> {
        let lent = tokio::time::timeout_at(until.unwrap_or_else(|| self.turn_until()), self.lend()).await;
        lent.unwrap_or_else(|_| Err(Error::from(sqlx::Error::PoolTimedOut)))
    }
}

/// A connection on loan. One that is dropped before it is given back was left in the middle of a statement: its caller
/// went away, or it took too long.
pub(super) struct Lent {
    connection: Option<PoolConnection<sqlx::Postgres>>,
    /// Of a read.
    place: Option<Taken>,
}

impl Lent {
    pub(super) fn connection(&mut self) -> Result<Connection<'_>, Error> {
        Ok(Connection::Postgres(self.connection.as_mut().ok_or_else(Error::stopped)?))
    }

    /// The section came to its end.
    pub(super) fn give_back(mut self) {
        drop(self.connection.take());
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let (Some(mut connection), Ok(runtime)) = (self.connection.take(), Handle::try_current()) else {
            return;
        };
        let place = self.place.take();
        runtime.spawn(async move {
            let mended = tokio::time::timeout(MEND_TIMEOUT, connection.execute(OUT_OF_TRANSACTION)).await;
            if !matches!(mended, Ok(Ok(_))) {
                // Closed at once, without a word to a server that may not listen.
                drop(connection.detach());
            }
            drop(place);
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

/// Asks what a process asks first of its pool, as patiently as it asked for its first session: the database may be slow while
/// many start, and a process that gives up only starts again.
pub(super) async fn at_start<T, F>(ask: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let until = Instant::now() + START_TIMEOUT;
    loop {
        match ask().await {
            Err(Error::Unavailable(_)) if Instant::now() < until => tokio::time::sleep(START_PAUSE).await,
            answer => return answer,
        }
    }
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
