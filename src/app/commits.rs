//! Commit and abandon: where a checkpoint becomes a version, and best moves.

use crate::app::App;
use crate::app::Error;
use crate::app::runs::check_json;
use crate::db::CheckpointRow;
use crate::db::Commit;
use crate::db::CommitPlan;
use crate::db::FileRow;
use crate::db::RunRow;
use crate::db::VersionRow;
use crate::domain::ids::CheckpointName;
use crate::domain::metric::Metrics;
use crate::domain::metric::improves;

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
        let commit = Commit { name, attempt, file_count, metadata, now_us: self.clock.now_us() };
        let uid = self.db.commit(commit, plan_commit).await?;
        // Before the answer: what is acknowledged can be rebuilt from the store alone. If it fails, the version stands, and a
        // repeated commit writes the manifest and answers it.
        self.write_manifest(&uid).await?;
        Ok(self.db.version_by_uid(&uid).await?)
    }

    /// Gives a save up and answers the checkpoint.
    pub async fn abandon(
        &self,
        name: CheckpointName,
        attempt: i64,
    ) -> Result<(CheckpointRow, Vec<FileRow>), Error> {
        self.db.abandon(name.clone(), attempt, self.clock.now_us()).await?;
        self.checkpoint(&name).await
    }

    /// The checkpoint with its files.
    pub async fn checkpoint(&self, name: &CheckpointName) -> Result<(CheckpointRow, Vec<FileRow>), Error> {
        Ok(self.db.checkpoint(name).await?)
    }
}

/// A number that can be ranked: infinities can, NaN cannot.
fn ranked(metrics: &Metrics, name: &str) -> Option<f64> {
    metrics.get(name).and_then(|value| value.as_f64()).filter(|value| !value.is_nan())
}

/// What the commit changes: the monitor state takes the value as best if it is, and the alias `best` moves to a version
/// that is strictly better than the one it points at.
pub(super) fn plan_commit(run: &RunRow, checkpoint: &CheckpointRow, best: Option<&Metrics>) -> CommitPlan {
    let mut state = run.monitor_state.clone();
    state.committed(&checkpoint.uid, run.direction);
    let monitor = &run.strategy.monitor;
    let best = best.and_then(|metrics| ranked(metrics, monitor));
    let is_best =
        ranked(&checkpoint.metrics, monitor).is_some_and(|value| improves(value, best, run.direction, 0.0));
    CommitPlan { state, is_best, ranked_metrics: ranked_metrics(&checkpoint.metrics) }
}

/// The numbers that best queries may ask for.
pub(super) fn ranked_metrics(metrics: &Metrics) -> Vec<(String, f64)> {
    metrics.keys().filter_map(|name| Some((name.clone(), ranked(metrics, name)?))).collect()
}
