//! Checkpoints: PENDING, then COMMITTED, then DELETED. The commit is one transaction.

use crate::db::Db;
use crate::db::Error;
use crate::db::connection::Connection;
use crate::db::connection::Row;
use crate::db::connection::args;
use crate::db::files::FileRow;
use crate::db::from_json;
use crate::db::runs::RunRow;
use crate::db::runs::check_attempt;
use crate::db::runs::lock_run;
use crate::db::runs::save_monitor_state;
use crate::db::to_json;
use crate::domain::decision::Decision;
use crate::domain::event::Event;
use crate::domain::ids::CheckpointName;
use crate::domain::metric::Metrics;
use crate::domain::refusal::Refusal;
use crate::failpoint::failpoint;

/// Where a checkpoint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointState {
    /// Decided; files may be written.
    Pending,
    /// A version.
    Committed,
    /// Given up or deleted; its bytes go.
    Deleted,
}

impl CheckpointState {
    fn parse(text: &str) -> Result<Self, Error> {
        match text {
            "PENDING" => Ok(CheckpointState::Pending),
            "COMMITTED" => Ok(CheckpointState::Committed),
            "DELETED" => Ok(CheckpointState::Deleted),
            other => Err(Error::unreadable("checkpoint state", other)),
        }
    }
}

/// A checkpoint as it is stored.
#[derive(Clone, Debug)]
pub struct CheckpointRow {
    /// Unique for ever; also its id.
    pub uid: String,
    /// The run's uid.
    pub run_uid: String,
    /// The artifact's uid.
    pub artifact_uid: String,
    /// The attempt that decided it.
    pub attempt: i64,
    /// Where it stands.
    pub state: CheckpointState,
    /// N of `vN`, once committed.
    pub version: Option<i64>,
    /// 0-based.
    pub epoch: i64,
    /// 0-based.
    pub batch: Option<i64>,
    /// The rendered template.
    pub path: String,
    /// Names it gets at commit.
    pub aliases: Vec<String>,
    /// Of its event.
    pub metrics: Metrics,
    /// Files declared so far.
    pub file_count: i64,
    /// Microseconds since 1970.
    pub create_time_us: i64,
    /// Of how many parts it is, once one of them is complete.
    pub part_count: Option<i64>,
    /// Microseconds since 1970; only while it is pending.
    pub expire_time_us: i64,
    /// Microseconds since 1970.
    pub delete_time_us: Option<i64>,
}

/// Until when a pending checkpoint lives without the next sign of life.
#[derive(Clone, Copy, Debug)]
pub struct ExpireTimes {
    /// One that a single process saves.
    pub pending_us: i64,
    /// One of several parts: others wait for the missing ones.
    pub parts_us: i64,
}

const COLUMNS: &str = "uid, run_uid, artifact_uid, attempt, state, version, epoch, batch, path, aliases, metrics, \
    file_count, create_time_us, part_count, expire_time_us, delete_time_us FROM checkpoints";

fn checkpoint_of(row: &Row) -> Result<CheckpointRow, Error> {
    Ok(CheckpointRow {
        uid: row.text(0)?,
        run_uid: row.text(1)?,
        artifact_uid: row.text(2)?,
        attempt: row.int(3)?,
        state: CheckpointState::parse(&row.text(4)?)?,
        version: row.int_or_null(5)?,
        epoch: row.int(6)?,
        batch: row.int_or_null(7)?,
        path: row.text(8)?,
        aliases: from_json("aliases", &row.text(9)?)?,
        metrics: from_json("metrics", &row.text(10)?)?,
        file_count: row.int(11)?,
        create_time_us: row.int(12)?,
        part_count: row.int_or_null(13)?,
        expire_time_us: row.int(14)?,
        delete_time_us: row.int_or_null(15)?,
    })
}

pub(super) async fn insert_pending(
    connection: &mut Connection<'_>,
    run: &RunRow,
    uid: &str,
    event: &Event,
    decision: &Decision,
    (now_us, expiry_us): (i64, i64),
) -> Result<(), Error> {
    let sql = "INSERT INTO checkpoints (uid, run_uid, artifact_uid, attempt, state, epoch, batch, step, path, \
        weights_only, value, reason, reason_text, aliases, metrics, size_bytes, file_count, create_time_us, \
        expire_time_us) VALUES ($1, $2, $3, $4, 'PENDING', $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, 0, 0, $15, $16)";
    let values = args![
        uid,
        &run.uid,
        &run.artifact_uid,
        run.attempt,
        event.epoch,
        event.batch,
        event.step,
        decision.path.clone().unwrap_or_default(),
        decision.weights_only,
        decision.value,
        decision.reason.code(),
        &decision.reason_text,
        to_json(&decision.aliases)?,
        to_json(&event.metrics)?,
        now_us,
        now_us.saturating_add(expiry_us),
    ];
    connection.execute(sql, values).await.map(drop)
}

pub(super) async fn read(
    connection: &mut Connection<'_>,
    name: &CheckpointName,
) -> Result<CheckpointRow, Error> {
    let row = connection.row(&select_one(), key_of(name)).await?;
    found(name, row.as_ref())
}

fn select_one() -> String {
    format!(
        "SELECT {COLUMNS} WHERE uid = $1 AND run_uid IN (SELECT uid FROM runs WHERE team = $2 AND project = $3 AND id = $4)"
    )
}

