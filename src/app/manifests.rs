//! Manifests: each commit leaves one in the object store, and each deletion leaves one that says so.
//!
//! A commit's is written after the database's commit and before its answer, so what was acknowledged can be rebuilt from the
//! store alone. A deletion's is tried and not waited for: deletions must go on when the store is full or away.
//! Whatever a crash or a store that was away left undone is due, and the next pass of the collector on any replica writes it.

use std::time::Duration;

use bytes::Bytes;

use crate::app::App;
use crate::app::Error;
use crate::app::causes;
use crate::app::collect::GcReport;
use crate::app::micros;
use crate::db::Db;
use crate::domain::file::StoredFile;
use crate::domain::manifest::Manifest;
use crate::domain::manifest::ManifestError;
use crate::domain::manifest::ManifestHead;
use crate::domain::manifest::ManifestState;
use crate::domain::manifest::ManifestWriter;
use crate::store::deleted_manifest_key;
use crate::store::manifest_key;

/// What is younger is left to the call that committed or deleted it, which writes the manifest itself.
const UNDER_WAY: Duration = Duration::from_secs(60);
/// How long a deletion waits for the store.
const DELETION_PATIENCE: Duration = Duration::from_secs(5);
/// Manifests below this are written without asking for room: they are no more than a message.
const SMALL_BYTES: u64 = 1 << 20;
/// Files that have less together have too few bytes for many chunks: they are not counted.
const ALL_SMALL_BYTES: i64 = 64 << 10;
/// Chunks that are looked up at once, with one file at least: 150 bytes of memory each.
const PAGE_CHUNKS: u64 = 10_000;

impl App {
    /// Brings a version's manifest in the store up to date, if it is not. Any number of replicas may do this at once: they
    /// write the same, and the state of a version only goes on.
    pub(super) async fn write_manifest(&self, checkpoint_uid: &str) -> Result<(), Error> {
        loop {
            let manifest = self.db.manifest(checkpoint_uid).await?;
            let Some(manifest) = manifest.filter(|it| it.is_due) else { return Ok(()) };
            let version = &manifest.head.version;
            let state = version.state;
            let written = match state {
                ManifestState::Committed => self.put_manifest(&manifest.head).await,
                ManifestState::Deleted => self.put_deleted_manifest(&manifest.head).await,
            };
            match written {
                // Its files were taken away while they were read: it was deleted meanwhile.
                Err(Error::Internal(_)) if !self.db.is_committed(checkpoint_uid).await? => {}
                // It is there, but so is what another process writes, or left: due until a pass has swept that away.
                Ok(false) => return Ok(()),
                written => drop(written?),
            }
            if self.db.manifest_written(checkpoint_uid, state).await? {
                return Ok(());
            }
            // It was deleted meanwhile, and this write may have come after the collector had taken the manifest away.
            self.store.delete(&manifest_key(checkpoint_uid, version.commit_time_us)).await?;
        }
    }

