//! Deleting runs, artifacts, projects and many versions: what it would take away is told first; then it goes, some at a time.
//!
//! A run or an artifact is marked, and from then on nothing comes into it. Its versions go in slices, each a transaction; without
//! them it gives its name back. What a call that was cut off left is finished by the collector.

mod versions;

use futures::StreamExt;

use crate::app::App;
use crate::app::Error;
use crate::app::collect::GcReport;
use crate::app::micros;
use crate::db::Db;
use crate::db::DeleteSlice;
use crate::db::Doomed;
use crate::db::Owner;
use crate::domain::alias::in_the_way;
use crate::domain::ids::ArtifactName;
use crate::domain::ids::Id;
use crate::domain::ids::ListParent;
use crate::domain::ids::ProjectName;
use crate::domain::ids::RunName;
use crate::domain::ids::TeamName;
use crate::domain::refusal::Kind;
use crate::domain::refusal::Refusal;

pub use versions::Selection;

/// Versions that are looked at together.
const PAGE: i64 = 1_000;
/// Runs and artifacts of a project that are looked up together.
const OWNERS: i64 = 50;
/// Versions that an answer names, and aliases that a refusal names.
const SAMPLE: usize = 100;
const NAMED_ALIASES: usize = 10;
/// Deletions that the store is told of at once.
const TOLD_AT_ONCE: usize = 8;
/// What is younger is left to the call that began it.
const UNDER_WAY: std::time::Duration = std::time::Duration::from_secs(60);

/// What a deletion takes away.
#[derive(Clone, Debug, Default)]
pub struct Deletion {
    pub run_count: i64,
    pub artifact_count: i64,
    pub version_count: i64,
    /// Of the runs.
    pub event_count: i64,
    /// Bytes of the versions, each counted whole.
    pub size_bytes: i64,
    /// Bytes that no version beside these has; none: too many to say.
    pub freed_bytes: Option<i64>,
    /// Versions that match and stay.
    pub kept_count: i64,
    /// The first of the versions.
    pub sample: Vec<(ArtifactName, i64)>,
    /// When the bytes go at the earliest, in microseconds since 1970.
    pub purge_time_us: i64,
}

/// How to delete.
#[derive(Clone, Copy, Debug, Default)]
pub struct How {
    /// Only say what would go.
    pub validate_only: bool,
    /// Although it is alive, or aliases of users point into it.
    pub force: bool,
}

/// Counts what would go.
#[derive(Debug, Default)]
struct Tally {
    deletion: Deletion,
    /// Of the versions, as long as there are few enough to look at their chunks.
    uids: Vec<String>,
    /// Aliases of users that stand in the way, the first of them.
    aliases: Vec<String>,
}

impl Tally {
    fn add(&mut self, version: &Doomed) {
        self.deletion.version_count += 1;
        self.deletion.size_bytes = self.deletion.size_bytes.saturating_add(version.size_bytes);
        if self.deletion.sample.len() < SAMPLE {
            self.deletion.sample.push((version.artifact.clone(), version.number));
        }
        if self.uids.len() <= Db::MOST_EXCLUSIVE {
            self.uids.push(version.uid.clone());
        }
    }

    fn check_aliases(&self, what: &str, name: &dyn std::fmt::Display) -> Result<(), Refusal> {
        match self.aliases.is_empty() {
            true => Ok(()),
            false => Err(in_the_way(what, name, self.aliases.join(", "))),
        }
    }
}

impl App {
    /// Deletes a run with its versions and its history.
    pub async fn delete_run(&self, name: &RunName, how: How) -> Result<Deletion, Error> {
        let run = self.db.run(name).await?;
        let mut tally = Tally::default();
        (tally.deletion.run_count, tally.deletion.event_count) = (1, run.event_count);
        if run.delete_time_us.is_none() {
            run.check_deletable(how.force, self.clock.now_us())?;
        }
        self.count(&Owner::Run(run.uid.clone()), how.force, &mut tally).await?;
        tally.check_aliases("run", name)?;
        let deletion = self.told(tally).await?;
        if !how.validate_only {
            let run = self.db.begin_run_deletion(name.clone(), how.force, self.clock.now_us()).await?;
            self.go_on_deleting(&Owner::Run(run.uid)).await?;
        }
        Ok(deletion)
    }

