//! Files in: declare, stream into chunks, store each once, finish. Memory is bounded by the buffers taken first.

use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use futures::StreamExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::app::App;
use crate::app::Error;
use crate::app::chunks::wanted_chunk;
use crate::app::micros;
use crate::db::ExpireTimes;
use crate::db::FileRow;
use crate::db::NewFile;
use crate::db::Upload;
use crate::domain::digest::CHUNK_BYTES;
use crate::domain::digest::Digest;
use crate::domain::ids::CheckpointName;
use crate::domain::ids::shown;
use crate::domain::path;
use crate::domain::refusal::Refusal;
use crate::failpoint::failpoint;

/// Largest file: 16 TiB is two million chunks.
pub const MAX_FILE_BYTES: i64 = 16 << 40;
/// Most files in one WriteSmallFiles.
pub const MAX_SMALL_FILES: usize = 1_000;
/// Chunks of one stream that are stored while the next one fills.
const CHUNKS_IN_FLIGHT: usize = 2;
/// The most that a stream takes of the buffers: those, and the chunk that fills.
pub const STREAM_BYTES: u64 = (CHUNKS_IN_FLIGHT as u64 + 1) * CHUNK_BYTES;
/// An upload that sends less than this in the idle time is slow on purpose or broken.
const IDLE_BYTES: usize = 64 << 10;
/// Objects of small files that are written at once.
const SMALL_FILES_IN_FLIGHT: usize = 8;

/// Whose file, and who writes.
#[derive(Clone, Debug)]
pub struct Target {
    /// The checkpoint.
    pub checkpoint: CheckpointName,
    /// The attempt.
    pub attempt: i64,
    /// The file's path.
    pub path: String,
}

/// One message of an upload.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Bytes of the file, in order.
    pub data: Bytes,
    /// CRC-32C of them.
    pub crc32c: Option<u32>,
    /// Nothing comes after this.
    pub finish: bool,
}

/// A small file, whole.
#[derive(Clone, Debug)]
pub struct SmallFile {
    /// The file's path.
    pub path: String,
    /// All its bytes.
    pub data: Bytes,
    /// Of them, if declared.
    pub sha256: Option<Digest>,
}

impl App {
    fn upload(&self, checkpoint: CheckpointName, attempt: i64) -> Upload {
        let token = uuid::Uuid::new_v4().simple().to_string();
        Upload { checkpoint, attempt, token, expire: self.expiry_from_now() }
    }

    /// When a pending checkpoint expires that is written to now.
    fn expiry_from_now(&self) -> ExpireTimes {
        let now_us = self.clock.now_us();
        ExpireTimes {
            pending_us: now_us.saturating_add(micros(self.limits.pending_expiry)),
            parts_us: now_us.saturating_add(micros(self.limits.parts_expiry)),
        }
    }

    /// The same upload, whose checkpoint lives on because it was just written to.
    pub(super) fn renewed(&self, upload: &Upload) -> Upload {
        Upload { expire: self.expiry_from_now(), ..upload.clone() }
    }

    /// Declares a file, or finds it again, and says how much of it is durable.
    pub async fn prepare_file(
        &self,
        target: Target,
        size_bytes: i64,
        sha256: Option<Digest>,
    ) -> Result<FileRow, Error> {
        path::check(&target.path)?;
        if !(0..=MAX_FILE_BYTES).contains(&size_bytes) {
            let message = format!("size_bytes {size_bytes} is not between 0 and {MAX_FILE_BYTES}");
            return Err(Refusal::invalid("SIZE_MISMATCH", message).into());
        }
        let new = NewFile { path: target.path, size_bytes, sha256 };
        let file = self.db.prepare_file(self.upload(target.checkpoint, target.attempt), new).await?;
        failpoint!("prepare.committed");
        Ok(file)
    }

    /// Writes a prepared file from `offset_bytes` on. Ends well only with a piece that says `finish`.
    pub async fn write_file(
        &self,
        target: Target,
        offset_bytes: i64,
        pieces: impl Stream<Item = Result<Piece, Error>> + Send,
    ) -> Result<FileRow, Error> {
        path::check(&target.path)?;
        self.upload_buffers.check_crowd()?;
        let upload = self.upload(target.checkpoint, target.attempt);
        let file = self.db.begin_write(upload.clone(), target.path, offset_bytes).await?;
        failpoint!("upload.committed");
        if file.digest.is_some() {
            // An answer that was lost: the file is complete, whatever is sent again.
            return Ok(file);
        }
        let missing = u64::try_from(file.size_bytes.saturating_sub(file.durable_bytes)).unwrap_or(0);
        let permit = Arc::new(self.upload_buffers.take(missing.min(STREAM_BYTES)).await?);
        let mut cutter = Cutter {
            app: self,
            upload: &upload,
            permit,
            next_offset: file.durable_bytes,
            file: &file,
            filling: Vec::new(),
            in_flight: VecDeque::new(),
        };
        let received = cutter.receive(pieces, self.limits.upload_idle).await;
        let settled = cutter.settle_all().await;
        received?;
        settled?;
        let finished = self.db.finish_files(self.renewed(&upload), vec![file]).await?;
        failpoint!("finish.committed");
        finished.into_iter().next().ok_or_else(|| Error::Internal("finish answered no file".into()))
    }

