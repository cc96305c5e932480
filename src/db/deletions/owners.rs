//! Runs and artifacts that are deleted: marked first, so that nothing new comes in; without their versions they give their names back;
//! and what is left of them goes after a grace.

use crate::db::Db;
use crate::db::Error;
use crate::db::aliases::lock_artifact;
use crate::db::connection::Connection;
use crate::db::connection::Row;
use crate::db::connection::args;
use crate::db::deletions::reads::Owner;
use crate::db::runs::SELECT_RUN;
use crate::db::runs::lock_run;
use crate::db::runs::lock_run_by_uid;
use crate::db::runs::run_of;
use crate::db::runs::stored_id;
use crate::db::to_json;
use crate::domain::alias::in_the_way;
use crate::domain::ids::ArtifactName;
use crate::domain::ids::Id;
use crate::domain::ids::RunName;
use crate::domain::refusal::Refusal;
use crate::domain::run::Run;
use crate::domain::run::RunState;
use crate::domain::run::SILENCE_US;

/// Rows of the history that one transaction removes. A row of events may have some MiB.
const EVENT_ROWS: i64 = 50;
const DECISION_ROWS: i64 = 500;
/// Runs of an artifact that are looked up at once.
const RUNS: i64 = 200;

/// A deletion that has begun.
#[derive(Clone, Debug)]
pub struct Begun {
    /// Of the run or artifact.
    pub uid: String,
    /// In microseconds since 1970.
    pub delete_time_us: i64,
    /// Whether its name is given back: it has no version any more.
    pub is_gone: bool,
}

/// Fences every process of the run and gives up what it has in flight.
async fn fence(connection: &mut Connection<'_>, mut run: Run, now_us: i64) -> Result<(), Error> {
    run.monitor_state.new_attempt();
    let sql = "UPDATE runs SET attempt = attempt + 1, monitor_state = $1 WHERE uid = $2";
    connection.execute(sql, args![to_json(&run.monitor_state)?, &run.uid]).await?;
    let pending = "UPDATE checkpoints SET state = 'DELETED', delete_time_us = $1 WHERE run_uid = $2 AND state = 'PENDING'";
    connection.execute(pending, args![now_us, &run.uid]).await.map(drop)
}

impl Db {
    /// Marks a run as one that is being deleted, so that nothing comes into it any more. Repeated: the same.
    pub async fn begin_run_deletion(&self, name: RunName, force: bool, now_us: i64) -> Result<Run, Error> {
        let run = name.clone();
        self.write_of(&run, move |connection| {
            Box::pin(async move {
                let Some(run) = lock_run(connection, &name).await? else {
                    return Err(Refusal::not_found("run", &name).into());
                };
                if run.delete_time_us.is_none() {
                    run.check_deletable(force, now_us)?;
                    if !force {
                        // Whoever sets an alias takes this row, too, and finds the run marked.
                        lock_artifact(connection, &run.artifact_uid).await?;
                        check_no_alias_of_run(connection, &run).await?;
                    }
                    fence(connection, run.clone(), now_us).await?;
                    let mark = "UPDATE runs SET delete_time_us = $1 WHERE uid = $2";
                    connection.execute(mark, args![now_us, &run.uid]).await?;
                }
                Ok(run)
            })
        })
        .await
    }

    /// Gives the name of what was marked back, once it has no version any more. Answers whether it has none.
    pub async fn finish_deletion(&self, owner: Owner) -> Result<bool, Error> {
        let (table, column, uid) = match owner {
            Owner::Run(uid) => ("runs", "run_uid", uid),
            Owner::Artifact(uid) => ("artifacts", "artifact_uid", uid),
        };
        let rename = format!(
            "UPDATE {table} SET id = $1 WHERE uid = $2 AND delete_time_us IS NOT NULL AND NOT EXISTS \
             (SELECT 1 FROM checkpoints c WHERE c.{column} = $2 AND c.state = 'COMMITTED')"
        );
        self.write(move |connection| {
            Box::pin(async move {
                let renamed = connection.execute(&rename, args![Id::of_gone(&uid).as_str(), &uid]).await?;
                Ok(renamed == 1)
            })
        })
        .await
    }

