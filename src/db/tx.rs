//! A write transaction: statements over single values, and over sets of rows, so that a hundred rows cost what one costs.
//!
//! A set stands in its statement as `{v: uid text, value real}`: a table `v` with these columns, a row for each job or item.
//! Postgres gets it as arrays, which keep the text of the statement the same whatever their length; SQLite as `VALUES`, for a few
//! numbers of rows: what the set lacks to the next one is NULL, and left out by a limit.

use sqlx::postgres::PgArguments;
use sqlx::sqlite::SqliteArguments;

use crate::db::Error;
use crate::db::connection::Connection;
use crate::db::connection::Row;
use crate::db::connection::Value;

/// SQLite binds at most 32,766 values in a statement; a set with more is cut.
const SQLITE_VALUES: usize = 32_000;
/// Statements over at most so many rows are kept prepared: SQLite takes longer to read a statement than to carry it out.
const PREPARED_ROWS: usize = 64;

/// A borrowed connection inside of a transaction. Who is let in here neither begins nor commits it.
pub(super) struct Tx<'c> {
    connection: Connection<'c>,
    /// Whether rows that another process has locked are left out instead of waited for.
    leaves_locked: bool,
    statements: u64,
}

impl<'c> Tx<'c> {
    pub(super) fn new(connection: Connection<'c>, leaves_locked: bool) -> Tx<'c> {
        Tx { connection, leaves_locked, statements: 0 }
    }

    /// How many statements it has sent.
    pub(super) fn statements(&self) -> u64 {
        self.statements
    }

    pub(super) fn connection(&mut self) -> &mut Connection<'c> {
        &mut self.connection
    }

    /// All rows of a query.
    pub(super) async fn rows(&mut self, sql: &str, values: Vec<Value>) -> Result<Vec<Row>, Error> {
        self.statements += 1;
        self.connection.rows(sql, values).await
    }

    /// The first row of a query, if there is one.
    pub(super) async fn row(&mut self, sql: &str, values: Vec<Value>) -> Result<Option<Row>, Error> {
        Ok(self.rows(sql, values).await?.into_iter().next())
    }

    /// The rows of a query over a set; none of an empty set. `{take r}` in it locks the rows of `r`, but leaves those out that
    /// another process has locked while others of the set can go on; `{lock r}` waits for them.
    pub(super) async fn rows_of(&mut self, sql: &str, set: Vec<Vec<Value>>) -> Result<Vec<Row>, Error> {
        let mut found = Vec::new();
        for part in self.parts(sql, set) {
            let (sql, keep) = self.rendered(sql, part.len())?;
            self.statements += 1;
            found.extend(self.connection.set_rows(&sql, part, keep).await?);
        }
        Ok(found)
    }

    /// Runs a statement over a set and says how many rows it changed.
    pub(super) async fn execute_of(&mut self, sql: &str, set: Vec<Vec<Value>>) -> Result<u64, Error> {
        let mut changed = 0;
        for part in self.parts(sql, set) {
            let (sql, keep) = self.rendered(sql, part.len())?;
            self.statements += 1;
            changed += self.connection.set_execute(&sql, part, keep).await?;
        }
        Ok(changed)
    }

    /// The set in as many parts as the database needs: on Postgres it is always one.
    fn parts(&self, sql: &str, mut set: Vec<Vec<Value>>) -> Vec<Vec<Vec<Value>>> {
        let most = match self.connection {
            Connection::Sqlite(_) => (SQLITE_VALUES / set.first().map_or(1, |row| row.len().max(1))).max(1),
            Connection::Postgres(_) => usize::MAX,
        };
        debug_assert!(sql.contains("{v: "), "{sql}");
        let mut parts = Vec::new();
        while set.len() > most {
            let rest = set.split_off(most);
            parts.push(std::mem::replace(&mut set, rest));
        }
        if !set.is_empty() {
            parts.push(set);
        }
        parts
    }

    /// The statement for a set of so many rows, and whether it is kept prepared.
    fn rendered(&self, sql: &str, rows: usize) -> Result<(String, bool), Error> {
        let dialect = match self.connection {
            Connection::Sqlite(_) => Dialect::Sqlite { rows },
            Connection::Postgres(_) => Dialect::Postgres { leaves_locked: self.leaves_locked },
        };
        let rendered = render(sql, dialect).ok_or_else(|| Error::unreadable("statement", sql))?;
        Ok((rendered, rows <= PREPARED_ROWS))
    }
}

/// The database that a statement over a set is written for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Dialect {
    Sqlite { rows: usize },
    Postgres { leaves_locked: bool },
}

/// Writes the places in braces out; none if there is one that is not known.
pub(super) fn render(sql: &str, dialect: Dialect) -> Option<String> {
    let mut text = String::with_capacity(sql.len() + 64);
    let mut rest = sql;
    while let Some((before, after)) = rest.split_once('{') {
        let (place, after) = after.split_once('}')?;
        text.push_str(before);
        rest = after;
        match place.split_once([':', ' '])? {
            ("v", columns) => text.push_str(&table(columns, dialect)?),
            // SQLite has one writer, so nobody else has a row.
            ("take" | "lock", _) if matches!(dialect, Dialect::Sqlite { .. }) => {}
            ("take", alias) if matches!(dialect, Dialect::Postgres { leaves_locked: true }) => {
                text.push_str(&format!("FOR UPDATE OF {alias} SKIP LOCKED"));
            }
            ("take" | "lock", alias) => text.push_str(&format!("FOR UPDATE OF {alias}")),
            _ => return None,
        }
    }
    text.push_str(rest);
    Some(text)
}

