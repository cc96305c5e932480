//! The commit: a pending checkpoint becomes the next version of its artifact; those of many calls in one transaction.
//!
//! The files are read before, by whoever commits: there may be a hundred thousand. A complete file never changes, so it is
//! enough that the checkpoint has as many now as it had then.

use std::collections::BTreeMap;
use std::collections::HashMap;

use crate::db::Db;
use crate::db::Error;
use crate::db::checkpoints::take_checkpoints;
use crate::db::connection::args;
use crate::db::feed;
use crate::db::feed::NewVersion;
use crate::db::from_json;
use crate::db::job::Outcome;
use crate::db::job::Turn;
use crate::db::job::Unfit;
use crate::db::job::Write;
use crate::db::job::lane;
use crate::db::metrics;
use crate::db::runs::save_progress;
use crate::db::runs::take_runs;
use crate::db::tx::Tx;
use crate::domain::alias;
use crate::domain::checkpoint::Checkpoint;
use crate::domain::checkpoint::CheckpointState;
use crate::domain::checkpoint::Contents;
use crate::domain::ids::CheckpointName;
use crate::domain::ids::RunName;
use crate::domain::metric::Metrics;
use crate::domain::refusal::Refusal;
use crate::domain::run::Run;
use crate::failpoint::failpoint;

#[derive(Clone, Debug)]
pub struct Commit {
    pub name: CheckpointName,
    pub attempt: i64,
    /// Its artifact, by uid.
    pub artifact_uid: String,
    /// Its files, as they were read before, or why they cannot be committed.
    pub contents: Result<Contents, Refusal>,
    /// How many files there must be.
    pub file_count: Option<i64>,
    /// Free JSON of the version.
    pub metadata: Option<String>,
    /// Now, in microseconds since 1970.
    pub now_us: i64,
}

/// What a commit came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// It is a version.
    Version(Published),
    /// Files were declared since they were read: they are to be read again.
    FilesChanged,
}

/// A checkpoint that is a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    pub uid: String,
    /// Whether this call made it one, and not an earlier one.
    pub is_new: bool,
}

impl Db {
    /// Publishes a checkpoint as the next version: number, aliases, metrics and monitor state in one transaction. Repeated: the
    /// same.
    pub async fn commit(&self, commit: Commit) -> Result<Committed, Error> {
        let committed = self.change(commit).await?;
        failpoint!("commit.committed");
        Ok(committed)
    }
}

impl Write for Commit {
    type Answer = Committed;

    fn turn(&self) -> Turn {
        // Versions of one artifact are numbered one after the other.
        let turn = Turn::of(&self.name.run, 12);
        Turn { lanes: [turn.lanes[0], Some(lane(&self.artifact_uid))], ..turn }
    }

    fn count(&self, committed: &Committed, metrics: &metrics::Metrics) {
        if let Committed::Version(Published { is_new: true, .. }) = committed {
            metrics.committed();
        }
    }

    async fn run(set: &[&Self], tx: &mut Tx<'_>) -> Result<Vec<Outcome<Committed>>, Error> {
        failpoint!("commit.begun");
        let mut runs = take_runs(tx, set.iter().map(|it| &it.name.run)).await?;
        let taken = take_checkpoints(tx, set.iter().map(|it| &it.name)).await?;
        failpoint!("commit.locked");
        let is_lone = set.len() == 1;
        let standing = |commit: &Commit, runs: &HashMap<RunName, Run>| {
            let Some((checkpoint, _)) =
                taken.get(&commit.name).filter(|_| runs.contains_key(&commit.name.run))
            else {
                return Err(Unfit::not_found(is_lone, "checkpoint", &commit.name));
            };
            commit.check(checkpoint, &runs[&commit.name.run])
        };
        let standings: Vec<_> = set.iter().map(|commit| standing(commit, &runs)).collect();
        let publishing = set.iter().zip(&standings).filter(|(_, it)| matches!(it, Ok(Some(_))));
        let uids = publishing.filter_map(|(commit, _)| Some(taken.get(&commit.name)?.0.artifact_uid.clone()));
        let mut artifacts = Artifacts::take(tx, uids.collect()).await?;
        let mut publications = Vec::new();
        let mut outcomes = Vec::with_capacity(set.len());
        let mut published = std::collections::HashSet::new();
        for (commit, standing) in set.iter().zip(standings) {
            let uid = commit.name.checkpoint.as_str().to_owned();
            let contents = match standing {
                Ok(Some(contents)) => contents,
                Ok(None) => {
                    outcomes.push(Outcome::Done(Committed::Version(Published { uid, is_new: false })));
                    continue;
                }
                Err(unfit) => {
                    outcomes.push(unfit.into());
                    continue;
                }
            };
            let (Some((checkpoint, _)), Some(run)) =
                (taken.get(&commit.name), runs.get_mut(&commit.name.run))
            else {
                outcomes.push(Outcome::Later);
                continue;
            };
            if checkpoint.file_count != contents.file_count {
                outcomes.push(Outcome::Done(Committed::FilesChanged));
                continue;
            }
            // The same commit twice in a set, or an artifact that another process has.
            if !artifacts.has(&checkpoint.artifact_uid) || !published.insert(uid.clone()) {
                outcomes.push(Outcome::Later);
                continue;
            }
            if let Err(refusal) = artifacts.check_takes(&commit.name, &checkpoint.artifact_uid) {
                published.remove(&uid);
                outcomes.push(Outcome::Refused(refusal.into()));
                continue;
            }
            let (metadata, now_us) = (commit.metadata.clone(), commit.now_us);
            publications.push(artifacts.publish(run, checkpoint.clone(), contents, metadata, now_us));
            outcomes.push(Outcome::Done(Committed::Version(Published { uid, is_new: true })));
        }
        failpoint!("commit.numbered");
        write(tx, publications, artifacts, &runs).await?;
        Ok(outcomes)
    }
}

