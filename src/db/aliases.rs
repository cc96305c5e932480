//! Aliases: movable unique names within an artifact.

use std::collections::HashMap;

use crate::db::Db;
use crate::db::Error;
use crate::db::connection::Connection;
use crate::db::connection::args;
use crate::domain::ids::Id;
use crate::domain::refusal::Refusal;

/// Names of a version that it is shown with, at most 13 KB; a version has two or three unless somebody means harm.
const SHOWN_ALIASES: i64 = 100;

/// An alias and the version it points at.
#[derive(Clone, Debug)]
pub struct AliasRow {
    pub alias: String,
    /// N of `vN`.
    pub version: i64,
    /// Microseconds since 1970.
    pub update_time_us: i64,
}

/// Where a user wants an alias to point now for SetAlias to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    Anything,
    /// Nowhere: there is no such alias.
    Nothing,
    /// At this version.
    Version(i64),
}

/// Makes or moves an alias of the server's.
pub(super) async fn put_server_alias(
    connection: &mut Connection<'_>,
    artifact_uid: &str,
    alias: &str,
    checkpoint_uid: &str,
    now_us: i64,
) -> Result<(), Error> {
    put(connection, artifact_uid, alias, checkpoint_uid, "server", now_us).await
}

async fn put(
    connection: &mut Connection<'_>,
    artifact_uid: &str,
    alias: &str,
    checkpoint_uid: &str,
    owner: &str,
    now_us: i64,
) -> Result<(), Error> {
    let sql = "INSERT INTO aliases (artifact_uid, alias, checkpoint_uid, owner, update_time_us) \
        VALUES ($1, $2, $3, $4, $5) ON CONFLICT (artifact_uid, alias) \
        DO UPDATE SET checkpoint_uid = excluded.checkpoint_uid, update_time_us = excluded.update_time_us";
    connection.execute(sql, args![artifact_uid, alias, checkpoint_uid, owner, now_us]).await.map(drop)
}

/// Takes the artifact's row for the rest of the transaction: aliases and version numbers change one at a time. Answers whether it
/// stands: one that is being deleted does not.
pub(super) async fn lock_artifact(
    connection: &mut Connection<'_>,
    artifact_uid: &str,
) -> Result<bool, Error> {
    let sql = "UPDATE artifacts SET next_version = next_version WHERE uid = $1 RETURNING delete_time_us";
    let row = connection.row(sql, args![artifact_uid]).await?;
    row.map_or(Ok(false), |row| Ok(row.int_or_null(0)?.is_none()))
}

impl Db {
    /// Points an alias at a committed version, if it points where `expected` says now.
    pub async fn set_alias(
        &self,
        artifact_uid: String,
        alias: Id,
        version: i64,
        expected: Expected,
        now_us: i64,
    ) -> Result<(), Error> {
        self.write(move |connection| {
            Box::pin(async move {
                if !lock_artifact(connection, &artifact_uid).await? {
                    let message = format!("the artifact is being deleted: alias `{alias}` is not set");
                    return Err(Refusal::aborted("DELETING", message).into());
                }
                let current = "SELECT c.version FROM aliases a JOIN checkpoints c ON c.uid = a.checkpoint_uid \
                    WHERE a.artifact_uid = $1 AND a.alias = $2";
                let current = connection.row(current, args![&artifact_uid, alias.as_str()]).await?;
                let current = current.map(|row| row.int(0)).transpose()?;
                check_expected(&alias, current, expected)?;
                if current == Some(version) {
                    return Ok(());
                }
                let target = "SELECT c.uid, r.delete_time_us FROM checkpoints c JOIN runs r ON r.uid = c.run_uid \
                    WHERE c.artifact_uid = $1 AND c.version = $2 AND c.state = 'COMMITTED'";
                let Some(row) = connection.row(target, args![&artifact_uid, version]).await? else {
                    return Err(Refusal::not_found("version", format!("v{version}")).into());
                };
                if row.int_or_null(1)?.is_some() {
                    let message = format!("the run of v{version} is being deleted: alias `{alias}` is not set");
                    return Err(Refusal::aborted("DELETING", message).into());
                }
                put(connection, &artifact_uid, alias.as_str(), &row.text(0)?, "user", now_us).await
            })
        })
        .await
    }

