//! Digests of local files and of versions, computed by the server's own rules.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use keepbest_proto::v1;
use keepbest_rules::digest::{VersionDigest, write_hex};

use crate::error::{Error, Result};

pub use keepbest_rules::digest::{CHUNK_BYTES, FileDigest};

/// How much of a local file is read at a time.
const READ_BYTES: usize = 1 << 20;

/// The digest of a local file. Blocks while it reads the whole file.
///
/// # Errors
/// [`Error::Io`] when it cannot be read.
pub fn file_digest(path: &Path) -> Result<[u8; 32]> {
    let mut digest = FileDigest::default();
    read_pieces(path, |piece| digest.update(piece))?;
    Ok(digest.finish())
}

/// The digest of a version, from its files in any order: BLAKE3 over the length and the bytes of each path, the size and the
/// digest of each file, sorted by path; numbers are 64 bits, little-endian.
pub fn version_digest(files: &[v1::File]) -> [u8; 32] {
    let mut sorted: Vec<_> = files.iter().collect();
    sorted.sort_by(|left, right| left.path.cmp(&right.path));
    let mut version = VersionDigest::default();
    for file in sorted {
        version.add(&file.path, file.size_bytes.cast_unsigned(), &file.digest);
    }
    version.finish()
}

/// A digest as lower-case hexadecimal digits.
pub fn hex(digest: &[u8]) -> String {
    let mut text = String::with_capacity(digest.len() * 2);
    write_hex(digest, &mut text).expect("a String takes everything");
    text
}

/// The SHA-256 of a local file. Blocks while it reads the whole file.
pub(crate) fn file_sha256(path: &Path) -> Result<[u8; 32]> {
    file_digests(path).map(|digests| digests.sha256)
}

/// Two digests of the same bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Digests {
    /// As [`file_digest`] computes it.
    pub(crate) file: [u8; 32],
    pub(crate) sha256: [u8; 32],
}

/// Both digests of a local file in one pass. Blocks while it reads the whole file.
pub(crate) fn file_digests(path: &Path) -> Result<Digests> {
    use sha2::Digest as _;
    let (mut file, mut sha256) = (FileDigest::default(), sha2::Sha256::new());
    read_pieces(path, |piece| {
        file.update(piece);
        sha256.update(piece);
    })?;
    Ok(Digests { file: file.finish(), sha256: sha256.finalize().into() })
}

fn read_pieces(path: &Path, mut take: impl FnMut(&[u8])) -> Result<()> {
    let mut file = fs::File::open(path).map_err(|source| Error::io("read", path, source))?;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => take(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Error::io("read", path, source)),
        }
    }
}
