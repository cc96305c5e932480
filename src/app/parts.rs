//! Parts: a process completes its part of a checkpoint and waits for the version that all of them make.

use std::time::Duration;

use crate::app::App;
use crate::app::Error;
use crate::app::micros;
use crate::app::runs::check_json;
use crate::app::waits::Wait;
use crate::db::CompletePart;
use crate::db::PartRow;
use crate::db::Standing;
use crate::db::VersionRow;
use crate::domain::ids::CheckpointName;
use crate::domain::parts::Part;

/// When a caller that waited in vain should come back: at once, for the wait is in the call.
const MISSING_RETRY: Duration = Duration::from_millis(100);

/// A part that is complete.
#[derive(Clone, Debug)]
pub struct NewPart {
    pub checkpoint: CheckpointName,
    pub attempt: i64,
    /// Which part, of how many.
    pub part: Part,
    /// How many files it has.
    pub file_count: i64,
    /// Free JSON on the version; only part 0's is kept.
    pub metadata: Option<String>,
    /// How long to wait for the other parts; none: `DEFAULT_WAIT`.
    pub wait: Option<Duration>,
}

impl App {
    /// Completes a part, and answers the version that all parts make, once the last one is in.
    pub async fn commit_part(&self, new: NewPart) -> Result<VersionRow, Error> {
        check_json("metadata", new.metadata.as_ref())?;
        let NewPart { checkpoint: name, attempt, part, file_count, metadata, wait } = new;
        let mut wait = Wait::of(self, wait);
        let now_us = self.clock.now_us();
        let expire_time_us = now_us.saturating_add(micros(self.limits.parts_expiry));
        let complete =
            CompletePart { name: name.clone(), attempt, part, file_count, metadata, now_us, expire_time_us };
        let uid = match self.db.complete_part(complete).await? {
            Some(published) => published.uid,
            None => self.wait_for_parts(&name, attempt, &mut wait).await?,
        };
        // Whichever call answers first, the manifest is in the store by then.
        self.write_manifest(&uid).await?;
        Ok(self.db.version_by_uid(&uid).await?)
    }

    /// Looks until the checkpoint is published or never will be, or the wait is over.
    async fn wait_for_parts(
        &self,
        name: &CheckpointName,
        attempt: i64,
        wait: &mut Wait,
    ) -> Result<String, Error> {
        loop {
            let now_us = self.clock.now_us();
            match self.db.standing(name, attempt, now_us).await? {
                Standing::Published(uid) => return Ok(uid),
                // Whoever waits sees to it, so that nobody waits for the collector; the next look says why it ended.
                Standing::Overdue { run_uid, uid } => {
                    self.db.expire_checkpoint(run_uid, uid, now_us).await?;
                }
                Standing::Waits => {
                    if !wait.pause().await {
                        let missing = self.db.still_missing(name).await?;
                        return Err(missing.retry_after(MISSING_RETRY).into());
                    }
                }
            }
        }
    }

    /// The complete parts of a checkpoint, in their order.
    pub async fn parts(&self, checkpoint_uid: &str) -> Result<Vec<PartRow>, Error> {
        Ok(self.db.parts(checkpoint_uid).await?)
    }
}
