//! A new database from manifests: one version after the other, and at the end what follows from all of them.
//!
//! The mark of an unfinished rebuild stands from the first row to the last, so that no server takes a half for the whole.

mod rows;

use std::collections::HashSet;

use crate::db::Db;
use crate::db::Error;
use crate::db::aliases::put_server_alias;
use crate::db::connection::Connection;
use crate::db::connection::Value;
use crate::db::connection::args;
use crate::db::deletions::best_left;
use crate::db::files::digest_of;
use crate::db::marks::take_mark;
use crate::db::rebuild::rows::put_aliases;
use crate::db::rebuild::rows::put_artifact;
use crate::db::rebuild::rows::put_checkpoint;
use crate::db::rebuild::rows::put_file;
use crate::db::rebuild::rows::put_metrics;
use crate::db::rebuild::rows::put_run;
use crate::db::rebuild::rows::stands;
use crate::db::runs::direction_of;
use crate::db::runs::lock_run_by_uid;
use crate::db::to_json;
use crate::db::version_queries::BestQuery;
use crate::db::version_queries::BestScope;
use crate::db::version_queries::best_statement;
use crate::domain::alias;
use crate::domain::digest::Digest;
use crate::domain::manifest::ManifestChunk;
use crate::domain::manifest::ManifestFile;
use crate::domain::manifest::ManifestHead;
use crate::domain::manifest::ManifestState;
use crate::domain::refusal::Refusal;
use crate::domain::run::Run;

/// Artifacts or runs in one transaction, and chunks in one statement.
const PAGE: i64 = 100;
/// Files in one transaction.
const FILES: usize = 500;
/// Attempts of a run that may have begun since its last manifest: the next one must be newer than all of them, so that a
/// trainer that still runs cannot write beside it.
const UNSEEN_ATTEMPTS: i64 = 1_000;

/// Gaps in an artifact's numbers that are named; the count shows whether there are more.
const NAMED_GAPS: i64 = 10;

/// What a rebuild came to.
#[derive(Clone, Debug, Default)]
pub struct Finished {
    pub artifacts: u64,
    pub runs: u64,
    /// One for each artifact that has some.
    pub lost: Vec<LostVersions>,
}

/// Versions of an artifact that were committed once and of which no manifest tells.
#[derive(Clone, Debug)]
pub struct LostVersions {
    /// For people: `team/project/artifact`.
    pub artifact: String,
    /// For people: `v3, v7 to v9; 4 of 12`.
    pub numbers: String,
}

/// A version to write.
#[derive(Clone, Debug)]
pub struct RebuiltVersion {
    /// As its manifest tells it.
    pub head: ManifestHead,
    /// Its files; none of a deleted or a lost one.
    pub files: Vec<ManifestFile>,
    /// The numbers that best queries may ask for.
    pub ranked_metrics: Vec<(String, f64)>,
    /// Its bytes are gone: it keeps its number, as a deleted one does.
    pub is_lost: bool,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rebuilt {
    /// Its rows stand.
    Written,
    /// It stood already.
    Known,
    /// Something else has its name: the sentence says what.
    Conflict(String),
}

impl Db {
    /// Refuses a database that a rebuild left half full.
    pub(super) async fn refuse_unfinished_rebuild(&self) -> Result<(), Error> {
        if self.row("SELECT begin_time_us FROM unfinished_rebuilds", args![]).await?.is_none() {
            return Ok(());
        }
        let message =
            "a rebuild of this database did not finish: remove the database and run `keepbest rebuild` again";
        Err(Refusal::precondition("REBUILD_UNFINISHED", message).into())
    }

    /// Marks an empty database as one that is being rebuilt; refuses one that has rows.
    /// `store_id` is the mark of the store that it is rebuilt from.
    pub async fn begin_rebuild(&self, now_us: i64, store_id: Option<String>) -> Result<(), Error> {
        self.write(move |connection| {
            Box::pin(async move {
                let mark = "INSERT INTO unfinished_rebuilds (begin_time_us) VALUES ($1)";
                connection.execute(mark, args![now_us]).await?;
                // Every other row stands below one of these.
                for table in ["artifacts", "doomed_objects"] {
                    if connection.row(&format!("SELECT 1 FROM {table} LIMIT 1"), args![]).await?.is_some() {
                        let message =
                            "the database has rows: rebuild writes a new one, so name one that is empty";
                        return Err(Refusal::precondition("DATABASE_NOT_EMPTY", message).into());
                    }
                }
                match store_id {
                    Some(store_id) => take_mark(connection, &store_id).await,
                    None => Ok(()),
                }
            })
        })
        .await
    }

    /// Whether the checkpoint has its row.
    pub async fn is_rebuilt(&self, checkpoint_uid: &str) -> Result<bool, Error> {
        Ok(self.row("SELECT 1 FROM checkpoints WHERE uid = $1", args![checkpoint_uid]).await?.is_some())
    }