    /// Removes an alias of a user's; answers whether there was one.
    pub async fn delete_alias(
        &self,
        artifact_uid: String,
        alias: Id,
        expected: Expected,
    ) -> Result<bool, Error> {
        self.write(move |connection| {
            Box::pin(async move {
                // It moves in transactions that have this row.
                lock_artifact(connection, &artifact_uid).await?;
                let current = "SELECT c.version FROM aliases a JOIN checkpoints c ON c.uid = a.checkpoint_uid \
                    WHERE a.artifact_uid = $1 AND a.alias = $2";
                let current = connection.row(current, args![&artifact_uid, alias.as_str()]).await?;
                let Some(current) = current.map(|row| row.int(0)).transpose()? else { return Ok(false) };
                check_expected(&alias, Some(current), expected)?;
                let sql = "DELETE FROM aliases WHERE artifact_uid = $1 AND alias = $2 AND owner = 'user'";
                Ok(connection.execute(sql, args![&artifact_uid, alias.as_str()]).await? == 1)
            })
        })
        .await
    }

    /// Aliases of an artifact by name, behind the one that `after` names. The order is the database's own, as an index gives it.
    pub async fn list_aliases(
        &self,
        artifact_uid: &str,
        after: &str,
        limit: i64,
    ) -> Result<Vec<AliasRow>, Error> {
        let sql = "SELECT a.alias, c.version, a.update_time_us FROM aliases a \
            JOIN checkpoints c ON c.uid = a.checkpoint_uid WHERE a.artifact_uid = $1 AND a.alias > $2 \
            ORDER BY a.alias LIMIT $3";
        let rows = self.page(sql, args![artifact_uid, after, limit]).await?;
        rows.iter()
            .map(|row| {
                Ok(AliasRow { alias: row.text(0)?, version: row.int(1)?, update_time_us: row.int(2)? })
            })
            .collect()
    }

    /// The names that point at each of these checkpoints: how many, and [`SHOWN_ALIASES`] of them, the server's and then users',
    /// sorted.
    pub(super) async fn names_of(
        &self,
        checkpoint_uids: &[&str],
    ) -> Result<HashMap<String, (i64, Vec<String>)>, Error> {
        let sql = "WITH {v: uid text, most bigint} SELECT checkpoint_uid, alias, total FROM (SELECT a.checkpoint_uid, a.alias, \
            COUNT(*) OVER (PARTITION BY a.checkpoint_uid) AS total, \
            ROW_NUMBER() OVER (PARTITION BY a.checkpoint_uid ORDER BY a.owner, a.alias) AS place, v.most \
            FROM v CROSS JOIN aliases a WHERE a.checkpoint_uid = v.uid) AS named WHERE place <= most";
        let set = checkpoint_uids.iter().map(|uid| args![*uid, SHOWN_ALIASES]).collect();
        let mut names: HashMap<String, (i64, Vec<String>)> = HashMap::new();
        for row in self.rows_of(sql, set).await? {
            let (total, shown) = names.entry(row.text(0)?).or_default();
            *total = row.int(2)?;
            shown.push(row.text(1)?);
        }
        names.values_mut().for_each(|(_, shown)| shown.sort());
        Ok(names)
    }
}

fn check_expected(alias: &Id, current: Option<i64>, expected: Expected) -> Result<(), Refusal> {
    let as_expected = match expected {
        Expected::Anything => true,
        Expected::Nothing => current.is_none(),
        Expected::Version(version) => current == Some(version),
    };
    if as_expected {
        return Ok(());
    }
    let (stands, text) = match current {
        Some(version) => (format!("v{version}"), format!("points at v{version}")),
        None => ("none".to_owned(), "does not exist".to_owned()),
    };
    let message = format!("alias `{alias}` {text}, not as expected: look where it points and decide again");
    Err(Refusal::precondition("ALIAS_MOVED", message).with("version", stands))
}
