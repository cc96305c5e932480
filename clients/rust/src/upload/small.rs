//! Small files: many of them go in one call, without a stream and a `PrepareFile` for each.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::Arc;

use keepbest_proto::v1;

use super::Destination;
use super::committed::other_bytes;
use super::local::LocalFile;
use super::stamp::read_whole;
use crate::digest::FileDigest;
use crate::error::{Error, Result};
use crate::progress::Meter;

/// Files that are smaller than this go in groups; others have a stream of their own.
pub(super) const SMALL_FILE_BYTES: u64 = 256 << 10;
/// The most files that the server takes in one call.
const MAX_GROUP_FILES: usize = 1_000;
/// The server takes messages of 4 MiB. What this leaves is room for tags and for paths of unusual length.
const MAX_GROUP_BYTES: u64 = 3 << 20;
/// What a file adds to a message beside its path and bytes: tags, lengths and the SHA-256.
const FILE_OVERHEAD_BYTES: u64 = 64;

/// Divides small files into groups, each of which fits into one call.
pub(super) fn groups(files: Vec<LocalFile>) -> Vec<Vec<LocalFile>> {
    let mut groups = Vec::new();
    let mut group = Vec::new();
    let mut group_bytes = 0;
    for file in files {
        let bytes = file.size_bytes() + file.target.len() as u64 + FILE_OVERHEAD_BYTES;
        if !group.is_empty() && (group.len() == MAX_GROUP_FILES || group_bytes + bytes > MAX_GROUP_BYTES) {
            groups.push(std::mem::take(&mut group));
            group_bytes = 0;
        }
        group_bytes += bytes;
        group.push(file);
    }
    if !group.is_empty() {
        groups.push(group);
    }
    groups
}

/// Uploads a group, and compares the digests of what was sent with those that the server answers.
pub(super) async fn upload(
    destination: Destination<'_>,
    group: Vec<LocalFile>,
    meter: Arc<Meter>,
) -> Result<()> {
    let sha256 = destination.sha256;
    let read = tokio::task::spawn_blocking(move || read(&group, sha256).map(|files| (group, files)));
    let (group, files) = read.await.map_err(Error::aborted)??;
    let count = files.len() as u64;
    let bytes = files.iter().map(|file| file.data.len() as u64).sum();
    let mut expected = HashMap::with_capacity(files.len());
    for (file, local) in files.iter().zip(&group) {
        let mut digest = FileDigest::default();
        digest.update(&file.data);
        expected.insert(&local.target, (digest.finish(), local));
    }
    let request = v1::WriteSmallFilesRequest {
        checkpoint: destination.checkpoint.to_owned(),
        attempt: destination.attempt,
        files,
    };
    for file in destination.client.write_small_files(request).await?.files {
        match expected.remove(&file.path) {
            Some((digest, _)) if digest[..] == file.digest[..] => {}
            Some((_, local)) => return Err(other_bytes(local)),
            None => {
                return Err(Error::Protocol(format!("the server wrote `{}`, which was not sent", file.path)));
            }
        }
    }
    if let Some(path) = expected.keys().next() {
        return Err(Error::Protocol(format!("the server did not write `{path}`")));
    }
    meter.files_done(count, bytes);
    Ok(())
}

fn read(group: &[LocalFile], sha256: bool) -> Result<Vec<v1::SmallFile>> {
    use sha2::Digest as _;
    let read = |file: &LocalFile| {
        let data = read_whole(&file.source, &file.stamp, |opened| {
            let mut data = Vec::new();
            // If it has grown, it need not be read to its end to be refused.
            opened.take(SMALL_FILE_BYTES).read_to_end(&mut data).map(|_| data)
        })?;
        let sha256 = if sha256 { sha2::Sha256::digest(&data).to_vec() } else { Vec::new() };
        Ok(v1::SmallFile { path: file.target.clone(), data: data.into(), sha256: sha256.into() })
    };
    group.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::{LocalFile, groups};
    use crate::upload::stamp::Stamp;

    fn files(count: usize, size_bytes: u64) -> Vec<LocalFile> {
        let stamp = Stamp { size_bytes, modified: None, identity: (0, 0) };
        vec![LocalFile { source: "a".into(), target: "a".into(), stamp }; count]
    }

    #[test]
    fn groups_are_cut_by_count_and_by_bytes() {
        let counts = |files| groups(files).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(counts(Vec::new()), [0_usize; 0]);
        assert_eq!(counts(files(2_001, 0)), [1_000, 1_000, 1]);
        assert_eq!(counts(files(13, 255 << 10)), [12, 1]);
    }
}