    /// Those of the chunks, each once, that have no row yet.
    pub async fn unknown_chunks(
        &self,
        team: &str,
        files: &[ManifestFile],
    ) -> Result<Vec<ManifestChunk>, Error> {
        let mut seen = HashSet::new();
        let wanted: Vec<&ManifestChunk> =
            files.iter().flat_map(|it| &it.chunks).filter(|it| seen.insert(it.digest)).collect();
        let mut unknown = Vec::new();
        let page = usize::try_from(PAGE).unwrap_or(1);
        // Always as many places, so that the statement stays prepared.
        let places: Vec<String> = (2..page + 2).map(|place| format!("${place}")).collect();
        let sql = format!("SELECT digest FROM chunks WHERE team = $1 AND digest IN ({})", places.join(", "));
        for wanted in wanted.chunks(page) {
            let mut values = args![team];
            values.extend(wanted.iter().map(|it| Value::from(it.digest)));
            values.resize_with(page + 1, || Vec::<u8>::new().into());
            let rows = self.rows(&sql, values).await?;
            let known: HashSet<Digest> =
                rows.iter().map(|row| digest_of(&row.bytes(0)?)).collect::<Result<_, _>>()?;
            unknown.extend(wanted.iter().filter(|it| !known.contains(&it.digest)).copied().cloned());
        }
        Ok(unknown)
    }

    /// Writes a version with everything above and below it.
    pub async fn rebuild_version(&self, mut version: RebuiltVersion, now_us: i64) -> Result<Rebuilt, Error> {
        let (checkpoint, team) =
            (version.head.version.checkpoint.clone(), version.head.artifact.team.to_string());
        let has_files = !version.is_lost && version.head.version.state == ManifestState::Committed;
        let mut files = std::mem::take(&mut version.files).into_iter();
        let rebuilt = self.rebuild_head(version, now_us).await?;
        // Not all in one transaction, which may take only so long: the mark stands until all is in.
        while has_files && rebuilt == Rebuilt::Written && files.len() > 0 {
            let page: Vec<ManifestFile> = files.by_ref().take(FILES).collect();
            let (checkpoint, team) = (checkpoint.clone(), team.clone());
            self.write(move |connection| {
                Box::pin(async move {
                    for file in page {
                        put_file(connection, &checkpoint, &team, &file, now_us).await?;
                    }
                    Ok(())
                })
            })
            .await?;
        }
        Ok(rebuilt)
    }

    async fn rebuild_head(&self, version: RebuiltVersion, now_us: i64) -> Result<Rebuilt, Error> {
        self.write(move |connection| {
            Box::pin(async move {
                let head = &version.head;
                put_artifact(connection, head, now_us).await?;
                if !stands(connection, "artifacts", &head.artifact.uid).await? {
                    return Ok(Rebuilt::Conflict(format!(
                        "another artifact has the name `{}`",
                        head.artifact.id
                    )));
                }
                put_run(connection, head, now_us).await?;
                if !stands(connection, "runs", &head.run.uid).await? {
                    return Ok(Rebuilt::Conflict(format!("another run has the name `{}`", head.run.id)));
                }
                if !put_checkpoint(connection, &version, now_us).await? {
                    let known = stands(connection, "checkpoints", &head.version.checkpoint).await?;
                    let message = format!("another version has the number {}", head.version.number);
                    return Ok(if known { Rebuilt::Known } else { Rebuilt::Conflict(message) });
                }
                put_aliases(connection, head).await?;
                if version.is_lost || head.version.state == ManifestState::Deleted {
                    return Ok(Rebuilt::Written);
                }
                put_metrics(connection, &version).await?;
                Ok(Rebuilt::Written)
            })
        })
        .await
    }

