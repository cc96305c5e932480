//! The rows of runs: read, taken for a transaction, and written.

use std::collections::HashMap;
use std::collections::HashSet;

use crate::db::Db;
use crate::db::Error;
use crate::db::connection::Connection;
use crate::db::connection::Row;
use crate::db::connection::args;
use crate::db::events::NEWEST_EVENT;
use crate::db::events::newest_of;
use crate::db::from_json;
use crate::db::job::Outcome;
use crate::db::job::Turn;
use crate::db::job::Unfit;
use crate::db::job::Write;
use crate::db::to_json;
use crate::db::tx::Tx;
use crate::domain::ids::Id;
use crate::domain::ids::ListParent;
use crate::domain::ids::ProjectName;
use crate::domain::ids::RunName;
use crate::domain::metric::Direction;
use crate::domain::monitor::MonitorState;
use crate::domain::refusal::Refusal;
use crate::domain::run::Run;
use crate::domain::run::RunState;

pub(super) fn state_of(text: &str) -> Result<RunState, Error> {
    RunState::parse(text).ok_or_else(|| Error::unreadable("run state", text))
}

pub(super) const SELECT_RUN: &str = "SELECT r.uid, r.team, r.project, r.id, r.artifact_uid, a.id, r.strategy, r.direction, \
    r.monitor_state, r.attempt, r.state, r.event_count, r.last_epoch, r.config, r.create_time_us, r.update_time_us, \
    r.finish_time_us, r.delete_time_us, a.delete_time_us, COALESCE(r.heard_time_us, r.update_time_us), r.failure \
    FROM runs r JOIN artifacts a ON a.uid = r.artifact_uid";

pub(super) fn stored_id(text: &str) -> Result<Id, Error> {
    Id::stored(text).map_err(|refusal| Error::unreadable("id", refusal))
}

pub(super) fn project_of(row: &Row, team: usize) -> Result<ProjectName, Error> {
    Ok(ProjectName { team: stored_id(&row.text(team)?)?, project: stored_id(&row.text(team + 1)?)? })
}

pub(super) fn direction_to_text(direction: Direction) -> &'static str {
    match direction {
        Direction::Min => "MIN",
        Direction::Max => "MAX",
    }
}

pub(super) fn direction_of(text: &str) -> Result<Direction, Error> {
    match text {
        "MIN" => Ok(Direction::Min),
        "MAX" => Ok(Direction::Max),
        other => Err(Error::unreadable("direction", other)),
    }
}

pub(super) fn run_of(row: &Row) -> Result<Run, Error> {
    let state = state_of(&row.text(10)?)?;
    Ok(Run {
        uid: row.text(0)?,
        name: RunName { project: project_of(row, 1)?, run: stored_id(&row.text(3)?)? },
        artifact_uid: row.text(4)?,
        artifact: stored_id(&row.text(5)?)?,
        strategy: from_json("strategy", &row.text(6)?)?,
        direction: direction_of(&row.text(7)?)?,
        monitor_state: from_json("monitor state", &row.text(8)?)?,
        attempt: row.int(9)?,
        state,
        event_count: row.int(11)?,
        last_epoch: row.int_or_null(12)?,
        config: row.text_or_null(13)?,
        create_time_us: row.int(14)?,
        update_time_us: row.int(15)?,
        finish_time_us: row.int_or_null(16)?,
        delete_time_us: row.int_or_null(17)?,
        artifact_delete_time_us: row.int_or_null(18)?,
        heard_time_us: row.int(19)?,
        // Of a run that failed once and goes on it stays until the run ends again.
        failure: row.text_or_null(20)?.filter(|_| state == RunState::Failed),
    })
}

/// Takes the run's row for the rest of the transaction and reads it.
pub(super) async fn lock_run(connection: &mut Connection<'_>, name: &RunName) -> Result<Option<Run>, Error> {
    let lock = "UPDATE runs SET revision = revision + 1 WHERE team = $1 AND project = $2 AND id = $3";
    let key = args![name.project.team.as_str(), name.project.project.as_str(), name.run.as_str()];
    if connection.execute(lock, key.clone()).await? == 0 {
        return Ok(None);
    }
    let select = format!("{SELECT_RUN} WHERE r.team = $1 AND r.project = $2 AND r.id = $3");
    connection.row(&select, key).await?.as_ref().map(run_of).transpose()
}

