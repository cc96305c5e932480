//! The rows of checkpoints: made by decisions, taken for a transaction, given up.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;

use crate::db::Db;
use crate::db::Error;
use crate::db::connection::Connection;
use crate::db::connection::Row;
use crate::db::connection::Value;
use crate::db::connection::args;
use crate::db::from_json;
use crate::db::runs::lock_run;
use crate::db::runs::save_monitor_state;
use crate::db::runs::stored_id;
use crate::db::to_json;
use crate::db::tx::Tx;
use crate::domain::checkpoint::Checkpoint;
use crate::domain::checkpoint::CheckpointState;
use crate::domain::decision::Decision;
use crate::domain::event::Event;
use crate::domain::file::StoredFile;
use crate::domain::ids::CheckpointName;
use crate::domain::ids::Id;
use crate::domain::refusal::Refusal;
use crate::domain::run::Run;
use crate::failpoint::failpoint;

/// Until when a pending checkpoint lives without the next sign of life.
#[derive(Clone, Copy, Debug)]
pub struct ExpireTimes {
    /// One that a single process saves.
    pub pending_us: i64,
    /// One of several parts: others wait for the missing ones.
    pub parts_us: i64,
}

const COLUMNS: &str = "c.uid, c.run_uid, c.artifact_uid, c.attempt, c.state, c.version, c.epoch, c.batch, c.path, \
    c.aliases, c.metrics, c.file_count, c.create_time_us, c.part_count, c.expire_time_us, c.delete_time_us, c.metadata \
    FROM checkpoints c";

fn state_of(text: &str) -> Result<CheckpointState, Error> {
    CheckpointState::parse(text).ok_or_else(|| Error::unreadable("checkpoint state", text))
}

fn checkpoint_of(row: &Row) -> Result<Checkpoint, Error> {
    Ok(Checkpoint {
        uid: row.text(0)?,
        run_uid: row.text(1)?,
        artifact_uid: row.text(2)?,
        attempt: row.int(3)?,
        state: state_of(&row.text(4)?)?,
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
        metadata: row.text_or_null(16)?,
    })
}

/// What a SAVE led to.
#[derive(Clone, Debug)]
pub struct LedTo {
    pub state: CheckpointState,
    /// N of `vN`; of a version that was deleted, too.
    pub version: Option<i64>,
    pub artifact: Id,
}

impl Db {
    /// What became of checkpoints, by uid.
    pub async fn led_to(&self, uids: &[&str]) -> Result<HashMap<String, LedTo>, Error> {
        if uids.is_empty() {
            return Ok(HashMap::new());
        }
        let sql = "WITH {v: uid text} SELECT c.uid, c.state, c.version, a.id FROM v CROSS JOIN checkpoints c \
            JOIN artifacts a ON a.uid = c.artifact_uid WHERE c.uid = v.uid";
        let rows = self.page_of(sql, uids.iter().map(|uid| args![*uid]).collect()).await?;
        let led_to = |row: &Row| {
            let (state, artifact) = (state_of(&row.text(1)?)?, stored_id(&row.text(3)?)?);
            Ok((row.text(0)?, LedTo { state, version: row.int_or_null(2)?, artifact }))
        };
        rows.iter().map(led_to).collect()
    }
}

/// Checkpoints whose rows a transaction has taken, each with its run's newest attempt, and what it has written of them.
#[derive(Default)]
pub(super) struct Taken {
    rows: HashMap<CheckpointName, (Checkpoint, i64)>,
    written: BTreeMap<String, (i64, ExpireTimes)>,
}

