//! Chunks' way into the store: which the team lacks, their bytes put, and the rows that refer to them.

use std::collections::HashMap;

use bytes::Bytes;
use futures::StreamExt;

use crate::app::App;
use crate::app::Error;
use crate::app::causes;
use crate::db;
use crate::db::FileStep;
use crate::db::PlacedChunk;
use crate::db::Stored;
use crate::db::WriteFiles;
use crate::domain::digest::Digest;
use crate::domain::file::StoredFile;
use crate::failpoint::failpoint;

/// Objects of one call that are written at once.
const PUTS_IN_FLIGHT: usize = 8;
/// How often a call looks again when somebody stored or collected the same bytes in the same moment.
pub(super) const MOST_RACES: usize = 4;
/// The reason of a write whose chunk somebody else stored or collected.
pub(super) const RACE: &str = "RACE";

/// A piece of a file, as a chunk that is to be stored.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    pub(super) offset_bytes: i64,
    pub(super) digest: Digest,
    pub(super) data: Bytes,
}

impl Cut {
    /// Hashes the bytes on a thread for such work.
    pub(super) async fn of(offset_bytes: i64, data: Bytes) -> Result<Cut, Error> {
        let hashing = data.clone();
        let digest = tokio::task::spawn_blocking(move || Digest::of_pieces([&*hashing]));
        let digest = digest.await.map_err(|error| Error::Internal(Box::new(error)))?;
        Ok(Cut { offset_bytes, digest, data })
    }
}

impl App {
    /// Puts the bytes of those pieces that the team lacks, each once, and says where each one's are.
    pub(super) async fn put_pieces(
        &self,
        team: &str,
        pieces: &[Cut],
    ) -> Result<HashMap<Digest, Stored>, Error> {
        if pieces.is_empty() {
            return Ok(HashMap::new());
        }
        failpoint!("chunk.begun");
        let held = self.db.held_chunks(team, pieces.iter().map(|piece| piece.digest)).await?;
        let (mut stored, mut puts) = (HashMap::new(), Vec::new());
        for piece in pieces.iter().filter(|piece| !piece.data.is_empty()) {
            if stored.contains_key(&piece.digest) {
                continue;
            }
            let place = match held.get(&piece.digest) {
                Some(held) if held.is_suspect => Stored::Healed(held.object_key.clone()),
                Some(_) => Stored::Held,
                None => Stored::New(String::new()),
            };
            if !matches!(place, Stored::Held) {
                puts.push(piece);
            }
            stored.insert(piece.digest, place);
        }
        let is_new = |place: &&Stored| matches!(place, Stored::New(_));
        let mut keys = self.take_keys(stored.values().filter(is_new).count()).await?;
        for place in stored.values_mut() {
            if let Stored::New(key) = place {
                *key = keys.pop().unwrap_or_default();
            }
        }
        let puts: Vec<(String, Bytes)> = puts
            .into_iter()
            .filter_map(|piece| match stored.get(&piece.digest)? {
                Stored::New(key) | Stored::Healed(key) => Some((key.clone(), piece.data.clone())),
                Stored::Held => None,
            })
            .collect();
        let mut puts = futures::stream::iter(puts)
            .map(|(key, data)| async move { self.store.put(&key, vec![data]).await })
            .buffer_unordered(PUTS_IN_FLIGHT);
        while let Some(put) = puts.next().await {
            put?;
        }
        failpoint!("chunk.stored");
        Ok(stored)
    }

    /// Bytes under this key are wrong or missing: the next upload of the same bytes shall put them there again, and heal all
    /// that have the chunk.
    pub(super) async fn suspect(&self, team: &str, digest: Digest, object_key: &str) {
        // A chunk without a row is stored anew anyhow. What cannot be marked now is found again by the next read.
        if let Err(error) = self.db.suspect_chunk(team, digest, object_key.to_owned()).await {
            tracing::warn!(error = %causes(&error), "Could not mark object `{object_key}` as damaged");
        }
    }

    /// Writes the rows of an upload whose pieces' bytes are durable. `steps` makes them of where the pieces are; when somebody
    /// stored or collected the same bytes in the same moment, these are put again.
    pub(super) async fn write_pieces(
        &self,
        team: &str,
        pieces: &[Cut],
        mut stored: HashMap<Digest, Stored>,
        steps: impl Fn(&HashMap<Digest, Stored>) -> WriteFiles,
    ) -> Result<Vec<StoredFile>, Error> {
        for race in 1.. {
            let written = self.db.write_files(steps(&stored)).await;
            if let Err(db::Error::Refused(refusal)) = &written {
                // Nothing refers to these objects, and their reservations may be gone: so they go too.
                for place in stored.values() {
                    if let Stored::New(key) = place {
                        // Should this fail too, the collector still has the reservation, if there is one.
                        drop(self.store.delete(key).await);
                    }
                }
                if refusal.reason == RACE && race < MOST_RACES {
                    stored = self.put_pieces(team, pieces).await?;
                    continue;
                }
            }
            failpoint!("chunk.settled");
            return Ok(written?);
        }
        Ok(Vec::new())
    }
}

/// The chunks of a file's step.
pub(super) fn placed(pieces: &[Cut], stored: &HashMap<Digest, Stored>) -> Vec<PlacedChunk> {
    let placed = |piece: &Cut| {
        Some(PlacedChunk {
            offset_bytes: piece.offset_bytes,
            size_bytes: i64::try_from(piece.data.len()).unwrap_or(i64::MAX),
            digest: piece.digest,
            stored: stored.get(&piece.digest)?.clone(),
        })
    };
    pieces.iter().filter_map(placed).collect()
}

/// A step that only places chunks, and completes the file with the last of them.
pub(super) fn step_of(path: &str, chunks: Vec<PlacedChunk>, finish: bool) -> FileStep {
    FileStep { path: path.to_owned(), chunks, finish, ..FileStep::default() }
}