    /// Deletes an artifact with its versions. Its runs stay.
    pub async fn delete_artifact(&self, name: &ArtifactName, how: How) -> Result<Deletion, Error> {
        let mut tally = Tally::default();
        self.count_artifact(name, how.force, &mut tally).await?;
        tally.check_aliases("artifact", name)?;
        let deletion = self.told(tally).await?;
        if !how.validate_only {
            let now_us = self.clock.now_us();
            let uid = self.db.begin_artifact_deletion(name.clone(), how.force, now_us).await?;
            self.go_on_deleting(&Owner::Artifact(uid)).await?;
        }
        Ok(deletion)
    }

    /// Deletes all runs and artifacts that the project has now.
    pub async fn delete_project(&self, name: &ProjectName, how: How) -> Result<Deletion, Error> {
        let parent = ListParent { team: name.team.clone(), project: Some(name.project.clone()) };
        let (mut tally, now_us) = (Tally::default(), self.clock.now_us());
        let mut before = None;
        loop {
            let runs = self.db.list_runs(&parent, before, OWNERS).await?;
            let Some(last) = runs.last() else { break };
            before = Some((last.create_time_us, last.uid.clone()));
            for run in &runs {
                run.check_deletable(how.force, now_us)?;
                tally.deletion.run_count += 1;
                tally.deletion.event_count += run.event_count;
            }
        }
        for artifact in self.artifacts_of(&parent).await? {
            unless_gone(self.count_artifact(&artifact, how.force, &mut tally).await)?;
        }
        if tally.deletion.run_count + tally.deletion.artifact_count == 0 {
            return Err(Refusal::not_found("project", name).into());
        }
        tally.check_aliases("project", name)?;
        let deletion = self.told(tally).await?;
        if how.validate_only {
            return Ok(deletion);
        }
        // Each is checked anew, in its own transaction: one that has come to life meanwhile ends it here.
        let mut before = None;
        loop {
            let runs = self.db.list_runs(&parent, before, OWNERS).await?;
            let Some(last) = runs.last() else { break };
            before = Some((last.create_time_us, last.uid.clone()));
            for run in runs {
                let begun = self.db.begin_run_deletion(run.name, how.force, self.clock.now_us()).await;
                if let Some(run) = unless_gone(begun)? {
                    self.go_on_deleting(&Owner::Run(run.uid)).await?;
                }
            }
        }
        for artifact in self.artifacts_of(&parent).await? {
            let begun = self.db.begin_artifact_deletion(artifact, how.force, self.clock.now_us()).await;
            if let Some(uid) = unless_gone(begun)? {
                self.go_on_deleting(&Owner::Artifact(uid)).await?;
            }
        }
        Ok(deletion)
    }

    /// Projects of a team that have an artifact, behind the one that `after` names.
    pub async fn list_projects(&self, team: &TeamName, after: &str, limit: i64) -> Result<Vec<Id>, Error> {
        Ok(self.db.list_projects(team, after, limit).await?)
    }

    /// When the bytes of what is deleted now go at the earliest.
    pub(crate) fn purge_time_us(&self) -> i64 {
        self.clock.now_us().saturating_add(self.limits.graces.deleted_us)
    }

    async fn artifacts_of(&self, parent: &ListParent) -> Result<Vec<ArtifactName>, Error> {
        let (mut names, mut after) = (Vec::new(), None);
        loop {
            let artifacts = self.db.list_artifacts(parent, after, OWNERS).await?;
            let Some(last) = artifacts.last() else { return Ok(names) };
            after = Some((last.name.project.project.to_string(), last.name.artifact.to_string()));
            names.extend(artifacts.into_iter().map(|it| it.name));
        }
    }

    async fn count_artifact(&self, name: &ArtifactName, force: bool, tally: &mut Tally) -> Result<(), Error> {
        let (artifact, now_us) = (self.db.artifact(name).await?, self.clock.now_us());
        tally.deletion.artifact_count += 1;
        if !force && let Some(run) = self.db.live_run_of(&artifact.uid, now_us).await? {
            run.check_deletable(false, now_us)?;
        }
        self.count(&Owner::Artifact(artifact.uid), force, tally).await
    }