/// Takes the rows of checkpoints for the rest of the transaction. One that is missing does not exist, or another process has
/// it.
pub(super) async fn take_checkpoints(
    tx: &mut Tx<'_>,
    names: impl Iterator<Item = &CheckpointName>,
) -> Result<Taken, Error> {
    let sql = "WITH {v: uid text, team text, project text, run text} SELECT c.uid, c.run_uid, c.artifact_uid, c.attempt, \
        c.state, c.version, c.epoch, c.batch, c.path, c.aliases, c.metrics, c.file_count, c.create_time_us, c.part_count, \
        c.expire_time_us, c.delete_time_us, c.metadata, r.attempt FROM v CROSS JOIN checkpoints c \
        JOIN runs r ON r.uid = c.run_uid WHERE c.uid = v.uid AND r.team = v.team AND r.project = v.project \
        AND r.id = v.run ORDER BY c.uid {take c}";
    let names: HashSet<&CheckpointName> = names.collect();
    let rows = tx.rows_of(sql, names.iter().map(|name| key_of(name)).collect()).await?;
    let mut found: HashMap<String, (Checkpoint, i64)> = HashMap::new();
    for row in &rows {
        let checkpoint = checkpoint_of(row)?;
        let mut newest = row.int(17)?;
        if checkpoint.state == CheckpointState::Deleted {
            // It may have been deleted by a newer attempt while this transaction waited for its row; the run was read before.
            let again = tx.row("SELECT attempt FROM runs WHERE uid = $1", args![&checkpoint.run_uid]).await?;
            newest = again.map_or(Ok(newest), |row| row.int(0))?;
        }
        found.insert(checkpoint.uid.clone(), (checkpoint, newest));
    }
    let rows = names
        .into_iter()
        .filter_map(|name| Some((name.clone(), found.get(name.checkpoint.as_str())?.clone())));
    Ok(Taken { rows: rows.collect(), written: BTreeMap::new() })
}

impl Taken {
    /// The checkpoint, and its run's newest attempt.
    pub(super) fn get(&self, name: &CheckpointName) -> Option<(&Checkpoint, i64)> {
        self.rows.get(name).map(|(checkpoint, newest)| (checkpoint, *newest))
    }

    pub(super) fn is_committed(&self, name: &CheckpointName) -> bool {
        self.get(name).is_some_and(|(checkpoint, _)| checkpoint.state == CheckpointState::Committed)
    }

    /// Files were written: so many more are declared, and the checkpoint lives on.
    pub(super) fn written(&mut self, name: &CheckpointName, declared: i64, expire: ExpireTimes) {
        let Some((checkpoint, _)) = self.rows.get_mut(name) else { return };
        if checkpoint.state != CheckpointState::Pending {
            return;
        }
        checkpoint.file_count += declared;
        let row = self.written.entry(checkpoint.uid.clone()).or_insert((0, expire));
        row.0 += declared;
        row.1.pending_us = row.1.pending_us.max(expire.pending_us);
        row.1.parts_us = row.1.parts_us.max(expire.parts_us);
    }

    pub(super) async fn write(self, tx: &mut Tx<'_>) -> Result<(), Error> {
        // Never back: a newer call may have put it off further.
        let sql = "WITH {v: uid text, declared bigint, pending_us bigint, parts_us bigint} UPDATE checkpoints SET \
            file_count = file_count + v.declared, expire_time_us = CASE \
            WHEN part_count IS NULL AND expire_time_us < v.pending_us THEN v.pending_us \
            WHEN part_count IS NOT NULL AND expire_time_us < v.parts_us THEN v.parts_us \
            ELSE expire_time_us END FROM v WHERE checkpoints.uid = v.uid";
        let row = |(uid, (declared, expire)): (String, (i64, ExpireTimes))| {
            args![uid, declared, expire.pending_us, expire.parts_us]
        };
        tx.execute_of(sql, self.written.into_iter().map(row).collect()).await.map(drop)
    }
}

/// A row to insert: what a SAVE leads to.
pub(super) struct NewCheckpoint(Vec<Value>);

impl NewCheckpoint {
    /// Of an event of the run, with the times at which it was decided and at which it expires.
    pub(super) fn of(
        run: &Run,
        uid: &str,
        event: &Event,
        decision: &Decision,
        (now_us, expire_time_us): (i64, i64),
    ) -> Result<NewCheckpoint, Error> {
        Ok(NewCheckpoint(args![
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
            expire_time_us,
        ]))
    }
}

pub(super) async fn insert_pending(tx: &mut Tx<'_>, new: Vec<NewCheckpoint>) -> Result<(), Error> {
    let sql = "WITH {v: uid text, run_uid text, artifact_uid text, attempt bigint, epoch bigint, batch bigint, step bigint, \
        path text, weights_only bigint, value real, reason text, reason_text text, aliases text, metrics text, \
        create_time_us bigint, expire_time_us bigint} \
        INSERT INTO checkpoints (uid, run_uid, artifact_uid, attempt, state, epoch, batch, step, path, weights_only, value, \
        reason, reason_text, aliases, metrics, size_bytes, file_count, create_time_us, expire_time_us) \
        SELECT uid, run_uid, artifact_uid, attempt, 'PENDING', epoch, batch, step, path, weights_only, value, reason, \
        reason_text, aliases, metrics, 0, 0, create_time_us, expire_time_us FROM v";
    tx.execute_of(sql, new.into_iter().map(|it| it.0).collect()).await.map(drop)
}