    /// Writes small files whole: declares, stores and finishes all of them.
    pub async fn write_small_files(
        &self,
        checkpoint: CheckpointName,
        attempt: i64,
        files: Vec<SmallFile>,
    ) -> Result<Vec<FileRow>, Error> {
        if files.len() > MAX_SMALL_FILES {
            let message = format!("{} files in one call: at most {MAX_SMALL_FILES} are allowed", files.len());
            return Err(Refusal::exhausted("LIMIT_EXCEEDED", message).into());
        }
        let mut new = Vec::with_capacity(files.len());
        let mut paths = HashSet::new();
        for file in &files {
            path::check(&file.path)?;
            if !paths.insert(file.path.as_str()) {
                let message =
                    format!("path `{}` stands twice in one call: which one is right?", shown(&file.path));
                return Err(Refusal::invalid("BAD_PATH", message).into());
            }
            let size_bytes = i64::try_from(file.data.len()).unwrap_or(i64::MAX);
            new.push(NewFile { path: file.path.clone(), size_bytes, sha256: file.sha256 });
        }
        let bytes = files.iter().fold(0, |sum, file| sum + file.data.len() as u64);
        let _permit = self.upload_buffers.take(bytes).await?;
        let upload = self.upload(checkpoint, attempt);
        let rows = self.db.begin_small_files(upload.clone(), new).await?;
        failpoint!("upload.committed");
        let now_us = self.clock.now_us();
        let mut bytes = HashMap::new();
        let mut wanted = Vec::new();
        for (row, file) in rows.iter().zip(files) {
            if row.digest.is_none() && !file.data.is_empty() {
                let chunk = wanted_chunk(row, 0, Digest::of_pieces([&*file.data]), file.data.len(), now_us);
                bytes.insert(chunk.object_key.clone(), file.data);
                wanted.push(chunk);
            }
        }
        // Chunk rows are locked in one order everywhere: two calls with the same files cannot wait for each other.
        wanted.sort_unstable_by_key(|chunk| chunk.digest);
        failpoint!("chunk.begun");
        let new = self.db.claim_chunks(upload.clone(), wanted, now_us).await?;
        failpoint!("chunk.claimed");
        // Of equal files the first one's object is stored; the others' rows then find its chunk.
        let mut digests = HashSet::new();
        let puts = new.iter().filter(|chunk| digests.insert(chunk.digest));
        let puts =
            puts.filter_map(|chunk| Some((chunk.object_key.clone(), bytes.remove(&chunk.object_key)?)));
        let mut puts = futures::stream::iter(puts.collect::<Vec<_>>())
            .map(|(key, data)| async move { self.store.put(&key, vec![data]).await })
            .buffer_unordered(SMALL_FILES_IN_FLIGHT);
        while let Some(put) = puts.next().await {
            put?;
        }
        failpoint!("chunk.stored");
        self.settle(&upload, new).await?;
        let finished = self.db.finish_files(upload, rows).await?;
        failpoint!("finish.committed");
        Ok(finished)
    }
}

/// Cuts a stream into chunks and stores a few of them at once.
struct Cutter<'a> {
    app: &'a App,
    upload: &'a Upload,
    permit: Arc<OwnedSemaphorePermit>,
    file: &'a FileRow,
    /// Where the chunk that fills stands in the file.
    next_offset: i64,
    /// In one piece: messages are slices of the transport's buffers, which are up to twice as large and would all be held.
    filling: Vec<u8>,
    in_flight: VecDeque<JoinHandle<Result<(), Error>>>,
}

