//! Chunks on their way into rows: small ones that follow each other, and those that the team has, go together.

use std::collections::HashMap;
use std::collections::HashSet;

use bytes::Bytes;

use crate::app::App;
use crate::app::Error;
use crate::app::buffers::Held;
use crate::app::chunks::Cut;
use crate::app::chunks::MOST_RACES;
use crate::app::chunks::RACE;
use crate::app::chunks::placed;
use crate::app::chunks::step_of;
use crate::app::reads::roomed;
use crate::app::uploads::Upload;
use crate::db;
use crate::db::HeldChunk;
use crate::db::PlacedChunk;
use crate::db::Stored;
use crate::domain::digest::Digest;
use crate::domain::ids::CheckpointName;
use crate::domain::ids::ProjectName;
use crate::domain::refusal::Refusal;
use crate::store::memory_bytes;

/// Bytes with which a batch is on its way: a whole chunk never waits for another one.
const BATCH_BYTES: usize = 1 << 20;
/// Chunks with which it is: the rows of one transaction.
const BATCH_CHUNKS: usize = 128;

/// Chunks looked up at once, as rows.
const FIND_AT_ONCE: usize = 1_000;

/// The team has not, or no more, what a stream refers to.
pub(super) const CHUNK_MISSING: &str = "CHUNK_MISSING";

/// A chunk that the team is said to have.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    pub size_bytes: i64,
    pub digest: Digest,
}

/// Chunks that were not found, and where they stand.
pub(super) type Left = Vec<(i64, Known)>;

/// Chunks of one file that are stored with one transaction.
#[derive(Debug, Default)]
pub(super) struct Batch {
    data: Vec<(i64, Bytes)>,
    known: Left,
    bytes: usize,
}

impl Batch {
    pub(super) fn add(&mut self, offset_bytes: i64, data: Bytes) {
        self.bytes += data.len();
        self.data.push((offset_bytes, data));
    }

    /// Of the chunks that were sent.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    pub(super) fn refer(&mut self, offset_bytes: i64, known: Known) {
        self.known.push((offset_bytes, known));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.data.is_empty() && self.known.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES || self.data.len() + self.known.len() >= BATCH_CHUNKS
    }

    /// Stores what the team lacks, and pins all of it where it stands in the file. Answers those chunks that the team has not,
    /// or not yet: bytes that came before them may be on their way still.
    pub(super) async fn store(self, app: &App, upload: &Upload, path: &str) -> Result<Left, Error> {
        let mut pieces = Vec::with_capacity(self.data.len());
        for (offset_bytes, data) in self.data {
            pieces.push(Cut::of(offset_bytes, data).await?);
        }
        if !pieces.is_empty() {
            let stored = app.put_pieces(upload.team(), &pieces).await?;
            let steps = |stored: &HashMap<Digest, Stored>| {
                app.writes(upload, vec![step_of(path, placed(&pieces, stored), false)])
            };
            app.write_pieces(upload.team(), &pieces, stored, steps).await?;
        }
        app.pin_known(upload, path, self.known).await
    }
}

impl App {
    /// Which of the chunks the checkpoint's team has not, by their places; of equal ones the first.
    pub async fn find_missing_chunks(
        &self,
        checkpoint: &CheckpointName,
        digests: &[Digest],
    ) -> Result<Vec<usize>, Error> {
        self.checkpoint(checkpoint).await?;
        let mut held = HashSet::new();
        for page in digests.chunks(FIND_AT_ONCE) {
            let found = self.nameable_chunks(&checkpoint.run.project, page.iter().copied()).await?;
            held.extend(found.into_iter().filter(|(_, chunk)| !chunk.is_suspect).map(|(digest, _)| digest));
        }
        let missing = digests.iter().enumerate().filter(|(_, digest)| held.insert(**digest));
        Ok(missing.map(|(index, _)| index).collect())
    }

