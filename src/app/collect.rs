//! The collector: what may go, then the bytes, then their rows. Safe to run anywhere at once.

use crate::app::App;
use crate::app::Error;
use crate::db::Graces;
use crate::store::manifest_key;

/// What one pass of the collector did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct GcReport {
    /// Manifests that were due.
    pub written_manifests: u64,
    /// Pending checkpoints that expired.
    pub expired_checkpoints: u64,
    /// Deleted checkpoints whose files were taken away.
    pub removed_checkpoints: u64,
    /// Chunks that no file needed any more.
    pub removed_chunks: u64,
    /// Objects deleted from the store.
    pub removed_objects: u64,
    /// Bytes of the chunks that were removed.
    pub freed_bytes: u64,
}

impl App {
    /// One pass with the graces of the settings.
    pub async fn collect(&self) -> Result<GcReport, Error> {
        self.collect_with(self.limits.graces).await
    }

    /// One pass that waits for no grace: bytes of deleted versions go at once. Uploads under way keep their time.
    pub async fn collect_now(&self) -> Result<GcReport, Error> {
        self.collect_with(Graces { deleted_us: 0, chunk_us: 0, object_us: 0 }).await
    }

    async fn collect_with(&self, graces: Graces) -> Result<GcReport, Error> {
        let now_us = self.clock.now_us();
        let mut report = GcReport {
            expired_checkpoints: self.db.expire_checkpoints(now_us).await?,
            removed_checkpoints: self.db.purge_checkpoints(now_us, graces, manifest_key).await?,
            ..GcReport::default()
        };
        let manifests = self.write_due_manifests().await;
        (report.removed_chunks, report.freed_bytes) = self.db.drop_unused_chunks(now_us, graces).await?;
        loop {
            let keys = self.db.claim_doomed(now_us).await?;
            if keys.is_empty() {
                // One that cannot be written must not keep the bytes of others.
                report.written_manifests = manifests?;
                return Ok(report);
            }
            let (mut gone, mut failed) = (Vec::with_capacity(keys.len()), None);
            for key in keys {
                match self.store.delete(&key).await {
                    Ok(()) => gone.push(key),
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
            // One object that cannot be deleted must not keep the others: it is claimed again in the next pass.
            report.removed_objects += gone.len() as u64;
            self.db.forget_doomed(gone).await?;
            if let Some(error) = failed {
                return Err(error.into());
            }
        }
    }
}
