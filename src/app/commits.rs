//! Commit and abandon: where a checkpoint becomes a version, and best moves.

use crate::app::App;
use crate::app::Error;
use crate::app::runs::check_json;
use crate::db::Commit;
use crate::db::Committed;
use crate::db::Published;
use crate::db::VersionRow;
use crate::domain::checkpoint::Checkpoint;
use crate::domain::checkpoint::Contents;
use crate::domain::ids::CheckpointName;
use crate::domain::refusal::Refusal;

/// How often a commit reads the files again because one was declared since.
const MOST_CHANGES: usize = 3;

impl App {
    /// Publishes the checkpoint as the next version of its artifact.
    pub async fn commit(
        &self,
        name: CheckpointName,
        attempt: i64,
        file_count: Option<i64>,
        metadata: Option<String>,
    ) -> Result<VersionRow, Error> {
        check_json("metadata", metadata.as_ref())?;
        for _ in 0..MOST_CHANGES {
            let (checkpoint, files) = self.db.checkpoint_to_commit(&name).await?;
            let contents = checkpoint
                .check_pending(&name)
                .and_then(|()| Contents::of(&name, &checkpoint.path, &files, file_count));
            let commit = Commit {
                name: name.clone(),
                attempt,
                artifact_uid: checkpoint.artifact_uid,
                contents,
                file_count,
                metadata: metadata.clone(),
                now_us: self.clock.now_us(),
            };
            if let Committed::Version(Published { uid, .. }) = self.db.commit(commit).await? {
                // Before the answer: what is acknowledged can be rebuilt from the store alone. If it fails, the version stands,
                // and a repeated commit writes the manifest and answers it.
                self.write_manifest(&uid).await?;
                self.feed.wake(&name.run.project.team);
                return Ok(self.db.version_by_uid(&uid).await?);
            }
        }
        let message = format!(
            "files of checkpoint `{name}` were declared while it was to be committed: commit it when all are written"
        );
        Err(Refusal::aborted("RACE", message).into())
    }

    /// Gives a save up and answers the checkpoint.
    pub async fn abandon(&self, name: CheckpointName, attempt: i64) -> Result<Checkpoint, Error> {
        if self.db.abandon(name.clone(), attempt, self.clock.now_us()).await? {
            self.metrics.abandoned();
        }
        self.checkpoint(&name).await
    }

    /// The checkpoint, in any state.
    pub async fn checkpoint(&self, name: &CheckpointName) -> Result<Checkpoint, Error> {
        Ok(self.db.checkpoint(name).await?)
    }
}
