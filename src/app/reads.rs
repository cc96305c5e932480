//! Bytes out: a file or a range of it, each chunk verified before its first byte leaves.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::app::App;
use crate::app::Error;
use crate::app::buffers::Held;
use crate::db;
use crate::db::FileChunk;
use crate::db::VersionRow;
use crate::domain::digest::CHUNK_BYTES;
use crate::domain::digest::Digest;
use crate::domain::file::StoredFile;
use crate::domain::ids::VersionName;
use crate::domain::ids::shown;
use crate::domain::path;
use crate::domain::refusal::Refusal;
use crate::store::memory_bytes;
use crate::turns::Caller;
use crate::turns::Taken;

/// Chunks that are read while an earlier one leaves.
const READ_AHEAD: usize = 2;
/// Chunks looked up at once; more would hold many rows for a slow reader.
const PAGE_CHUNKS: i64 = 256;
/// Bytes of such a page.
const PAGE_BYTES: i64 = PAGE_CHUNKS * (8 << 20);

/// Bytes of a file, and where they stand in it.
#[derive(Clone, Debug)]
pub struct ReadPiece {
    pub offset_bytes: i64,
    pub data: Bytes,
}

impl App {
    /// The file and a stream of the bytes from `offset_bytes`, `length_bytes` of them (0: to the end).
    pub async fn read_file(
        &self,
        name: &VersionName,
        file_path: &str,
        offset_bytes: i64,
        length_bytes: i64,
    ) -> Result<(StoredFile, impl Stream<Item = Result<ReadPiece, Error>> + Send + use<>), Error> {
        path::check(file_path)?;
        let version = self.version(name).await?;
        let file = self.db.file(version.checkpoint.checkpoint.as_str(), file_path).await?;
        let until = range_end(&file, offset_bytes, length_bytes)?;
        // Chunks are read whole. For the first one the caller waits here, where it is told best when to come back.
        let held = self.download_buffers.reader();
        let chunk_bytes = memory_bytes(u64::try_from(file.size_bytes).unwrap_or(0).min(CHUNK_BYTES));
        let first = self.download_buffers.take(if until > offset_bytes { chunk_bytes } else { 0 }).await?;
        let pages = pages(offset_bytes, until);
        let (app, file_uid) = (self.clone(), file.uid.clone());
        let chunks = futures::stream::iter(pages).then(move |(from, to)| {
            let (app, file_uid) = (app.clone(), file_uid.clone());
            async move { app.db.file_chunks(&file_uid, from, to).await.map(|it| (from, to, it)) }
        });
        let first = Mutex::new(Some(first));
        let (app, path, turn) = (self.clone(), file.path.clone(), tokio::sync::Mutex::default());
        let reader = Arc::new(Reader { app, version, path, held, first, turn });
        let checking = Arc::clone(&reader);
        let chunks = chunks.then(move |page| Arc::clone(&checking).check_page(page));
        let pieces = chunks.flat_map(move |page| match page {
            Ok((from, chunks)) => {
                let reader = Arc::clone(&reader);
                let mine =
                    chunks.into_iter().filter(move |it| it.offset_bytes >= from || from == offset_bytes);
                let reads =
                    mine.map(move |chunk| on_its_own(Arc::clone(&reader).read(chunk, offset_bytes, until)));
                futures::stream::iter(reads).buffered(READ_AHEAD).boxed()
            }
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
        });
        Ok((file, handed_over(pieces, self.limits.upload_idle)))
    }

    /// A chunk's bytes, verified. Wrong bytes are read once more before they count as lost: a bit that flipped on the way, or
    /// an answer that was cut, is none of the store's. What is lost is suspect, whoever reads it.
    pub(crate) async fn read_chunk(
        &self,
        team: &str,
        key: &str,
        size_bytes: i64,
        digest: Digest,
    ) -> Result<Bytes, Error> {
        let mut read = self.read_once(key, size_bytes, digest).await;
        if let Err(Error::DataLoss(why)) = &read {
            tracing::warn!(error = %why, "Read object `{key}` once more");
            read = self.read_once(key, size_bytes, digest).await;
        }
        if let Err(Error::DataLoss(_)) = &read {
            self.suspect(team, digest, key).await;
        }
        read
    }