impl Commit {
    /// What is to be published; none: it was before.
    fn check(&self, checkpoint: &Checkpoint, run: &Run) -> Result<Option<Contents>, Unfit> {
        let name = &self.name;
        checkpoint.check_part_count(name, None)?;
        if checkpoint.state == CheckpointState::Committed {
            checkpoint.check_repeated(name, self.file_count, self.metadata.as_deref())?;
            return Ok(None);
        }
        checkpoint.check_newest(name, self.attempt, run.attempt)?;
        checkpoint.check_pending(name)?;
        Ok(self.contents.clone().map(Some)?)
    }
}

/// A checkpoint that becomes a version.
pub(super) struct Publication {
    run: Run,
    checkpoint: Checkpoint,
    contents: Contents,
    metadata: Option<String>,
    number: i64,
    commit_time_us: i64,
    now_us: i64,
    is_best: bool,
    ranked_metrics: Vec<(String, f64)>,
}

/// Artifacts whose rows a transaction has taken, as it leaves them so far.
pub(super) struct Artifacts(HashMap<String, Artifact>);

struct Artifact {
    next_version: i64,
    /// When the version before was committed.
    before_us: Option<i64>,
    /// Metrics of the version that `best` points at.
    best: Option<Metrics>,
    is_deleted: bool,
}

impl Artifacts {
    pub(super) async fn take(tx: &mut Tx<'_>, uids: Vec<String>) -> Result<Artifacts, Error> {
        let sql = "WITH {v: uid text} SELECT a.uid, a.next_version, a.delete_time_us FROM v CROSS JOIN artifacts a \
            WHERE a.uid = v.uid ORDER BY a.uid {take a}";
        let uids: std::collections::BTreeSet<String> = uids.into_iter().collect();
        let mut artifacts = HashMap::new();
        for row in tx.rows_of(sql, uids.into_iter().map(|uid| args![uid]).collect()).await? {
            let is_deleted = row.int_or_null(2)?.is_some();
            let artifact = Artifact { next_version: row.int(1)?, before_us: None, best: None, is_deleted };
            artifacts.insert(row.text(0)?, artifact);
        }
        // Only now: what another process changed before it let the rows go must be seen.
        let sql = "WITH {v: uid text, version bigint} SELECT v.uid, p.commit_time_us, b.metrics FROM v \
            LEFT JOIN checkpoints p ON p.artifact_uid = v.uid AND p.version = v.version \
            LEFT JOIN aliases l ON l.artifact_uid = v.uid AND l.alias = 'best' \
            LEFT JOIN checkpoints b ON b.uid = l.checkpoint_uid";
        let set = artifacts.iter().map(|(uid, it)| args![uid, it.next_version - 1]).collect();
        for row in tx.rows_of(sql, set).await? {
            let Some(artifact) = artifacts.get_mut(&row.text(0)?) else { continue };
            artifact.before_us = row.int_or_null(1)?;
            artifact.best = row.text_or_null(2)?.map(|it| from_json("metrics", &it)).transpose()?;
        }
        Ok(Artifacts(artifacts))
    }

    pub(super) fn has(&self, uid: &str) -> bool {
        self.0.contains_key(uid)
    }

    /// Refuses a version for an artifact that is being deleted, or is gone.
    pub(super) fn check_takes(&self, name: &CheckpointName, uid: &str) -> Result<(), Refusal> {
        match self.0.get(uid).is_some_and(|it| it.is_deleted) {
            true => Err(Refusal::precondition(
                "CHECKPOINT_DELETED",
                format!(
                    "the artifact of checkpoint `{name}` was deleted: report the event anew in a new attempt"
                ),
            )),
            false => Ok(()),
        }
    }

    /// Gives the checkpoint the next number of its artifact, and changes the run.
    pub(super) fn publish(
        &mut self,
        run: &mut Run,
        checkpoint: Checkpoint,
        contents: Contents,
        metadata: Option<String>,
        now_us: i64,
    ) -> Publication {
        let fresh = || Artifact { next_version: 0, before_us: None, best: None, is_deleted: false };
        let artifact = self.0.entry(checkpoint.artifact_uid.clone()).or_insert_with(fresh);
        // Now, but after the version before: replicas' clocks differ, and of equal values the one that was committed first is
        // best.
        let commit_time_us = artifact.before_us.map_or(now_us, |it| now_us.max(it.saturating_add(1)));
        let plan = checkpoint.plan_commit(run, artifact.best.as_ref());
        if plan.is_best {
            artifact.best = Some(checkpoint.metrics.clone());
        }
        let number = artifact.next_version;
        artifact.next_version += 1;
        artifact.before_us = Some(commit_time_us);
        run.update_time_us = now_us;
        Publication {
            run: run.clone(),
            checkpoint,
            contents,
            metadata,
            number,
            commit_time_us,
            now_us,
            is_best: plan.is_best,
            ranked_metrics: plan.ranked_metrics,
        }
    }
}