fn found(name: &CheckpointName, row: Option<&Row>) -> Result<CheckpointRow, Error> {
    row.map(checkpoint_of).transpose()?.ok_or_else(|| Refusal::not_found("checkpoint", name).into())
}

fn key_of(name: &CheckpointName) -> Vec<crate::db::connection::Value> {
    let project = &name.run.project;
    args![name.checkpoint.as_str(), project.team.as_str(), project.project.as_str(), name.run.run.as_str()]
}

/// Takes the checkpoint's row for the rest of the transaction, if it is pending and of the run's newest attempt, and puts
/// its expiry off: files may be written.
pub(super) async fn lock_pending(
    connection: &mut Connection<'_>,
    name: &CheckpointName,
    attempt: i64,
    expire: ExpireTimes,
) -> Result<CheckpointRow, Error> {
    // Never back: a newer call may have put it off further.
    let lock = "UPDATE checkpoints SET expire_time_us = CASE \
        WHEN part_count IS NULL AND expire_time_us < $1 THEN $1 \
        WHEN part_count IS NOT NULL AND expire_time_us < $2 THEN $2 \
        ELSE expire_time_us END WHERE uid = $3 AND state = 'PENDING'";
    let values = args![expire.pending_us, expire.parts_us, name.checkpoint.as_str()];
    connection.execute(lock, values).await?;
    let checkpoint = read(connection, name).await?;
    let newest =
        connection.row("SELECT attempt FROM runs WHERE uid = $1", args![&checkpoint.run_uid]).await?;
    let newest = newest.map_or(Ok(0), |row| row.int(0))?;
    check_newest(name, &checkpoint, attempt, newest)?;
    check_pending(name, checkpoint.state)?;
    Ok(checkpoint)
}

pub(super) fn check_newest(
    name: &CheckpointName,
    row: &CheckpointRow,
    attempt: i64,
    newest: i64,
) -> Result<(), Refusal> {
    if attempt == newest && row.attempt == newest {
        return Ok(());
    }
    let message = format!(
        "checkpoint `{name}` is of attempt {}, the call of attempt {attempt}, and attempt {newest} is the run's newest: \
         only the newest attempt writes, and only its own checkpoints",
        row.attempt
    );
    Err(Refusal::precondition("STALE_ATTEMPT", message).with("attempt", newest))
}

pub(super) fn check_pending(name: &CheckpointName, state: CheckpointState) -> Result<(), Refusal> {
    match state {
        CheckpointState::Pending => Ok(()),
        CheckpointState::Committed => Err(Refusal::precondition(
            "CHECKPOINT_COMMITTED",
            format!("checkpoint `{name}` is committed: its files never change"),
        )),
        CheckpointState::Deleted => Err(Refusal::precondition(
            "CHECKPOINT_DELETED",
            format!(
                "checkpoint `{name}` was given up, expired or deleted: report the event that should be saved anew"
            ),
        )),
    }
}

impl Db {
    /// The checkpoint with its files.
    pub async fn checkpoint(&self, name: &CheckpointName) -> Result<(CheckpointRow, Vec<FileRow>), Error> {
        let checkpoint = self.checkpoint_row(name).await?;
        let mut files = self.files(&checkpoint.uid).await?;
        self.find_durable(&checkpoint.uid, &mut files).await?;
        Ok((checkpoint, files))
    }

    /// The checkpoint without them.
    pub(super) async fn checkpoint_row(&self, name: &CheckpointName) -> Result<CheckpointRow, Error> {
        let row = self.row(&select_one(), key_of(name)).await?;
        found(name, row.as_ref())
    }

    /// Gives a pending checkpoint up; the earlier best stands. Repeated: nothing changes.
    pub async fn abandon(&self, name: CheckpointName, attempt: i64, now_us: i64) -> Result<(), Error> {
        let run = name.run.clone();
        let abandoned = self.write_of(&run, move |connection| {
            Box::pin(async move {
                failpoint!("abandon.begun");
                let Some(run) = lock_run(connection, &name.run).await? else {
                    return Err(Refusal::not_found("checkpoint", &name).into());
                };
                failpoint!("abandon.locked");
                let checkpoint = read(connection, &name).await?;
                match checkpoint.state {
                    CheckpointState::Deleted => Ok(()),
                    CheckpointState::Committed => Ok(check_pending(&name, checkpoint.state)?),
                    CheckpointState::Pending => {
                        check_attempt(&run, attempt)?;
                        give_up(connection, run, &checkpoint.uid, now_us).await?;
                        failpoint!("abandon.written");
                        Ok(())
                    }
                }
            })
        });
        abandoned.await?;
        failpoint!("abandon.committed");
        Ok(())
    }
}

/// Marks a pending checkpoint deleted and takes it out of the run's monitor state. The run's row is locked.
pub(super) async fn give_up(
    connection: &mut Connection<'_>,
    mut run: RunRow,
    uid: &str,
    now_us: i64,
) -> Result<(), Error> {
    let sql =
        "UPDATE checkpoints SET state = 'DELETED', delete_time_us = $1 WHERE uid = $2 AND state = 'PENDING'";
    connection.execute(sql, args![now_us, uid]).await?;
    run.monitor_state.abandoned(uid);
    save_monitor_state(connection, &run.uid, &run.monitor_state, now_us).await
}