    /// Tells the store of a deletion, if it listens: a rebuild must not bring the version back. The deletion is done all the
    /// same, for a store that is full is freed by deletions, and the next pass of the collector tells it again.
    pub(super) async fn tell_deletion(&self, checkpoint_uid: &str) {
        match tokio::time::timeout(DELETION_PATIENCE, self.write_manifest(checkpoint_uid)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = %causes(&error), "Left the word of a deletion for the next turn");
            }
            Err(_) => {
                tracing::warn!("Left the word of a deletion for the next turn: the store took too long")
            }
        }
    }

    /// Writes the manifests that are due. One that fails does not hold up the others; if the store takes none, the error is
    /// returned at the end.
    pub(super) async fn write_due_manifests(&self, report: &mut GcReport) -> Result<(), Error> {
        let until_us = self.clock.now_us().saturating_sub(micros(UNDER_WAY));
        let (mut failed, mut after) = (None, String::new());
        loop {
            let due = self.db.due_manifests(until_us, &after).await?;
            let Some(last) = due.last() else { break };
            after.clone_from(last);
            for uid in due {
                match self.write_manifest(&uid).await {
                    Ok(()) => report.written_manifests += 1,
                    Err(error @ (Error::Internal(_) | Error::DataLoss(_))) => {
                        report.left += 1;
                        tracing::warn!(error = %causes(&error), "Left the manifest of checkpoint `{uid}` for the next turn of the collector");
                    }
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn put_manifest(&self, head: &ManifestHead) -> Result<bool, Error> {
        let version = &head.version;
        let files = self.db.files(&version.checkpoint).await?;
        let counts = self.chunk_counts(&files).await?;
        let chunk_count = counts.iter().sum();
        let _room = match head.about_bytes(chunk_count) {
            0..SMALL_BYTES => None,
            bytes => Some(self.upload_buffers.take(bytes).await?),
        };
        let mut writer = ManifestWriter::new(head).map_err(unwritable)?;
        for page in pages(&files, &counts) {
            for file in self.db.manifest_files(page).await? {
                writer.file(&file).map_err(unwritable)?;
            }
        }
        let (pieces, files_digest) = writer.finish();
        if files_digest != version.digest {
            return Err(unwritable(ManifestError::Contradiction("other files than committed".to_owned())));
        }
        self.put_manifest_bytes(&manifest_key(&version.checkpoint, version.commit_time_us), pieces).await
    }

    /// How many chunks each file has. What is small has one at most, or is asked for with its page.
    async fn chunk_counts(&self, files: &[StoredFile]) -> Result<Vec<u64>, Error> {
        let mut counts = Vec::with_capacity(files.len());
        for page in files.chunks(Db::MANIFEST_FILES) {
            let size_bytes: i64 = page.iter().map(|it| it.size_bytes).sum();
            match size_bytes < ALL_SMALL_BYTES {
                true => counts.extend(page.iter().map(|_| 1)),
                false => counts.extend(self.db.chunk_counts(page).await?),
            }
        }
        Ok(counts)
    }

    /// A deletion's manifest has a key of its own, so that a commit's manifest that a process wrote late, after it had hung, cannot
    /// bring the version back. The commit's manifest is removed with the bytes.
    async fn put_deleted_manifest(&self, head: &ManifestHead) -> Result<bool, Error> {
        let key = deleted_manifest_key(&head.version.checkpoint, head.version.commit_time_us);
        let (pieces, _) = ManifestWriter::new(head).map_err(unwritable)?.finish();
        self.put_manifest_bytes(&key, pieces).await
    }

    /// Answers whether nothing is left of processes that died while they wrote the same.
    async fn put_manifest_bytes(&self, key: &str, pieces: Vec<Vec<u8>>) -> Result<bool, Error> {
        self.store.put(key, pieces.into_iter().map(Bytes::from).collect()).await?;
        Ok(self.store.sweep(key, UNDER_WAY).await?)
    }

    /// The manifest under a key, or why it cannot be believed. Read once more before it counts as damaged, as a chunk is.
    pub(super) async fn read_manifest(&self, key: &str) -> Result<Result<Manifest, String>, Error> {
        match self.read_manifest_once(key).await? {
            Err(_) => self.read_manifest_once(key).await,
            read => Ok(read),
        }
    }

    async fn read_manifest_once(&self, key: &str) -> Result<Result<Manifest, String>, Error> {
        let data = match self.store.get(key).await.map_err(Error::from) {
            Ok(data) => data,
            Err(Error::DataLoss(why)) => return Ok(Err(why)),
            Err(error) => return Err(error),
        };
        // Parsing megabytes is work for another thread.
        let read = tokio::task::spawn_blocking(move || Manifest::read(&data));
        let read = read.await.map_err(|error| Error::Internal(Box::new(error)))?;
        Ok(read.map_err(|error| error.to_string()))
    }
}

/// Files that are looked up at once: so many, or fewer with many chunks.
fn pages<'a>(files: &'a [StoredFile], counts: &'a [u64]) -> impl Iterator<Item = &'a [StoredFile]> {
    let mut begin = 0;
    std::iter::from_fn(move || {
        let mut chunks = 0;
        let fits = counts.get(begin..)?.iter().take(Db::MANIFEST_FILES).take_while(|count| {
            chunks += **count;
            chunks <= PAGE_CHUNKS
        });
        let end = begin + fits.count().max(1);
        let page = files.get(begin..end)?;
        begin = end;
        Some(page)
    })
}

fn unwritable(error: ManifestError) -> Error {
    Error::Internal(Box::new(error))
}
