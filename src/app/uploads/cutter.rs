//! A stream of bytes cut into chunks, of which a few are stored at once while the next one fills.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::app::App;
use crate::app::Error;
use crate::app::buffers::Held;
use crate::app::buffers::UNIT_BYTES;
use crate::app::chunks::Cut;
use crate::app::chunks::placed;
use crate::app::chunks::step_of;
use crate::app::uploads::CHUNKS_IN_FLIGHT;
use crate::app::uploads::Piece;
use crate::app::uploads::Upload;
use crate::app::uploads::batch::Batch;
use crate::app::uploads::batch::CHUNK_MISSING;
use crate::app::uploads::batch::Known;
use crate::app::uploads::batch::Left;
use crate::app::uploads::cells::PassingCells;
use crate::app::uploads::declared::Declared;
use crate::app::uploads::filling::Filling;
use crate::app::uploads::pace::Pace;
use crate::db::FileStep;
use crate::db::Stored;
use crate::domain::digest::CHUNK_BYTES;
use crate::domain::digest::Digest;
use crate::domain::file::StoredFile;
use crate::domain::ids::shown;
use crate::domain::refusal::Refusal;
use crate::store::memory_bytes;
use crate::turns::Caller;
use crate::turns::Taken;

/// So much of a chunk must have come before it gets room for all of it.
const BEGUN_BYTES: u64 = 1 << 20;

/// Cuts a stream into chunks and stores a few of them at once.
pub(super) struct Cutter<'a> {
    pub(super) app: &'a App,
    pub(super) upload: &'a Upload,
    pub(super) declared: Declared,
    pub(super) held: Held,
    /// What the chunk that fills has, and those of the batch.
    pub(super) room: Vec<Taken>,
    pub(super) file: &'a StoredFile,
    /// Where the chunk that fills stands in the file.
    pub(super) next_offset: i64,
    pub(super) filling: Filling,
    pub(super) cells: PassingCells,
    /// Chunks that the file has so far.
    pub(super) chunk_count: i64,
    /// Chunks that have ended and are not on their way yet.
    pub(super) batch: Batch,
    pub(super) in_flight: VecDeque<JoinHandle<Result<Left, Error>>>,
}

