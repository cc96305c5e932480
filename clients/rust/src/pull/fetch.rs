//! Receives one range of a file on one connection, while a thread of its own hashes and writes what arrives.

use std::fs::OpenOptions;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use keepbest_proto::v1;
use keepbest_rules::digest::Hasher;
use tokio::sync::mpsc;

use super::part::Part;
use super::{PulledFile, blocking};
use crate::digest::CHUNK_BYTES;
use crate::error::{Error, Result};

/// How many messages of 1 MiB may wait for the disk.
const WRITE_BEHIND: usize = 4;

/// Fetches a range that starts at a chunk's start.
pub(super) async fn fetch(
    file: &PulledFile<'_>,
    part: &Arc<Part>,
    range: Range<u64>,
    connection: usize,
) -> Result<()> {
    let (pieces, receiver) = mpsc::channel(WRITE_BEHIND);
    let writer_part = Arc::clone(part);
    let start = range.start;
    let writing = blocking(move || write(&writer_part, start, receiver));
    // Each of them ends soon after the other one, because then its end of the channel is closed.
    let (received, written) = tokio::join!(receive(file, range, connection, pieces), writing);
    written?;
    received
}

/// Receives the range, on as many streams as it takes.
async fn receive(
    file: &PulledFile<'_>,
    range: Range<u64>,
    connection: usize,
    pieces: mpsc::Sender<Bytes>,
) -> Result<()> {
    let client = file.pull.client;
    let mut position = range.start;
    let mut backoff = client.backoff();
    loop {
        let before = position;
        match stream(file, &mut position, range.end, connection, &pieces).await {
            Ok(()) => return Ok(()),
            Err(error) => {
                if position > before {
                    backoff.progressed();
                }
                backoff.pause(error).await?;
            }
        }
    }
}

/// Receives one stream from `position` to `end`, and moves `position` with what arrives.
async fn stream(
    file: &PulledFile<'_>,
    position: &mut u64,
    end: u64,
    connection: usize,
    pieces: &mpsc::Sender<Bytes>,
) -> Result<()> {
    let client = file.pull.client;
    let request = v1::ReadFileRequest {
        version: file.pull.version.clone(),
        path: file.file.path.clone(),
        offset_bytes: wire(*position),
        length_bytes: wire(end - *position),
    };
    let silent = |_| client.silent(client.stall_time());
    let opened = tokio::time::timeout(client.stall_time(), client.read_file_on(connection, request));
    let mut messages = opened.await.map_err(silent)??;
    while *position < end {
        let message =
            match tokio::time::timeout(client.stall_time(), messages.message()).await.map_err(silent)? {
                Ok(Some(message)) => message,
                Ok(None) => return Err(broken(file, "ended early")),
                Err(status) => return Err(client.error("ReadFile", &status)),
            };
        if message.data.is_empty() {
            continue;
        }
        let bytes = message.data.len() as u64;
        if message.offset_bytes != wire(*position) || *position + bytes > end {
            return Err(broken(file, "brought bytes that were not asked for"));
        }
        if pieces.send(message.data).await.is_err() {
            // The writer has failed and returns the error.
            return Ok(());
        }
        *position += bytes;
        file.meter.add(bytes);
        file.pull.received_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
    Ok(())
}

/// Writes pieces one after the other from `start` on, and records each chunk that is complete.
fn write(part: &Part, start: u64, mut pieces: mpsc::Receiver<Bytes>) -> Result<()> {
    let path = part.data_path();
    let failed = |error| Error::io("written", path, error);
    let mut file = OpenOptions::new().write(true).open(path).map_err(failed)?;
    file.seek(SeekFrom::Start(start)).map_err(failed)?;
    let mut hasher = Hasher::default();
    let mut position = start;
    while let Some(mut piece) = pieces.blocking_recv() {
        file.write_all(&piece).map_err(failed)?;
        while !piece.is_empty() {
            let chunk_end = (position / CHUNK_BYTES + 1) * CHUNK_BYTES;
            let room = usize::try_from(chunk_end - position).expect("a chunk fits into memory");
            let now = piece.split_to(room.min(piece.len()));
            hasher.update(&now);
            position += now.len() as u64;
            if position == chunk_end || position == part.size_bytes() {
                part.chunk_written((position - 1) / CHUNK_BYTES, hasher.finish())?;
                hasher.reset();
            }
        }
    }
    Ok(())
}

fn broken(file: &PulledFile<'_>, problem: &str) -> Error {
    Error::Protocol(format!("the stream of file `{}` {problem}", file.file.path))
}

fn wire(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