    /// Pins chunks where they stand, and answers those that the team has not.
    async fn pin_known(&self, upload: &Upload, path: &str, known: Left) -> Result<Left, Error> {
        for race in 1.. {
            let (places, left) = self.held(upload.project(), known.clone()).await?;
            if places.is_empty() {
                return Ok(left);
            }
            let write = self.writes(upload, vec![step_of(path, places, false)]);
            match self.db.write_files(write).await {
                // One was collected since: it is looked up again.
                Err(db::Error::Refused(refusal)) if refusal.reason == RACE && race < MOST_RACES => {}
                written => return Ok(written.map(|_| left)?),
            }
        }
        Ok(known)
    }

    /// Pins chunks that were left when all that came before them is durable.
    pub(super) async fn refer(&self, upload: &Upload, path: &str, left: Left) -> Result<(), Error> {
        match self.pin_known(upload, path, left).await?.first() {
            Some((offset_bytes, known)) => Err(missing(known.digest, *offset_bytes).into()),
            None => Ok(()),
        }
    }

    /// The bytes of a chunk that the team has, verified.
    pub(super) async fn read_known(
        &self,
        upload: &Upload,
        offset_bytes: i64,
        known: Known,
        held: &Held,
    ) -> Result<Bytes, Error> {
        let Known { size_bytes, digest } = known;
        let chunks = self.nameable_chunks(upload.project(), [digest].into_iter()).await?;
        let Some(chunk) = standing(&chunks, known)? else { return Err(missing(digest, offset_bytes).into()) };
        let room = held.take(memory_bytes(u64::try_from(size_bytes).unwrap_or(0))).await?;
        match self.read_chunk(upload.team(), &chunk.object_key, size_bytes, digest).await {
            Ok(data) => Ok(roomed(data, room)),
            Err(Error::DataLoss(why)) => {
                tracing::error!(error = %why, "Found damaged bytes of a chunk that an upload refers to");
                Err(missing(digest, offset_bytes).into())
            }
            read => read,
        }
    }

    /// Places of chunks that the team has, and those that it has not: collected meanwhile, damaged, or on their way.
    async fn held(&self, project: &ProjectName, known: Left) -> Result<(Vec<PlacedChunk>, Left), Error> {
        let (mut places, mut left) = (Vec::new(), Vec::new());
        if known.is_empty() {
            return Ok((places, left));
        }
        let held = self.nameable_chunks(project, known.iter().map(|(_, it)| it.digest)).await?;
        for (offset_bytes, known) in known {
            let Known { size_bytes, digest } = known;
            match standing(&held, known)? {
                Some(_) => {
                    places.push(PlacedChunk { offset_bytes, size_bytes, digest, stored: Stored::Held })
                }
                None => left.push((offset_bytes, known)),
            }
        }
        Ok((places, left))
    }
}

/// The chunk as the team has it; none: it must be sent.
fn standing(held: &HashMap<Digest, HeldChunk>, known: Known) -> Result<Option<&HeldChunk>, Refusal> {
    let Some(chunk) = held.get(&known.digest).filter(|it| !it.is_suspect) else { return Ok(None) };
    if chunk.size_bytes != known.size_bytes {
        return Err(other_size(known.digest, known.size_bytes, chunk.size_bytes));
    }
    Ok(Some(chunk))
}

/// The refusal of a chunk that must be sent.
fn missing(digest: Digest, offset_bytes: i64) -> Refusal {
    let message = format!(
        "the team does not have chunk `{digest}`, which stands at byte {offset_bytes}: ask FindMissingChunks again and send its bytes"
    );
    Refusal::aborted(CHUNK_MISSING, message).with("offset_bytes", offset_bytes)
}

fn other_size(digest: Digest, said: i64, is: i64) -> Refusal {
    let message = format!("chunk `{digest}` has {is} bytes, not {said}");
    Refusal::invalid("BAD_CHUNK", message)
}
