//! Find, list, name and delete versions.

use crate::app::App;
use crate::app::Error;
use crate::db::AliasRow;
use crate::db::ArtifactRow;
use crate::db::BestQuery;
use crate::db::BestScope;
use crate::db::DeletedVersion;
use crate::db::Expected;
use crate::db::VersionPage;
use crate::db::VersionQuery;
use crate::db::VersionRow;
use crate::domain::alias;
use crate::domain::alias::VersionRef;
use crate::domain::file::StoredFile;
use crate::domain::filter::Place;
use crate::domain::filter::parse_filter;
use crate::domain::filter::parse_order;
use crate::domain::ids::ArtifactName;
use crate::domain::ids::BestParent;
use crate::domain::ids::FilesParent;
use crate::domain::ids::Id;
use crate::domain::ids::ListParent;
use crate::domain::ids::VersionName;
use crate::domain::ids::shown;
use crate::domain::metric::Direction;
use crate::domain::refusal::Refusal;

impl App {
    /// The best version in a run, an artifact, a project or a team.
    pub async fn best_version(
        &self,
        parent: &BestParent,
        metric: Option<String>,
        direction: Option<Direction>,
    ) -> Result<VersionRow, Error> {
        let (scope, monitor, name) = self.best_scope(parent).await?;
        let (metric, direction) = which_metric(&name, monitor, metric, direction)?;
        let query = BestQuery { scope, metric, direction };
        // Postgres takes no text with a zero byte, and no metric has one.
        let found = match query.metric.contains('\0') {
            true => None,
            false => self.db.best_version(&query).await?,
        };
        match found {
            Some(version) => Ok(version),
            None => {
                let message =
                    format!("no committed version in `{name}` has a number as `{}`", shown(&query.metric));
                let message = self.with_near_metric(&query.scope, &query.metric, message).await?;
                Err(Refusal { message, ..Refusal::not_found("version", &name) }.into())
            }
        }
    }

    /// The indexed scope, the monitor that it follows if that is clear, and its name.
    async fn best_scope(
        &self,
        parent: &BestParent,
    ) -> Result<(BestScope, Option<(String, Direction)>, String), Error> {
        Ok(match parent {
            BestParent::Run(name) => {
                let run = self.db.run(name).await?;
                (BestScope::Run(run.uid), Some((run.strategy.monitor, run.direction)), name.to_string())
            }
            BestParent::Artifact(name) => {
                let artifact = self.db.artifact(name).await?;
                (
                    BestScope::Artifact(artifact.uid),
                    Some((artifact.monitor, artifact.direction)),
                    name.to_string(),
                )
            }
            BestParent::Project(name) => {
                let list = ListParent { team: name.team.clone(), project: Some(name.project.clone()) };
                let monitor = only("project", name, self.db.monitors(&list).await?)?;
                (BestScope::Project(name.team.clone(), name.project.clone()), monitor, name.to_string())
            }
            BestParent::Team(name) => {
                let list = ListParent { team: name.team.clone(), project: None };
                let monitor = only("team", name, self.db.monitors(&list).await?)?;
                (BestScope::Team(name.team.clone()), monitor, name.to_string())
            }
        })
    }

    /// A version by its number or an alias.
    pub async fn version(&self, name: &VersionName) -> Result<VersionRow, Error> {
        Ok(self.db.version(&name.artifact, &VersionRef::of(&name.version)).await?)
    }

    /// The id of the checkpoint whose files are meant.
    pub async fn checkpoint_of(&self, parent: &FilesParent) -> Result<Id, Error> {
        match parent {
            FilesParent::Version(name) => Ok(self.version(name).await?.checkpoint.checkpoint),
            FilesParent::Checkpoint(name) => {
                self.db.checkpoint(name).await?;
                Ok(name.checkpoint.clone())
            }
        }
    }

    /// Files of a checkpoint by path, behind the one that `after` names.
    pub async fn list_files(
        &self,
        checkpoint: &Id,
        after: &str,
        limit: i64,
    ) -> Result<Vec<StoredFile>, Error> {
        Ok(self.db.list_files(checkpoint.as_str(), after, limit).await?)
    }

    /// Versions of an artifact by filter and order, behind a place.
    pub async fn list_versions(
        &self,
        artifact: &ArtifactName,
        filter: &str,
        order_by: &str,
        after: Option<Place>,
        limit: i64,
    ) -> Result<VersionPage, Error> {
        let (terms, order) = (parse_filter(filter)?, parse_order(order_by)?);
        let artifact_uid = self.db.artifact(artifact).await?.uid;
        Ok(self.db.list_versions(&VersionQuery { artifact_uid, terms, order, after, limit }).await?)
    }

    pub async fn artifact(&self, name: &ArtifactName) -> Result<ArtifactRow, Error> {
        Ok(self.db.artifact(name).await?)
    }

