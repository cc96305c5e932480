//! Uploads a file or a directory to a checkpoint. An upload that broke off goes on behind the bytes that are durable.

mod committed;
mod cuts;
mod groups;
mod local;
mod small;
mod stamp;
mod stream;

use std::path::Path;
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use keepbest_proto::v1;

use self::committed::CHECKPOINT_COMMITTED;
use self::local::LocalFile;
use self::stamp::Stamp;
use self::stream::FileUpload;
use crate::client::Client;
use crate::digest::file_digests;
use crate::error::{Error, Result};
use crate::progress::{Meter, OnProgress};

/// How many files, or groups of small files, are uploaded at once: one on each connection.
const PARALLEL: usize = 4;

/// Options of an upload.
#[derive(Debug, Clone, Default)]
pub struct UploadOptions {
    /// Declare the SHA-256 of each file to the server, which keeps and shows it. Large files are read once more for that.
    pub sha256: bool,
    /// Upload what the links in a directory lead to, as if it stood there. Otherwise a link is refused.
    pub follow_links: bool,
    /// Called as bytes are sent.
    pub on_progress: OnProgress,
}

pub use self::local::{Survey, survey};

/// The outcome of an upload: the files that the checkpoint has now from this source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uploaded {
    /// How many there are.
    pub file_count: u64,
    /// All together.
    pub size_bytes: u64,
}

/// The checkpoint that files are uploaded to, and how.
#[derive(Debug, Clone, Copy)]
struct Destination<'a> {
    client: &'a Client,
    checkpoint: &'a str,
    attempt: i64,
    sha256: bool,
}

/// Uploads a file, under its own name, or a directory to the checkpoint of a decision SAVE. Called again, it goes on where it
/// broke off. After the commit nothing is sent any more, but the files must be the same as those that were committed.
///
/// # Errors
/// As [`upload_file`] and [`upload_tree`].
pub async fn upload(
    client: &Client,
    checkpoint: &str,
    attempt: i64,
    source: &Path,
    options: &UploadOptions,
) -> Result<Uploaded> {
    let metadata = tokio::fs::metadata(source).await.map_err(|error| Error::io("read", source, error))?;
    if metadata.is_dir() {
        return upload_tree(client, checkpoint, attempt, source, options).await;
    }
    let name = source.file_name().and_then(|name| name.to_str()).ok_or_else(|| local::not_unicode(source))?;
    let file = LocalFile { source: source.to_owned(), target: name.to_owned(), stamp: Stamp::of(&metadata) };
    let destination = Destination { client, checkpoint, attempt, sha256: options.sha256 };
    upload_files(destination, vec![file], &options.on_progress).await
}

/// Uploads all files below a directory under their paths relative to it. Symbolic links are refused unless they are to be followed.
/// Folders without files, and the files' rights, are not uploaded; [`survey`] tells of them.
///
/// # Errors
/// [`Error::Invalid`] if there is no file, if there are more than 100,000, if something is neither a file nor a folder, or if links
/// lead in a circle; otherwise as [`upload_file`].
pub async fn upload_tree(
    client: &Client,
    checkpoint: &str,
    attempt: i64,
    directory: &Path,
    options: &UploadOptions,
) -> Result<Uploaded> {
    let (root, follow_links) = (directory.to_owned(), options.follow_links);
    let listed = tokio::task::spawn_blocking(move || local::list(&root, follow_links));
    let files = listed.await.map_err(Error::aborted)??.files;
    let destination = Destination { client, checkpoint, attempt, sha256: options.sha256 };
    upload_files(destination, files, &options.on_progress).await
}

/// Uploads one file as `target`, a relative path in the checkpoint, in messages of 1 MiB. Chunks that the team has are not sent: a file
/// whose name ends with `.safetensors` is cut at its tensors, any other one every 8 MiB. Bytes that are durable already are not
/// sent again either, but all are read, because in the end the server's digest must be that of the local file. After a stream broke
/// off, the server may go on writing what had arrived of it and so take the file over; this takes it back, at most three times.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read; [`Error::Corrupt`] if it was written to or replaced while it was uploaded, or if the
/// server has other bytes of it from before; [`Error::Refused`] with `UPLOAD_SUPERSEDED`, `STALE_ATTEMPT`, `CHECKPOINT_DELETED`,
/// `FILE_EXISTS`, `STORE_FULL` and the others of `WriteFile`; any retryable error if the budget of [`Retry`](crate::Retry) is
/// spent without progress.
pub async fn upload_file(
    client: &Client,
    checkpoint: &str,
    attempt: i64,
    source: &Path,
    target: &str,
    options: &UploadOptions,
) -> Result<v1::File> {
    let metadata = tokio::fs::metadata(source).await.map_err(|error| Error::io("read", source, error))?;
    let file =
        LocalFile { source: source.to_owned(), target: target.to_owned(), stamp: Stamp::of(&metadata) };
    let meter = Meter::new(&options.on_progress, 1, file.size_bytes());
    let destination = Destination { client, checkpoint, attempt, sha256: options.sha256 };
    match upload_streamed(destination, file.clone(), 0, &meter).await {
        Err(error) if error.reason() == CHECKPOINT_COMMITTED => {
            let mut files = committed::compare(destination, vec![file]).await?;
            files.pop().ok_or_else(|| Error::Protocol("a file was compared and is not there".to_owned()))
        }
        result => result,
    }
}

async fn upload_files(
    destination: Destination<'_>,
    files: Vec<LocalFile>,
    on_progress: &OnProgress,
) -> Result<Uploaded> {
    let size_bytes = files.iter().map(LocalFile::size_bytes).sum();
    let uploaded = Uploaded { file_count: files.len() as u64, size_bytes };
    let meter = Meter::new(on_progress, uploaded.file_count, size_bytes);
    match send_files(destination, files.clone(), &meter).await {
        Err(error) if error.reason() == CHECKPOINT_COMMITTED => {
            committed::compare(destination, files).await?;
        }
        result => result?,
    }
    Ok(uploaded)
}

async fn send_files(destination: Destination<'_>, files: Vec<LocalFile>, meter: &Arc<Meter>) -> Result<()> {
    let (small, large): (Vec<_>, Vec<_>) =
        files.into_iter().partition(|file| file.size_bytes() < small::SMALL_FILE_BYTES);
    let groups = futures::stream::iter(small::groups(small))
        .map(|group| small::upload(destination, group, Arc::clone(meter)))
        .buffer_unordered(PARALLEL);
    groups.try_collect::<()>().await?;
    let streams = futures::stream::iter(large.into_iter().enumerate())
        .map(
            |(number, file)| async move { upload_streamed(destination, file, number, meter).await.map(drop) },
        )
        .buffer_unordered(PARALLEL);
    streams.try_collect::<()>().await
}

async fn upload_streamed(
    destination: Destination<'_>,
    file: LocalFile,
    connection: usize,
    meter: &Arc<Meter>,
) -> Result<v1::File> {
    let blind = file.stamp.blind();
    if !blind.is_zero() {
        tokio::time::sleep(blind).await;
        file.stamp.check_path(&file.source)?;
    }
    let declared = if destination.sha256 {
        let source = file.source.clone();
        let digests = tokio::task::spawn_blocking(move || file_digests(&source));
        Some(digests.await.map_err(Error::aborted)??)
    } else {
        None
    };
    FileUpload { destination, file, declared, connection, meter: meter.file() }.run().await
}

/// A size or an offset in the type that messages have for it.
fn wire_bytes(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