/// Writes what is published, with its artifacts and runs.
pub(super) async fn write(
    tx: &mut Tx<'_>,
    publications: Vec<Publication>,
    artifacts: Artifacts,
    runs: &HashMap<RunName, Run>,
) -> Result<(), Error> {
    if publications.is_empty() {
        return Ok(());
    }
    let sql = "WITH {v: uid text, version bigint, size_bytes bigint, file_count bigint, digest bytes, metadata text, \
        commit_time_us bigint, path text} UPDATE checkpoints SET state = 'COMMITTED', version = v.version, \
        size_bytes = v.size_bytes, file_count = v.file_count, digest = v.digest, metadata = COALESCE(v.metadata, checkpoints.metadata), \
        commit_time_us = v.commit_time_us, path = v.path FROM v WHERE checkpoints.uid = v.uid";
    let row = |it: &Publication| {
        let Contents { path, file_count, size_bytes, digest } = it.contents.clone();
        let (uid, metadata) = (&it.checkpoint.uid, it.metadata.clone());
        args![uid, it.number, size_bytes, file_count, digest, metadata, it.commit_time_us, path]
    };
    tx.execute_of(sql, publications.iter().map(row).collect()).await?;
    insert_metrics(tx, &publications).await?;
    put_aliases(tx, &publications).await?;
    let of_feed = publications.iter().map(|it| NewVersion {
        checkpoint_uid: &it.checkpoint.uid,
        team: it.run.name.project.team.as_str(),
        project: it.run.name.project.project.as_str(),
        artifact_uid: &it.checkpoint.artifact_uid,
        run_uid: &it.run.uid,
        is_best: it.is_best,
        commit_time_us: it.commit_time_us,
    });
    feed::append(tx, &of_feed.collect::<Vec<_>>()).await?;
    let sql = "WITH {v: uid text, next_version bigint} UPDATE artifacts SET next_version = v.next_version FROM v \
        WHERE artifacts.uid = v.uid";
    tx.execute_of(sql, artifacts.0.iter().map(|(uid, it)| args![uid, it.next_version]).collect()).await?;
    failpoint!("commit.published");
    let moved: std::collections::HashSet<&str> = publications.iter().map(|it| it.run.uid.as_str()).collect();
    save_progress(tx, runs.values().filter(|run| moved.contains(run.uid.as_str()))).await?;
    failpoint!("commit.written");
    Ok(())
}

async fn insert_metrics(tx: &mut Tx<'_>, publications: &[Publication]) -> Result<(), Error> {
    let sql = "WITH {v: checkpoint_uid text, name text, value real, commit_time_us bigint, run_uid text, \
        artifact_uid text, team text, project text} INSERT INTO version_metrics (checkpoint_uid, name, value, \
        commit_time_us, run_uid, artifact_uid, team, project) SELECT * FROM v";
    let rows = publications.iter().flat_map(|it| {
        let (project, Checkpoint { uid, artifact_uid, .. }) = (&it.run.name.project, &it.checkpoint);
        it.ranked_metrics.iter().map(move |(name, value)| {
            let (team, project) = (project.team.as_str(), project.project.as_str());
            args![uid, name, *value, it.commit_time_us, &it.run.uid, artifact_uid, team, project]
        })
    });
    tx.execute_of(sql, rows.collect()).await.map(drop)
}

/// Makes or moves the server's aliases: `latest`, `best`, and what each decision named.
async fn put_aliases(tx: &mut Tx<'_>, publications: &[Publication]) -> Result<(), Error> {
    let sql = "WITH {v: artifact_uid text, alias text, checkpoint_uid text, owner text, update_time_us bigint} \
        INSERT INTO aliases (artifact_uid, alias, checkpoint_uid, owner, update_time_us) SELECT * FROM v WHERE TRUE \
        ON CONFLICT (artifact_uid, alias) DO UPDATE SET checkpoint_uid = excluded.checkpoint_uid, \
        update_time_us = excluded.update_time_us";
    // Of several in a set the last one has the name.
    let mut rows = BTreeMap::new();
    for it in publications {
        let servers = [Some(alias::LATEST), it.is_best.then_some(alias::BEST)].into_iter().flatten();
        for alias in servers.chain(it.checkpoint.aliases.iter().map(String::as_str)) {
            let Checkpoint { uid, artifact_uid, .. } = &it.checkpoint;
            rows.insert((artifact_uid, alias), args![artifact_uid, alias, uid, "server", it.now_us]);
        }
    }
    tx.execute_of(sql, rows.into_values().collect()).await.map(drop)
}
