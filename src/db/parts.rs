//! Parts: several processes save one checkpoint, and the last part that comes in publishes it, in the same transaction.

use crate::db::Db;
use crate::db::Error;
use crate::db::checkpoints::CheckpointRow;
use crate::db::checkpoints::CheckpointState;
use crate::db::checkpoints::check_newest;
use crate::db::checkpoints::check_pending;
use crate::db::checkpoints::read;
use crate::db::commits::Commit;
use crate::db::commits::PlanCommit;
use crate::db::commits::publish_pending;
use crate::db::connection::Connection;
use crate::db::connection::Row;
use crate::db::connection::args;
use crate::db::runs::lock_run;
use crate::domain::ids::CheckpointName;
use crate::domain::parts::Part;
use crate::domain::parts::missing_in_short;
use crate::domain::refusal::Refusal;

/// What completes a part.
#[derive(Clone, Debug)]
pub struct CompletePart {
    /// As of the whole; its file count is the part's.
    pub commit: Commit,
    /// Which part, of how many.
    pub part: Part,
    /// How many files the part has.
    pub file_count: i64,
    /// Until when the checkpoint lives without the next sign of life.
    pub expire_time_us: i64,
}

/// A part that is complete.
#[derive(Clone, Debug)]
pub struct PartRow {
    /// Which one, from 0.
    pub part: i64,
    /// How many files it has.
    pub file_count: i64,
    /// Microseconds since 1970.
    pub complete_time_us: i64,
}

/// How a checkpoint of several parts stands.
#[derive(Clone, Debug)]
pub enum Standing {
    /// Published: the uid of the version.
    Published(String),
    /// Parts are missing, and may still come.
    Waits,
    /// Its time is over: it is to be given up.
    Overdue {
        /// Of the run.
        run_uid: String,
        /// Of the checkpoint.
        uid: String,
    },
}

impl Db {
    /// Records a part as complete and publishes the checkpoint if it was the last one: answers its uid. None: other parts
    /// are missing, or the checkpoint will never be published; `standing` tells which. Repeated: the same.
    pub async fn complete_part(
        &self,
        complete: CompletePart,
        plan: PlanCommit,
    ) -> Result<Option<String>, Error> {
        let run = complete.commit.name.run.clone();
        self.write_of(&run, move |connection| Box::pin(record(connection, complete, plan))).await
    }

    /// How a checkpoint of several parts stands for a process that waits for it. Refused if it will never be published.
    pub async fn standing(
        &self,
        name: &CheckpointName,
        attempt: i64,
        now_us: i64,
    ) -> Result<Standing, Error> {
        let checkpoint = self.checkpoint_row(name).await?;
        match checkpoint.state {
            CheckpointState::Committed => return Ok(Standing::Published(checkpoint.uid)),
            CheckpointState::Pending if checkpoint.expire_time_us < now_us => {
                return Ok(Standing::Overdue { run_uid: checkpoint.run_uid, uid: checkpoint.uid });
            }
            // A newer attempt, an expiry and whoever gives it up delete it: nothing else is to be looked at.
            CheckpointState::Pending => return Ok(Standing::Waits),
            CheckpointState::Deleted => {}
        }
        let newest = "SELECT attempt FROM runs WHERE uid = $1";
        let newest = self.row(newest, args![&checkpoint.run_uid]).await?.map_or(Ok(0), |row| row.int(0))?;
        check_newest(name, &checkpoint, attempt, newest)?;
        let late = checkpoint.delete_time_us.is_some_and(|it| it > checkpoint.expire_time_us);
        if late && checkpoint.part_count.is_some() {
            let (missing, said) = self.missing_parts(name, &checkpoint).await?;
            let message = format!(
                "checkpoint `{name}` expired: {said} for too long since the last sign of life of any part, so the earlier \
                 best stands; a rank that died comes back with a new attempt"
            );
            return Err(Refusal::precondition("PARTS_EXPIRED", message)
                .with("missing_parts", missing)
                .into());
        }
        check_pending(name, checkpoint.state)?;
        Ok(Standing::Waits)
    }

    /// What a process is told that waited for the other parts, and may go on to wait.
    pub async fn still_missing(&self, name: &CheckpointName) -> Result<Refusal, Error> {
        let checkpoint = self.checkpoint_row(name).await?;
        let (missing, said) = self.missing_parts(name, &checkpoint).await?;
        let message = format!("checkpoint `{name}` waits: {said}; repeat the call to wait on");
        Ok(Refusal::aborted("PARTS_MISSING", message).with("missing_parts", missing))
    }

    /// The missing parts in short, and as a part of a sentence.
    async fn missing_parts(
        &self,
        name: &CheckpointName,
        checkpoint: &CheckpointRow,
    ) -> Result<(String, String), Error> {
        let count = checkpoint.part_count.ok_or_else(|| Error::unreadable("part count", name))?;
        let present: Vec<i64> = self.parts(&checkpoint.uid).await?.iter().map(|it| it.part).collect();
        let missing = missing_in_short(count, &present);
        let said = format!("{} of {count} parts are complete, and `{missing}` missing", present.len());
        Ok((missing, said))
    }

    /// The complete parts of a checkpoint, in their order.
    pub async fn parts(&self, checkpoint_uid: &str) -> Result<Vec<PartRow>, Error> {
        let sql = "SELECT part, file_count, complete_time_us FROM checkpoint_parts WHERE checkpoint_uid = $1 ORDER BY part";
        let rows = self.rows(sql, args![checkpoint_uid]).await?;
        let part = |row: &Row| {
            Ok(PartRow { part: row.int(0)?, file_count: row.int(1)?, complete_time_us: row.int(2)? })
        };
        rows.iter().map(part).collect()
    }
}

