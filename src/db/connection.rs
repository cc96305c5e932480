//! One thin layer over both databases, so that each statement is written once: a value, a row, a connection.
//!
//! The SQL is the subset that SQLite and Postgres share (`migrations/README.md`). Nothing outside `db` sees this.

use sqlx::Arguments;
use sqlx::AssertSqlSafe;
use sqlx::PgConnection;
use sqlx::Row as _;
use sqlx::SqliteConnection;
use sqlx::postgres::PgArguments;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteArguments;
use sqlx::sqlite::SqliteRow;

use crate::db::Error;
use crate::db::tx;

/// A bound value. The optional ones keep their type when they are NULL, which Postgres wants to know.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Int(Option<i64>),
    Real(Option<f64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
}

macro_rules! value_from {
    ($($from:ty => |$it:ident| $value:expr;)*) => {$(
        impl From<$from> for Value {
            fn from($it: $from) -> Value { $value }
        }
    )*};
}

value_from! {
    i64 => |it| Value::Int(Some(it));
    Option<i64> => |it| Value::Int(it);
    bool => |it| Value::Int(Some(i64::from(it)));
    f64 => |it| Value::Real(Some(it));
    Option<f64> => |it| Value::Real(it);
    &str => |it| Value::Text(Some(it.to_owned()));
    &String => |it| Value::Text(Some(it.clone()));
    String => |it| Value::Text(Some(it));
    Option<String> => |it| Value::Text(it);
    &[u8] => |it| Value::Bytes(Some(it.to_vec()));
    Vec<u8> => |it| Value::Bytes(Some(it));
    Option<Vec<u8>> => |it| Value::Bytes(it);
    crate::domain::digest::Digest => |it| Value::Bytes(Some(it.as_bytes().to_vec()));
}

/// `args![a, b]`: the values of `$1`, `$2`, ...
macro_rules! args {
    ($($value:expr),* $(,)?) => { vec![$($crate::db::connection::Value::from($value)),*] };
}
pub(super) use args;

/// Binds the values, in their order, to the arguments of one database.
pub(super) fn arguments<A: Arguments>(values: Vec<Value>) -> Result<A, Error>
where
    Option<i64>: for<'q> sqlx::Encode<'q, A::Database> + sqlx::Type<A::Database>,
    Option<f64>: for<'q> sqlx::Encode<'q, A::Database> + sqlx::Type<A::Database>,
    Option<String>: for<'q> sqlx::Encode<'q, A::Database> + sqlx::Type<A::Database>,
    Option<Vec<u8>>: for<'q> sqlx::Encode<'q, A::Database> + sqlx::Type<A::Database>,
{
    let mut arguments = A::default();
    for value in values {
        let added = match value {
            Value::Int(value) => arguments.add(value),
            Value::Real(value) => arguments.add(value),
            Value::Text(value) => arguments.add(value),
            Value::Bytes(value) => arguments.add(value),
        };
        added.map_err(|error| Error::Internal(sqlx::Error::Encode(error)))?;
    }
    Ok(arguments)
}

/// A row of either database; columns are read by their place.
pub(super) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

macro_rules! column {
    ($name:ident, $type:ty) => {
        pub(super) fn $name(&self, column: usize) -> Result<$type, Error> {
            match self {
                Row::Sqlite(row) => row.try_get(column),
                Row::Postgres(row) => row.try_get(column),
            }
            .map_err(Error::from)
        }
    };
}

impl Row {
    column!(int, i64);
    column!(int_or_null, Option<i64>);
    column!(real_or_null, Option<f64>);
    column!(text, String);
    column!(text_or_null, Option<String>);
    column!(bytes, Vec<u8>);
    column!(bytes_or_null, Option<Vec<u8>>);

    /// What LENGTH gives: a 32-bit number on Postgres, a 64-bit one on SQLite.
    pub(super) fn length(&self, column: usize) -> Result<i64, Error> {
        match self {
            Row::Sqlite(row) => row.try_get(column).map_err(Error::from),
            Row::Postgres(row) => Ok(i64::from(row.try_get::<i32, _>(column)?)),
        }
    }

