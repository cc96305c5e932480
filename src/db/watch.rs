//! What reads cost, for tests: nothing of it is in a release build.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use serde_json::Value as Json;
use sqlx::Row as _;

use crate::db::Db;
use crate::db::Error;
use crate::db::connection::Connection;
use crate::db::connection::Row;
use crate::db::reads::Bound;
use crate::db::reads::read;
use crate::db::sqlite::Reader;
use crate::db::sqlite::Readers;

/// Instructions of SQLite between two counts.
const INSTRUCTIONS: i32 = 10;

/// What one statement cost.
#[derive(Clone, Debug)]
pub struct ReadCost {
    /// As it stands in the code.
    pub sql: String,
    /// How the database went about it, in its own words.
    pub plan: String,
    /// On Postgres the rows that were read, those among them that a filter then dropped; on SQLite the instructions.
    pub work: u64,
}

impl Db {
    /// From now on each read is explained before it is carried out.
    pub fn watch_reads(&self) {
        *self.watch.lock() = Some(Vec::new());
    }

    /// The reads since then, or since they were asked for.
    pub fn watched_reads(&self) -> Vec<ReadCost> {
        self.watch.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }
}

/// Reads that are watched; none: they are not.
#[derive(Default)]
pub(super) struct Watch(Mutex<Option<Vec<ReadCost>>>);

impl Watch {
    fn lock(&self) -> MutexGuard<'_, Option<Vec<ReadCost>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, sql: &str, plan: String, work: u64) {
        if let Some(costs) = self.lock().as_mut() {
            costs.push(ReadCost { sql: sql.to_owned(), plan, work });
        }
    }

    pub(super) async fn sqlite(
        &self,
        readers: &Readers,
        reader: &mut Reader,
        sql: &str,
        bound: &Bound,
    ) -> Result<(), Error> {
        if self.lock().is_none() {
            return Ok(());
        }
        let connection = &mut reader.connection;
        let explain = format!("EXPLAIN QUERY PLAN {sql}");
        let plan = read(Connection::Sqlite(connection), &explain, bound.clone()).await?;
        let plan: Vec<String> = plan.iter().map(|row| row.text(3)).collect::<Result<_, _>>()?;
        let counts = Arc::new(AtomicU64::new(0));
        let counting = Arc::clone(&counts);
        connection.lock_handle().await?.set_progress_handler(INSTRUCTIONS, move || {
            counting.fetch_add(INSTRUCTIONS.unsigned_abs().into(), Ordering::Relaxed);
            true
        });
        let ended = read(Connection::Sqlite(connection), sql, bound.clone()).await;
        readers.arm(reader).await?;
        ended?;
        self.add(sql, plan.join("\n"), counts.load(Ordering::Relaxed));
        Ok(())
    }

    pub(super) async fn postgres(
        &self,
        connection: Connection<'_>,
        sql: &str,
        bound: &Bound,
    ) -> Result<(), Error> {
        if self.lock().is_none() {
            return Ok(());
        }
        let explain = format!("EXPLAIN (ANALYZE, FORMAT JSON) {sql}");
        for row in read(connection, &explain, bound.clone()).await? {
            let Row::Postgres(row) = row else { continue };
            let plan: String = row.try_get_unchecked(0)?;
            let parsed: Json = serde_json::from_str(&plan).map_err(|it| Error::unreadable("plan", it))?;
            self.add(sql, plan, rows_read(&parsed));
        }
        Ok(())
    }
}

/// The rows of all scans below, and those that they dropped.
fn rows_read(plan: &Json) -> u64 {
    let below = match plan {
        Json::Array(plans) => plans.iter().map(rows_read).sum(),
        Json::Object(fields) => fields.values().map(rows_read).sum(),
        _ => 0,
    };
    let number = |field: &str| plan.get(field).and_then(Json::as_f64).unwrap_or(0.0);
    if !plan.get("Node Type").and_then(Json::as_str).is_some_and(|it| it.contains("Scan")) {
        return below;
    }
    let rows = ["Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck"].map(number);
    let rows = rows.iter().sum::<f64>() * number("Actual Loops");
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    let rows = rows.round() as u64;
    below + rows
}