    /// Marks an artifact as one that is being deleted: no run begins to save into it any more. Repeated: the same. Answers its uid.
    pub async fn begin_artifact_deletion(
        &self,
        name: ArtifactName,
        force: bool,
        now_us: i64,
    ) -> Result<String, Error> {
        self.write(move |connection| {
            Box::pin(async move {
                let take = "UPDATE artifacts SET next_version = next_version WHERE team = $1 AND project = $2 AND id = $3 \
                    RETURNING uid, delete_time_us";
                let project = &name.project;
                let key = args![project.team.as_str(), project.project.as_str(), name.artifact.as_str()];
                let Some(row) = connection.row(take, key).await? else {
                    return Err(Refusal::not_found("artifact", &name).into());
                };
                let uid = row.text(0)?;
                if row.int_or_null(1)?.is_none() {
                    if !force {
                        check_no_run_lives(connection, &uid, now_us).await?;
                        check_no_alias(connection, &name, &uid).await?;
                    }
                    let mark = "UPDATE artifacts SET delete_time_us = $1 WHERE uid = $2";
                    connection.execute(mark, args![now_us, &uid]).await?;
                }
                Ok(uid)
            })
        })
        .await
    }

    /// A run that is alive and saves into the artifact, if there is one.
    pub async fn live_run_of(&self, artifact_uid: &str, now_us: i64) -> Result<Option<Run>, Error> {
        let (sql, values) = live_run(artifact_uid, now_us);
        self.page(&sql, values).await?.first().map(run_of).transpose()
    }

    /// Fences the runs that save into a marked artifact, each in a transaction of its own.
    pub async fn fence_runs_of(&self, artifact_uid: &str, now_us: i64) -> Result<(), Error> {
        let mut after = String::new();
        loop {
            let sql =
                "SELECT uid, state FROM runs WHERE artifact_uid = $1 AND uid > $2 ORDER BY uid LIMIT $3";
            let rows = self.rows(sql, args![artifact_uid, &after, RUNS]).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = last.text(0)?;
            for row in &rows {
                let (uid, artifact_uid) = (row.text(0)?, artifact_uid.to_owned());
                self.write(move |connection| {
                    Box::pin(async move {
                        let run = lock_run_by_uid(connection, &uid).await?;
                        // One that ended has nobody to fence; it may have begun again meanwhile, which the lock tells.
                        match run.state == RunState::Active && run.artifact_uid == artifact_uid {
                            true => fence(connection, run, now_us).await,
                            false => Ok(()),
                        }
                    })
                })
                .await?;
            }
        }
    }

    /// Runs whose deletion began by `until_us` and that are not purged, behind so many that were left.
    pub async fn marked_runs(&self, until_us: i64, offset: i64) -> Result<Vec<Begun>, Error> {
        self.marked("runs", until_us, offset).await
    }

    /// The same of artifacts.
    pub async fn marked_artifacts(&self, until_us: i64, offset: i64) -> Result<Vec<Begun>, Error> {
        self.marked("artifacts", until_us, offset).await
    }

    async fn marked(&self, table: &str, until_us: i64, offset: i64) -> Result<Vec<Begun>, Error> {
        let sql = format!(
            "SELECT uid, delete_time_us, id FROM {table} WHERE delete_time_us IS NOT NULL AND purge_time_us IS NULL \
             AND delete_time_us <= $1 ORDER BY delete_time_us LIMIT $2 OFFSET $3"
        );
        let rows = self.rows(&sql, args![until_us, RUNS, offset]).await?;
        let begun = |row: &Row| {
            let is_gone = stored_id(&row.text(2)?)?.is_gone();
            Ok(Begun { uid: row.text(0)?, delete_time_us: row.int(1)?, is_gone })
        };
        rows.iter().map(begun).collect()
    }

