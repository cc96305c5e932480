//! Deleting a version: its aliases go or move, and the run's best is what is right without it.

pub(super) mod owners;
pub(super) mod reads;
pub(super) mod slices;

use crate::db::Db;
use crate::db::Error;
use crate::db::aliases::lock_artifact;
use crate::db::aliases::put_server_alias;
use crate::db::connection::Connection;
use crate::db::connection::Row;
use crate::db::connection::args;
use crate::db::runs::lock_run_by_uid;
use crate::db::runs::save_monitor_state;
use crate::db::version_queries::BestQuery;
use crate::db::version_queries::BestScope;
use crate::db::version_queries::best_statement;
use crate::db::versions::ArtifactRow;
use crate::domain::alias;
use crate::domain::ids::ArtifactName;
use crate::domain::refusal::Refusal;
use crate::domain::run::Run;
use crate::failpoint::failpoint;

/// Aliases that a refusal names. In the message and in the details, which are encoded as base64, ten of the longest take
/// 5 KB; a client takes 8 KiB of headers.
const NAMED_ALIASES: i64 = 10;

/// A version that is deleted.
#[derive(Debug, PartialEq, Eq)]
pub struct DeletedVersion {
    /// Of its checkpoint.
    pub uid: String,
    /// Of its files together.
    pub size_bytes: i64,
    /// When it was deleted, in microseconds since 1970.
    pub delete_time_us: i64,
}

impl Db {
    /// Deletes a version. Refused while an alias of a user's points at it, unless told.
    /// Repeated: the same answer.
    pub async fn delete_version(
        &self,
        artifact: ArtifactRow,
        number: i64,
        delete_aliases: bool,
        now_us: i64,
    ) -> Result<DeletedVersion, Error> {
        let deleted = self.write(move |connection| {
            Box::pin(async move {
                let find = "SELECT uid, run_uid, state, size_bytes, delete_time_us FROM checkpoints \
                    WHERE artifact_uid = $1 AND version = $2";
                let not_found = || Error::from(Refusal::not_found("version", shown(&artifact.name, number)));
                let row = connection.row(find, args![&artifact.uid, number]).await?.ok_or_else(not_found)?;
                let deleted = |row: &Row, delete_time_us| -> Result<DeletedVersion, Error> {
                    Ok(DeletedVersion { uid: row.text(0)?, size_bytes: row.int(3)?, delete_time_us })
                };
                if row.text(2)? == "DELETED" {
                    return deleted(&row, row.int_or_null(4)?.unwrap_or(now_us));
                }
                let uid = row.text(0)?;
                // Always the run before the artifact, as the commit does: no deadlock.
                let run = lock_run_by_uid(connection, &row.text(1)?).await?;
                lock_artifact(connection, &artifact.uid).await?;
                failpoint!("delete.locked");
                check_aliases(connection, &artifact, number, &uid, delete_aliases).await?;
                let delete = "UPDATE checkpoints SET state = 'DELETED', delete_time_us = $1 \
                    WHERE uid = $2 AND state = 'COMMITTED'";
                if connection.execute(delete, args![now_us, &uid]).await? == 0 {
                    // Another call deleted it while this one waited for the locks.
                    return deleted(&row, now_us);
                }
                connection
                    .execute("DELETE FROM version_metrics WHERE checkpoint_uid = $1", args![&uid])
                    .await?;
                move_aliases(connection, &artifact, &uid, now_us).await?;
                if run.monitor_state.best_checkpoint.as_deref() == Some(&uid) {
                    correct_best(connection, run, now_us).await?;
                }
                failpoint!("delete.written");
                deleted(&row, now_us)
            })
        });
        let deleted = deleted.await?;
        failpoint!("delete.committed");
        Ok(deleted)
    }

    /// Refuses a version that `delete_version` would refuse.
    pub async fn check_version_deletable(
        &self,
        artifact: &ArtifactRow,
        number: i64,
        delete_aliases: bool,
    ) -> Result<(), Error> {
        if delete_aliases {
            return Ok(());
        }
        let find = "SELECT uid FROM checkpoints WHERE artifact_uid = $1 AND version = $2";
        let Some(row) = self.row(find, args![&artifact.uid, number]).await? else { return Ok(()) };
        check_unnamed(&self.rows(USER_ALIASES, args![row.text(0)?, NAMED_ALIASES]).await?, artifact, number)
    }
}