/// Gives pending checkpoints up: uid, and when. Their runs' rows are taken, and the monitor states know already.
pub(super) async fn delete_pending(tx: &mut Tx<'_>, given_up: Vec<(String, i64)>) -> Result<(), Error> {
    let sql = "WITH {v: uid text, delete_time_us bigint} UPDATE checkpoints SET state = 'DELETED', \
        delete_time_us = v.delete_time_us FROM v WHERE checkpoints.uid = v.uid AND checkpoints.state = 'PENDING'";
    let set = given_up.into_iter().map(|(uid, now_us)| args![uid, now_us]);
    tx.execute_of(sql, set.collect()).await.map(drop)
}

pub(super) async fn read(
    connection: &mut Connection<'_>,
    name: &CheckpointName,
) -> Result<Checkpoint, Error> {
    let row = connection.row(&select_one(), key_of(name)).await?;
    found(name, row.as_ref())
}

const SELECT_ONE: &str = "SELECT {COLUMNS} WHERE c.uid = $1 AND c.run_uid IN (SELECT uid FROM runs \
    WHERE team = $2 AND project = $3 AND id = $4)";

fn select_one() -> String {
    SELECT_ONE.replace("{COLUMNS}", COLUMNS)
}

fn found(name: &CheckpointName, row: Option<&Row>) -> Result<Checkpoint, Error> {
    row.map(checkpoint_of).transpose()?.ok_or_else(|| Refusal::not_found("checkpoint", name).into())
}

fn key_of(name: &CheckpointName) -> Vec<Value> {
    let project = &name.run.project;
    args![name.checkpoint.as_str(), project.team.as_str(), project.project.as_str(), name.run.run.as_str()]
}

impl Db {
    /// The checkpoint, and its files if they can be committed: in the order of their paths, without what is durable of open ones.
    pub async fn checkpoint_to_commit(
        &self,
        name: &CheckpointName,
    ) -> Result<(Checkpoint, Vec<StoredFile>), Error> {
        let checkpoint = self.checkpoint(name).await?;
        let files = match checkpoint.state {
            CheckpointState::Pending => self.files(&checkpoint.uid).await?,
            CheckpointState::Committed | CheckpointState::Deleted => Vec::new(),
        };
        Ok((checkpoint, files))
    }

    /// The checkpoint without them.
    pub async fn checkpoint(&self, name: &CheckpointName) -> Result<Checkpoint, Error> {
        let row = self.row(&select_one(), key_of(name)).await?;
        found(name, row.as_ref())
    }

    /// Gives a pending checkpoint up; the earlier best stands. Repeated: nothing changes, and
    /// false is the answer.
    pub async fn abandon(&self, name: CheckpointName, attempt: i64, now_us: i64) -> Result<bool, Error> {
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
                    CheckpointState::Deleted => Ok(false),
                    CheckpointState::Committed => {
                        checkpoint.check_pending(&name)?;
                        Ok(false)
                    }
                    CheckpointState::Pending => {
                        run.check_attempt(attempt)?;
                        give_up(connection, run, &checkpoint.uid, now_us).await?;
                        failpoint!("abandon.written");
                        Ok(true)
                    }
                }
            })
        });
        let abandoned = abandoned.await?;
        failpoint!("abandon.committed");
        Ok(abandoned)
    }
}

/// Marks a pending checkpoint deleted and takes it out of the run's monitor state. The run's row is locked.
pub(super) async fn give_up(
    connection: &mut Connection<'_>,
    mut run: Run,
    uid: &str,
    now_us: i64,
) -> Result<(), Error> {
    let sql =
        "UPDATE checkpoints SET state = 'DELETED', delete_time_us = $1 WHERE uid = $2 AND state = 'PENDING'";
    connection.execute(sql, args![now_us, uid]).await?;
    run.monitor_state.abandoned(uid);
    save_monitor_state(connection, &run.uid, &run.monitor_state, now_us).await
}
