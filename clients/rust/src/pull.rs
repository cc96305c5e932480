//! Downloads all files of a version in parallel. A file appears at its place when it is verified; a broken download goes on.

mod fetch;
mod part;
mod path;
mod pulled;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt as _, TryStreamExt as _};
use keepbest_proto::v1;
use tokio::sync::Semaphore;

use self::part::{Opened, Part};
pub use self::pulled::OtherFiles;
use self::pulled::PulledFiles;
use crate::client::Client;
use crate::digest::version_digest;
use crate::error::{Error, Result};
use crate::progress::{FileMeter, Meter, OnProgress};

/// Options of a download.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// How many connections to use, from 1 to 4; 4 unless set. For less than a GB one is enough.
    pub connections: usize,
    /// Called as bytes arrive.
    pub on_progress: OnProgress,
}

impl Default for PullOptions {
    fn default() -> Self {
        PullOptions { connections: 4, on_progress: OnProgress::default() }
    }
}

/// The outcome of a download.
#[derive(Debug, Clone, PartialEq)]
pub struct Pulled {
    /// The version with its files, whose list was compared with the version's digest.
    pub version: v1::Version,
    /// Bytes that were received this time.
    pub received_bytes: u64,
    /// How many files were there already with the same bytes.
    pub skipped_files: u64,
    /// How many files of earlier pulls were removed, because they are not of this version.
    pub removed_files: u64,
    /// Files of nobody's pull beside those of a version of several; they stay.
    pub other_files: OtherFiles,
}

/// One download, which all its files share.
#[derive(Debug)]
struct Pull<'a> {
    client: &'a Client,
    version: String,
    directory: PathBuf,
    /// Where files stand until they are whole.
    unfinished: PathBuf,
    meter: Arc<Meter>,
    /// One permit for each connection. Each range that is being received holds one.
    connections: Semaphore,
    next_connection: AtomicUsize,
    received_bytes: AtomicU64,
    skipped_files: AtomicU64,
    record: Arc<Mutex<PulledFiles>>,
}

/// One file of a download.
#[derive(Debug)]
struct PulledFile<'a> {
    pull: &'a Pull<'a>,
    file: v1::File,
    meter: Arc<FileMeter>,
}

/// Downloads all files of a version into a directory, which is made if it does not exist. `version` is its name:
/// `teams/*/projects/*/artifacts/*/versions/{vN or alias}`.
///
/// A file stands in the folder `.keepbest-pull` until all its bytes are on the disk and match its digest, and its SHA-256 if one
/// was declared; then it moves to its place. Calling this again goes on with what is verified. A file that is there
/// already and equal is left alone; one that differs is replaced. Files that an earlier pull put there, and that are not of this
/// version, are removed if they are unchanged; a hidden file beside the directory records them. All others stay.
///
/// # Errors
/// [`Error::Refused`] with `NOT_FOUND` or `DATA_LOSS`; [`Error::Corrupt`] when bytes do not match their digest;
/// [`Error::Invalid`] when a path would lead out of the directory, a symbolic link or another pull is in the way;
/// [`Error::Io`] when the disk is full and the like; any retryable error when the budget of [`Retry`](crate::Retry) is spent
/// without a byte more.
pub async fn pull(client: &Client, version: &str, directory: &Path, options: &PullOptions) -> Result<Pulled> {
    let version = client.get_version(version, true).await?;
    let paths = checked_paths(&version)?;
    std::fs::create_dir_all(directory).map_err(|error| Error::io("made", directory, error))?;
    let total_bytes = version.files.iter().map(|file| u64::try_from(file.size_bytes).unwrap_or(0)).sum();
    let connections = options.connections.clamp(1, 4);
    let pull = Pull {
        client,
        version: version.name.clone(),
        directory: directory.to_owned(),
        unfinished: path::unfinished(directory, version.files.iter().map(|file| file.path.as_str())),
        meter: Meter::new(&options.on_progress, version.files.len() as u64, total_bytes),
        connections: Semaphore::new(connections),
        next_connection: AtomicUsize::new(0),
        received_bytes: AtomicU64::new(0),
        skipped_files: AtomicU64::new(0),
        record: Arc::new(Mutex::new(PulledFiles::read(directory))),
    };
    let targets = paths.clone();
    // Twice as many files as connections, so that one can be synced to the disk while another one is received.
    let files = futures::stream::iter(version.files.clone().into_iter().zip(paths))
        .map(|(file, path)| pull.file(file, path))
        .buffer_unordered(2 * connections)
        .try_collect::<()>();
    let pulled = files.await;
    // It is kept if it is not empty: the next call goes on from there, or another pull is using it.
    let _ = std::fs::remove_dir(&pull.unfinished);
    pulled?;
    let received_bytes = pull.received_bytes.load(Ordering::Relaxed);
    let skipped_files = pull.skipped_files.load(Ordering::Relaxed);
    let (record, directory) = (pull.record, directory.to_owned());
    blocking(move || {
        let removed_files = lock(&record).remove_others(&version.files);
        let other_files = pulled::others(&directory, &targets);
        Ok(Pulled { version, received_bytes, skipped_files, removed_files, other_files })
    })
    .await
}

