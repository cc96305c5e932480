//! A checkpoint and its states: PENDING, then COMMITTED, then DELETED; who may write to it, and what a commit needs and changes.

use std::collections::HashSet;

use crate::domain::digest::Digest;
use crate::domain::file::StoredFile;
use crate::domain::ids::CheckpointName;
use crate::domain::metric::Metrics;
use crate::domain::metric::improves;
use crate::domain::parts::Part;
use crate::domain::refusal::Refusal;
use crate::domain::run::Run;

/// Where a checkpoint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointState {
    /// It was decided; files may be written, and nobody else sees it.
    Pending,
    /// It is a version.
    Committed,
    /// It was given up, expired or deleted; its bytes go.
    Deleted,
}

impl CheckpointState {
    /// The state that is stored so.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "PENDING" => Some(CheckpointState::Pending),
            "COMMITTED" => Some(CheckpointState::Committed),
            "DELETED" => Some(CheckpointState::Deleted),
            _ => None,
        }
    }
}

/// What one SAVE leads to.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Unique for ever; also its id.
    pub uid: String,
    pub run_uid: String,
    pub artifact_uid: String,
    /// The attempt that decided it.
    pub attempt: i64,
    pub state: CheckpointState,
    /// N of `vN`, once committed.
    pub version: Option<i64>,
    /// Epoch of its event, 0-based.
    pub epoch: i64,
    /// Batch of its event, 0-based.
    pub batch: Option<i64>,
    /// The rendered template.
    pub path: String,
    /// Names that it gets with its commit, beside `latest` and `best`.
    pub aliases: Vec<String>,
    /// The metrics of its event.
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
    /// Free JSON of the version.
    pub metadata: Option<String>,
}

impl Checkpoint {
    /// Refuses a writer that is not of the run's newest attempt, or writes to a checkpoint of another.
    pub fn check_newest(&self, name: &CheckpointName, attempt: i64, newest: i64) -> Result<(), Refusal> {
        if attempt == newest && self.attempt == newest {
            return Ok(());
        }
        let message = if attempt == 0 {
            format!(
                "attempt of a call to checkpoint `{name}` is not set: every call after StartRun sends the `attempt` that it answered"
            )
        } else {
            format!(
                "checkpoint `{name}` is of attempt {}, the call of attempt {attempt}, and attempt {newest} is the run's \
                 newest: only the newest attempt writes, and only its own checkpoints",
                self.attempt
            )
        };
        Err(Refusal::precondition("STALE_ATTEMPT", message).with("attempt", newest))
    }

    /// Refuses what only a pending checkpoint takes.
    pub fn check_pending(&self, name: &CheckpointName) -> Result<(), Refusal> {
        match self.state {
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

    /// Refuses a call that declares other parts than the checkpoint has; none: it is committed as a whole.
    pub fn check_part_count(&self, name: &CheckpointName, part: Option<Part>) -> Result<(), Refusal> {
        let (stands, declared) = (self.part_count, part.map(Part::count));
        if stands == declared || (stands.is_none() && self.state != CheckpointState::Committed) {
            return Ok(());
        }
        let message = format!(
            "checkpoint `{name}` has {} parts, but this call says {}: all processes that save it name the same part_count, \
             which is 0 where one process commits it alone",
            stands.unwrap_or(0),
            declared.unwrap_or(0)
        );
        Err(Refusal::precondition("PARTS_MISMATCH", message).with("part_count", stands.unwrap_or(0)))
    }

    /// Refuses a commit that is repeated with another body: it would be told that this one is kept.
    pub fn check_repeated(
        &self,
        name: &CheckpointName,
        file_count: Option<i64>,
        metadata: Option<&str>,
    ) -> Result<(), Refusal> {
        if let Some(expected) = file_count.filter(|it| *it != self.file_count) {
            return Err(other_count(name, self.file_count, expected));
        }
        if metadata.is_none() || metadata == self.metadata.as_deref() {
            return Ok(());
        }
        let message = format!(
            "checkpoint `{name}` is committed with other metadata: what a version has never changes, so commit it with the \
             same or with none"
        );
        Err(Refusal::already_exists("METADATA_CONFLICT", message))
    }

    /// What its commit changes beside itself: the monitor state takes the value as best if it is, and the alias `best` moves
    /// to a version that is strictly better than the one it points at, whose metrics are `best`.
    pub fn plan_commit(&self, run: &mut Run, best: Option<&Metrics>) -> Plan {
        run.monitor_state.committed(&self.uid, run.direction);
        let monitor = &run.strategy.monitor;
        let best = best.and_then(|metrics| ranked(metrics, monitor));
        let is_best =
            ranked(&self.metrics, monitor).is_some_and(|value| improves(value, best, run.direction, 0.0));
        Plan { is_best, ranked_metrics: ranked_metrics(&self.metrics) }
    }
}

/// What a commit changes beside the checkpoint and its run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Whether `best` moves to this version.
    pub is_best: bool,
    /// The numbers that best queries may ask for.
    pub ranked_metrics: Vec<(String, f64)>,
}

/// A number that can be ranked: infinities can, NaN cannot.
fn ranked(metrics: &Metrics, name: &str) -> Option<f64> {
    metrics.get(name).and_then(|value| value.as_f64()).filter(|value| !value.is_nan())
}

/// The numbers of an event that best queries may ask for.
pub fn ranked_metrics(metrics: &Metrics) -> Vec<(String, f64)> {
    metrics.keys().filter_map(|name| Some((name.clone(), ranked(metrics, name)?))).collect()
}

/// The files of a checkpoint that may be committed: all are complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Where what was saved lies in the version; empty: at its root.
    pub path: String,
    /// How many there are.
    pub file_count: i64,
    /// Bytes of all of them.
    pub size_bytes: i64,
    /// Over path, size and digest of each.
    pub digest: Digest,
}