    async fn read_once(&self, key: &str, size_bytes: i64, digest: Digest) -> Result<Bytes, Error> {
        let data = self.store.get(key).await?;
        let hashing = data.clone();
        let actual = tokio::task::spawn_blocking(move || Digest::of_pieces([&*hashing]));
        let actual = actual.await.map_err(|error| Error::Internal(Box::new(error)))?;
        if actual == digest && i64::try_from(data.len()) == Ok(size_bytes) {
            return Ok(data);
        }
        Err(Error::DataLoss(format!(
            "object `{key}` has {} bytes with digest {actual}, not {size_bytes} with {digest}",
            data.len()
        )))
    }
}

/// In a task of its own: a read goes on while the chunk before it waits for a slow reader, or the store would be taken for the
/// slow one.
async fn on_its_own<T: Send + 'static>(
    read: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    let reading = AbortOnDropHandle::new(tokio::spawn(Caller::current().scope(read)));
    reading.await.map_err(|error| Error::Internal(Box::new(error)))?
}

/// Reads in a task of its own, so that a reader that takes nothing for the idle time gives back what was read ahead for it.
/// Two chunks that are read, one that waits and one that leaves are the most that it has of the buffers, each for as long as its bytes
/// are somewhere.
fn handed_over(
    pieces: impl Stream<Item = Result<ReadPiece, Error>> + Send + 'static,
    idle: Duration,
) -> impl Stream<Item = Result<ReadPiece, Error>> + Send {
    // `None` is the end; a channel that closes without it is a reader that was too slow.
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(Caller::current().scope(async move {
        let mut pieces = std::pin::pin!(pieces.map(Some).chain(futures::stream::iter([None])));
        loop {
            let piece = tokio::select! {
                piece = pieces.next() => piece,
                () = sender.closed() => return,
            };
            let Some(piece) = piece else { return };
            if !matches!(tokio::time::timeout(idle, sender.send(piece)).await, Ok(Ok(()))) {
                return;
            }
        }
    }));
    futures::stream::unfold(Some(receiver), move |receiver| async move {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(Some(piece)) => Some((piece, Some(receiver))),
            Some(None) => None,
            None => {
                let message =
                    format!("the reader took nothing for {} s: read on from where it is", idle.as_secs());
                Some((Err(Refusal::deadline("IDLE_TIMEOUT", message).into()), None))
            }
        }
    })
}

/// Ranges of whole pages, so that the rows of a large file are looked up as they are needed.
fn pages(from: i64, until: i64) -> Vec<(i64, i64)> {
    let mut pages = Vec::new();
    let mut start = from;
    while start < until {
        let end = (start / PAGE_BYTES + 1).saturating_mul(PAGE_BYTES).min(until);
        pages.push((start, end));
        start = end;
    }
    pages
}

/// The first byte of a range that no chunk holds.
fn missing_byte(chunks: &[FileChunk], from: i64, until: i64) -> Option<i64> {
    let mut end = from;
    for chunk in chunks {
        if chunk.offset_bytes > end || chunk.object_key.is_empty() {
            break;
        }
        end = chunk.offset_bytes.saturating_add(chunk.size_bytes);
    }
    (end < until).then_some(end)
}

