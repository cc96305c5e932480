//! Some versions of one artifact, deleted in one transaction.

use std::collections::BTreeSet;
use std::collections::HashSet;

use crate::db::Db;
use crate::db::Error;
use crate::db::connection::Value;
use crate::db::connection::args;
use crate::db::deletions::correct_best;
use crate::db::deletions::put_next;
use crate::db::job::Outcome;
use crate::db::job::Turn;
use crate::db::job::Write;
use crate::db::job::lane;
use crate::db::runs::direction_of;
use crate::db::runs::lock_run_by_uid;
use crate::db::tx::Tx;
use crate::db::version_queries::BestQuery;
use crate::db::version_queries::BestScope;
use crate::failpoint::failpoint;

/// Versions to delete, all of one artifact.
#[derive(Clone, Debug)]
pub struct DeleteSlice {
    pub artifact_uid: String,
    /// Of their checkpoints.
    pub uids: Vec<String>,
    /// Whether those go that aliases of users point at.
    pub delete_aliases: bool,
    /// Whether the one goes that `best` points at.
    pub delete_best: bool,
    /// Now, in microseconds since 1970.
    pub now_us: i64,
}

/// What became of them.
#[derive(Clone, Debug, Default)]
pub struct DeletedSlice {
    /// Uid and bytes of each that this call deleted.
    pub deleted: Vec<(String, i64)>,
    /// How many stay because of an alias.
    pub kept: i64,
}

impl Db {
    /// The most versions of one slice: a tenth of a second of SQLite's work, in which others wait.
    pub const SLICE: i64 = 100;

    /// Those of the versions that an alias keeps.
    pub async fn kept_by_aliases(
        &self,
        uids: &[&str],
        delete_aliases: bool,
        delete_best: bool,
    ) -> Result<Vec<String>, Error> {
        let Some(sql) = kept_by_aliases(delete_aliases, delete_best) else { return Ok(Vec::new()) };
        let rows = self.page_of(&sql, uids.iter().map(|uid| args![*uid]).collect()).await?;
        rows.iter().map(|row| row.text(0)).collect()
    }

    /// Deletes versions, but for those whose aliases keep them. What another call deleted meanwhile is passed over.
    pub async fn delete_slice(&self, slice: DeleteSlice) -> Result<DeletedSlice, Error> {
        let deleted = self.change(slice).await?;
        failpoint!("delete.committed");
        Ok(deleted)
    }
}

impl Write for DeleteSlice {
    type Answer = DeletedSlice;
    const IN_SETS: bool = false;

    fn turn(&self) -> Turn {
        let own = Turn::own(6 * self.uids.len());
        Turn { lanes: [None, Some(lane(&self.artifact_uid))], ..own }
    }

    async fn run(set: &[&Self], tx: &mut Tx<'_>) -> Result<Vec<Outcome<DeletedSlice>>, Error> {
        let mut outcomes = Vec::with_capacity(set.len());
        for slice in set {
            outcomes.push(Outcome::Done(slice.delete(tx).await?));
        }
        Ok(outcomes)
    }
}

fn as_set<'u>(uids: impl IntoIterator<Item = &'u String>) -> Vec<Vec<Value>> {
    uids.into_iter().map(|uid| args![uid]).collect()
}

impl DeleteSlice {
    async fn delete(&self, tx: &mut Tx<'_>) -> Result<DeletedSlice, Error> {
        // Always runs before their artifact, as the commit does, and in one order: no deadlock.
        let owners =
            "WITH {v: uid text} SELECT c.run_uid FROM v CROSS JOIN checkpoints c WHERE c.uid = v.uid";
        let rows = tx.rows_of(owners, as_set(&self.uids)).await?;
        let owners: BTreeSet<String> = rows.iter().map(|row| row.text(0)).collect::<Result<_, _>>()?;
        let mut runs = Vec::with_capacity(owners.len());
        for uid in &owners {
            runs.push(lock_run_by_uid(tx.connection(), uid).await?);
        }
        let take =
            "UPDATE artifacts SET next_version = next_version WHERE uid = $1 RETURNING monitor, direction";
        let Some(row) = tx.row(take, args![&self.artifact_uid]).await? else {
            return Ok(DeletedSlice::default());
        };
        let scope = BestScope::Artifact(self.artifact_uid.clone());
        let best = BestQuery { scope, metric: row.text(0)?, direction: direction_of(&row.text(1)?)? };
        failpoint!("delete.locked");
        let kept = self.kept(tx).await?;
        let go = self.uids.iter().filter(|uid| !kept.contains(*uid));
        let delete = "WITH {v: uid text, now_us bigint} UPDATE checkpoints SET state = 'DELETED', delete_time_us = v.now_us \
            FROM v WHERE checkpoints.uid = v.uid AND checkpoints.state = 'COMMITTED' \
            RETURNING checkpoints.uid, checkpoints.size_bytes";
        let rows = tx.rows_of(delete, go.map(|uid| args![uid, self.now_us]).collect()).await?;
        let deleted: Vec<(String, i64)> =
            rows.iter().map(|row| Ok((row.text(0)?, row.int(1)?))).collect::<Result<_, Error>>()?;
        let gone = || as_set(deleted.iter().map(|(uid, _)| uid));
        let metrics =
            "WITH {v: uid text} DELETE FROM version_metrics WHERE checkpoint_uid IN (SELECT uid FROM v)";
        tx.execute_of(metrics, gone()).await?;
        let had = "WITH {v: uid text} SELECT l.alias FROM v CROSS JOIN aliases l WHERE l.checkpoint_uid = v.uid \
            AND l.owner = 'server' AND l.alias IN ('latest', 'best')";
        let had = tx.rows_of(had, gone()).await?;
        let aliases = "WITH {v: uid text} DELETE FROM aliases WHERE checkpoint_uid IN (SELECT uid FROM v)";
        tx.execute_of(aliases, gone()).await?;
        for row in had {
            put_next(tx.connection(), &self.artifact_uid, &best, &row.text(0)?, self.now_us).await?;
        }
        let uids: HashSet<&str> = deleted.iter().map(|(uid, _)| uid.as_str()).collect();
        for run in runs {
            if run.monitor_state.best_checkpoint.as_deref().is_some_and(|it| uids.contains(it)) {
                correct_best(tx.connection(), run, self.now_us).await?;
            }
        }
        failpoint!("delete.written");
        Ok(DeletedSlice { deleted, kept: i64::try_from(kept.len()).unwrap_or(i64::MAX) })
    }

    /// Those that an alias keeps.
    async fn kept(&self, tx: &mut Tx<'_>) -> Result<HashSet<String>, Error> {
        let Some(sql) = kept_by_aliases(self.delete_aliases, self.delete_best) else {
            return Ok(HashSet::new());
        };
        tx.rows_of(&sql, as_set(&self.uids)).await?.iter().map(|row| row.text(0)).collect()
    }
}

/// Finds those of a set that an alias keeps; none: no alias keeps any.
fn kept_by_aliases(delete_aliases: bool, delete_best: bool) -> Option<String> {
    let keeps = match (delete_aliases, delete_best) {
        (true, true) => return None,
        (false, true) => "l.owner = 'user'",
        (true, false) => "l.owner = 'server' AND l.alias = 'best'",
        (false, false) => "(l.owner = 'user' OR l.alias = 'best')",
    };
    Some(format!(
        "WITH {{v: uid text}} SELECT DISTINCT l.checkpoint_uid FROM v CROSS JOIN aliases l WHERE l.checkpoint_uid = v.uid \
         AND {keeps}"
    ))
}