/// The paths of the files in the directory, after comparing the list of files with the version's digest.
fn checked_paths(version: &v1::Version) -> Result<Vec<PathBuf>> {
    if version_digest(&version.files)[..] != version.digest[..] {
        return Err(Error::Corrupt(format!(
            "the list of files of `{}` does not match its digest",
            version.name
        )));
    }
    let mut seen = HashSet::new();
    let mut paths = Vec::with_capacity(version.files.len());
    for file in &version.files {
        if !seen.insert(&file.path) {
            return Err(Error::Protocol(format!("`{}` has the file `{}` twice", version.name, file.path)));
        }
        paths.push(path::relative(&file.path)?);
    }
    Ok(paths)
}

impl Pull<'_> {
    async fn file(&self, file: v1::File, relative: PathBuf) -> Result<()> {
        let size_bytes = u64::try_from(file.size_bytes)
            .map_err(|_| Error::Protocol(format!("file `{}` has a negative size", file.path)))?;
        let digest: [u8; 32] = file.digest[..]
            .try_into()
            .map_err(|_| Error::Protocol(format!("file `{}` has no digest of 32 bytes", file.path)))?;
        let (directory, unfinished) = (self.directory.clone(), self.unfinished.clone());
        let (record, noted) = (Arc::clone(&self.record), file.clone());
        let opened = blocking(move || {
            let opened =
                part::open(path::make_room(&directory, &unfinished, &relative)?, size_bytes, digest)?;
            if matches!(opened, Opened::Part(_)) {
                lock(&record).expect(&noted);
            }
            Ok(opened)
        });
        let opened = opened.await?;
        let meter = self.meter.file();
        match opened {
            Opened::Equal => {
                self.skipped_files.fetch_add(1, Ordering::Relaxed);
                meter.done(size_bytes);
            }
            Opened::Part(part) => {
                let part = Arc::new(part);
                meter.set(part.verified_bytes());
                let pulled = PulledFile { pull: self, file, meter };
                pulled.receive(&part).await?;
                let sha256 = pulled.file.sha256.clone();
                blocking(move || part.finish(&sha256)).await?;
                pulled.meter.done(size_bytes);
            }
        }
        Ok(())
    }
}

impl PulledFile<'_> {
    /// Receives the ranges that are missing, several at a time.
    async fn receive(&self, part: &Arc<Part>) -> Result<()> {
        futures::stream::iter(part.missing_ranges())
            .map(|range| async move {
                let _permit = self.pull.connections.acquire().await.expect("the semaphore is never closed");
                let connection = self.pull.next_connection.fetch_add(1, Ordering::Relaxed);
                fetch::fetch(self, part, range, connection).await
            })
            .buffer_unordered(4)
            .try_collect::<()>()
            .await
    }
}

fn lock(record: &Mutex<PulledFiles>) -> std::sync::MutexGuard<'_, PulledFiles> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(Error::aborted)?
}
