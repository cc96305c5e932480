//! Uploads one file on a stream, which a thread of its own reads and hashes; a broken stream is resumed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use keepbest_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;

use super::committed::other_bytes;
use super::groups::{Reader, Sender};
use super::local::LocalFile;
use super::stamp::changed_file;
use super::{Destination, wire_bytes};
use crate::digest::{Digests, file_digest};
use crate::error::{Error, Result};
use crate::patience::Movement;
use crate::progress::FileMeter;

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
        let (groups, read) = mpsc::channel(1);
        let reader = Reader { source: self.file.source.clone(), stamp: self.file.stamp, groups };
        let reader = tokio::task::spawn_blocking(move || reader.read(offset_bytes));
        let (messages, receiver) = mpsc::channel(READ_AHEAD);
        let client = self.destination.client;
        let sender = Sender {
            client: client.clone(),
            checkpoint: self.destination.checkpoint.to_owned(),
            next: v1::WriteFileRequest { offset_bytes: wire_bytes(offset_bytes), ..self.head() },
            messages,
            meter: Arc::clone(&self.meter),
            source: self.file.source.clone(),
            stamp: self.file.stamp,
        };
        let sender = AbortOnDropHandle::new(tokio::spawn(sender.send(read, offset_bytes)));
        let movement = Arc::new(Movement::begin());
        let moved = Arc::clone(&movement);
        let stream = ReceiverStream::new(receiver).inspect(move |_| moved.moved());
        let answered =
            movement.answer(client.stall_time(), client.write_file_on(self.connection, stream)).await;
        let answered = answered.unwrap_or_else(|| Err(client.silent(client.stall_time())));
        let sent = tokio::time::timeout(READER_END, sender).await;
        let read = tokio::time::timeout(READER_END, reader).await;
        match (answered, read, sent) {
            // If the reader failed, that ended the stream, and the server's error is only a consequence.
            (_, Ok(Ok(Err(error))), _) | (_, _, Ok(Ok(Err(error)))) => Err(error),
            (Err(error), ..) => Err(error),
            (Ok(file), Ok(Ok(Ok(Some(digest)))), _) => Ok((file, digest)),
            (Ok(_), Ok(Err(error)), _) => Err(Error::aborted(error)),
            (Ok(_), ..) => {
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
