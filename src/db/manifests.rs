//! Manifests of versions: what stands in one, which are due, and that one was written.
//!
//! A manifest is due where `manifest_state`, the state that the one in the store tells, is not the version's own. So the
//! commit and the deletion make it due by themselves, and what a crash left undone is found by a query.

use std::collections::BTreeSet;
use std::collections::HashMap;

use crate::db::Db;
use crate::db::Error;
use crate::db::connection::Row;
use crate::db::connection::Value;
use crate::db::connection::args;
use crate::db::files::digest_of;
use crate::db::from_json;
use crate::db::job::Outcome;
use crate::db::job::Turn;
use crate::db::job::Write;
use crate::db::runs::direction_of;
use crate::db::runs::stored_id;
use crate::db::tx::Tx;
use crate::domain::file::StoredFile;
use crate::domain::manifest::ManifestArtifact;
use crate::domain::manifest::ManifestChunk;
use crate::domain::manifest::ManifestFile;
use crate::domain::manifest::ManifestHead;
use crate::domain::manifest::ManifestRun;
use crate::domain::manifest::ManifestState;
use crate::domain::manifest::ManifestVersion;

/// Versions looked up at once.
const PAGE: i64 = 200;
/// Files whose chunks are looked up in one statement. Always as many places, so that the statement stays prepared.
const FILES: usize = 100;

/// What a version's manifest must say now.
#[derive(Clone, Debug)]
pub struct StoredManifest {
    /// Everything but the files.
    pub head: ManifestHead,
    /// Whether the store has another one, or none.
    pub is_due: bool,
}

/// Some files of a manifest, in their order.
pub type ManifestPage = Vec<ManifestFile>;

/// One statement, so all of it is of one moment.
const SELECT: &str = "SELECT c.state, c.manifest_state, c.version, c.uid, c.attempt, c.epoch, c.batch, c.step, c.path, \
    c.weights_only, c.value, c.reason, c.reason_text, c.aliases, c.metrics, c.metadata, c.size_bytes, c.file_count, \
    c.digest, c.create_time_us, c.commit_time_us, c.delete_time_us, a.uid, a.team, a.project, a.id, a.type, a.monitor, \
    a.direction, a.create_time_us, r.uid, r.id, r.strategy, r.direction, r.monitor_state, r.attempt, r.state, r.revision, \
    r.last_epoch, r.config, r.create_time_us, r.update_time_us, r.finish_time_us, c.part_count FROM checkpoints c \
    JOIN artifacts a ON a.uid = c.artifact_uid JOIN runs r ON r.uid = c.run_uid \
    WHERE c.uid = $1 AND c.version IS NOT NULL";

fn version_of(row: &Row) -> Result<ManifestVersion, Error> {
    let state = match row.text(0)?.as_str() {
        "COMMITTED" => ManifestState::Committed,
        "DELETED" => ManifestState::Deleted,
        other => return Err(Error::unreadable("state of a version", other)),
    };
    Ok(ManifestVersion {
        state,
        number: row.int(2)?,
        checkpoint: row.text(3)?,
        attempt: row.int(4)?,
        epoch: row.int(5)?,
        batch: row.int_or_null(6)?,
        step: row.int_or_null(7)?,
        path: row.text(8)?,
        weights_only: row.flag(9)?,
        value: row.real_or_null(10)?,
        reason: row.text(11)?,
        reason_text: row.text(12)?,
        aliases: from_json("aliases", &row.text(13)?)?,
        metrics: from_json("metrics", &row.text(14)?)?,
        metadata_json: row.text_or_null(15)?,
        size_bytes: row.int(16)?,
        file_count: row.int(17)?,
        part_count: row.int_or_null(43)?,
        digest: digest_of(&row.bytes(18)?)?,
        create_time_us: row.int(19)?,
        commit_time_us: row.int(20)?,
        delete_time_us: row.int_or_null(21)?,
    })
}

fn artifact_of(row: &Row) -> Result<ManifestArtifact, Error> {
    Ok(ManifestArtifact {
        uid: row.text(22)?,
        team: stored_id(&row.text(23)?)?,
        project: stored_id(&row.text(24)?)?,
        id: stored_id(&row.text(25)?)?,
        kind: row.text(26)?,
        monitor: row.text(27)?,
        direction: direction_of(&row.text(28)?)?,
        create_time_us: row.int(29)?,
    })
}

fn run_of(row: &Row) -> Result<ManifestRun, Error> {
    Ok(ManifestRun {
        uid: row.text(30)?,
        id: stored_id(&row.text(31)?)?,
        strategy: from_json("strategy", &row.text(32)?)?,
        direction: direction_of(&row.text(33)?)?,
        monitor_state: from_json("monitor state", &row.text(34)?)?,
        attempt: row.int(35)?,
        state: row.text(36)?,
        revision: row.int(37)?,
        last_epoch: row.int_or_null(38)?,
        config_json: row.text_or_null(39)?,
        create_time_us: row.int(40)?,
        update_time_us: row.int(41)?,
        finish_time_us: row.int_or_null(42)?,
    })
}

pub(super) fn state_to_text(state: ManifestState) -> &'static str {
    match state {
        ManifestState::Committed => "COMMITTED",
        ManifestState::Deleted => "DELETED",
    }
}

/// The store has the manifest of a version in a state.
#[derive(Clone, Debug)]
struct ManifestWritten {
    uid: String,
    state: ManifestState,
}

impl Write for ManifestWritten {
    type Answer = bool;
    const AUDITED: bool = false;

    fn turn(&self) -> Turn {
        Turn::own(1)
    }

