//! One chunk's way into the store: claim, put, settle (`db/chunks.rs` has the protocol).

use bytes::Bytes;

use crate::app::App;
use crate::app::Error;
use crate::db;
use crate::db::FileRow;
use crate::db::StoredChunk;
use crate::db::Upload;
use crate::db::WantedChunk;
use crate::domain::digest::Digest;
use crate::failpoint::failpoint;
use crate::store::new_key;

impl App {
    /// Hashes a chunk's bytes, and stores and pins them, or pins those that the team has.
    pub(super) async fn store_chunk(
        &self,
        upload: Upload,
        file: &FileRow,
        offset_bytes: i64,
        data: Bytes,
    ) -> Result<(), Error> {
        let hashing = data.clone();
        let digest = tokio::task::spawn_blocking(move || Digest::of_pieces([&*hashing]));
        let digest = digest.await.map_err(|error| Error::Internal(Box::new(error)))?;
        let now_us = self.clock.now_us();
        let wanted = wanted_chunk(file, offset_bytes, digest, data.len(), now_us);
        failpoint!("chunk.begun");
        let new = self.db.claim_chunks(self.renewed(&upload), vec![wanted], now_us).await?;
        failpoint!("chunk.claimed");
        let Some(chunk) = new.first() else { return Ok(()) };
        self.store.put(&chunk.object_key, vec![data]).await?;
        failpoint!("chunk.stored");
        self.settle(&upload, new).await
    }

    /// T2, once the bytes are durable. After a refusal nothing refers to them and their intents may be gone: so they go too.
    pub(super) async fn settle(&self, upload: &Upload, stored: Vec<StoredChunk>) -> Result<(), Error> {
        let keys: Vec<String> = stored.iter().map(|it| it.object_key.clone()).collect();
        let settled = self.db.settle_chunks(self.renewed(upload), stored, self.clock.now_us()).await;
        if let Err(db::Error::Refused(_)) = settled {
            for key in keys {
                // Should this fail too, the collector still has the intent, if there is one.
                drop(self.store.delete(&key).await);
            }
        }
        settled?;
        failpoint!("chunk.settled");
        Ok(())
    }
}

/// A piece of a file that is about to be stored, under a new key.
pub(super) fn wanted_chunk(
    file: &FileRow,
    offset_bytes: i64,
    digest: Digest,
    length: usize,
    now_us: i64,
) -> WantedChunk {
    WantedChunk {
        file_uid: file.uid.clone(),
        offset_bytes,
        size_bytes: i64::try_from(length).unwrap_or(i64::MAX),
        digest,
        object_key: new_key(&digest, now_us),
    }
}
