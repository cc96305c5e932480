//! The page: what it shows of what the API tells, to whom, and what it lets nobody do.

mod artifacts;
mod hostile;
mod runs;
mod sessions;

use keepbest_proto::v1;

use crate::support::requests::Trainer;

/// Saves what was decided, as a file with this text.
async fn save(trainer: &Trainer, decision: &v1::Decision, text: &str) -> v1::Version {
    let file = trainer.upload(&decision.checkpoint, &decision.path, text.as_bytes()).await.unwrap();
    assert_eq!(file.size_bytes, i64::try_from(text.len()).unwrap());
    let commit = v1::CommitCheckpointRequest {
        checkpoint: decision.checkpoint.clone(),
        attempt: trainer.attempt,
        ..Default::default()
    };
    let mut checkpoints = v1::checkpoints_client::CheckpointsClient::new(trainer.channel.clone());
    checkpoints.commit_checkpoint(commit).await.unwrap().into_inner()
}

/// How often a text stands in another.
fn count(text: &str, part: &str) -> usize {
    text.matches(part).count()
}
