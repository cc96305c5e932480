//! The rebuild: a new database from the manifests in the object store alone.
//!
//! A version comes back only if each of its chunks stands in the store with its size. One that does not, and one whose
//! manifest cannot be believed, is named in the report, and the rest goes on.

use std::collections::HashSet;

use futures::StreamExt;
use futures::future::join_all;

use crate::app::App;
use crate::app::Error;
use crate::db::LostVersions;
use crate::db::Rebuilt;
use crate::db::RebuiltVersion;
use crate::domain::checkpoint::ranked_metrics;
use crate::domain::manifest::Manifest;
use crate::domain::manifest::ManifestChunk;
use crate::domain::manifest::ManifestFile;
use crate::domain::manifest::ManifestHead;
use crate::domain::manifest::ManifestState;
use crate::domain::refusal::Refusal;
use crate::store::MANIFESTS;
use crate::store::Store;
use crate::store::deleted_by;

/// Manifests that are read at once. Most are a few kilobytes; of the largest, 40 MB each, all of these fit into memory.
const READS: usize = 8;
/// Objects that are asked for their size at once: each answer is a round trip to the store.
const SIZES: usize = 32;

/// What a rebuild wrote, and what it could not.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RebuildReport {
    pub artifacts: u64,
    pub runs: u64,
    /// Versions that stand again.
    pub versions: u64,
    /// Deleted versions, whose numbers stay taken.
    pub deleted_versions: u64,
    /// Files of the versions.
    pub files: u64,
    pub size_bytes: u64,
    /// One sentence for each manifest that gave no version.
    pub skipped: Vec<String>,
    /// One sentence for each artifact that has numbers of which no manifest tells. They stay taken.
    pub lost: Vec<String>,
}

/// Whether a store has anything to rebuild a database from.
pub async fn has_manifests(store: &Store) -> Result<bool, crate::store::Error> {
    Ok(!store.folders(MANIFESTS).await?.is_empty())
}

impl App {
    /// Fills this database, which must be empty, from the store.
    pub async fn rebuild(&self) -> Result<RebuildReport, Error> {
        let days = self.store.folders(MANIFESTS).await?;
        if days.is_empty() {
            let message =
                "the object store has no manifests: name the one that the lost database belonged to";
            return Err(Refusal::precondition("NO_MANIFESTS", message).into());
        }
        self.db.begin_rebuild(self.clock.now_us(), self.store.read_mark().await?).await?;
        let mut report = RebuildReport::default();
        // What was deleted comes first: a manifest that stands beside the word of its deletion was written late.
        let mut deleted = HashSet::new();
        for day in &days {
            let mut keys = self.store.keys(day).await?;
            keys.retain(|key| deleted_by(key).is_some());
            for lost in self.rebuild_from(&keys, &mut report).await? {
                // It cannot be read, but its name says enough.
                deleted.extend(deleted_by(&lost).map(str::to_owned));
            }
        }
        for day in &days {
            let mut keys = self.store.keys(day).await?;
            keys.retain(|key| deleted_by(key).is_none() && !deleted.contains(checkpoint_of(key)));
            self.rebuild_from(&keys, &mut report).await?;
        }
        let finished = self.db.finish_rebuild().await?;
        (report.artifacts, report.runs) = (finished.artifacts, finished.runs);
        let sentence =
            |it: LostVersions| format!("artifact {}: no manifest tells of {}", it.artifact, it.numbers);
        report.lost = finished.lost.into_iter().map(sentence).collect();
        Ok(report)
    }

    /// Writes the versions of these manifests in their order. Answers the keys of those that cannot be believed.
    async fn rebuild_from(&self, keys: &[String], report: &mut RebuildReport) -> Result<Vec<String>, Error> {
        let mut unreadable = Vec::new();
        for keys in keys.chunks(READS) {
            // All of them before the first is written: a download that is not polled for long is cut.
            let manifests = join_all(keys.iter().map(|key| self.read_manifest(key))).await;
            for (manifest, key) in manifests.into_iter().zip(keys) {
                match manifest? {
                    Ok(manifest) => self.rebuild_one(key, manifest, report).await?,
                    Err(why) => {
                        report.skipped.push(format!("manifest `{key}`: {why}"));
                        unreadable.push(key.clone());
                    }
                }
            }
        }
        Ok(unreadable)
    }

    async fn rebuild_one(
        &self,
        key: &str,
        manifest: Manifest,
        report: &mut RebuildReport,
    ) -> Result<(), Error> {
        let Manifest { head, files } = manifest;
        if self.db.is_rebuilt(&head.version.checkpoint).await? {
            // Deleted, and written late.
            return Ok(());
        }
        let stands = head.version.state == ManifestState::Committed;
        let lost = if stands { self.lost_chunk(&head, &files).await? } else { None };
        let (file_count, size_bytes) = (files.len() as u64, head.version.size_bytes);
        let name = head.shown();
        let rebuilt = RebuiltVersion {
            ranked_metrics: ranked_metrics(&head.version.metrics),
            head,
            files,
            is_lost: lost.is_some(),
        };
        match (self.db.rebuild_version(rebuilt, self.clock.now_us()).await?, lost) {
            (Rebuilt::Conflict(why), _) => report.skipped.push(format!("manifest `{key}` of {name}: {why}")),
            (Rebuilt::Known, _) => {}
            (Rebuilt::Written, Some(why)) => report.skipped.push(format!("version {name}: {why}")),
            (Rebuilt::Written, None) if !stands => report.deleted_versions += 1,
            (Rebuilt::Written, None) => {
                report.versions += 1;
                report.files += file_count;
                report.size_bytes += u64::try_from(size_bytes).unwrap_or(0);
            }
        }
        Ok(())
    }

    /// Says which chunk of the version is not in the store. Those that an earlier version has are known to be.
    async fn lost_chunk(&self, head: &ManifestHead, files: &[ManifestFile]) -> Result<Option<String>, Error> {
        let unknown = self.db.unknown_chunks(head.artifact.team.as_str(), files).await?;
        let size = |chunk: ManifestChunk| async move {
            (self.size_problem(&chunk.object_key, chunk.size_bytes).await, chunk)
        };
        let mut sizes = futures::stream::iter(unknown).map(size).buffered(SIZES);
        while let Some((problem, chunk)) = sizes.next().await {
            if let Some(why) = problem? {
                let has = |file: &&ManifestFile| file.chunks.iter().any(|it| it.digest == chunk.digest);
                let path = files.iter().find(has).map_or("", |file| file.path.as_str());
                return Ok(Some(format!("file `{path}` at byte {}: {why}", chunk.offset_bytes)));
            }
        }
        Ok(None)
    }
}

/// The checkpoint that a manifest's key names.
fn checkpoint_of(key: &str) -> &str {
    key.rsplit('/').next().and_then(|name| name.split('.').next()).unwrap_or_default()
}