impl Contents {
    /// Of files in the order of their paths, of which there shall be `expected`, saved for a decision with the path `rendered`.
    pub fn of(
        name: &CheckpointName,
        rendered: &str,
        files: &[StoredFile],
        expected: Option<i64>,
    ) -> Result<Contents, Refusal> {
        let file_count = i64::try_from(files.len()).unwrap_or(i64::MAX);
        if files.is_empty() {
            let message = format!("checkpoint `{name}` has no file: write at least one before the commit");
            return Err(Refusal::precondition("NO_FILES", message));
        }
        let open: Vec<&str> =
            files.iter().filter(|it| it.digest.is_none()).map(|it| it.path.as_str()).collect();
        if let Some(first) = open.first() {
            let message = format!(
                "checkpoint `{name}` has {} file(s) that are not complete, `{first}` among them: write them to the end with \
                 `finish`",
                open.len()
            );
            return Err(Refusal::precondition("FILES_INCOMPLETE", message).with("files", open.len()));
        }
        if let Some(expected) = expected.filter(|it| *it != file_count) {
            return Err(other_count(name, file_count, expected));
        }
        check_folders(name, files)?;
        let size_bytes = files.iter().fold(0_i64, |sum, file| sum.saturating_add(file.size_bytes));
        let parts = files.iter().filter_map(|file| {
            Some((file.path.as_str(), u64::try_from(file.size_bytes).unwrap_or(0), file.digest?))
        });
        let path = place(rendered, files.iter().map(|it| it.path.as_str())).to_owned();
        Ok(Contents { path, file_count, size_bytes, digest: Digest::of_version(parts) })
    }
}

/// Where a puller finds what was saved: at the rendered path, if a file or a folder is called so or files begin with it and a dot,
/// as TensorFlow's weights do; else at the only file, if that is in no folder; else at the root, which is empty.
fn place<'a>(rendered: &'a str, mut files: impl Iterator<Item = &'a str> + Clone) -> &'a str {
    let is_there = |path: &str| {
        path.strip_prefix(rendered).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '.']))
    };
    if files.clone().any(is_there) {
        return rendered;
    }
    match (files.next(), files.next()) {
        (Some(only), None) if !only.contains('/') => only,
        _ => "",
    }
}

fn other_count(name: &CheckpointName, has: i64, expected: i64) -> Refusal {
    let message = format!("checkpoint `{name}` has {has} file(s), but {expected} were to be committed");
    Refusal::precondition("FILES_INCOMPLETE", message).with("files", has)
}

/// Refuses files that cannot stand beside each other on a disk: one may not be the folder of another.
fn check_folders(name: &CheckpointName, files: &[StoredFile]) -> Result<(), Refusal> {
    let paths: HashSet<&str> = files.iter().map(|it| it.path.as_str()).collect();
    for path in &paths {
        let folders = path.match_indices('/').filter_map(|(end, _)| path.get(..end));
        if let Some(folder) = folders.into_iter().find(|folder| paths.contains(folder)) {
            let message = format!(
                "checkpoint `{name}` has the file `{folder}` and the file `{path}` below it: rename one of them"
            );
            return Err(Refusal::precondition("FILES_CONFLICT", message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn a_version_says_where_a_puller_finds_what_was_saved() {
        for (rendered, files, path) in [
            ("m-01.keras", &["m-01.keras"][..], "m-01.keras"),
            ("01/m.keras", &["01/m.keras", "notes"], "01/m.keras"),
            ("01/m.keras", &["m.keras"], "m.keras"),
            ("sm-01", &["sm-01/saved_model.pb", "sm-01/variables/v.index"], "sm-01"),
            ("sm-01", &["saved_model.pb", "variables/v.index"], ""),
            ("w-01", &["w-01.data-00000-of-00001", "w-01.index"], "w-01"),
            ("w-1", &["w-10.data", "w-10.index"], ""),
            ("sm-01", &["variables/v.index"], ""),
        ] {
            assert_eq!(place(rendered, files.iter().copied()), path, "{files:?}");
        }
    }
}
