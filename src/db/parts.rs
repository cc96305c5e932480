//! Parts: several processes save one checkpoint, and the last part that comes in publishes it, in the same transaction.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;

use crate::db::Db;
use crate::db::Error;
use crate::db::checkpoints::take_checkpoints;
use crate::db::commits;
use crate::db::commits::Artifacts;
use crate::db::commits::Publication;
use crate::db::commits::Published;
use crate::db::connection::Row;
use crate::db::connection::Value;
use crate::db::connection::args;
use crate::db::files::files_of;
use crate::db::job::Outcome;
use crate::db::job::Turn;
use crate::db::job::Unfit;
use crate::db::job::Write;
use crate::db::metrics::Metrics;
use crate::db::runs::take_runs;
use crate::db::tx::Tx;
use crate::domain::checkpoint::Checkpoint;
use crate::domain::checkpoint::CheckpointState;
use crate::domain::checkpoint::Contents;
use crate::domain::ids::CheckpointName;
use crate::domain::ids::RunName;
use crate::domain::parts::Part;
use crate::domain::parts::missing_in_short;
use crate::domain::refusal::Refusal;
use crate::domain::run::Run;

#[derive(Clone, Debug)]
pub struct CompletePart {
    pub name: CheckpointName,
    pub attempt: i64,
    /// Free JSON of the version; only part 0's is kept.
    pub metadata: Option<String>,
    /// Now, in microseconds since 1970.
    pub now_us: i64,
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
    /// Records a part as complete and publishes the checkpoint if it was the last one. None: other parts
    /// are missing, or the checkpoint will never be published; `standing` tells which. Repeated: the same.
    pub async fn complete_part(&self, complete: CompletePart) -> Result<Option<Published>, Error> {
        self.change(complete).await
    }

    /// How a checkpoint of several parts stands for a process that waits for it. Refused if it will never be published.
    pub async fn standing(
        &self,
        name: &CheckpointName,
        attempt: i64,
        now_us: i64,
    ) -> Result<Standing, Error> {
        let checkpoint = self.checkpoint(name).await?;
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
        checkpoint.check_newest(name, attempt, newest)?;
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
        checkpoint.check_pending(name)?;
        Ok(Standing::Waits)
    }

    /// The answer to a process that has waited for the other parts and may wait again.
    pub async fn still_missing(&self, name: &CheckpointName) -> Result<Refusal, Error> {
        let checkpoint = self.checkpoint(name).await?;
        let (missing, said) = self.missing_parts(name, &checkpoint).await?;
        let message = format!("checkpoint `{name}` waits: {said}; repeat the call to wait on");
        Ok(Refusal::aborted("PARTS_MISSING", message).with("missing_parts", missing))
    }