impl Cutter<'_> {
    pub(super) async fn receive(
        &mut self,
        pieces: impl Stream<Item = Result<Piece, Error>> + Send,
        idle: Duration,
    ) -> Result<StoredFile, Error> {
        let mut pieces = std::pin::pin!(pieces);
        let mut pace = Pace::new(idle);
        let bytes = |next: &Result<Option<Piece>, Error>| match next {
            Ok(Some(piece)) => piece.moved_bytes(),
            _ => 0,
        };
        while let Some(piece) = self.held.next(pace.next(&mut pieces), bytes).await?? {
            let (finish, begun) = (piece.finish, Instant::now());
            self.take(piece).await?;
            pace.worked_since(begun);
            if finish {
                return self.finish().await;
            }
        }
        Err(finish_missing(self.file, self.received()).into())
    }

    fn received(&self) -> i64 {
        self.next_offset.saturating_add(i64::try_from(self.filling.len()).unwrap_or(i64::MAX))
    }

    async fn take(&mut self, piece: Piece) -> Result<(), Error> {
        check_crc(&piece)?;
        let mut data = piece.data;
        let after = self.received().saturating_add(i64::try_from(data.len()).unwrap_or(i64::MAX));
        if after > self.file.size_bytes {
            return Err(size_mismatch(self.file, after, "at least ").into());
        }
        while !data.is_empty() {
            let left = usize::try_from(CHUNK_BYTES).unwrap_or(usize::MAX) - self.filling.len();
            let part = data.split_to(left.min(data.len()));
            self.cover(part.len()).await?;
            self.filling.push(&part);
            if self.filling.len() as u64 == CHUNK_BYTES {
                self.end_chunk().await?;
            }
        }
        // The last chunk goes with the completion of the file.
        if piece.cut && !(piece.finish && piece.known.is_empty()) {
            self.end_chunk().await?;
        }
        for known in piece.known {
            self.refer(known).await?;
        }
        Ok(())
    }

    /// Takes room for so many bytes more of the chunk that fills. What begins has room for what came; once its sender has shown
    /// that it sends, the chunk has room for all of it, so that it never waits for others in its middle.
    async fn cover(&mut self, more: usize) -> Result<(), Error> {
        let left = u64::try_from(self.file.size_bytes.saturating_sub(self.next_offset)).unwrap_or(0);
        let size = memory_bytes(left.min(CHUNK_BYTES));
        let filled = self.filling.len() as u64;
        if filled + more as u64 <= self.free_room() {
            return Ok(());
        }
        // What has ended must not wait for room behind itself. It takes along what it shares with the chunk that fills.
        self.store_batch().await?;
        let has = self.free_room();
        if filled < BEGUN_BYTES {
            self.room.push(self.held.take_first((filled + more as u64).saturating_sub(has)).await?);
        } else {
            self.room.push(self.held.take(size.saturating_sub(has)).await?);
            match size {
                CHUNK_BYTES => self.filling.widen(self.app.store.block()),
                _ => self.filling.expect(usize::try_from(size).unwrap_or(0)),
            }
        }
        Ok(())
    }

    /// Bytes that the chunk that fills has room for.
    fn free_room(&self) -> u64 {
        let all = self.room.iter().map(Taken::units).sum::<u64>() * UNIT_BYTES;
        all.saturating_sub(self.batch.bytes())
    }

    /// What is left is put beside the chunks that are under way, and pinned with the completion of the file, behind them.
    async fn finish(&mut self) -> Result<StoredFile, Error> {
        if self.received() != self.file.size_bytes {
            return Err(size_mismatch(self.file, self.received(), "").into());
        }
        self.store_batch().await?;
        let (data, offset_bytes) = self.filled();
        self.declared.take(&data).await?;
        self.cells.take(&data, self.file.size_bytes).await?;
        if self.cells.is_cut() {
            return self.finish_cut(offset_bytes, data).await;
        }
        let (app, upload, path) = (self.app.clone(), self.upload.clone(), self.file.path.clone());
        let room = std::mem::take(&mut self.room);
        let (settled, behind) = oneshot::channel::<()>();
        let last: JoinHandle<Result<Option<StoredFile>, Error>> =
            tokio::spawn(Caller::current().scope(async move {
                let pieces = if data.is_empty() { vec![] } else { vec![Cut::of(offset_bytes, data).await?] };
                let stored = app.put_pieces(upload.team(), &pieces).await?;
                // Without those before it, or if the whole is not what was declared, it is no part of the file.
                if behind.await.is_err() {
                    return Ok(None);
                }
                let steps = |stored: &HashMap<Digest, Stored>| {
                    app.writes(&upload, vec![step_of(&path, placed(&pieces, stored), true)])
                };
                let written = app.write_pieces(upload.team(), &pieces, stored, steps).await?;
                drop(room);
                Ok(written.into_iter().next())
            }));
        let before = match self.settle_all().await {
            Ok(()) => {
                let checked = self.declared.check(&self.file.path).await;
                self.app.or_anew(self.upload, self.file, checked).await
            }
            failed => failed,
        };
        if before.is_ok() {
            settled.send(()).ok();
        } else {
            drop(settled);
        }
        let last = last.await.map_err(|error| Error::Internal(Box::new(error)))?;
        before?;
        last?.ok_or_else(|| Error::Internal("a write answered no file".into()))
    }

    /// The chunk that was filled, and where it stands.
    fn filled(&mut self) -> (Bytes, i64) {
        let data = self.filling.take();
        let offset_bytes = self.next_offset;
        let length = i64::try_from(data.len()).unwrap_or(i64::MAX);
        self.next_offset = self.next_offset.saturating_add(length);
        (data, offset_bytes)
    }

    /// Finishes a file whose chunks do not tell its digest: it is found out once all of them are durable.
    async fn finish_cut(&mut self, offset_bytes: i64, data: Bytes) -> Result<StoredFile, Error> {
        if !data.is_empty() {
            self.count_chunk()?;
            self.batch.add(offset_bytes, data);
            self.store_batch().await?;
        }
        self.settle_all().await?;
        let checked = self.declared.check(&self.file.path).await;
        self.app.or_anew(self.upload, self.file, checked).await?;
        let assembled = self.app.assemble(self.upload, self.file, &self.cells, &self.held).await;
        let (assembled, passed) = self.app.or_anew(self.upload, self.file, assembled).await?;
        let step = FileStep { assembled: Some(assembled), ..step_of(&self.file.path, Vec::new(), true) };
        let finished = self.app.write_one(self.upload, step).await?;
        self.app.remember_cells(passed);
        Ok(finished)
    }

    /// The chunk that fills is whole, whatever it has.
    async fn end_chunk(&mut self) -> Result<(), Error> {
        let (data, offset_bytes) = self.filled();
        if data.is_empty() {
            return Ok(());
        }
        self.declared.take(&data).await?;
        self.cells.take(&data, self.file.size_bytes).await?;
        self.count_chunk()?;
        self.batch.add(offset_bytes, data);
        self.store_if_full().await
    }

    fn count_chunk(&mut self) -> Result<(), Refusal> {
        self.chunk_count += 1;
        self.file.check_chunk_count(self.chunk_count)
    }

    async fn store_if_full(&mut self) -> Result<(), Error> {
        if self.batch.is_full() { self.store_batch().await } else { Ok(()) }
    }

    /// The next chunk is one that the team has.
    async fn refer(&mut self, known: Known) -> Result<(), Error> {
        self.end_chunk().await?;
        let (offset_bytes, after) = (self.next_offset, self.next_offset.saturating_add(known.size_bytes));
        if after > self.file.size_bytes {
            return Err(size_mismatch(self.file, after, "at least ").into());
        }
        if self.file.sha256.is_some() {
            let mut read = self.app.read_known(self.upload, offset_bytes, known, &self.held).await;
            if matches!(&read, Err(Error::Refused(it)) if it.reason == CHUNK_MISSING) {
                // It may be one that came on this stream.
                self.store_batch().await?;
                self.settle_all().await?;
                read = self.app.read_known(self.upload, offset_bytes, known, &self.held).await;
            }
            self.declared.take(&read?).await?;
        }
        self.next_offset = after;
        self.cells.skip(known.size_bytes, self.file.size_bytes);
        self.count_chunk()?;
        self.batch.refer(offset_bytes, known);
        self.store_if_full().await
    }

    /// Hands chunks that have ended to a task of its own, which goes on if the caller goes away: their bytes then are durable for
    /// the resumed upload. The task holds its share of the buffers.
    async fn store_batch(&mut self) -> Result<(), Error> {
        if self.batch.is_empty() {
            return Ok(());
        }
        while self.in_flight.len() >= CHUNKS_IN_FLIGHT {
            self.settle_oldest().await?;
        }
        let (app, upload, path) = (self.app.clone(), self.upload.clone(), self.file.path.clone());
        let room = std::mem::take(&mut self.room);
        let batch = std::mem::take(&mut self.batch);
        let storing = async move {
            let left = batch.store(&app, &upload, &path).await;
            drop(room);
            left
        };
        self.in_flight.push_back(tokio::spawn(Caller::current().scope(storing)));
        Ok(())
    }

    /// What the oldest batch did not find is there by now, if it came on this stream.
    async fn settle_oldest(&mut self) -> Result<(), Error> {
        let Some(task) = self.in_flight.pop_front() else { return Ok(()) };
        let left = task.await.map_err(|error| Error::Internal(Box::new(error)))??;
        self.app.refer(self.upload, &self.file.path, left).await
    }

    /// Waits for all chunks, also after an error, so that what is durable is known when the caller is answered.
    pub(super) async fn settle_all(&mut self) -> Result<(), Error> {
        let mut result = Ok(());
        while !self.in_flight.is_empty() {
            let settled = self.settle_oldest().await;
            result = result.and(settled);
        }
        result
    }
}

/// The refusal of a stream that ended without `finish`.
pub(super) fn finish_missing(file: &StoredFile, received: i64) -> Refusal {
    let message = format!(
        "the stream of file `{}` ended after {received} of {} bytes without `finish`: what is durable stays, go on from there",
        shown(&file.path),
        file.size_bytes
    );
    Refusal::invalid("FINISH_MISSING", message)
}

/// The refusal of other bytes than were declared: so many, or at least so many.
pub(super) fn size_mismatch(file: &StoredFile, received: i64, at_least: &str) -> Refusal {
    let message = format!(
        "file `{}` has {at_least}{received} bytes, but {} were declared: a file that changed needs a new save",
        shown(&file.path),
        file.size_bytes
    );
    Refusal::invalid("SIZE_MISMATCH", message)
}

pub(super) fn check_crc(piece: &Piece) -> Result<(), Refusal> {
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
