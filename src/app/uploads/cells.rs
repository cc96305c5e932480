//! The digests of a file's cells where its chunks do not tell them: of bytes that pass, as they pass; of all others, read once and
//! remembered.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::PoisonError;

use bytes::Bytes;
use futures::StreamExt;
use futures::TryStreamExt;
use tokio::task::JoinHandle;

use crate::app::App;
use crate::app::Error;
use crate::app::buffers::Held;
use crate::app::uploads::Upload;
use crate::app::uploads::declared::read_back;
use crate::db::FileChunk;
use crate::domain::cells::Assembled;
use crate::domain::cells::CELL_BYTES;
use crate::domain::cells::Cell;
use crate::domain::cells::cells_of;
use crate::domain::digest::ChunkDigest;
use crate::domain::digest::Digest;
use crate::domain::file::StoredFile;
use crate::domain::file::durable_bytes;
use crate::domain::file::superseded;
use crate::store::memory_bytes;

/// What is less is hashed at once: another thread would cost more.
const SMALL_BYTES: usize = 64 << 10;
/// Cells that are read at once, each chunk by chunk.
const READS: usize = 2;
/// Cells that are remembered of the newer half: 64 bytes and their places in a table, so about 6 MiB for both halves. They hold
/// 512 GiB of models.
const REMEMBERED: usize = 1 << 15;

/// Digests of cells, by what the cells consist of. What is forgotten is read again.
#[derive(Debug, Default)]
pub(in crate::app) struct KnownCells(Mutex<Halves>);

#[derive(Debug, Default)]
struct Halves {
    newer: HashMap<Digest, Digest>,
    older: HashMap<Digest, Digest>,
}

impl KnownCells {
    fn get(&self, key: Digest) -> Option<Digest> {
        let halves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        halves.newer.get(&key).or_else(|| halves.older.get(&key)).copied()
    }

    fn add(&self, key: Digest, digest: Digest) {
        let mut halves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if halves.newer.len() >= REMEMBERED {
            halves.older = std::mem::take(&mut halves.newer);
        }
        halves.newer.insert(key, digest);
    }
}

/// Hashes the cells of a file whose bytes pass.
#[derive(Default)]
pub(super) struct PassingCells {
    /// Where the next byte stands.
    offset_bytes: i64,
    /// Whether a chunk ended elsewhere than a cell.
    is_cut: bool,
    /// The cell that fills; none: bytes of it did not pass here.
    filling: Option<Filling>,
    done: HashMap<i64, Digest>,
}

enum Filling {
    Here(Box<ChunkDigest>),
    Elsewhere(JoinHandle<Box<ChunkDigest>>),
}

impl PassingCells {
    /// For a stream that begins here, behind chunks that are cut elsewhere than cells or are not.
    pub(super) fn at(offset_bytes: i64, is_cut: bool) -> PassingCells {
        PassingCells { offset_bytes, is_cut, ..PassingCells::default() }
    }

    /// Whether the file's chunks do not tell its digest.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// The next chunk, whose bytes are known; the file ends at `end`.
    pub(super) async fn take(&mut self, data: &Bytes, end: i64) -> Result<(), Error> {
        if data.is_empty() {
            return Ok(());
        }
        let mut data = data.clone();
        let is_cell = self.begin(data.len() as i64, end);
        if is_cell {
            self.offset_bytes += data.len() as i64;
            return Ok(());
        }
        while !data.is_empty() {
            let left = CELL_BYTES - self.offset_bytes % CELL_BYTES;
            if left == CELL_BYTES {
                self.filling = Some(Filling::Here(Box::default()));
            }
            let part = data.split_to(usize::try_from(left).unwrap_or(usize::MAX).min(data.len()));
            self.offset_bytes += part.len() as i64;
            if let Some(filling) = self.filling.take() {
                self.filling = Some(filling.with(part).await?);
            }
            if self.offset_bytes % CELL_BYTES == 0 || self.offset_bytes == end {
                self.end_cell().await?;
            }
        }
        Ok(())
    }