/// Takes the rows of runs for the rest of the transaction and reads them. One that is missing does not exist, or another
/// process has it.
pub(super) async fn take_runs(
    tx: &mut Tx<'_>,
    names: impl Iterator<Item = &RunName>,
) -> Result<HashMap<RunName, Run>, Error> {
    let sql = "WITH {v: team text, project text, id text} SELECT r.uid, r.team, r.project, r.id, r.artifact_uid, a.id, \
        r.strategy, r.direction, r.monitor_state, r.attempt, r.state, r.event_count, r.last_epoch, r.config, \
        r.create_time_us, r.update_time_us, r.finish_time_us, r.delete_time_us, a.delete_time_us, \
        COALESCE(r.heard_time_us, r.update_time_us), r.failure FROM v CROSS JOIN runs r JOIN artifacts a \
        ON a.uid = r.artifact_uid WHERE r.team = v.team AND r.project = v.project AND r.id = v.id ORDER BY r.uid {take r}";
    let names: HashSet<&RunName> = names.collect();
    let key = |name: &RunName| {
        let project = &name.project;
        args![project.team.as_str(), project.project.as_str(), name.run.as_str()]
    };
    let rows = tx.rows_of(sql, names.into_iter().map(key).collect()).await?;
    rows.iter().map(|row| run_of(row).map(|run| (run.name.clone(), run))).collect()
}

/// Writes what reports and commits change of runs, whose processes have been heard from by that.
pub(super) async fn save_progress(tx: &mut Tx<'_>, runs: impl Iterator<Item = &Run>) -> Result<(), Error> {
    let sql = "WITH {v: uid text, monitor_state text, event_count bigint, last_epoch bigint, update_time_us bigint} \
        UPDATE runs SET monitor_state = v.monitor_state, event_count = v.event_count, last_epoch = v.last_epoch, \
        update_time_us = v.update_time_us, heard_time_us = v.update_time_us, revision = revision + 1 FROM v WHERE runs.uid = v.uid";
    let row = |run: &Run| {
        let state = to_json(&run.monitor_state)?;
        Ok(args![&run.uid, state, run.event_count, run.last_epoch, run.update_time_us])
    };
    let set = runs.map(row).collect::<Result<_, Error>>()?;
    tx.execute_of(sql, set).await.map(drop)
}

/// Takes the run's row by its uid.
pub(super) async fn lock_run_by_uid(connection: &mut Connection<'_>, uid: &str) -> Result<Run, Error> {
    connection.execute("UPDATE runs SET revision = revision + 1 WHERE uid = $1", args![uid]).await?;
    let row = connection.row(&format!("{SELECT_RUN} WHERE r.uid = $1"), args![uid]).await?;
    row.as_ref().map(run_of).transpose()?.ok_or_else(|| Error::unreadable("run", uid))
}

pub(super) async fn save_monitor_state(
    connection: &mut Connection<'_>,
    run_uid: &str,
    state: &MonitorState,
    now_us: i64,
) -> Result<(), Error> {
    let sql = "UPDATE runs SET monitor_state = $1, update_time_us = $2 WHERE uid = $3";
    connection.execute(sql, args![to_json(state)?, now_us, run_uid]).await.map(drop)
}

/// A sign of life of an attempt.
#[derive(Clone, Debug)]
struct Heartbeat {
    name: RunName,
    attempt: i64,
    now_us: i64,
}

impl Write for Heartbeat {
    type Answer = ();
    const AUDITED: bool = false;

    fn turn(&self) -> Turn {
        Turn::of(&self.name, 2)
    }

    async fn run(set: &[&Self], tx: &mut Tx<'_>) -> Result<Vec<Outcome<()>>, Error> {
        let runs = take_runs(tx, set.iter().map(|it| &it.name)).await?;
        let (mut heard, mut outcomes) = (HashMap::new(), Vec::with_capacity(set.len()));
        for beat in set {
            let Some(run) = runs.get(&beat.name) else {
                outcomes.push(Unfit::not_found(set.len() == 1, "run", &beat.name).into());
                continue;
            };
            outcomes.push(run.check_attempt(beat.attempt).and_then(|()| run.check_active()).into());
            if matches!(outcomes.last(), Some(Outcome::Done(()))) {
                heard.insert(&run.uid, beat.now_us);
            }
        }
        let sql = "WITH {v: uid text, now_us bigint} UPDATE runs SET heard_time_us = v.now_us FROM v WHERE runs.uid = v.uid";
        tx.execute_of(sql, heard.into_iter().map(|(uid, now_us)| args![uid, now_us]).collect()).await?;
        Ok(outcomes)
    }
}

