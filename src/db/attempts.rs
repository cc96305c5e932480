//! Attempts: a run is created or resumed, and every older attempt is fenced.

use crate::db::Db;
use crate::db::Error;
use crate::db::connection::Connection;
use crate::db::connection::args;
use crate::db::files::digest_of;
use crate::db::metrics::GivenUp;
use crate::db::new_uid;
use crate::db::runs::direction_of;
use crate::db::runs::direction_to_text;
use crate::db::runs::lock_run;
use crate::db::runs::next_sequence;
use crate::db::to_json;
use crate::domain::attempt::Body;
use crate::domain::attempt::StartRun;
use crate::domain::ids::Id;
use crate::domain::monitor::MonitorState;
use crate::domain::refusal::Refusal;
use crate::domain::run::Run;
use crate::domain::run::RunState;
use crate::failpoint::failpoint;

/// An attempt that has begun.
#[derive(Clone, Debug)]
pub struct Started {
    /// The run after it.
    pub run: Run,
    /// The attempt of this request (older than the run's if the request is an old one repeated).
    pub attempt: i64,
    /// Of the writer that starts.
    pub next_sequence: i64,
    /// Whether the run existed.
    pub resumed: bool,
    /// How many checkpoints of older attempts were given up.
    pub given_up: u64,
}

impl Db {
    /// Creates or resumes a run and begins an attempt, which fences all older ones: what they had in flight is given up.
    pub async fn start_run(&self, start: StartRun) -> Result<Started, Error> {
        let run = start.name.clone();
        let started = self.write_of(&run, move |connection| {
            Box::pin(async move {
                failpoint!("start.begun");
                // A run that another transaction makes at this moment is found the second time.
                for _ in 0..2 {
                    if let Some(run) = lock_run(connection, &start.name).await? {
                        failpoint!("start.locked");
                        return resume(connection, &start, run).await;
                    }
                    if start.must_exist {
                        return Err(Refusal::not_found("run", &start.name).into());
                    }
                    if let Some(started) = create(connection, &start).await? {
                        return Ok(started);
                    }
                }
                Err(Refusal::aborted(
                    "RACE",
                    format!("run `{}` was made at this moment: try again", start.name),
                )
                .into())
            })
        });
        let started = started.await?;
        self.metrics.gave_up(GivenUp::Fenced, started.given_up);
        failpoint!("start.committed");
        Ok(started)
    }
}

/// Begins the next attempt of a run that exists.
async fn resume(connection: &mut Connection<'_>, start: &StartRun, mut run: Run) -> Result<Started, Error> {
    let next_sequence = next_sequence(connection, &run.uid, &start.writer).await?;
    if let Some(attempt) = attempt_of(connection, &run, start).await? {
        return Ok(Started { run, attempt, next_sequence, resumed: attempt > 1, given_up: 0 });
    }
    run.check_stands()?;
    if run.artifact.is_gone() {
        // It was deleted: what is saved from now on begins a new one.
        run.artifact = start.artifact_of_new_run();
        run.artifact_uid = find_artifact(connection, start, &run.artifact).await?;
        take_artifact(connection, start, (&run.artifact, &run.artifact_uid)).await?;
    }
    start.resume(&mut run)?;
    let sql = "UPDATE runs SET attempt = $1, state = $2, strategy = $3, monitor_state = $4, config = $5, \
        update_time_us = $6, heard_time_us = $6, finish_time_us = NULL, artifact_uid = $7 WHERE uid = $8";
    let (strategy, state) = (to_json(&run.strategy)?, to_json(&run.monitor_state)?);
    let values = args![
        run.attempt,
        run.state.as_str(),
        strategy,
        state,
        run.config.clone(),
        start.now_us,
        &run.artifact_uid,
        &run.uid
    ];
    connection.execute(sql, values).await?;
    let fence = "UPDATE checkpoints SET state = 'DELETED', delete_time_us = $1 WHERE run_uid = $2 AND state = 'PENDING'";
    let given_up = connection.execute(fence, args![start.now_us, &run.uid]).await?;
    insert_attempt(connection, &run, start).await?;
    Ok(Started { attempt: run.attempt, run, next_sequence, resumed: true, given_up })
}

/// The attempt that this start began before, if it is repeated.
async fn attempt_of(
    connection: &mut Connection<'_>,
    run: &Run,
    start: &StartRun,
) -> Result<Option<i64>, Error> {
    if start.request_id.is_empty() {
        return Ok(None);
    }
    let sql =
        "SELECT attempt, body_digest, config_digest FROM run_attempts WHERE run_uid = $1 AND request_id = $2";
    let Some(row) = connection.row(sql, args![&run.uid, &start.request_id]).await? else { return Ok(None) };
    // A version before this one kept none.
    if let (Some(asked), Some(config)) = (row.bytes_or_null(1)?, row.bytes_or_null(2)?) {
        start.check_repeated(Body { asked: digest_of(&asked)?, config: digest_of(&config)? })?;
    }
    row.int(0).map(Some)
}

