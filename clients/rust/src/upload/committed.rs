//! Uploads to a checkpoint that is committed already, as when a save is repeated because the answer to the commit was lost.
//! Nothing is sent, but the files must be the same as those that were committed.

use std::collections::HashMap;

use keepbest_proto::v1;

use super::Destination;
use super::local::LocalFile;
use crate::digest::file_digest;
use crate::error::{Error, Result};

/// The reason with which a server refuses every file of a committed checkpoint, if it does not compare them itself.
pub(super) const CHECKPOINT_COMMITTED: &str = "CHECKPOINT_COMMITTED";

/// Compares local files with those of the committed checkpoint. That one may have more files: those of other parts.
pub(super) async fn compare(destination: Destination<'_>, files: Vec<LocalFile>) -> Result<Vec<v1::File>> {
    let checkpoint = destination.client.get_checkpoint(destination.checkpoint, true).await?;
    let compared = tokio::task::spawn_blocking(move || {
        let committed: HashMap<_, _> =
            checkpoint.files.into_iter().map(|file| (file.path.clone(), file)).collect();
        let same = |local: &LocalFile| match committed.get(&local.target) {
            Some(file) if is_same(local, file)? => Ok(file.clone()),
            Some(_) => Err(other_bytes(local)),
            None => Err(Error::Corrupt(format!(
                "`{}` came too late: checkpoint `{}` was committed without `{}`, and what is committed never changes",
                local.source.display(),
                checkpoint.name,
                local.target
            ))),
        };
        files.iter().map(same).collect()
    });
    compared.await.map_err(Error::aborted)?
}

fn is_same(local: &LocalFile, committed: &v1::File) -> Result<bool> {
    if u64::try_from(committed.size_bytes) != Ok(local.size_bytes()) {
        return Ok(false);
    }
    let same = file_digest(&local.source)?[..] == committed.digest[..];
    local.stamp.check_path(&local.source).map(|()| same)
}

/// The error about a file that the server has already, with other bytes.
pub(super) fn other_bytes(local: &LocalFile) -> Error {
    Error::Corrupt(format!(
        "`{}` is not what was uploaded as `{}` before, which never changes: other bytes need another save",
        local.source.display(),
        local.target
    ))
}
