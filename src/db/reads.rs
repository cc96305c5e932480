//! Reads outside of a transaction.

use std::time::Instant;

use crate::db::Database;
use crate::db::Db;
use crate::db::Error;
use crate::db::Sign;
use crate::db::connection::Connection;
use crate::db::connection::Row;
use crate::db::connection::Value;
use crate::db::places::Read;
use crate::db::postgres;
use crate::db::postgres::in_time;
use crate::db::tx::Tx;

/// What stands for the places of a statement.
#[derive(Clone)]
pub(super) enum Bound {
    /// `$1`, `$2`, ...
    Values(Vec<Value>),
    /// The rows of `{v: ...}`.
    Set(Vec<Vec<Value>>),
}

impl Db {
    /// All rows of a query that is short: it finds some rows by their keys, for which saves and trainers wait.
    pub(super) async fn rows(&self, sql: &str, values: Vec<Value>) -> Result<Vec<Row>, Error> {
        self.ask(Read::Short, sql, Bound::Values(values)).await
    }

    /// All rows of a page of a list, of a check or of a rebuild.
    pub(super) async fn page(&self, sql: &str, values: Vec<Value>) -> Result<Vec<Row>, Error> {
        self.ask(Read::Long, sql, Bound::Values(values)).await
    }

    /// All rows of a short query over a set.
    pub(super) async fn rows_of(&self, sql: &str, set: Vec<Vec<Value>>) -> Result<Vec<Row>, Error> {
        self.ask(Read::Short, sql, Bound::Set(set)).await
    }

    /// All rows of a long query over a set.
    pub(super) async fn page_of(&self, sql: &str, set: Vec<Vec<Value>>) -> Result<Vec<Row>, Error> {
        self.ask(Read::Long, sql, Bound::Set(set)).await
    }

    /// The first row of a short query.
    pub(super) async fn row(&self, sql: &str, values: Vec<Value>) -> Result<Option<Row>, Error> {
        Ok(self.rows(sql, values).await?.into_iter().next())
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
        let rows = self.ask(Read::Ping, sql, Bound::Values(Vec::new())).await?;
        let answered = Instant::now();
        let time_us = rows.first().map_or(Ok(None), |row| row.int_or_null(0))?;
        Ok(Sign { time_us, asked, answered })
    }

    /// A short read that was stopped is the database's fault and not its caller's, who cannot ask for less.
    async fn ask(&self, kind: Read, sql: &str, bound: Bound) -> Result<Vec<Row>, Error> {
        let begin = Instant::now();
        let asked = self.ask_once(kind, sql, bound).await;
        self.metrics.read(kind, begin, asked.as_ref().err());
        match (kind, asked) {
            (Read::Short | Read::Ping, Err(Error::Late(why))) => Err(Error::Busy(why)),
            (_, answer) => answer,
        }
    }

    async fn ask_once(&self, kind: Read, sql: &str, bound: Bound) -> Result<Vec<Row>, Error> {
        match &self.database {
            Database::Sqlite(readers) => {
                let mut lent = readers.lend(kind).await?;
                #[cfg(debug_assertions)]
                self.watch.sqlite(readers, lent.reader()?, sql, &bound).await?;
                let rows = read(Connection::Sqlite(&mut lent.reader()?.connection), sql, bound).await;
                match &rows {
                    // Its thread is gone, and the next read opens another one.
                    Err(Error::Unavailable(_)) => lent.close(),
                    _ => lent.give_back(),
                }
                rows
            }
            Database::Postgres(pool) => {
                let mut lent = pool.lend_read(kind).await?;
                #[cfg(debug_assertions)]
                self.watch.postgres(lent.connection()?, sql, &bound).await?;
                let rows = in_time(read(lent.connection()?, sql, bound)).await?;
                lent.give_back();
                rows
            }
        }
    }
}

pub(super) async fn read(connection: Connection<'_>, sql: &str, bound: Bound) -> Result<Vec<Row>, Error> {
    let mut tx = Tx::new(connection, false);
    match bound {
        Bound::Values(values) => tx.rows(sql, values).await,
        Bound::Set(set) => tx.rows_of(sql, set).await,
    }
}
