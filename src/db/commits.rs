//! The commit: a pending checkpoint becomes the next version of its artifact, in one transaction.

use crate::db::Db;
use crate::db::Error;
use crate::db::aliases::put_server_alias;
use crate::db::checkpoints::CheckpointRow;
use crate::db::checkpoints::CheckpointState;
use crate::db::checkpoints::check_newest;
use crate::db::checkpoints::check_pending;
use crate::db::checkpoints::read;
use crate::db::connection::Connection;
use crate::db::connection::args;
use crate::db::files::FileRow;
use crate::db::files::files_of;
use crate::db::from_json;
use crate::db::parts::check_part_count;
use crate::db::runs::RunRow;
use crate::db::runs::lock_run;
use crate::db::runs::save_monitor_state;
use crate::domain::alias;
use crate::domain::digest::Digest;
use crate::domain::ids::CheckpointName;
use crate::domain::metric::Metrics;
use crate::domain::monitor::MonitorState;
use crate::domain::refusal::Refusal;
use crate::failpoint::failpoint;

/// What a commit changes beside the checkpoint itself; decided by the caller's rule.
#[derive(Clone, Debug)]
pub struct CommitPlan {
    /// The run's monitor state after the commit.
    pub state: MonitorState,
    /// Whether `best` moves to this version.
    pub is_best: bool,
    /// The numbers that best queries may ask for.
    pub ranked_metrics: Vec<(String, f64)>,
}

/// The rule: the run, the checkpoint, and the metrics of the version that is best now.
pub type PlanCommit = fn(&RunRow, &CheckpointRow, Option<&Metrics>) -> CommitPlan;

/// What commits a checkpoint.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Which.
    pub name: CheckpointName,
    /// The attempt that commits.
    pub attempt: i64,
    /// How many files there must be.
    pub file_count: Option<i64>,
    /// Free JSON on the version.
    pub metadata: Option<String>,
    /// Now.
    pub now_us: i64,
}

impl Db {
    /// Publishes a checkpoint as the next version: number, aliases, metrics and monitor state in one transaction. Answers
    /// its uid. Repeated: the same.
    pub async fn commit(&self, commit: Commit, plan: PlanCommit) -> Result<String, Error> {
        let run = commit.name.run.clone();
        let uid = self.write_of(&run, move |connection| Box::pin(publish(connection, commit, plan))).await?;
        failpoint!("commit.committed");
        Ok(uid)
    }
}

async fn publish(connection: &mut Connection<'_>, commit: Commit, plan: PlanCommit) -> Result<String, Error> {
    failpoint!("commit.begun");
    let name = &commit.name;
    let Some(run) = lock_run(connection, &name.run).await? else {
        return Err(Refusal::not_found("checkpoint", name).into());
    };
    failpoint!("commit.locked");
    let checkpoint = read(connection, name).await?;
    check_part_count(name, &checkpoint, None)?;
    if checkpoint.state == CheckpointState::Committed {
        return Ok(checkpoint.uid);
    }
    check_newest(name, &checkpoint, commit.attempt, run.attempt)?;
    check_pending(name, checkpoint.state)?;
    publish_pending(connection, &run, checkpoint, commit, plan).await
}

/// Publishes a checkpoint that may be: the run's row is locked, the attempt is the newest, the checkpoint pending.
pub(super) async fn publish_pending(
    connection: &mut Connection<'_>,
    run: &RunRow,
    checkpoint: CheckpointRow,
    commit: Commit,
    plan: PlanCommit,
) -> Result<String, Error> {
    // Writers of files take this row too, so no file changes from here on.
    connection
        .execute(
            "UPDATE checkpoints SET expire_time_us = expire_time_us WHERE uid = $1",
            args![&checkpoint.uid],
        )
        .await?;
    let files = files_of(connection, &checkpoint.uid).await?;
    let (size_bytes, digest) = check_files(&commit, &files)?;

    let number =
        "UPDATE artifacts SET next_version = next_version + 1 WHERE uid = $1 RETURNING next_version - 1";
    let number = connection.row(number, args![&checkpoint.artifact_uid]).await?;
    let number =
        number.map_or(Err(Error::unreadable("artifact", &checkpoint.artifact_uid)), |row| row.int(0))?;
    failpoint!("commit.numbered");
    let commit_time_us = commit_time_us(connection, &checkpoint.artifact_uid, number, commit.now_us).await?;
    let best = best_metrics(connection, &checkpoint.artifact_uid).await?;
    let plan = plan(run, &checkpoint, best.as_ref());

    let sql = "UPDATE checkpoints SET state = 'COMMITTED', version = $1, size_bytes = $2, file_count = $3, digest = $4, \
        metadata = COALESCE($5, metadata), commit_time_us = $6 WHERE uid = $7";
    let file_count = i64::try_from(files.len()).unwrap_or(i64::MAX);
    let values = args![
        number,
        size_bytes,
        file_count,
        digest,
        commit.metadata.clone(),
        commit_time_us,
        &checkpoint.uid
    ];
    connection.execute(sql, values).await?;
    insert_metrics(connection, run, &checkpoint, &plan, commit_time_us).await?;
    let servers = [Some(alias::LATEST), plan.is_best.then_some(alias::BEST)].into_iter().flatten();
    for alias in servers.chain(checkpoint.aliases.iter().map(String::as_str)) {
        put_server_alias(connection, &checkpoint.artifact_uid, alias, &checkpoint.uid, commit.now_us).await?;
    }
    failpoint!("commit.published");
    save_monitor_state(connection, &run.uid, &plan.state, commit.now_us).await?;
    failpoint!("commit.written");
    Ok(checkpoint.uid)
}