fn shown(artifact: &ArtifactName, number: i64) -> String {
    format!("{artifact}/versions/v{number}")
}

async fn check_aliases(
    connection: &mut Connection<'_>,
    artifact: &ArtifactRow,
    number: i64,
    uid: &str,
    delete_aliases: bool,
) -> Result<(), Error> {
    if delete_aliases {
        return Ok(());
    }
    let rows = connection.rows(USER_ALIASES, args![uid, NAMED_ALIASES]).await?;
    check_unnamed(&rows, artifact, number)
}

/// The first aliases of users, and how many there are.
const USER_ALIASES: &str = "SELECT alias, COUNT(*) OVER () FROM aliases WHERE checkpoint_uid = $1 AND owner = 'user' \
    ORDER BY alias LIMIT $2";

fn check_unnamed(rows: &[Row], artifact: &ArtifactRow, number: i64) -> Result<(), Error> {
    let names: Vec<String> = rows.iter().map(|row| row.text(0)).collect::<Result<_, _>>()?;
    let Some(first) = rows.first() else { return Ok(()) };
    let count = first.int(1)?;
    let list = names.join(", ");
    let more = match count - NAMED_ALIASES {
        1.. => format!(", ... ({count} in all)"),
        _ => String::new(),
    };
    let message = format!(
        "version `{}` is in use by the aliases {list}{more}: move them, or delete it together with them",
        shown(&artifact.name, number)
    );
    let refusal = Refusal::precondition("VERSION_HAS_ALIASES", message);
    Err(refusal.with("aliases", list).with("alias_count", count).into())
}

/// `latest` goes to the highest number left, `best` to the best value left; all other names of the version go.
async fn move_aliases(
    connection: &mut Connection<'_>,
    artifact: &ArtifactRow,
    uid: &str,
    now_us: i64,
) -> Result<(), Error> {
    let had = "SELECT alias FROM aliases WHERE checkpoint_uid = $1 AND owner = 'server'";
    let had = connection.rows(had, args![uid]).await?;
    connection.execute("DELETE FROM aliases WHERE checkpoint_uid = $1", args![uid]).await?;
    let scope = BestScope::Artifact(artifact.uid.clone());
    let best = BestQuery { scope, metric: artifact.monitor.clone(), direction: artifact.direction };
    for row in had {
        put_next(connection, &artifact.uid, &best, &row.text(0)?, now_us).await?;
    }
    Ok(())
}

/// Points a name of the server's at the version that it belongs to now, if there is one.
async fn put_next(
    connection: &mut Connection<'_>,
    artifact_uid: &str,
    best: &BestQuery,
    name: &str,
    now_us: i64,
) -> Result<(), Error> {
    let next = match name {
        alias::LATEST => {
            let sql = "SELECT uid FROM checkpoints WHERE artifact_uid = $1 AND state = 'COMMITTED' \
                ORDER BY version DESC LIMIT 1";
            connection.row(sql, args![artifact_uid]).await?
        }
        alias::BEST => {
            let (sql, values) = best_statement(best);
            connection.row(&sql, values).await?
        }
        _ => None,
    };
    match next {
        Some(next) => put_server_alias(connection, artifact_uid, name, &next.text(0)?, now_us).await,
        None => Ok(()),
    }
}

/// The value to beat is the best one left, else what the strategy starts with.
async fn correct_best(connection: &mut Connection<'_>, mut run: Run, now_us: i64) -> Result<(), Error> {
    let left = best_left(connection, &run).await?;
    run.monitor_state.best_replaced(left, &run.strategy, run.direction);
    save_monitor_state(connection, &run.uid, &run.monitor_state, now_us).await
}

/// The run's best version of those that stand, and its value.
pub(super) async fn best_left(
    connection: &mut Connection<'_>,
    run: &Run,
) -> Result<Option<(String, f64)>, Error> {
    let scope = BestScope::Run(run.uid.clone());
    let query = BestQuery { scope, metric: run.strategy.monitor.clone(), direction: run.direction };
    let (sql, values) = best_statement(&query);
    match connection.row(&sql, values).await? {
        Some(row) => Ok(Some((row.text(0)?, row.real_or_null(1)?.unwrap_or(f64::NAN)))),
        None => Ok(None),
    }
}
