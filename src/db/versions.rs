//! Versions and artifacts: find and list.

use crate::db::Db;
use crate::db::Error;
use crate::db::connection::Row;
use crate::db::connection::args;
use crate::db::files::digest_of;
use crate::db::from_json;
use crate::db::runs::direction_of;
use crate::db::runs::project_of;
use crate::db::runs::stored_id;
use crate::db::version_queries::BestQuery;
use crate::db::version_queries::best_statement;
use crate::domain::alias::VersionRef;
use crate::domain::digest::Digest;
use crate::domain::ids::ArtifactName;
use crate::domain::ids::CheckpointName;
use crate::domain::ids::ListParent;
use crate::domain::ids::RunName;
use crate::domain::metric::Direction;
use crate::domain::metric::Metrics;
use crate::domain::refusal::Refusal;

/// An artifact as it is stored.
#[derive(Clone, Debug)]
pub struct ArtifactRow {
    /// Unique for ever.
    pub uid: String,
    pub name: ArtifactName,
    /// For example `model`.
    pub kind: String,
    /// The metric that `best` follows.
    pub monitor: String,
    pub direction: Direction,
    /// Numbers given out.
    pub version_count: i64,
    /// Microseconds since 1970.
    pub create_time_us: i64,
}

/// A version as it is stored.
#[derive(Clone, Debug)]
pub struct VersionRow {
    pub artifact: ArtifactName,
    /// N of `vN`.
    pub number: i64,
    /// Its checkpoint; the checkpoint's id is its uid.
    pub checkpoint: CheckpointName,
    /// The attempt that saved it.
    pub attempt: i64,
    /// 0-based.
    pub epoch: i64,
    /// 0-based.
    pub batch: Option<i64>,
    /// Optimizer steps.
    pub step: Option<i64>,
    /// The rendered template.
    pub path: String,
    /// Whether it holds the weights only.
    pub weights_only: bool,
    /// Bytes of all files.
    pub size_bytes: i64,
    pub file_count: i64,
    /// Over its files.
    pub digest: Digest,
    /// Of its event.
    pub metrics: Metrics,
    /// Names that point at it, the server's among them.
    pub aliases: Vec<String>,
    /// How many names point at it.
    pub alias_count: i64,
    /// The decision's reason code.
    pub reason: String,
    /// The same as a sentence.
    pub reason_text: String,
    /// Microseconds since 1970.
    pub commit_time_us: i64,
    /// Free JSON.
    pub metadata: Option<String>,
}

const SELECT_VERSION: &str = "SELECT a.team, a.project, a.id, c.version, r.id, c.uid, c.attempt, c.epoch, c.batch, \
    c.step, c.path, c.weights_only, c.size_bytes, c.file_count, c.digest, c.metrics, c.reason, c.reason_text, \
    c.commit_time_us, c.metadata FROM checkpoints c JOIN artifacts a ON a.uid = c.artifact_uid \
    JOIN runs r ON r.uid = c.run_uid";

pub(super) fn version_of(row: &Row) -> Result<VersionRow, Error> {
    let project = project_of(row, 0)?;
    let run = RunName { project: project.clone(), run: stored_id(&row.text(4)?)? };
    Ok(VersionRow {
        artifact: ArtifactName { project, artifact: stored_id(&row.text(2)?)? },
        number: row.int(3)?,
        checkpoint: CheckpointName { run, checkpoint: stored_id(&row.text(5)?)? },
        attempt: row.int(6)?,
        epoch: row.int(7)?,
        batch: row.int_or_null(8)?,
        step: row.int_or_null(9)?,
        path: row.text(10)?,
        weights_only: row.flag(11)?,
        size_bytes: row.int(12)?,
        file_count: row.int(13)?,
        digest: digest_of(&row.bytes(14)?)?,
        metrics: from_json("metrics", &row.text(15)?)?,
        aliases: Vec::new(),
        alias_count: 0,
        reason: row.text(16)?,
        reason_text: row.text(17)?,
        commit_time_us: row.int(18)?,
        metadata: row.text_or_null(19)?,
    })
}

const SELECT_ARTIFACT: &str =
    "SELECT uid, team, project, id, type, monitor, direction, next_version, create_time_us FROM artifacts";

fn artifact_of(row: &Row) -> Result<ArtifactRow, Error> {
    Ok(ArtifactRow {
        uid: row.text(0)?,
        name: ArtifactName { project: project_of(row, 1)?, artifact: stored_id(&row.text(3)?)? },
        kind: row.text(4)?,
        monitor: row.text(5)?,
        direction: direction_of(&row.text(6)?)?,
        version_count: row.int(7)?,
        create_time_us: row.int(8)?,
    })
}

impl Db {
    /// The best version, if any has the metric.
    pub async fn best_version(&self, query: &BestQuery) -> Result<Option<VersionRow>, Error> {
        let (sql, values) = best_statement(query);
        match self.row(&sql, values).await? {
            Some(row) => self.version_by_uid(&row.text(0)?).await.map(Some),
            None => Ok(None),
        }
    }