impl Cutter<'_> {
    async fn receive(
        &mut self,
        pieces: impl Stream<Item = Result<Piece, Error>> + Send,
        idle: Duration,
    ) -> Result<(), Error> {
        let mut pieces = std::pin::pin!(pieces);
        let (mut deadline, mut since) = (Instant::now() + idle, 0);
        loop {
            let piece = match tokio::time::timeout_at(deadline, pieces.next()).await {
                Ok(Some(piece)) => piece?,
                Ok(None) => return Err(self.finish_missing().into()),
                Err(_) => return Err(idle_timeout(idle).into()),
            };
            since += piece.data.len();
            if since >= IDLE_BYTES {
                (deadline, since) = (Instant::now() + idle, 0);
            }
            let finish = piece.finish;
            let begun = Instant::now();
            self.take(piece).await?;
            // While the store is slow, it is not the sender who is idle.
            deadline += begun.elapsed();
            if finish {
                return self.finish().await;
            }
        }
    }

    fn received(&self) -> i64 {
        self.next_offset.saturating_add(i64::try_from(self.filling.len()).unwrap_or(i64::MAX))
    }

    async fn take(&mut self, piece: Piece) -> Result<(), Error> {
        check_crc(&piece)?;
        let mut data = piece.data;
        let after = self.received().saturating_add(i64::try_from(data.len()).unwrap_or(i64::MAX));
        if after > self.file.size_bytes {
            return Err(self.size_mismatch(after, "at least ").into());
        }
        while !data.is_empty() {
            if self.filling.is_empty() {
                let left = u64::try_from(self.file.size_bytes.saturating_sub(self.next_offset)).unwrap_or(0);
                self.filling.reserve_exact(usize::try_from(left.min(CHUNK_BYTES)).unwrap_or(0));
            }
            let room = usize::try_from(CHUNK_BYTES).unwrap_or(usize::MAX) - self.filling.len();
            self.filling.extend_from_slice(&data.split_to(room.min(data.len())));
            if self.filling.len() as u64 == CHUNK_BYTES {
                self.store_chunk().await?;
            }
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), Error> {
        if self.received() != self.file.size_bytes {
            return Err(self.size_mismatch(self.received(), "").into());
        }
        if self.filling.is_empty() { Ok(()) } else { self.store_chunk().await }
    }

    /// Hands the filled chunk to a task of its own, which goes on if the caller goes away: its bytes then are durable for
    /// the resumed upload. The task holds its share of the buffers.
    async fn store_chunk(&mut self) -> Result<(), Error> {
        while self.in_flight.len() >= CHUNKS_IN_FLIGHT {
            self.settle_oldest().await?;
        }
        let data = Bytes::from(std::mem::take(&mut self.filling));
        let length = data.len();
        let offset_bytes = self.next_offset;
        self.next_offset = self.next_offset.saturating_add(i64::try_from(length).unwrap_or(i64::MAX));
        let (app, upload, file) = (self.app.clone(), self.upload.clone(), self.file.clone());
        let permit = Arc::clone(&self.permit);
        self.in_flight.push_back(tokio::spawn(async move {
            let result = app.store_chunk(upload, &file, offset_bytes, data).await;
            drop(permit);
            result
        }));
        Ok(())
    }

    async fn settle_oldest(&mut self) -> Result<(), Error> {
        match self.in_flight.pop_front() {
            Some(task) => task.await.map_err(|error| Error::Internal(Box::new(error)))?,
            None => Ok(()),
        }
    }

    /// Waits for all chunks, also after an error, so that what is durable is known when the caller is answered.
    async fn settle_all(&mut self) -> Result<(), Error> {
        let mut result = Ok(());
        while !self.in_flight.is_empty() {
            let settled = self.settle_oldest().await;
            result = result.and(settled);
        }
        result
    }

    fn finish_missing(&self) -> Refusal {
        let message = format!(
            "the stream of file `{}` ended after {} of {} bytes without `finish`: what is durable stays, go on from there",
            shown(&self.file.path),
            self.received(),
            self.file.size_bytes
        );
        Refusal::invalid("FINISH_MISSING", message)
    }

    fn size_mismatch(&self, received: i64, at_least: &str) -> Refusal {
        let message = format!(
            "file `{}` has {at_least}{received} bytes, but {} were declared: a file that changed needs a new save",
            shown(&self.file.path),
            self.file.size_bytes
        );
        Refusal::invalid("SIZE_MISMATCH", message)
    }
}

fn check_crc(piece: &Piece) -> Result<(), Refusal> {
    let Some(declared) = piece.crc32c else { return Ok(()) };
    let actual = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &piece.data);
    if actual == u64::from(declared) {
        return Ok(());
    }
    let message = format!(
        "crc32c of a message is {actual:08x}, but {declared:08x} was declared: its bytes changed on the way, send it again"
    );
    Err(Refusal::invalid("CHECKSUM_MISMATCH", message))
}

/// The refusal of a stream that was idle too long.
pub(crate) fn idle_timeout(idle: Duration) -> Refusal {
    let message = format!(
        "the upload sent less than 64 KiB in {} s: what is durable stays, ask PrepareFile where to go on",
        idle.as_secs()
    );
    Refusal::deadline("IDLE_TIMEOUT", message)
}