    /// The next chunk, whose bytes do not pass.
    pub(super) fn skip(&mut self, size_bytes: i64, end: i64) {
        if !self.begin(size_bytes, end) {
            self.filling = None;
        }
        self.offset_bytes += size_bytes;
    }

    /// Whether the chunk is a cell, or the end of one that is the last.
    fn begin(&mut self, size_bytes: i64, end: i64) -> bool {
        let is_whole = size_bytes == CELL_BYTES || self.offset_bytes + size_bytes == end;
        let is_cell = self.offset_bytes % CELL_BYTES == 0 && is_whole;
        self.is_cut |= !is_cell;
        is_cell
    }

    async fn end_cell(&mut self) -> Result<(), Error> {
        if let Some(filling) = self.filling.take() {
            let cell = (self.offset_bytes - 1) / CELL_BYTES;
            self.done.insert(cell, filling.joined().await?.finish());
        }
        Ok(())
    }
}

impl Filling {
    async fn joined(self) -> Result<Box<ChunkDigest>, Error> {
        match self {
            Filling::Here(digest) => Ok(digest),
            Filling::Elsewhere(running) => running.await.map_err(|error| Error::Internal(Box::new(error))),
        }
    }

    async fn with(self, data: Bytes) -> Result<Filling, Error> {
        let mut digest = self.joined().await?;
        if data.len() < SMALL_BYTES {
            digest.update(&data);
            return Ok(Filling::Here(digest));
        }
        Ok(Filling::Elsewhere(tokio::task::spawn_blocking(move || {
            digest.update(&data);
            digest
        })))
    }
}

/// Cells and their digests, by keys.
pub(super) type Found = Vec<(Digest, Digest)>;

impl App {
    /// Finds out the digest of a file whose chunks hold all its bytes and are durable. What did not pass and is not remembered is
    /// read. Answers also the cells that passed: they are what their chunks say only if the file is completed with these.
    pub(super) async fn assemble(
        &self,
        upload: &Upload,
        file: &StoredFile,
        passed: &PassingCells,
        held: &Held,
    ) -> Result<(Assembled, Found), Error> {
        let places = self.db.places(&file.uid).await?;
        if durable_bytes(&places) != file.size_bytes {
            // Another stream has taken the file over.
            return Err(superseded().into());
        }
        let cells = cells_of(places.values().copied());
        let digests =
            (0_i64..).zip(cells).map(|(index, cell)| self.cell(upload, file, passed, held, index, cell));
        let found: Vec<(Digest, Option<Digest>)> =
            futures::stream::iter(digests).buffered(READS).try_collect().await?;
        let assembled = Assembled::new(&places, found.iter().map(|(digest, _)| *digest));
        let passed = found.into_iter().filter_map(|(digest, key)| Some((key?, digest))).collect();
        Ok((assembled, passed))
    }

    /// Remembers cells of a file that is complete.
    pub(super) fn remember_cells(&self, found: Found) {
        found.into_iter().for_each(|(key, digest)| self.cells.add(key, digest));
    }

    /// The digest of a cell, and its key if its bytes passed.
    async fn cell(
        &self,
        upload: &Upload,
        file: &StoredFile,
        passed: &PassingCells,
        held: &Held,
        index: i64,
        cell: Cell,
    ) -> Result<(Digest, Option<Digest>), Error> {
        if let Some(digest) = cell.chunk() {
            return Ok((digest, None));
        }
        let key = cell.key(upload.team());
        if let Some(digest) = passed.done.get(&index) {
            return Ok((*digest, Some(key)));
        }
        if let Some(digest) = self.cells.get(key) {
            return Ok((digest, None));
        }
        let digest = self.read_cell(upload, file, index * CELL_BYTES, &cell, held).await?;
        self.cells.add(key, digest);
        Ok((digest, None))
    }