    /// A committed version by its checkpoint's uid.
    pub async fn version_by_uid(&self, uid: &str) -> Result<VersionRow, Error> {
        let sql = format!("{SELECT_VERSION} WHERE c.uid = $1 AND c.state = 'COMMITTED'");
        let row = self
            .row(&sql, args![uid])
            .await?
            .ok_or_else(|| Error::from(Refusal::not_found("version", uid)))?;
        self.with_aliases(vec![version_of(&row)?])
            .await?
            .pop()
            .ok_or_else(|| Error::unreadable("version", uid))
    }

    /// A committed version by its number or an alias.
    pub async fn version(&self, artifact: &ArtifactName, version: &VersionRef) -> Result<VersionRow, Error> {
        let project = &artifact.project;
        let mut values = args![project.team.as_str(), project.project.as_str(), artifact.artifact.as_str()];
        let which = match version {
            VersionRef::Number(number) => {
                values.push((*number).into());
                "c.version = $4"
            }
            VersionRef::Alias(alias) => {
                values.push(alias.as_str().into());
                "c.uid = (SELECT l.checkpoint_uid FROM aliases l WHERE l.artifact_uid = a.uid AND l.alias = $4)"
            }
        };
        let sql = format!(
            "{SELECT_VERSION} WHERE a.team = $1 AND a.project = $2 AND a.id = $3 AND c.state = 'COMMITTED' AND {which}"
        );
        let Some(row) = self.row(&sql, values).await? else {
            let shown = match version {
                VersionRef::Number(number) => format!("{artifact}/versions/v{number}"),
                VersionRef::Alias(alias) => format!("{artifact}/versions/{alias}"),
            };
            return Err(Refusal::not_found("version", shown).into());
        };
        let versions = self.with_aliases(vec![version_of(&row)?]).await?;
        versions.into_iter().next().ok_or_else(|| Error::unreadable("version", artifact))
    }

    /// The run's newest committed version.
    pub async fn newest_version_of_run(&self, run_uid: &str) -> Result<Option<VersionRow>, Error> {
        let sql = format!(
            "{SELECT_VERSION} WHERE c.run_uid = $1 AND c.state = 'COMMITTED' ORDER BY c.version DESC LIMIT 1"
        );
        let row = self.row(&sql, args![run_uid]).await?;
        let versions =
            self.with_aliases(row.as_ref().map(version_of).transpose()?.into_iter().collect()).await?;
        Ok(versions.into_iter().next())
    }

    pub(super) async fn with_aliases(&self, mut versions: Vec<VersionRow>) -> Result<Vec<VersionRow>, Error> {
        let uids: Vec<&str> = versions.iter().map(|it| it.checkpoint.checkpoint.as_str()).collect();
        let mut names = self.names_of(&uids).await?;
        for version in &mut versions {
            let named = names.remove(version.checkpoint.checkpoint.as_str());
            (version.alias_count, version.aliases) = named.unwrap_or_default();
        }
        Ok(versions)
    }

    /// The artifact of this name.
    pub async fn artifact(&self, name: &ArtifactName) -> Result<ArtifactRow, Error> {
        let sql = format!("{SELECT_ARTIFACT} WHERE team = $1 AND project = $2 AND id = $3");
        let key = args![name.project.team.as_str(), name.project.project.as_str(), name.artifact.as_str()];
        let row = self.row(&sql, key).await?;
        row.as_ref().map(artifact_of).transpose()?.ok_or_else(|| Refusal::not_found("artifact", name).into())
    }

    /// Artifacts by project and id, after the one that `after` names.
    pub async fn list_artifacts(
        &self,
        parent: &ListParent,
        after: Option<(String, String)>,
        limit: i64,
    ) -> Result<Vec<ArtifactRow>, Error> {
        let (project, id) = after.unwrap_or_default();
        // The place with one comparison each, or the databases would read all before it.
        let (project, place) = match &parent.project {
            Some(project) => (project.to_string(), "project = $2 AND id > $3"),
            None => (project, "(project, id) > ($2, $3)"),
        };
        let sql = format!(
            "{SELECT_ARTIFACT} WHERE team = $1 AND delete_time_us IS NULL AND {place} ORDER BY project, id LIMIT $4"
        );
        let values = args![parent.team.as_str(), project, id, limit];
        self.page(&sql, values).await?.iter().map(artifact_of).collect()
    }

    /// The monitors that the artifacts of a project or a team follow: at most two, since more than one is ambiguous.
    pub async fn monitors(&self, parent: &ListParent) -> Result<Vec<(String, Direction)>, Error> {
        let mut values = args![parent.team.as_str()];
        let place = match &parent.project {
            Some(project) => {
                values.push(project.as_str().into());
                "team = $1 AND project = $2 AND delete_time_us IS NULL"
            }
            None => "team = $1 AND delete_time_us IS NULL",
        };
        // The two ends of an index, instead of all artifacts.
        let mut monitors = Vec::new();
        for end in ["monitor, direction", "monitor DESC, direction DESC"] {
            let sql =
                format!("SELECT monitor, direction FROM artifacts WHERE {place} ORDER BY {end} LIMIT 1");
            if let Some(row) = self.row(&sql, values.clone()).await? {
                monitors.push((row.text(0)?, direction_of(&row.text(1)?)?));
            }
        }
        monitors.dedup();
        Ok(monitors)
    }
}