    async fn run(set: &[&Self], tx: &mut Tx<'_>) -> Result<Vec<Outcome<bool>>, Error> {
        let sql = "WITH {v: uid text, state text} UPDATE checkpoints SET manifest_state = v.state FROM v \
            WHERE checkpoints.uid = v.uid AND checkpoints.state = v.state RETURNING checkpoints.uid, checkpoints.state";
        let wanted: BTreeSet<(&str, &str)> =
            set.iter().map(|it| (it.uid.as_str(), state_to_text(it.state))).collect();
        let rows =
            tx.rows_of(sql, wanted.into_iter().map(|(uid, state)| args![uid, state]).collect()).await?;
        let stands: BTreeSet<(String, String)> =
            rows.iter().map(|row| Ok((row.text(0)?, row.text(1)?))).collect::<Result<_, Error>>()?;
        let is_still = |it: &&Self| stands.contains(&(it.uid.clone(), state_to_text(it.state).to_owned()));
        Ok(set.iter().map(|it| Outcome::Done(is_still(it))).collect())
    }
}

impl Db {
    /// What a version's manifest must say now; none of a checkpoint that never was a version.
    pub async fn manifest(&self, checkpoint_uid: &str) -> Result<Option<StoredManifest>, Error> {
        let Some(row) = self.row(SELECT, args![checkpoint_uid]).await? else { return Ok(None) };
        let head =
            ManifestHead { artifact: artifact_of(&row)?, run: run_of(&row)?, version: version_of(&row)? };
        Ok(Some(StoredManifest { head, is_due: row.text(1)? != row.text(0)? }))
    }

    /// Versions whose manifest is due and that were committed and deleted by `until_us`, in the order of their uids, after
    /// `after`.
    pub async fn due_manifests(&self, until_us: i64, after: &str) -> Result<Vec<String>, Error> {
        let sql = "SELECT uid FROM checkpoints WHERE version IS NOT NULL AND manifest_state <> state \
            AND uid > $1 AND commit_time_us <= $2 AND (delete_time_us IS NULL OR delete_time_us <= $2) \
            ORDER BY uid LIMIT $3";
        let rows = self.rows(sql, args![after, until_us, PAGE]).await?;
        rows.iter().map(|row| row.text(0)).collect()
    }

    /// How many manifests are due.
    pub async fn count_due_manifests(&self) -> Result<i64, Error> {
        let sql = "SELECT COUNT(*) FROM checkpoints WHERE version IS NOT NULL AND manifest_state <> state";
        self.row(sql, args![]).await?.map_or(Ok(0), |row| row.int(0))
    }

    /// The store now has the manifest of a version in this state. Answers whether that still is its state: if not, the
    /// manifest is due again.
    pub async fn manifest_written(&self, checkpoint_uid: &str, state: ManifestState) -> Result<bool, Error> {
        self.change(ManifestWritten { uid: checkpoint_uid.to_owned(), state }).await
    }

    /// How many chunks each of the files has. At most [`Self::MANIFEST_FILES`] of them.
    pub async fn chunk_counts(&self, files: &[StoredFile]) -> Result<Vec<u64>, Error> {
        let sql = "WITH {v: file_uid text} SELECT f.file_uid, COUNT(*) FROM v CROSS JOIN file_chunks f \
            WHERE f.file_uid = v.file_uid GROUP BY f.file_uid";
        let rows = self.rows_of(sql, files.iter().map(|it| args![&it.uid]).collect()).await?;
        let counts: HashMap<String, i64> =
            rows.iter().map(|row| Ok((row.text(0)?, row.int(1)?))).collect::<Result<_, Error>>()?;
        let count = |it: &StoredFile| counts.get(&it.uid).copied().unwrap_or(0);
        Ok(files.iter().map(|it| u64::try_from(count(it)).unwrap_or(0)).collect())
    }

    /// The files as a manifest tells them. At most [`Self::MANIFEST_FILES`] of them.
    pub async fn manifest_files(&self, files: &[StoredFile]) -> Result<ManifestPage, Error> {
        let mut values: Vec<Value> = files.iter().take(FILES).map(|it| (&it.uid).into()).collect();
        values.resize_with(FILES, || "".into());
        let places: Vec<String> = (1..=FILES).map(|place| format!("${place}")).collect();
        let sql = format!(
            "SELECT f.file_uid, f.offset_bytes, f.size_bytes, f.digest, c.object_key FROM file_chunks f \
             LEFT JOIN chunks c ON c.team = f.team AND c.digest = f.digest WHERE f.file_uid IN ({}) \
             ORDER BY f.file_uid, f.offset_bytes",
            places.join(", ")
        );
        let mut chunks: HashMap<String, Vec<ManifestChunk>> = HashMap::new();
        for row in self.rows(&sql, values).await? {
            let chunk = ManifestChunk {
                offset_bytes: row.int(1)?,
                size_bytes: row.int(2)?,
                digest: digest_of(&row.bytes(3)?)?,
                object_key: row.text_or_null(4)?.unwrap_or_default(),
            };
            chunks.entry(row.text(0)?).or_default().push(chunk);
        }
        let page = files.iter().filter_map(|file| {
            let chunks = chunks.remove(&file.uid).unwrap_or_default();
            let StoredFile { path, size_bytes, sha256, .. } = file.clone();
            Some(ManifestFile { path, size_bytes, digest: file.digest?, sha256, chunks })
        });
        Ok(page.collect())
    }

    /// How many files [`Self::manifest_files`] looks up at once.
    pub const MANIFEST_FILES: usize = FILES;
}
