//! A stream for a file that is complete: the repeat of a call whose answer was lost, or other bytes under the same path.
//!
//! What comes is hashed and compared with what is stored; nothing is stored, and nothing is held.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::Stream;
use tokio::time::Instant;

use crate::app::App;
use crate::app::Error;
use crate::app::uploads::Known;
use crate::app::uploads::Piece;
use crate::app::uploads::cutter::check_crc;
use crate::app::uploads::cutter::finish_missing;
use crate::app::uploads::cutter::size_mismatch;
use crate::app::uploads::pace::Pace;
use crate::db::FileChunk;
use crate::domain::digest::ChunkDigest;
use crate::domain::file::StoredFile;
use crate::domain::ids::shown;
use crate::domain::refusal::Refusal;

/// Chunks looked up at once, as rows.
const PAGE_BYTES: i64 = 256 * (8 << 20);

impl App {
    /// Answers the file as it stands if the stream says the same from `offset_bytes` on, to the end.
    pub(super) async fn repeat_file(
        &self,
        file: StoredFile,
        offset_bytes: i64,
        pieces: impl Stream<Item = Result<Piece, Error>> + Send,
    ) -> Result<StoredFile, Error> {
        self.check_repeat_offset(&file, offset_bytes).await?;
        let mut repeat = Repeat {
            app: self,
            file: &file,
            received: offset_bytes,
            chunks: VecDeque::new(),
            digest: ChunkDigest::default(),
        };
        let mut pieces = std::pin::pin!(pieces);
        let mut pace = Pace::new(self.limits.upload_idle);
        while let Some(piece) = pace.next(&mut pieces).await? {
            let (finish, begun) = (piece.finish, Instant::now());
            check_crc(&piece)?;
            repeat.take(piece.data).await?;
            for known in piece.known {
                repeat.refer(known).await?;
            }
            pace.worked_since(begun);
            if finish {
                repeat.finish()?;
                return Ok(file);
            }
        }
        Err(finish_missing(&file, repeat.received).into())
    }

    /// Where a stream may begin: where one could that wrote the file.
    async fn check_repeat_offset(&self, file: &StoredFile, offset_bytes: i64) -> Result<(), Error> {
        if offset_bytes == 0 || offset_bytes == file.size_bytes {
            return Ok(());
        }
        let chunks = self.db.file_chunks(&file.uid, offset_bytes, offset_bytes.saturating_add(1)).await?;
        if chunks.first().is_some_and(|it| it.offset_bytes == offset_bytes) {
            return Ok(());
        }
        let message = format!(
            "file `{}` is complete with {} bytes: a stream that repeats it begins at a chunk or at its end, not at {offset_bytes}",
            shown(&file.path),
            file.size_bytes
        );
        let refusal = Refusal::precondition("OFFSET_MISMATCH", message);
        Err(refusal.with("durable_bytes", file.size_bytes).into())
    }
}

/// What has come so far, against what is stored.
struct Repeat<'a> {
    app: &'a App,
    file: &'a StoredFile,
    received: i64,
    /// The chunk that comes now, and some behind it.
    chunks: VecDeque<FileChunk>,
    digest: ChunkDigest,
}

impl Repeat<'_> {
    async fn take(&mut self, mut data: Bytes) -> Result<(), Error> {
        let after = self.received.saturating_add(i64::try_from(data.len()).unwrap_or(i64::MAX));
        if after > self.file.size_bytes {
            return Err(size_mismatch(self.file, after, "at least ").into());
        }
        while !data.is_empty() {
            let Some(chunk) = self.next().await? else { return Err(self.differs().into()) };
            let end = chunk.offset_bytes.saturating_add(chunk.size_bytes);
            let left = usize::try_from(end.saturating_sub(self.received)).unwrap_or(usize::MAX);
            let part = data.split_to(left.min(data.len()));
            self.received = self.received.saturating_add(i64::try_from(part.len()).unwrap_or(i64::MAX));
            let mut digest = std::mem::take(&mut self.digest);
            let hashed = tokio::task::spawn_blocking(move || {
                digest.update(&part);
                digest
            });
            self.digest = hashed.await.map_err(|error| Error::Internal(Box::new(error)))?;
            if self.received == end {
                self.check_chunk()?;
            }
        }
        Ok(())
    }

    /// The chunk that comes now.
    async fn next(&mut self) -> Result<Option<&FileChunk>, Error> {
        if self.chunks.is_empty() {
            let until = self.received.saturating_add(PAGE_BYTES).min(self.file.size_bytes);
            self.chunks = self.app.db.file_chunks(&self.file.uid, self.received, until).await?.into();
        }
        Ok(self.chunks.front())
    }

    /// A chunk whose bytes do not come must be just the one that stands there.
    async fn refer(&mut self, known: Known) -> Result<(), Error> {
        let received = self.received;
        let Some(chunk) = self.next().await? else { return Err(self.differs().into()) };
        if (chunk.offset_bytes, chunk.size_bytes) != (received, known.size_bytes) {
            let message = format!(
                "file `{}` is complete and was cut in other places than byte {received}: ask PrepareFile, which answers its digest",
                shown(&self.file.path)
            );
            return Err(Refusal::aborted("CUT_ELSEWHERE", message).into());
        }
        if chunk.digest != known.digest {
            return Err(self.differs().into());
        }
        self.chunks.pop_front();
        self.received += known.size_bytes;
        Ok(())
    }

    fn check_chunk(&mut self) -> Result<(), Refusal> {
        let digest = std::mem::take(&mut self.digest).finish();
        match self.chunks.pop_front() {
            Some(chunk) if chunk.digest == digest => Ok(()),
            _ => Err(self.differs()),
        }
    }

    fn finish(&self) -> Result<(), Refusal> {
        if self.received == self.file.size_bytes {
            return Ok(());
        }
        Err(size_mismatch(self.file, self.received, ""))
    }

    fn differs(&self) -> Refusal {
        let message = format!(
            "file `{}` is complete and has other bytes before byte {}: a file that changed needs a new save",
            shown(&self.file.path),
            self.received
        );
        Refusal::already_exists("FILE_EXISTS", message)
    }
}