async fn record(
    connection: &mut Connection<'_>,
    complete: CompletePart,
    plan: PlanCommit,
) -> Result<Option<String>, Error> {
    let CompletePart { commit, part, file_count, expire_time_us } = complete;
    let name = commit.name.clone();
    // All parts of a run take its row first, so one after the other comes in and exactly one is the last.
    let Some(run) = lock_run(connection, &name.run).await? else {
        return Err(Refusal::not_found("checkpoint", &name).into());
    };
    let checkpoint = read(connection, &name).await?;
    check_part_count(&name, &checkpoint, Some(part))?;
    let is_new = is_new(connection, &name, part, file_count).await?;
    match checkpoint.state {
        CheckpointState::Committed => return Ok(Some(checkpoint.uid)),
        CheckpointState::Deleted => return Ok(None),
        CheckpointState::Pending => check_newest(&name, &checkpoint, commit.attempt, run.attempt)?,
    }
    if !is_new {
        return Ok(None);
    }
    // From the first complete part on others wait, so it lives shorter; each further one is a sign of life. Writers of files
    // take this row too, so no file changes from here on.
    let declare = "UPDATE checkpoints SET expire_time_us = CASE \
        WHEN part_count IS NULL OR expire_time_us < $1 THEN $1 ELSE expire_time_us END, \
        part_count = $2, metadata = COALESCE(metadata, $3) WHERE uid = $4";
    // The metadata of the version are part 0's, whichever part is the last.
    let metadata = commit.metadata.clone().filter(|_| part.number() == 0);
    connection.execute(declare, args![expire_time_us, part.count(), metadata, &checkpoint.uid]).await?;
    let insert = "INSERT INTO checkpoint_parts (checkpoint_uid, part, file_count, complete_time_us) \
        VALUES ($1, $2, $3, $4)";
    connection.execute(insert, args![&checkpoint.uid, part.number(), file_count, commit.now_us]).await?;
    let sum =
        "SELECT COUNT(*), CAST(SUM(file_count) AS BIGINT) FROM checkpoint_parts WHERE checkpoint_uid = $1";
    let sum = connection.row(sum, args![&checkpoint.uid]).await?;
    let (parts, files) = sum.map_or(Ok((0, 0)), |row| Ok::<_, Error>((row.int(0)?, row.int(1)?)))?;
    if parts < part.count() {
        check_complete(connection, &name, part, files).await?;
        return Ok(None);
    }
    let commit = Commit { file_count: Some(files), metadata: None, ..commit };
    publish_pending(connection, &run, checkpoint, commit, plan).await.map(Some)
}

/// Refuses a call that declares other parts than the checkpoint has; none: it is committed as a whole.
pub(super) fn check_part_count(
    name: &CheckpointName,
    checkpoint: &CheckpointRow,
    part: Option<Part>,
) -> Result<(), Refusal> {
    let (stands, declared) = (checkpoint.part_count, part.map(Part::count));
    if stands == declared || (stands.is_none() && checkpoint.state != CheckpointState::Committed) {
        return Ok(());
    }
    let message = format!(
        "checkpoint `{name}` has {} parts, but this call says {}: all processes that save it name the same part_count, which \
         is 0 where one process commits it alone",
        stands.unwrap_or(0),
        declared.unwrap_or(0)
    );
    Err(Refusal::precondition("PARTS_MISMATCH", message).with("part_count", stands.unwrap_or(0)))
}

/// Whether the part is not yet in. One that is in stays as it is.
async fn is_new(
    connection: &mut Connection<'_>,
    name: &CheckpointName,
    part: Part,
    file_count: i64,
) -> Result<bool, Error> {
    let sql = "SELECT file_count FROM checkpoint_parts WHERE checkpoint_uid = $1 AND part = $2";
    let Some(row) = connection.row(sql, args![name.checkpoint.as_str(), part.number()]).await? else {
        return Ok(true);
    };
    let stands = row.int(0)?;
    if stands == file_count {
        return Ok(false);
    }
    let message = format!(
        "part {} of checkpoint `{name}` is complete with {stands} file(s), but this call says {file_count}: two processes \
         must not be the same part",
        part.number()
    );
    Err(Refusal::precondition("PARTS_MISMATCH", message).with("file_count", stands).into())
}

/// Files do not say whose part they are, so this is what can be told before the last part comes: the parts that are in
/// claim no more files than are complete. The commit then wants exactly as many, and all complete.
async fn check_complete(
    connection: &mut Connection<'_>,
    name: &CheckpointName,
    part: Part,
    files: i64,
) -> Result<(), Error> {
    let sql = "SELECT COUNT(*) FROM files WHERE checkpoint_uid = $1 AND state = 'COMPLETE'";
    let row = connection.row(sql, args![name.checkpoint.as_str()]).await?;
    let complete = row.map_or(Ok(0), |row| row.int(0))?;
    if complete >= files {
        return Ok(());
    }
    let message = format!(
        "with part {} the parts of checkpoint `{name}` have {files} file(s), but {complete} are complete: write them to the \
         end with `finish`",
        part.number()
    );
    Err(Refusal::precondition("FILES_INCOMPLETE", message).with("files", complete).into())
}
