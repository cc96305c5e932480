//! Digests as the server computes them: BLAKE3 of each chunk, and BLAKE3 over the digests of a file's chunks.

use std::fmt::Write as _;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use keepbest_proto::v1;

use crate::error::{Error, Result};

/// The size of every chunk of a file but the last: 8 MiB.
pub const CHUNK_BYTES: u64 = 8 << 20;

/// How much of a local file is read at a time.
const READ_BYTES: usize = 1 << 20;

/// Computes the digest of a file, BLAKE3 over the BLAKE3 digests of its chunks, from pieces of any size in order.
#[derive(Debug, Clone, Default)]
pub struct FileDigest {
    chunk: blake3::Hasher,
    chunk_bytes: u64,
    file: blake3::Hasher,
}

impl FileDigest {
    /// Adds the next bytes of the file.
    pub fn update(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let room = usize::try_from(CHUNK_BYTES - self.chunk_bytes).expect("a chunk fits into memory");
            let (now, later) = data.split_at(room.min(data.len()));
            self.chunk.update(now);
            self.chunk_bytes += now.len() as u64;
            if self.chunk_bytes == CHUNK_BYTES {
                self.end_chunk();
            }
            data = later;
        }
    }

    /// The digest of all bytes that were added.
    pub fn finish(mut self) -> [u8; 32] {
        if self.chunk_bytes > 0 {
            self.end_chunk();
        }
        *self.file.finalize().as_bytes()
    }

    /// The digest of a file, from the digests of its chunks in order.
    pub fn of_chunks<'a>(digests: impl IntoIterator<Item = &'a [u8; 32]>) -> [u8; 32] {
        let mut file = blake3::Hasher::new();
        for digest in digests {
            file.update(digest);
        }
        *file.finalize().as_bytes()
    }

    fn end_chunk(&mut self) {
        self.file.update(self.chunk.finalize().as_bytes());
        self.chunk.reset();
        self.chunk_bytes = 0;
    }
}

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
    let mut hasher = blake3::Hasher::new();
    for file in sorted {
        hasher.update(&(file.path.len() as u64).to_le_bytes());
        hasher.update(file.path.as_bytes());
        hasher.update(&file.size_bytes.to_le_bytes());
        hasher.update(&file.digest);
    }
    *hasher.finalize().as_bytes()
}

/// A digest as lower-case hexadecimal digits.
pub fn hex(digest: &[u8]) -> String {
    digest.iter().fold(String::with_capacity(digest.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
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

#[cfg(test)]
mod tests {
    use super::{CHUNK_BYTES, FileDigest, hex};

    fn by_definition(data: &[u8]) -> [u8; 32] {
        let digests: Vec<u8> =
            data.chunks(CHUNK_BYTES as usize).flat_map(|chunk| *blake3::hash(chunk).as_bytes()).collect();
        *blake3::hash(&digests).as_bytes()
    }

    #[test]
    fn a_files_digest_is_over_its_chunks_digests() {
        let chunk = CHUNK_BYTES as usize;
        let data: Vec<u8> = (0..2 * chunk + 5).map(|index| (index % 251) as u8).collect();
        for length in [0, 1, chunk - 1, chunk, chunk + 1, 2 * chunk, 2 * chunk + 5] {
            let mut digest = FileDigest::default();
            for piece in data[..length].chunks(3_000_001) {
                digest.update(piece);
            }
            assert_eq!(digest.finish(), by_definition(&data[..length]), "{length}");
        }
    }

    #[test]
    fn hexadecimal_digits_are_lower_case() {
        assert_eq!(hex(&[0, 0xAB, 255]), "00abff");
    }
}