    /// Reads the chunks that a cell consists of, whichever file they are of by now.
    async fn read_cell(
        &self,
        upload: &Upload,
        file: &StoredFile,
        begin: i64,
        cell: &Cell,
        held: &Held,
    ) -> Result<Digest, Error> {
        let chunks = self.db.held_chunks(upload.team(), cell.0.iter().map(|part| part.digest)).await?;
        let (mut digest, mut offset_bytes) = (ChunkDigest::default(), begin);
        for part in &cell.0 {
            // The file pins them, unless another stream has taken it over.
            let Some(chunk) = chunks.get(&part.digest) else { return Err(superseded().into()) };
            let _room = held.take(memory_bytes(u64::try_from(part.chunk_bytes).unwrap_or(0))).await?;
            let chunk = FileChunk {
                offset_bytes,
                size_bytes: part.chunk_bytes,
                digest: part.digest,
                object_key: chunk.object_key.clone(),
            };
            let data = read_back(self, upload.team(), file, chunk).await?;
            let at = |bytes: i64| usize::try_from(bytes).unwrap_or(0).min(data.len());
            let data = data.slice(at(part.skip_bytes)..at(part.skip_bytes + part.size_bytes));
            let hashed = tokio::task::spawn_blocking(move || {
                digest.update(&data);
                digest
            });
            digest = hashed.await.map_err(|error| Error::Internal(Box::new(error)))?;
            offset_bytes += part.size_bytes;
        }
        Ok(digest.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(count: i64) -> Bytes {
        (0..count).map(|it| (it % 251) as u8).collect()
    }

    /// The digests of the cells that a file's chunks leave known, the bytes of each passing or not.
    async fn known(chunks: &[(i64, bool)]) -> (bool, HashMap<i64, Digest>) {
        let size = chunks.iter().map(|it| it.0).sum();
        let mut data = bytes(size);
        let mut cells = PassingCells::default();
        for (count, passes) in chunks {
            let chunk = data.split_to(*count as usize);
            match passes {
                true => cells.take(&chunk, size).await.unwrap(),
                false => cells.skip(*count, size),
            }
        }
        (cells.is_cut(), cells.done)
    }

    #[tokio::test]
    async fn cells_whose_bytes_all_pass_are_hashed_however_they_are_cut() {
        const C: i64 = CELL_BYTES;
        let all = bytes(2 * C + 9);
        let of = |cell: i64| {
            Digest::of_pieces([&all[(cell * C) as usize..((cell + 1) * C).min(2 * C + 9) as usize]])
        };
        type Table<'a> = [(&'a [(i64, bool)], bool, &'a [i64]); 6];
        let table: Table<'_> = [
            (&[(C, true), (C, true), (9, true)], false, &[]),
            (&[(5, true), (C, true), (C - 5, true), (9, true)], true, &[0, 1]),
            (&[(C, true), (5, true), (C - 5, true), (9, true)], true, &[1]),
            (&[(5, false), (C, true), (C - 4, true), (8, true)], true, &[1, 2]),
            (&[(5, true), (C, false), (C - 5, true), (9, true)], true, &[]),
            (&[(C, false), (C, false), (9, true)], false, &[]),
        ];
        for (chunks, is_cut, cells) in table {
            let expected = cells.iter().map(|cell| (*cell, of(*cell))).collect();
            assert_eq!(known(chunks).await, (is_cut, expected), "{chunks:?}");
        }
    }

    #[test]
    fn what_is_used_is_remembered_and_the_rest_forgotten() {
        let cells = KnownCells::default();
        let digest = |of: usize| Digest::of_pieces([&of.to_le_bytes()[..]]);
        for number in 0..2 * REMEMBERED + 1 {
            cells.add(digest(number), digest(number + 1));
        }
        assert_eq!(cells.get(digest(0)), None);
        assert_eq!(cells.get(digest(REMEMBERED)), Some(digest(REMEMBERED + 1)));
        let halves = cells.0.lock().unwrap();
        assert!(halves.newer.len() + halves.older.len() <= 2 * REMEMBERED);
    }
}