    /// The missing parts in short, and as a part of a sentence.
    async fn missing_parts(
        &self,
        name: &CheckpointName,
        checkpoint: &Checkpoint,
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

impl Write for CompletePart {
    type Answer = Option<Published>;

    fn turn(&self) -> Turn {
        Turn::of(&self.name.run, 6)
    }

    fn count(&self, published: &Option<Published>, metrics: &Metrics) {
        if let Some(Published { is_new: true, .. }) = published {
            metrics.committed();
        }
    }

    async fn run(set: &[&Self], tx: &mut Tx<'_>) -> Result<Vec<Outcome<Option<Published>>>, Error> {
        // All parts of a run take its row first, so one after the other comes in and exactly one is the last.
        let runs = take_runs(tx, set.iter().map(|it| &it.name.run)).await?;
        // Writers of files take this row too, so no file changes from here on.
        let taken = take_checkpoints(tx, set.iter().map(|it| &it.name)).await?;
        let uids: BTreeSet<&str> =
            set.iter().filter_map(|it| Some(taken.get(&it.name)?.0.uid.as_str())).collect();
        let present = present(tx, &uids).await?;
        let complete = complete_files(tx, &uids).await?;
        let mut book = Book { runs, present, complete, is_lone: set.len() == 1, ..Book::default() };
        let mut outcomes: Vec<Outcome<Option<Published>>> =
            set.iter().map(|part| book.take(part, taken.get(&part.name))).collect();
        book.publish(tx, set, &mut outcomes).await?;
        book.write(tx).await?;
        Ok(outcomes)
    }
}

/// What the set has loaded, as it leaves it so far.
#[derive(Default)]
struct Book {
    runs: HashMap<RunName, Run>,
    /// Complete parts by checkpoint, each with its number of files.
    present: HashMap<String, BTreeMap<i64, i64>>,
    /// Complete files by checkpoint.
    complete: HashMap<String, i64>,
    /// By checkpoint: the number of parts, until when it lives, and the metadata of part 0.
    declared: BTreeMap<String, (i64, i64, Option<String>)>,
    parts: Vec<Vec<Value>>,
    /// Checkpoints whose last part came, by the place of its call in the set.
    last: BTreeMap<usize, (Checkpoint, i64)>,
    publications: Vec<Publication>,
    artifacts: Option<Artifacts>,
    is_lone: bool,
    calls: usize,
}

impl Book {
    /// Records a part, if it is new; none: others are missing.
    fn take(&mut self, part: &CompletePart, taken: Option<(&Checkpoint, i64)>) -> Outcome<Option<Published>> {
        let place = self.calls;
        self.calls += 1;
        let (Some((checkpoint, _)), Some(run)) = (taken, self.runs.get(&part.name.run)) else {
            return Unfit::not_found(self.is_lone, "checkpoint", &part.name).into();
        };
        // An earlier call of the set may have been the first part.
        let part_count = self.declared.get(&checkpoint.uid).map(|it| it.0).or(checkpoint.part_count);
        let mut checkpoint = Checkpoint { part_count, ..checkpoint.clone() };
        let present = self.present.entry(checkpoint.uid.clone()).or_default();
        let is_new = checkpoint
            .check_part_count(&part.name, Some(part.part))
            .and_then(|()| part.is_new(present.get(&part.part.number()).copied()));
        let is_new = match is_new {
            Ok(is_new) => is_new,
            Err(refusal) => return Outcome::Refused(refusal.into()),
        };
        match checkpoint.state {
            CheckpointState::Committed => {
                return Outcome::Done(Some(Published { uid: checkpoint.uid, is_new: false }));
            }
            CheckpointState::Deleted => return Outcome::Done(None),
            CheckpointState::Pending => {}
        }
        if let Err(refusal) = checkpoint.check_newest(&part.name, part.attempt, run.attempt) {
            return Outcome::Refused(refusal.into());
        }
        if !is_new {
            // Its last part may be in this very set: then it is out after it.
            let is_last = self.last.values().any(|(it, _)| it.uid == checkpoint.uid);
            return if is_last { Outcome::Later } else { Outcome::Done(None) };
        }
        let files = present.values().sum::<i64>() + part.file_count;
        let is_last = i64::try_from(present.len() + 1).unwrap_or(i64::MAX) >= part.part.count();
        let complete = self.complete.get(&checkpoint.uid).copied().unwrap_or(0);
        if !is_last && let Err(refusal) = part.check_complete(files, complete) {
            return Outcome::Refused(refusal.into());
        }
        present.insert(part.part.number(), part.file_count);
        // The metadata of the version are part 0's, whichever part is the last.
        let metadata = part.metadata.clone().filter(|_| part.part.number() == 0);
        let declared = self.declared.entry(checkpoint.uid.clone());
        let declared = declared.or_insert((part.part.count(), part.expire_time_us, None));
        declared.1 = declared.1.max(part.expire_time_us);
        declared.2 = declared.2.take().or(metadata);
        let row = args![&checkpoint.uid, part.part.number(), part.file_count, part.now_us];
        self.parts.push(row);
        if is_last {
            checkpoint.part_count = Some(part.part.count());
            self.last.insert(place, (checkpoint, files));
        }
        Outcome::Done(None)
    }

    /// Publishes the checkpoints whose last part has come. If a checkpoint is refused, so is the call that brought its last part.
    async fn publish(
        &mut self,
        tx: &mut Tx<'_>,
        set: &[&CompletePart],
        outcomes: &mut [Outcome<Option<Published>>],
    ) -> Result<(), Error> {
        if self.last.is_empty() {
            return Ok(());
        }
        let uids = self.last.values().map(|(checkpoint, _)| checkpoint.artifact_uid.clone());
        let mut artifacts = Artifacts::take(tx, uids.collect()).await?;
        for (place, (checkpoint, files)) in std::mem::take(&mut self.last) {
            let (Some(part), Some(outcome)) = (set.get(place), outcomes.get_mut(place)) else { continue };
            let stored = files_of(tx, &checkpoint.uid).await?;
            let contents = Contents::of(&part.name, &checkpoint.path, &stored, Some(files));
            let contents = contents
                .and_then(|it| artifacts.check_takes(&part.name, &checkpoint.artifact_uid).map(|()| it));
            let refused = match contents {
                Ok(contents) if artifacts.has(&checkpoint.artifact_uid) => {
                    let Some(run) = self.runs.get_mut(&part.name.run) else { continue };
                    *outcome = Outcome::Done(Some(Published { uid: checkpoint.uid.clone(), is_new: true }));
                    let publication = artifacts.publish(run, checkpoint, contents, None, part.now_us);
                    self.publications.push(publication);
                    continue;
                }
                // Another process has the artifact.
                Ok(_) => Outcome::Later,
                Err(refusal) => Outcome::Refused(refusal.into()),
            };
            *outcome = refused;
            let number = Value::Int(Some(part.part.number()));
            self.parts.retain(|row| !is_row_of(row, &checkpoint.uid, &number));
            self.take_back(&checkpoint.uid, &part.part);
        }
        self.artifacts = Some(artifacts);
        Ok(())
    }

    /// Forgets what a part declared that is refused after all; other parts of the set may stand.
    fn take_back(&mut self, uid: &str, part: &Part) {
        let is_of = |row: &Vec<Value>| matches!(row.first(), Some(Value::Text(Some(it))) if it == uid);
        if !self.parts.iter().any(is_of) {
            self.declared.remove(uid);
        } else if let Some(declared) = self.declared.get_mut(uid).filter(|_| part.number() == 0) {
            declared.2 = None;
        }
    }

    async fn write(self, tx: &mut Tx<'_>) -> Result<(), Error> {
        // From the first complete part on others wait, so it lives shorter; each further one is a sign of life.
        let declare = "WITH {v: uid text, part_count bigint, expire_time_us bigint, metadata text} UPDATE checkpoints SET \
            expire_time_us = CASE WHEN checkpoints.part_count IS NULL OR checkpoints.expire_time_us < v.expire_time_us \
            THEN v.expire_time_us ELSE checkpoints.expire_time_us END, part_count = v.part_count, \
            metadata = COALESCE(checkpoints.metadata, v.metadata) FROM v WHERE checkpoints.uid = v.uid";
        let rows = self
            .declared
            .into_iter()
            .map(|(uid, (count, expire_time_us, metadata))| args![uid, count, expire_time_us, metadata]);
        tx.execute_of(declare, rows.collect()).await?;
        let insert = "WITH {v: checkpoint_uid text, part bigint, file_count bigint, complete_time_us bigint} \
            INSERT INTO checkpoint_parts (checkpoint_uid, part, file_count, complete_time_us) SELECT * FROM v";
        tx.execute_of(insert, self.parts).await?;
        match self.artifacts {
            Some(artifacts) => commits::write(tx, self.publications, artifacts, &self.runs).await,
            None => Ok(()),
        }
    }
}

fn is_row_of(row: &[Value], uid: &str, number: &Value) -> bool {
    let is_uid = matches!(row.first(), Some(Value::Text(Some(it))) if it == uid);
    let is_number = matches!((row.get(1), number), (Some(Value::Int(a)), Value::Int(b)) if a == b);
    is_uid && is_number
}

impl CompletePart {
    /// Whether the part is not yet in. One that is in stays as it is: with so many files.
    fn is_new(&self, stands: Option<i64>) -> Result<bool, Refusal> {
        let Some(stands) = stands else { return Ok(true) };
        if stands == self.file_count {
            return Ok(false);
        }
        let message = format!(
            "part {} of checkpoint `{}` is complete with {stands} file(s), but this call says {}: two processes must not be \
             the same part",
            self.part.number(),
            self.name,
            self.file_count
        );
        Err(Refusal::precondition("PARTS_MISMATCH", message).with("file_count", stands))
    }

    /// Files do not say whose part they are, so this is what can be told before the last part comes: the parts that are in
    /// claim no more files than are complete. The commit then wants exactly as many, and all complete.
    fn check_complete(&self, files: i64, complete: i64) -> Result<(), Refusal> {
        if complete >= files {
            return Ok(());
        }
        let message = format!(
            "with part {} the parts of checkpoint `{}` have {files} file(s), but {complete} are complete: write them to the \
             end with `finish`",
            self.part.number(),
            self.name
        );
        Err(Refusal::precondition("FILES_INCOMPLETE", message).with("files", complete))
    }
}

/// The complete parts of checkpoints, each with its number of files.
async fn present(
    tx: &mut Tx<'_>,
    uids: &BTreeSet<&str>,
) -> Result<HashMap<String, BTreeMap<i64, i64>>, Error> {
    let sql = "WITH {v: uid text} SELECT p.checkpoint_uid, p.part, p.file_count FROM v CROSS JOIN checkpoint_parts p \
        WHERE p.checkpoint_uid = v.uid";
    let mut present: HashMap<String, BTreeMap<i64, i64>> = HashMap::new();
    for row in tx.rows_of(sql, uids.iter().map(|uid| args![*uid]).collect()).await? {
        present.entry(row.text(0)?).or_default().insert(row.int(1)?, row.int(2)?);
    }
    Ok(present)
}

/// How many files of checkpoints are complete.
async fn complete_files(tx: &mut Tx<'_>, uids: &BTreeSet<&str>) -> Result<HashMap<String, i64>, Error> {
    let sql = "WITH {v: uid text} SELECT f.checkpoint_uid, COUNT(*) FROM v CROSS JOIN files f \
        WHERE f.checkpoint_uid = v.uid AND f.state = 'COMPLETE' GROUP BY f.checkpoint_uid";
    let rows = tx.rows_of(sql, uids.iter().map(|uid| args![*uid]).collect()).await?;
    rows.iter().map(|row| Ok((row.text(0)?, row.int(1)?))).collect()
}