fn table(columns: &str, dialect: Dialect) -> Option<String> {
    let columns: Vec<(&str, &str)> =
        columns.split(',').map(|column| column.trim().split_once(' ')).collect::<Option<_>>()?;
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    let rows = match dialect {
        Dialect::Sqlite { rows } => {
            let row = format!("({})", vec!["?"; columns.len()].join(","));
            let places = places(rows);
            let values = format!("VALUES {}", vec![row; places].join(","));
            // Not for a single row: its values are as good as constants.
            if places == 1 { values } else { format!("SELECT * FROM ({values}) LIMIT ?") }
        }
        Dialect::Postgres { .. } => {
            let array = |(place, (_, kind)): (usize, &(&str, &str))| {
                let kind = match *kind {
                    "text" => "text",
                    "bigint" => "bigint",
                    "real" => "double precision",
                    "bytes" => "bytea",
                    _ => return None,
                };
                Some(format!("${}::{kind}[]", place + 1))
            };
            let arrays: Option<Vec<String>> = columns.iter().enumerate().map(array).collect();
            format!("SELECT * FROM UNNEST({})", arrays?.join(", "))
        }
    };
    Some(format!("v({}) AS ({rows})", names.join(", ")))
}

/// For how many rows a statement of SQLite has places that is to take so many: few numbers are few statements to keep.
fn places(rows: usize) -> usize {
    if rows <= PREPARED_ROWS { rows.next_power_of_two() } else { rows }
}

/// The values of a set row by row, as SQLite binds them.
pub(super) fn by_row(set: Vec<Vec<Value>>) -> Result<SqliteArguments, Error> {
    let (rows, columns) = (set.len(), set.first().map_or(0, Vec::len));
    let places = places(rows);
    let mut values: Vec<Value> = set.into_iter().flatten().collect();
    values.resize(places * columns, Value::Int(None));
    if places > 1 {
        values.push(Value::Int(i64::try_from(rows).ok()));
    }
    crate::db::connection::arguments(values)
}

/// The values of a set column by column, as Postgres binds them.
pub(super) fn by_column(set: Vec<Vec<Value>>) -> Result<PgArguments, Error> {
    use sqlx::Arguments as _;
    /// Values of one kind; one of another kind is a mistake of the statement's author.
    macro_rules! column {
        ($arguments:ident, $cells:ident, $kind:ident) => {{
            let column: Option<Vec<_>> =
                $cells.map(|cell| if let Some(Value::$kind(it)) = cell { Some(it) } else { None }).collect();
            let column =
                column.ok_or_else(|| Error::unreadable("set", "a column with two kinds of values"))?;
            $arguments.add(column)
        }};
    }
    let mut arguments = PgArguments::default();
    let mut rows: Vec<std::vec::IntoIter<Value>> = set.into_iter().map(Vec::into_iter).collect();
    while let Some(kind) = rows.first().and_then(|row| row.as_slice().first()).cloned() {
        let cells = rows.iter_mut().map(Iterator::next);
        let added = match kind {
            Value::Int(_) => column!(arguments, cells, Int),
            Value::Real(_) => column!(arguments, cells, Real),
            Value::Text(_) => column!(arguments, cells, Text),
            Value::Bytes(_) => column!(arguments, cells, Bytes),
        };
        added.map_err(|error| Error::Internal(sqlx::Error::Encode(error)))?;
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SQL: &str = "WITH {v: uid text, value real} SELECT r.uid FROM v JOIN runs r ON r.uid = v.uid ORDER BY r.uid {take r}";

    #[test]
    fn a_set_is_a_table_in_both_dialects() {
        assert_eq!(
            render(SQL, Dialect::Sqlite { rows: 2 }).unwrap(),
            "WITH v(uid, value) AS (SELECT * FROM (VALUES (?,?),(?,?)) LIMIT ?) SELECT r.uid FROM v \
             JOIN runs r ON r.uid = v.uid ORDER BY r.uid "
        );
        let arrays = "WITH v(uid, value) AS (SELECT * FROM UNNEST($1::text[], $2::double precision[])) SELECT r.uid FROM v \
            JOIN runs r ON r.uid = v.uid ORDER BY r.uid FOR UPDATE OF r";
        assert_eq!(render(SQL, Dialect::Postgres { leaves_locked: false }).unwrap(), arrays);
        let skips = format!("{arrays} SKIP LOCKED");
        assert_eq!(render(SQL, Dialect::Postgres { leaves_locked: true }).unwrap(), skips);
    }

    #[test]
    fn a_place_that_is_not_known_is_no_statement() {
        for sql in ["SELECT {what}", "SELECT {x y}", "WITH {v: uid uuid} SELECT 1", "SELECT {"] {
            assert_eq!(render(sql, Dialect::Postgres { leaves_locked: false }), None, "{sql}");
        }
    }
}