    /// Writes what follows from all versions, and takes the mark away.
    pub async fn finish_rebuild(&self) -> Result<Finished, Error> {
        let mut finished = Finished::default();
        let mut after = String::new();
        loop {
            let page = "SELECT uid, monitor, direction, team, project, id FROM artifacts WHERE uid > $1 \
                ORDER BY uid LIMIT $2";
            let rows = self.page(page, args![&after, PAGE]).await?;
            let Some(last) = rows.last() else { break };
            after = last.text(0)?;
            for row in &rows {
                let (uid, metric, direction) = (row.text(0)?, row.text(1)?, direction_of(&row.text(2)?)?);
                let artifact = format!("{}/{}/{}", row.text(3)?, row.text(4)?, row.text(5)?);
                let query = BestQuery { scope: BestScope::Artifact(uid.clone()), metric, direction };
                let lost = self.write(move |connection| {
                    Box::pin(async move {
                        follow_aliases(connection, &uid, &query).await?;
                        count_lost(connection, &uid).await
                    })
                });
                finished.lost.extend(lost.await?.map(|numbers| LostVersions { artifact, numbers }));
                finished.artifacts += 1;
            }
        }
        let mut after = String::new();
        loop {
            let page = "SELECT uid FROM runs WHERE uid > $1 ORDER BY uid LIMIT $2";
            let rows = self.page(page, args![&after, PAGE]).await?;
            let Some(last) = rows.last() else { break };
            after = last.text(0)?;
            for row in &rows {
                let uid = row.text(0)?;
                self.write(move |connection| Box::pin(async move { follow_run(connection, &uid).await }))
                    .await?;
                finished.runs += 1;
            }
        }
        self.write(move |connection| {
            Box::pin(async move { connection.execute("DELETE FROM unfinished_rebuilds", args![]).await })
        })
        .await?;
        Ok(finished)
    }
}

/// Notes how many numbers were given out to versions of which nothing is left, and answers the ranges that they make up.
async fn count_lost(connection: &mut Connection<'_>, artifact_uid: &str) -> Result<Option<String>, Error> {
    let count = "UPDATE artifacts SET lost_versions = next_version - (SELECT COUNT(*) FROM checkpoints c \
        WHERE c.artifact_uid = $1 AND c.version IS NOT NULL) WHERE uid = $1 RETURNING lost_versions, next_version";
    let row = connection.row(count, args![artifact_uid]).await?;
    let (lost, next_version) = row.map_or(Ok((0, 0)), |row| Ok::<_, Error>((row.int(0)?, row.int(1)?)))?;
    if lost == 0 {
        return Ok(None);
    }
    // Of each number that stands, the one before it: where that is missing, a gap ends.
    let gaps = "SELECT c.version, (SELECT MAX(p.version) FROM checkpoints p WHERE p.artifact_uid = $1 AND p.version < c.version) \
        FROM checkpoints c WHERE c.artifact_uid = $1 AND c.version > 0 AND NOT EXISTS (SELECT 1 FROM checkpoints b \
        WHERE b.artifact_uid = $1 AND b.version = c.version - 1) ORDER BY c.version LIMIT $2";
    let rows = connection.rows(gaps, args![artifact_uid, NAMED_GAPS]).await?;
    let mut ranges = Vec::new();
    for row in &rows {
        ranges.push(range(row.int_or_null(1)?.map_or(0, |before| before + 1), row.int(0)? - 1));
    }
    let numbers = ranges.join(", ");
    Ok(Some(format!("{numbers}; {lost} of {next_version}")))
}

fn range(first: i64, last: i64) -> String {
    if first == last { format!("v{first}") } else { format!("v{first} to v{last}") }
}

/// `latest` stands at the highest number, `best` at the best value, and none at a version that is gone.
async fn follow_aliases(
    connection: &mut Connection<'_>,
    artifact_uid: &str,
    best: &BestQuery,
) -> Result<(), Error> {
    let gone = "DELETE FROM aliases WHERE artifact_uid = $1 AND checkpoint_uid IN \
        (SELECT uid FROM checkpoints WHERE artifact_uid = $1 AND state <> 'COMMITTED')";
    connection.execute(gone, args![artifact_uid]).await?;
    let latest = "SELECT uid FROM checkpoints WHERE artifact_uid = $1 AND state = 'COMMITTED' \
        ORDER BY version DESC LIMIT 1";
    let (sql, values) = best_statement(best);
    for (alias, sql, values) in [(alias::LATEST, latest, args![artifact_uid]), (alias::BEST, &sql, values)] {
        let Some(uid) = connection.row(sql, values).await?.map(|row| row.text(0)).transpose()? else {
            continue;
        };
        let time = "SELECT commit_time_us FROM checkpoints WHERE uid = $1";
        let time_us = connection.row(time, args![&uid]).await?.map_or(Ok(0), |row| row.int(0))?;
        put_server_alias(connection, artifact_uid, alias, &uid, time_us).await?;
    }
    Ok(())
}

/// The run's best is a version that stands; nothing is in flight; and every attempt that ever began is fenced.
async fn follow_run(connection: &mut Connection<'_>, uid: &str) -> Result<(), Error> {
    let mut run: Run = lock_run_by_uid(connection, uid).await?;
    run.monitor_state.new_attempt();
    let stands = "SELECT 1 FROM checkpoints WHERE uid = $1 AND state = 'COMMITTED'";
    if let Some(best) = &run.monitor_state.best_checkpoint
        && connection.row(stands, args![best]).await?.is_none()
    {
        let left = best_left(connection, &run).await?;
        run.monitor_state.best_replaced(left, &run.strategy, run.direction);
    }
    let sql = "UPDATE runs SET monitor_state = $1, attempt = attempt + $2 WHERE uid = $3";
    connection.execute(sql, args![to_json(&run.monitor_state)?, UNSEEN_ATTEMPTS, uid]).await.map(drop)
}