    /// Removes some of the history of a run that is gone. Answers whether all of it is removed now.
    pub async fn purge_run_page(&self, uid: String, now_us: i64) -> Result<bool, Error> {
        self.write(move |connection| {
            Box::pin(async move {
                let mut is_rest = false;
                for (table, rows) in [("events", EVENT_ROWS), ("decisions", DECISION_ROWS)] {
                    let sql = format!(
                        "DELETE FROM {table} WHERE run_uid = $1 AND position IN \
                         (SELECT position FROM {table} WHERE run_uid = $1 ORDER BY position LIMIT $2)"
                    );
                    is_rest |= connection.execute(&sql, args![&uid, rows]).await? == rows.unsigned_abs();
                }
                if is_rest {
                    return Ok(false);
                }
                for table in ["run_writers", "run_attempts"] {
                    let sql = format!("DELETE FROM {table} WHERE run_uid = $1");
                    connection.execute(&sql, args![&uid]).await?;
                }
                let purged =
                    "UPDATE runs SET purge_time_us = $1, config = NULL, failure = NULL WHERE uid = $2";
                connection.execute(purged, args![now_us, &uid]).await?;
                Ok(true)
            })
        })
        .await
    }

    /// Notes that nothing of an artifact that is gone is left to take away.
    pub async fn artifact_purged(&self, uid: String, now_us: i64) -> Result<(), Error> {
        self.write(move |connection| {
            Box::pin(async move {
                let sql = "UPDATE artifacts SET purge_time_us = $1 WHERE uid = $2";
                connection.execute(sql, args![now_us, &uid]).await.map(drop)
            })
        })
        .await
    }
}

fn live_run(artifact_uid: &str, now_us: i64) -> (String, Vec<crate::db::connection::Value>) {
    let sql = format!(
        "{SELECT_RUN} WHERE r.artifact_uid = $1 AND r.state = 'ACTIVE' AND r.delete_time_us IS NULL \
         AND COALESCE(r.heard_time_us, r.update_time_us) >= $2 LIMIT 1"
    );
    (sql, args![artifact_uid, now_us.saturating_sub(SILENCE_US)])
}

async fn check_no_run_lives(
    connection: &mut Connection<'_>,
    artifact_uid: &str,
    now_us: i64,
) -> Result<(), Error> {
    let (sql, values) = live_run(artifact_uid, now_us);
    match connection.row(&sql, values).await?.as_ref().map(run_of).transpose()? {
        Some(run) => Ok(run.check_deletable(false, now_us)?),
        None => Ok(()),
    }
}

/// An alias may have been set since they were counted.
async fn check_no_alias(
    connection: &mut Connection<'_>,
    name: &ArtifactName,
    artifact_uid: &str,
) -> Result<(), Error> {
    let sql = "SELECT alias FROM aliases WHERE artifact_uid = $1 AND owner = 'user' ORDER BY alias LIMIT 1";
    let Some(row) = connection.row(sql, args![artifact_uid]).await? else { return Ok(()) };
    Err(in_the_way("artifact", name, row.text(0)?).into())
}

/// The same of a run's versions.
async fn check_no_alias_of_run(connection: &mut Connection<'_>, run: &Run) -> Result<(), Error> {
    // From the aliases, of which there are few, and not from all versions of the run.
    let sql = "SELECT l.alias FROM aliases l CROSS JOIN checkpoints c WHERE l.artifact_uid = $1 AND l.owner = 'user' \
        AND c.uid = l.checkpoint_uid AND c.run_uid = $2 AND c.state = 'COMMITTED' LIMIT 1";
    let Some(row) = connection.row(sql, args![&run.artifact_uid, &run.uid]).await? else { return Ok(()) };
    Err(in_the_way("run", &run.name, format!("{}:{}", run.artifact, row.text(0)?)).into())
}