    /// Counts the versions of an owner, and notes the aliases that stand in the way.
    async fn count(&self, owner: &Owner, force: bool, tally: &mut Tally) -> Result<(), Error> {
        let (mut number, mut after) = (-1, String::new());
        loop {
            let page = self.db.versions_of(owner, (number, &after), PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            (number, after) = (last.number, last.uid.clone());
            page.iter().for_each(|it| tally.add(it));
            let left = NAMED_ALIASES.saturating_sub(tally.aliases.len());
            if !force && left > 0 {
                let uids: Vec<&str> = page.iter().map(|it| it.uid.as_str()).collect();
                tally.aliases.extend(self.db.user_aliases_of(&uids, left).await?);
            }
        }
    }

    /// The answer, with what the store gives back.
    async fn told(&self, tally: Tally) -> Result<Deletion, Error> {
        // To whoever may not read all of the team it would tell whether another project has the same bytes.
        if !self.reads_whole_teams() {
            return Ok(Deletion { freed_bytes: None, purge_time_us: self.purge_time_us(), ..tally.deletion });
        }
        let freed_bytes = match self.db.exclusive_bytes(&tally.uids).await {
            // It is told for people. That it takes too long to find out is no reason not to delete.
            Err(crate::db::Error::Refused(refusal)) if refusal.reason == "QUERY_TIMEOUT" => None,
            freed => freed?,
        };
        Ok(Deletion { freed_bytes, purge_time_us: self.purge_time_us(), ..tally.deletion })
    }

    /// Deletes the versions that a marked run or artifact has, and gives its name back.
    async fn go_on_deleting(&self, owner: &Owner) -> Result<(), Error> {
        if let Owner::Artifact(uid) = owner {
            self.db.fence_runs_of(uid, self.clock.now_us()).await?;
        }
        loop {
            let page = self.db.versions_of(owner, (-1, ""), Db::SLICE).await?;
            let Some(first) = page.first() else {
                if self.db.finish_deletion(owner.clone()).await? {
                    return Ok(());
                }
                continue;
            };
            let artifact_uid = first.artifact_uid.clone();
            let uids = page.into_iter().filter(|it| it.artifact_uid == artifact_uid).map(|it| it.uid);
            let slice = DeleteSlice {
                uids: uids.collect(),
                artifact_uid,
                delete_aliases: true,
                delete_best: true,
                now_us: self.clock.now_us(),
            };
            self.delete_slice(slice).await?;
        }
    }

    /// Answers how many of the versions stay because of an alias.
    async fn delete_slice(&self, slice: DeleteSlice) -> Result<i64, Error> {
        let done = self.db.delete_slice(slice).await?;
        let told = futures::stream::iter(done.deleted).map(|(uid, _)| {
            let app = self.clone();
            async move { app.tell_deletion(&uid).await }
        });
        told.buffer_unordered(TOLD_AT_ONCE).for_each(|()| async {}).await;
        Ok(done.kept)
    }

    /// Finishes deletions that were cut off, and removes what is left of runs and artifacts that are gone, after the grace.
    pub(super) async fn finish_deletions(
        &self,
        now_us: i64,
        grace_us: i64,
        report: &mut GcReport,
    ) -> Result<(), Error> {
        let (under_way_us, mut left) = (now_us.saturating_sub(micros(UNDER_WAY)), 0);
        let until_us = under_way_us.max(now_us.saturating_sub(grace_us));
        loop {
            let runs = self.db.marked_runs(until_us, left).await?;
            if runs.is_empty() {
                break;
            }
            for run in runs {
                let deleted = match run.is_gone {
                    true => Ok(()),
                    false => self.go_on_deleting(&Owner::Run(run.uid.clone())).await,
                };
                if !report.is_done(deleted, &format!("deleted run `{}`", run.uid))? {
                    left += 1;
                    continue;
                }
                if run.delete_time_us.saturating_add(grace_us) > now_us {
                    left += 1;
                    continue;
                }
                while !self.db.purge_run_page(run.uid.clone(), now_us).await? {}
                report.removed_runs += 1;
            }
        }
        left = 0;
        loop {
            let artifacts = self.db.marked_artifacts(until_us, left).await?;
            if artifacts.is_empty() {
                return Ok(());
            }
            for artifact in artifacts {
                let deleted = match artifact.is_gone {
                    true => Ok(()),
                    false => self.go_on_deleting(&Owner::Artifact(artifact.uid.clone())).await,
                };
                if !report.is_done(deleted, &format!("deleted artifact `{}`", artifact.uid))? {
                    left += 1;
                    continue;
                }
                if artifact.delete_time_us.saturating_add(grace_us) > now_us {
                    left += 1;
                    continue;
                }
                self.db.artifact_purged(artifact.uid, now_us).await?;
            }
        }
    }
}

/// What was found; none: another call deleted it meanwhile.
fn unless_gone<T, E: Into<Error>>(found: Result<T, E>) -> Result<Option<T>, Error> {
    match found.map_err(Into::into) {
        Ok(found) => Ok(Some(found)),
        Err(Error::Refused(refusal)) if refusal.kind == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