    /// Aliases of an artifact by name, behind the one that `after` names.
    pub async fn list_aliases(
        &self,
        artifact: &ArtifactRow,
        after: &str,
        limit: i64,
    ) -> Result<Vec<AliasRow>, Error> {
        Ok(self.db.list_aliases(&artifact.uid, after, limit).await?)
    }

    /// Artifacts by project and id.
    pub async fn list_artifacts(
        &self,
        parent: &ListParent,
        after: Option<(String, String)>,
        limit: i64,
    ) -> Result<Vec<ArtifactRow>, Error> {
        Ok(self.db.list_artifacts(parent, after, limit).await?)
    }

    /// Makes or moves an alias; `version` is `vN` or another alias, `expected` is empty, `none` or `vN`.
    pub async fn set_alias(
        &self,
        artifact: &ArtifactName,
        alias: &str,
        version: &str,
        expected: &str,
    ) -> Result<VersionRow, Error> {
        let alias = alias::check(alias)?;
        let expected = parse_expected(expected)?;
        let target = VersionName { artifact: artifact.clone(), version: Id::parse("version", version)? };
        let artifact_uid = self.db.artifact(artifact).await?.uid;
        let number = self.version(&target).await?.number;
        self.db.set_alias(artifact_uid, alias, number, expected, self.clock.now_us()).await?;
        Ok(self.db.version(artifact, &VersionRef::Number(number)).await?)
    }

    /// Removes an alias of a user's.
    pub async fn delete_alias(
        &self,
        artifact: &ArtifactName,
        alias: &str,
        expected: &str,
    ) -> Result<(), Error> {
        let (alias, expected) = (alias::check(alias)?, parse_expected(expected)?);
        let artifact_uid = self.db.artifact(artifact).await?.uid;
        match self.db.delete_alias(artifact_uid, alias.clone(), expected).await? {
            true => Ok(()),
            false => Err(Refusal::not_found("alias", format!("{artifact}/versions/{alias}")).into()),
        }
    }

    /// Deletes a version. Repeated: the same answer.
    pub async fn delete_version(
        &self,
        name: &VersionName,
        delete_aliases: bool,
    ) -> Result<DeletedVersion, Error> {
        let VersionRef::Number(number) = VersionRef::of(&name.version) else {
            return Err(named_by_alias(name).into());
        };
        let artifact = self.db.artifact(&name.artifact).await?;
        let now_us = self.clock.now_us();
        let deleted = self.db.delete_version(artifact, number, delete_aliases, now_us).await?;
        self.tell_deletion(&deleted.uid).await;
        Ok(deleted)
    }
}

/// Who deletes says the number: an alias may have moved.
pub(super) fn named_by_alias(name: &VersionName) -> Refusal {
    let message = format!("version `{name}` is named by an alias: name the one to delete as vN");
    Refusal::invalid("BAD_NAME", message)
}

/// The monitor that all artifacts share; a place without artifacts does not exist.
fn only(
    what: &str,
    name: impl std::fmt::Display,
    mut monitors: Vec<(String, Direction)>,
) -> Result<Option<(String, Direction)>, Refusal> {
    match monitors.len() {
        0 => Err(Refusal::not_found(what, name)),
        1 => Ok(monitors.pop()),
        _ => Ok(None),
    }
}

fn which_metric(
    name: &str,
    monitor: Option<(String, Direction)>,
    metric: Option<String>,
    direction: Option<Direction>,
) -> Result<(String, Direction), Refusal> {
    match (metric, monitor, direction) {
        (Some(metric), _, Some(direction)) => Ok((metric, direction)),
        (Some(metric), Some(monitor), None) if monitor.0 == metric => Ok(monitor),
        (None, Some((metric, own)), direction) => Ok((metric, direction.unwrap_or(own))),
        (Some(metric), _, None) => Err(Refusal::invalid(
            "METRIC_REQUIRED",
            format!("`{}` is not the monitor of `{name}`, so pass the mode: MIN or MAX", shown(&metric)),
        )),
        (None, None, _) => Err(Refusal::invalid(
            "METRIC_REQUIRED",
            format!("artifacts in `{name}` follow different metrics: pass metric and mode"),
        )),
    }
}

fn parse_expected(text: &str) -> Result<Expected, Refusal> {
    if text.is_empty() {
        return Ok(Expected::Anything);
    }
    if text == "none" {
        return Ok(Expected::Nothing);
    }
    match Id::parse("version", text).map(|id| VersionRef::of(&id)) {
        Ok(VersionRef::Number(number)) => Ok(Expected::Version(number)),
        _ => {
            let message = format!("expected_version `{}` is neither empty, `none` nor vN", shown(text));
            Err(Refusal::invalid("BAD_NAME", message))
        }
    }
}