impl Db {
    /// Notes a sign of life of the newest attempt.
    pub async fn hear(&self, name: RunName, attempt: i64, now_us: i64) -> Result<(), Error> {
        self.change(Heartbeat { name, attempt, now_us }).await
    }

    /// Ends a run; ending it again changes nothing.
    pub async fn finish_run(
        &self,
        name: RunName,
        attempt: i64,
        state: RunState,
        now_us: i64,
    ) -> Result<Run, Error> {
        let run = name.clone();
        self.write_of(&run, move |connection| {
            Box::pin(async move {
                let Some(mut run) = lock_run(connection, &name).await? else {
                    return Err(Refusal::not_found("run", &name).into());
                };
                run.check_attempt(attempt)?;
                let was_active = run.state == RunState::Active;
                run.finish(state, now_us)?;
                if was_active {
                    if state == RunState::Failed {
                        let last = connection.row(NEWEST_EVENT, args![&run.uid]).await?;
                        run.failure = newest_of(last, attempt)?.and_then(|event| event.failure());
                    }
                    let sql = "UPDATE runs SET state = $1, finish_time_us = $2, update_time_us = $2, failure = $3 \
                        WHERE uid = $4";
                    let values = args![state.as_str(), now_us, run.failure.clone(), &run.uid];
                    connection.execute(sql, values).await?;
                }
                Ok(run)
            })
        })
        .await
    }

    /// The run of this name.
    pub async fn run(&self, name: &RunName) -> Result<Run, Error> {
        let sql = format!("{SELECT_RUN} WHERE r.team = $1 AND r.project = $2 AND r.id = $3");
        let key = args![name.project.team.as_str(), name.project.project.as_str(), name.run.as_str()];
        let row = self.row(&sql, key).await?;
        row.as_ref().map(run_of).transpose()?.ok_or_else(|| Refusal::not_found("run", name).into())
    }

    /// The same for a process of its newest attempt.
    pub async fn run_of_attempt(&self, name: &RunName, attempt: i64) -> Result<Run, Error> {
        let run = self.run(name).await?;
        run.check_attempt(attempt)?;
        Ok(run)
    }

    /// Runs, newest first, after the one that `before` (time, uid) names.
    pub async fn list_runs(
        &self,
        parent: &ListParent,
        before: Option<(i64, String)>,
        limit: i64,
    ) -> Result<Vec<Run>, Error> {
        let (time_us, uid) = before.unwrap_or((i64::MAX, String::new()));
        let after = "r.delete_time_us IS NULL AND (r.create_time_us, r.uid) < ($2, $3) \
            ORDER BY r.create_time_us DESC, r.uid DESC LIMIT $4";
        // What is being deleted is not listed any more.
        let rows = match &parent.project {
            Some(project) => {
                let sql = format!("{SELECT_RUN} WHERE r.team = $1 AND r.project = $5 AND {after}");
                self.page(&sql, args![parent.team.as_str(), time_us, uid, limit, project.as_str()]).await?
            }
            None => {
                let sql = format!("{SELECT_RUN} WHERE r.team = $1 AND {after}");
                self.page(&sql, args![parent.team.as_str(), time_us, uid, limit]).await?
            }
        };
        rows.iter().map(run_of).collect()
    }

    /// Where a writer's events go on.
    pub async fn next_sequence(&self, run_uid: &str, writer: &str) -> Result<i64, Error> {
        let sql = "SELECT next_sequence FROM run_writers WHERE run_uid = $1 AND writer = $2";
        self.row(sql, args![run_uid, writer]).await?.map_or(Ok(0), |row| row.int(0))
    }
}

pub(super) async fn next_sequence(
    connection: &mut Connection<'_>,
    run_uid: &str,
    writer: &str,
) -> Result<i64, Error> {
    let sql = "SELECT next_sequence FROM run_writers WHERE run_uid = $1 AND writer = $2";
    connection.row(sql, args![run_uid, writer]).await?.map_or(Ok(0), |row| row.int(0))
}