fn range_end(file: &StoredFile, offset_bytes: i64, length_bytes: i64) -> Result<i64, Refusal> {
    if offset_bytes < 0 || length_bytes < 0 {
        let message = format!("range from {offset_bytes} of {length_bytes} bytes is negative");
        return Err(Refusal::invalid("BAD_RANGE", message));
    }
    let until = match length_bytes {
        0 => Some(file.size_bytes.max(offset_bytes)),
        length => offset_bytes.checked_add(length),
    };
    match until {
        Some(until) if until <= file.size_bytes => Ok(until),
        _ => {
            let message = format!(
                "range from {offset_bytes} of {length_bytes} bytes is beyond the end of file `{}`, which has {} bytes",
                shown(&file.path),
                file.size_bytes
            );
            Err(Refusal::out_of_range("OUT_OF_RANGE", message).with("size_bytes", file.size_bytes))
        }
    }
}

struct Reader {
    app: App,
    version: VersionRow,
    path: String,
    held: Held,
    /// Room for the first chunk.
    first: Mutex<Option<Taken>>,
    /// Who takes room for a chunk: the next one begins to wait for its own only then.
    turn: tokio::sync::Mutex<()>,
}

/// Bytes with the room that they have.
struct Roomed {
    data: Bytes,
    _room: Taken,
}

impl AsRef<[u8]> for Roomed {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

/// Bytes that keep their room for as long as they are somewhere.
pub(super) fn roomed(data: Bytes, room: Taken) -> Bytes {
    Bytes::from_owner(Roomed { data, _room: room })
}

/// A range of a file, and the chunks that touch it.
type PageOfChunks = Result<(i64, i64, Vec<FileChunk>), db::Error>;

impl Reader {
    /// A page's beginning and chunks, if they hold all its bytes: a file that lacks some must not look like a shorter one.
    async fn check_page(self: Arc<Self>, page: PageOfChunks) -> Result<(i64, Vec<FileChunk>), Error> {
        let (from, until, chunks) = page?;
        match missing_byte(&chunks, from, until) {
            None => Ok((from, chunks)),
            Some(byte) => Err(self.lost(byte, "its chunk has no row".to_owned()).await),
        }
    }

    /// Room for a chunk, in the order of the chunks.
    async fn take(&self, size_bytes: i64) -> Result<Taken, Error> {
        let _turn = self.turn.lock().await;
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        match first {
            Some(room) => Ok(room),
            None => self.held.take(memory_bytes(u64::try_from(size_bytes).unwrap_or(0))).await,
        }
    }

    /// The part of the chunk that lies in the range.
    async fn read(self: Arc<Self>, chunk: FileChunk, from: i64, until: i64) -> Result<ReadPiece, Error> {
        let room = self.take(chunk.size_bytes).await?;
        let team = self.version.artifact.project.team.as_str();
        let data = match self.app.read_chunk(team, &chunk.object_key, chunk.size_bytes, chunk.digest).await {
            Ok(data) => data,
            Err(Error::DataLoss(why)) => return Err(self.lost(chunk.offset_bytes, why).await),
            Err(error) => return Err(error),
        };
        let skip = usize::try_from((from - chunk.offset_bytes).max(0)).unwrap_or(usize::MAX).min(data.len());
        let keep = usize::try_from((until - chunk.offset_bytes).max(0)).unwrap_or(usize::MAX).min(data.len());
        Ok(ReadPiece {
            offset_bytes: chunk.offset_bytes.saturating_add(i64::try_from(skip).unwrap_or(0)),
            data: roomed(data, room).slice(skip..keep.max(skip)),
        })
    }

    /// Bytes of a version that was deleted meanwhile are not lost, they are gone.
    async fn lost(&self, byte: i64, why: String) -> Error {
        let uid = self.version.checkpoint.checkpoint.as_str();
        let name = format!("{}/versions/v{}", self.version.artifact, self.version.number);
        match self.app.db.is_committed(uid).await {
            Ok(false) => Refusal::not_found("version", name).into(),
            _ => {
                tracing::error!(error = %why, "Found damaged bytes of version `{name}`");
                Error::DataLoss(format!(
                    "file `{}` of version `{name}` is damaged at byte {byte}: take another version",
                    shown(&self.path)
                ))
            }
        }
    }
}