    /// A flag, stored as 0 or 1.
    pub(super) fn flag(&self, column: usize) -> Result<bool, Error> {
        Ok(self.int(column)? != 0)
    }
}

/// A borrowed connection, inside a transaction.
pub(super) enum Connection<'c> {
    Sqlite(&'c mut SqliteConnection),
    Postgres(&'c mut PgConnection),
}

impl Connection<'_> {
    /// Runs a statement and says how many rows it changed.
    pub(super) async fn execute(&mut self, sql: &str, values: Vec<Value>) -> Result<u64, Error> {
        let sql = AssertSqlSafe(sql.to_owned());
        Ok(match self {
            Connection::Sqlite(it) => {
                let bound: SqliteArguments = arguments(values)?;
                sqlx::query_with(sql, bound).execute(&mut **it).await?.rows_affected()
            }
            Connection::Postgres(it) => {
                let bound: PgArguments = arguments(values)?;
                sqlx::query_with(sql, bound).execute(&mut **it).await?.rows_affected()
            }
        })
    }

    /// All rows of a query.
    pub(super) async fn rows(&mut self, sql: &str, values: Vec<Value>) -> Result<Vec<Row>, Error> {
        let sql = AssertSqlSafe(sql.to_owned());
        Ok(match self {
            Connection::Sqlite(it) => {
                let bound: SqliteArguments = arguments(values)?;
                let rows = sqlx::query_with(sql, bound).fetch_all(&mut **it).await?;
                rows.into_iter().map(Row::Sqlite).collect()
            }
            Connection::Postgres(it) => {
                let bound: PgArguments = arguments(values)?;
                let rows = sqlx::query_with(sql, bound).fetch_all(&mut **it).await?;
                rows.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    /// The first row of a query, if there is one.
    pub(super) async fn row(&mut self, sql: &str, values: Vec<Value>) -> Result<Option<Row>, Error> {
        Ok(self.rows(sql, values).await?.into_iter().next())
    }

    /// The rows of a statement over a set. SQLite keeps it prepared if it is told to: each number of rows is a statement of its own.
    pub(super) async fn set_rows(
        &mut self,
        sql: &str,
        set: Vec<Vec<Value>>,
        keep: bool,
    ) -> Result<Vec<Row>, Error> {
        let sql = AssertSqlSafe(sql.to_owned());
        Ok(match self {
            Connection::Sqlite(it) => {
                let query = sqlx::query_with(sql, tx::by_row(set)?).persistent(keep);
                query.fetch_all(&mut **it).await?.into_iter().map(Row::Sqlite).collect()
            }
            Connection::Postgres(it) => {
                let query = sqlx::query_with(sql, tx::by_column(set)?);
                query.fetch_all(&mut **it).await?.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    /// Runs a statement over a set and says how many rows it changed.
    pub(super) async fn set_execute(
        &mut self,
        sql: &str,
        set: Vec<Vec<Value>>,
        keep: bool,
    ) -> Result<u64, Error> {
        let sql = AssertSqlSafe(sql.to_owned());
        Ok(match self {
            Connection::Sqlite(it) => {
                let query = sqlx::query_with(sql, tx::by_row(set)?).persistent(keep);
                query.execute(&mut **it).await?.rows_affected()
            }
            Connection::Postgres(it) => {
                sqlx::query_with(sql, tx::by_column(set)?).execute(&mut **it).await?.rows_affected()
            }
        })
    }

    /// A statement without values and rows: BEGIN and its kin.
    pub(super) async fn control(&mut self, sql: &'static str) -> Result<(), Error> {
        match self {
            Connection::Sqlite(it) => sqlx::query(sql).execute(&mut **it).await.map(drop)?,
            Connection::Postgres(it) => sqlx::query(sql).execute(&mut **it).await.map(drop)?,
        }
        Ok(())
    }
}
