//! Uploads one file on a stream of 1 MiB messages, which a thread of its own reads and hashes; a broken stream is resumed.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use keepbest_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::committed::other_bytes;
use super::local::LocalFile;
use super::stamp::{Stamp, changed_file};
use super::{Destination, wire_bytes};
use crate::digest::{Digests, FileDigest, file_digest};
use crate::error::{Error, Result};
use crate::patience::Movement;
use crate::progress::FileMeter;

/// With 64 KiB the throughput is a third; 4 MiB is slower again.
const MESSAGE_BYTES: u64 = 1 << 20;
/// How many messages are read ahead of the network.
const READ_AHEAD: usize = 4;
/// How long the reader may take to notice that its stream has ended.
const READER_END: Duration = Duration::from_secs(1);

/// The upload of one file.
#[derive(Debug)]
pub(super) struct FileUpload<'a> {
    pub(super) destination: Destination<'a>,
    pub(super) file: LocalFile,
    /// The digests of the file when its SHA-256 was computed; none if none is declared.
    pub(super) declared: Option<Digests>,
    pub(super) connection: usize,
    pub(super) meter: Arc<FileMeter>,
}

impl FileUpload<'_> {
    /// Uploads the file, on as many streams as it takes.
    pub(super) async fn run(self) -> Result<v1::File> {
        let client = self.destination.client;
        let request = v1::PrepareFileRequest {
            checkpoint: self.destination.checkpoint.to_owned(),
            attempt: self.destination.attempt,
            path: self.file.target.clone(),
            size_bytes: wire_bytes(self.file.size_bytes()),
            sha256: self.declared.map(|digests| Bytes::copy_from_slice(&digests.sha256)).unwrap_or_default(),
        };
        let mut backoff = client.backoff();
        let mut durable_before = 0;
        loop {
            let prepared = client.prepare_file(request.clone()).await?;
            let durable_bytes =
                u64::try_from(prepared.durable_bytes).unwrap_or(0).min(self.file.size_bytes());
            if durable_bytes > durable_before {
                backoff.progressed();
                durable_before = durable_bytes;
            }
            self.meter.set(durable_bytes);
            if prepared.state() == v1::FileState::Complete {
                // By an earlier call, or by a stream whose answer was lost.
                let digest = self.digest().await?;
                return self.verified(prepared, &digest);
            }
            match self.send(durable_bytes).await {
                Ok((file, digest)) => return self.verified(file, &digest),
                Err(error @ Error::Corrupt(_)) => {
                    self.forget().await;
                    return Err(error);
                }
                Err(error) => backoff.pause(error).await?,
            }
        }
    }

    async fn digest(&self) -> Result<[u8; 32]> {
        let (source, stamp) = (self.file.source.clone(), self.file.stamp);
        let digest = move || {
            let digest = file_digest(&source)?;
            stamp.check_path(&source).map(|()| digest)
        };
        tokio::task::spawn_blocking(digest).await.map_err(Error::aborted)?
    }

    /// Sends one stream from an offset to the end. Returns the server's answer and the digest of the whole local file.
    async fn send(&self, offset_bytes: u64) -> Result<(v1::File, [u8; 32])> {
        let (messages, receiver) = mpsc::channel(READ_AHEAD);
        let reader = Reader {
            source: self.file.source.clone(),
            stamp: self.file.stamp,
            head: v1::WriteFileRequest { offset_bytes: wire_bytes(offset_bytes), ..self.head() },
            messages,
            meter: Arc::clone(&self.meter),
        };
        let reader = tokio::task::spawn_blocking(move || reader.read(offset_bytes));
        let client = self.destination.client;
        let movement = Arc::new(Movement::begin());
        let moved = Arc::clone(&movement);
        let stream = ReceiverStream::new(receiver).inspect(move |_| moved.moved());
        let answered =
            movement.answer(client.stall_time(), client.write_file_on(self.connection, stream)).await;
        let answered = answered.unwrap_or_else(|| Err(client.silent(client.stall_time())));
        let read = tokio::time::timeout(READER_END, reader).await;
        match (answered, read) {
            // If the reader failed, that ended the stream, and the server's error is only a consequence.
            (_, Ok(Ok(Err(error)))) => Err(error),
            (Err(error), _) => Err(error),
            (Ok(file), Ok(Ok(Ok(Some(digest))))) => Ok((file, digest)),
            (Ok(_), Ok(Err(error))) => Err(Error::aborted(error)),
            (Ok(_), _) => {
                Err(Error::Protocol("WriteFile was answered before all bytes were sent".to_owned()))
            }
        }
    }

    /// Makes the server forget what it has of a file that changed, so that the next upload does not go on behind those bytes. If
    /// this fails, the next upload will find at its end that the server has other bytes, and say so.
    async fn forget(&self) {
        let from_the_start = v1::WriteFileRequest { offset_bytes: 0, ..self.head() };
        let stream = futures::stream::iter([from_the_start]);
        let unfinished = self.destination.client.write_file_on(self.connection, stream);
        let _ = tokio::time::timeout(self.destination.client.stall_time(), unfinished).await;
    }

    /// What the first message of a stream says, but for the offset and the data.
    fn head(&self) -> v1::WriteFileRequest {
        v1::WriteFileRequest {
            checkpoint: self.destination.checkpoint.to_owned(),
            attempt: self.destination.attempt,
            path: self.file.target.clone(),
            ..Default::default()
        }
    }

    fn verified(&self, file: v1::File, digest: &[u8; 32]) -> Result<v1::File> {
        if file.state() != v1::FileState::Complete {
            return Err(Error::Protocol(format!("file `{}` was sent and is not complete", file.path)));
        }
        if self.declared.is_some_and(|declared| declared.file != *digest) {
            return Err(changed_file(&self.file.source, "was written to"));
        }
        if file.digest[..] != digest[..] {
            return Err(other_bytes(&self.file));
        }
        self.meter.done(self.file.size_bytes());
        Ok(file)
    }
}

