//! The collector: what may go, then the bytes, then their rows. Safe to run anywhere at once.
//!
//! What stands in the way of one thing alone, a row that cannot be read or an object that cannot be deleted, keeps none of the
//! others: it is logged, counted and tried again by the next pass. Only a database or a store that is away ends a pass.

use std::time::Instant;

use crate::app::App;
use crate::app::Error;
use crate::app::causes;
use crate::db::Graces;
use crate::db::Step;
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
    /// Deleted runs whose history was taken away.
    pub removed_runs: u64,
    /// Chunks that no file needed any more.
    pub removed_chunks: u64,
    /// Objects deleted from the store.
    pub removed_objects: u64,
    /// Bytes of the chunks that were removed.
    pub freed_bytes: u64,
    /// Checkpoints, chunks and manifests that could not be dealt with: the log says which and why, and the next pass tries again.
    pub left: u64,
}

impl GcReport {
    /// Whether a thing was dealt with. What stands in the way of it alone is counted and logged; another error ends the pass.
    pub(super) fn is_done(&mut self, done: Result<(), Error>, what: &str) -> Result<bool, Error> {
        match done {
            Ok(()) => Ok(true),
            Err(error @ (Error::Refused(_) | Error::Internal(_) | Error::DataLoss(_))) => {
                tracing::warn!(error = %causes(&error), "Left {what} for the next turn of the collector");
                self.left += 1;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Counts and logs what a step had to leave, and answers how much it did.
    fn take(&mut self, step: Step) -> u64 {
        for left in &step.named {
            tracing::warn!(error = %causes(&left.error), "Left {} for the next turn of the collector", left.what);
        }
        self.left += step.left;
        step.done
    }
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
        let begin = Instant::now();
        let collected = self.pass(graces).await;
        self.metrics.collected(begin, collected.as_ref().map_err(drop), self.clock.now_us());
        collected
    }

    async fn pass(&self, graces: Graces) -> Result<GcReport, Error> {
        let now_us = self.clock.now_us();
        let mut report = GcReport::default();
        report.expired_checkpoints = report.take(self.db.expire_checkpoints(now_us).await?);
        self.finish_deletions(now_us, graces.deleted_us, &mut report).await?;
        report.removed_checkpoints =
            report.take(self.db.purge_checkpoints(now_us, graces, manifest_key).await?);
        // A store that takes nothing must not keep what it could give back.
        let manifests = self.write_due_manifests(&mut report).await;
        let chunks = self.db.drop_unused_chunks(now_us, graces).await?;
        report.freed_bytes = chunks.freed_bytes;
        report.removed_chunks = report.take(chunks);
        let objects = self.delete_doomed(now_us, &mut report).await;
        manifests.and(objects).map(|()| report)
    }

    /// Deletes the objects that are due, then those that an earlier pass had claimed.
    async fn delete_doomed(&self, now_us: i64, report: &mut GcReport) -> Result<(), Error> {
        let (mut failed, mut claims, mut stuck) = (None, true, 0);
        loop {
            let keys = match claims {
                true => self.db.claim_doomed(now_us).await?,
                false => self.db.claimed(stuck).await?,
            };
            match keys.len() as u64 {
                0 if claims => claims = false,
                0 => return failed.map_or(Ok(()), Err),
                found => {
                    let (gone, error) = self.delete_objects(keys, report).await?;
                    failed = failed.or(error);
                    if gone == 0 && self.store.probe().await.is_err() {
                        // It is not these objects that are stuck: the store is away.
                        return failed.map_or(Ok(()), Err);
                    }
                    if !claims {
                        stuck += found - gone;
                    }
                }
            }
        }
    }

    /// Answers how many of the objects are gone now, and why the first of the others is not.
    async fn delete_objects(
        &self,
        keys: Vec<String>,
        report: &mut GcReport,
    ) -> Result<(u64, Option<Error>), Error> {
        let (mut gone, mut failed) = (Vec::with_capacity(keys.len()), None);
        for key in keys {
            match self.store.delete(&key).await {
                Ok(()) => gone.push(key),
                Err(error) => failed = failed.or(Some(error.into())),
            }
        }
        let count = gone.len() as u64;
        report.removed_objects += count;
        if count > 0 {
            self.db.forget_doomed(gone).await?;
        }
        Ok((count, failed))
    }
}