/// Makes the run; none if another transaction was faster.
async fn create(connection: &mut Connection<'_>, start: &StartRun) -> Result<Option<Started>, Error> {
    let project = &start.name.project;
    let artifact = start.artifact_of_new_run();
    // The run's row before the artifact's, as all do who take both. But it names the artifact, which so must be there before.
    let artifact_uid = find_artifact(connection, start, &artifact).await?;
    let run = Run {
        uid: new_uid(),
        name: start.name.clone(),
        artifact_uid,
        artifact,
        monitor_state: MonitorState::start(&start.strategy, start.direction),
        strategy: start.strategy.clone(),
        direction: start.direction,
        attempt: 1,
        state: RunState::Active,
        event_count: 0,
        last_epoch: None,
        config: start.config.clone(),
        create_time_us: start.now_us,
        update_time_us: start.now_us,
        finish_time_us: None,
        delete_time_us: None,
        artifact_delete_time_us: None,
        heard_time_us: start.now_us,
        failure: None,
    };
    let sql = "INSERT INTO runs (uid, team, project, id, artifact_uid, strategy, direction, monitor_state, attempt, \
        state, revision, event_count, last_epoch, config, create_time_us, update_time_us, heard_time_us, finish_time_us) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1, $9, 1, 0, NULL, $10, $11, $11, $11, NULL) \
        ON CONFLICT (team, project, id) DO NOTHING";
    let values = args![
        &run.uid,
        project.team.as_str(),
        project.project.as_str(),
        start.name.run.as_str(),
        &run.artifact_uid,
        to_json(&run.strategy)?,
        direction_to_text(run.direction),
        to_json(&run.monitor_state)?,
        run.state.as_str(),
        run.config.clone(),
        start.now_us,
    ];
    if connection.execute(sql, values).await? == 0 {
        return Ok(None);
    }
    take_artifact(connection, start, (&run.artifact, &run.artifact_uid)).await?;
    insert_attempt(connection, &run, start).await?;
    Ok(Some(Started { attempt: 1, run, next_sequence: 0, resumed: false, given_up: 0 }))
}

/// Makes the artifact unless it is there, without taking the row of one that is. Answers its uid.
async fn find_artifact(connection: &mut Connection<'_>, start: &StartRun, id: &Id) -> Result<String, Error> {
    let project = &start.name.project;
    let insert = "INSERT INTO artifacts (uid, team, project, id, type, monitor, direction, next_version, create_time_us) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8) ON CONFLICT (team, project, id) DO NOTHING";
    let values = args![
        new_uid(),
        project.team.as_str(),
        project.project.as_str(),
        id.as_str(),
        &start.artifact_type,
        &start.strategy.monitor,
        direction_to_text(start.direction),
        start.now_us,
    ];
    connection.execute(insert, values).await?;
    let find = "SELECT uid FROM artifacts WHERE team = $1 AND project = $2 AND id = $3";
    let key = args![project.team.as_str(), project.project.as_str(), id.as_str()];
    connection.row(find, key).await?.ok_or_else(|| deleting(id))?.text(0)
}

/// Takes the artifact's row and refuses one that this start cannot save into.
async fn take_artifact(
    connection: &mut Connection<'_>,
    start: &StartRun,
    (id, uid): (&Id, &str),
) -> Result<(), Error> {
    // Taken: a deletion that begins now finds the run that saves into it.
    let take = "UPDATE artifacts SET next_version = next_version WHERE uid = $1 RETURNING monitor, direction, delete_time_us";
    let row = connection.row(take, args![uid]).await?.ok_or_else(|| Error::unreadable("artifact", id))?;
    if row.int_or_null(2)?.is_some() {
        return Err(deleting(id));
    }
    let (monitor, direction) = (row.text(0)?, direction_of(&row.text(1)?)?);
    Ok(start.check_monitor("artifact", id, (&monitor, direction))?)
}

fn deleting(id: &Id) -> Error {
    let message = format!("artifact `{id}` is being deleted: repeat the same call in a moment");
    Refusal::aborted("DELETING", message).into()
}

async fn insert_attempt(connection: &mut Connection<'_>, run: &Run, start: &StartRun) -> Result<(), Error> {
    let sql = "INSERT INTO run_attempts (run_uid, attempt, request_id, start_time_us, body_digest, config_digest) \
        VALUES ($1, $2, $3, $4, $5, $6)";
    let Body { asked, config } = start.body();
    let values = args![&run.uid, run.attempt, &start.request_id, start.now_us, asked, config];
    connection.execute(sql, values).await?;
    failpoint!("start.written");
    Ok(())
}