fn check_files(commit: &Commit, files: &[FileRow]) -> Result<(i64, Digest), Refusal> {
    let name = &commit.name;
    if files.is_empty() {
        let message = format!("checkpoint `{name}` has no file: write at least one before the commit");
        return Err(Refusal::precondition("NO_FILES", message));
    }
    let open: Vec<&str> = files.iter().filter(|it| it.digest.is_none()).map(|it| it.path.as_str()).collect();
    if !open.is_empty() {
        let message = format!(
            "checkpoint `{name}` has {} file(s) that are not complete, `{}` among them: write them to the end with `finish`",
            open.len(),
            open.first().unwrap_or(&"")
        );
        return Err(Refusal::precondition("FILES_INCOMPLETE", message).with("files", open.len()));
    }
    if let Some(expected) = commit.file_count.filter(|it| usize::try_from(*it) != Ok(files.len())) {
        let message =
            format!("checkpoint `{name}` has {} file(s), but {expected} were to be committed", files.len());
        return Err(Refusal::precondition("FILES_INCOMPLETE", message).with("files", files.len()));
    }
    check_folders(name, files)?;
    let size_bytes = files.iter().fold(0_i64, |sum, file| sum.saturating_add(file.size_bytes));
    let parts = files.iter().filter_map(|file| {
        Some((file.path.as_str(), u64::try_from(file.size_bytes).unwrap_or(0), file.digest?))
    });
    Ok((size_bytes, Digest::of_version(parts)))
}

/// Refuses files that cannot stand beside each other on a disk: one may not be the folder of another.
fn check_folders(name: &CheckpointName, files: &[FileRow]) -> Result<(), Refusal> {
    let paths: std::collections::HashSet<&str> = files.iter().map(|it| it.path.as_str()).collect();
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

/// Now, but after the version before: replicas' clocks differ, and of equal values the one that was committed first is best.
async fn commit_time_us(
    connection: &mut Connection<'_>,
    artifact_uid: &str,
    number: i64,
    now_us: i64,
) -> Result<i64, Error> {
    let sql = "SELECT commit_time_us FROM checkpoints WHERE artifact_uid = $1 AND version = $2";
    let before = connection.row(sql, args![artifact_uid, number - 1]).await?;
    before.map_or(Ok(now_us), |row| Ok(now_us.max(row.int(0)?.saturating_add(1))))
}

/// Metrics of the version that `best` points at.
async fn best_metrics(connection: &mut Connection<'_>, artifact_uid: &str) -> Result<Option<Metrics>, Error> {
    let sql = "SELECT c.metrics FROM aliases a JOIN checkpoints c ON c.uid = a.checkpoint_uid \
        WHERE a.artifact_uid = $1 AND a.alias = $2";
    let row = connection.row(sql, args![artifact_uid, alias::BEST]).await?;
    row.map(|row| from_json("metrics", &row.text(0)?)).transpose()
}

async fn insert_metrics(
    connection: &mut Connection<'_>,
    run: &RunRow,
    checkpoint: &CheckpointRow,
    plan: &CommitPlan,
    now_us: i64,
) -> Result<(), Error> {
    let sql = "INSERT INTO version_metrics (checkpoint_uid, name, value, commit_time_us, run_uid, artifact_uid, team, \
        project) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    let project = &run.name.project;
    for (name, value) in &plan.ranked_metrics {
        let values = args![
            &checkpoint.uid,
            name,
            *value,
            now_us,
            &run.uid,
            &checkpoint.artifact_uid,
            project.team.as_str(),
            project.project.as_str(),
        ];
        connection.execute(sql, values).await?;
    }
    Ok(())
}