/// Reads the file, on a thread that may block.
struct Reader {
    source: PathBuf,
    /// What the file must still be like when all of it was read.
    stamp: Stamp,
    /// The first message, still without data.
    head: v1::WriteFileRequest,
    messages: mpsc::Sender<v1::WriteFileRequest>,
    meter: Arc<FileMeter>,
}

impl Reader {
    /// Sends the file from the offset on and returns the digest of all of it; none if the server has ended the stream. The bytes
    /// before the offset are hashed too, because the server may have them from another state of the file.
    fn read(mut self, offset_bytes: u64) -> Result<Option<[u8; 32]>> {
        let mut file = File::open(&self.source).map_err(|error| Error::io("read", &self.source, error))?;
        self.stamp.check(&self.source, &file)?;
        let mut digest = FileDigest::default();
        let mut position = 0;
        while position < offset_bytes {
            let data = self.read_piece(&mut file, MESSAGE_BYTES.min(offset_bytes - position))?;
            digest.update(&data);
            position += data.len() as u64;
        }
        loop {
            let data = self.read_piece(&mut file, MESSAGE_BYTES.min(self.stamp.size_bytes - position))?;
            digest.update(&data);
            position += data.len() as u64;
            let finish = position == self.stamp.size_bytes;
            if finish {
                // Without this last message the server does not complete the file.
                self.stamp.check(&self.source, &file)?;
            }
            let message = v1::WriteFileRequest {
                crc32c: Some(crc_fast::crc32_iscsi(&data)),
                data: data.into(),
                finish,
                ..std::mem::take(&mut self.head)
            };
            if self.messages.blocking_send(message).is_err() {
                return Ok(None);
            }
            self.meter.set(position);
            if finish {
                return Ok(Some(digest.finish()));
            }
        }
    }

    fn read_piece(&self, file: &mut File, piece_bytes: u64) -> Result<Vec<u8>> {
        let mut data = Vec::with_capacity(usize::try_from(piece_bytes).expect("a message fits into memory"));
        file.take(piece_bytes)
            .read_to_end(&mut data)
            .map_err(|error| Error::io("read", &self.source, error))?;
        if data.len() as u64 == piece_bytes {
            return Ok(data);
        }
        Err(changed_file(&self.source, "has another size now"))
    }
}
