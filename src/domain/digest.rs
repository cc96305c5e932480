//! Digests: BLAKE3 of a chunk, of a file over its chunks, of a version over its files; and how a file is cut.

use std::fmt;

/// Bytes of a chunk, except the last of a file. 8 MiB: large enough that requests and syncs do not count, small enough
/// that two of them for each upload fit into memory.
pub const CHUNK_BYTES: u64 = 8 << 20;

/// A BLAKE3 or SHA-256 digest, 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest in 32 bytes; none if there are more or fewer.
    pub fn from_slice(bytes: &[u8]) -> Option<Digest> {
        bytes.try_into().ok().map(Digest)
    }

    /// BLAKE3 of a chunk that came in pieces.
    pub fn of_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Digest {
        let mut hasher = blake3::Hasher::new();
        for piece in pieces {
            hasher.update(piece);
        }
        Digest(*hasher.finalize().as_bytes())
    }

    /// A file's digest: BLAKE3 over its chunks' digests in their order. A one-chunk file keeps the rule.
    pub fn of_file(chunks: impl IntoIterator<Item = Digest>) -> Digest {
        let mut hasher = blake3::Hasher::new();
        for chunk in chunks {
            hasher.update(&chunk.0);
        }
        Digest(*hasher.finalize().as_bytes())
    }

    /// A version's digest: BLAKE3 over length and text of each path, size and digest of each file, in the order of their
    /// paths. It depends on paths and bytes alone, so equal models have equal digests.
    pub fn of_version<'a>(files: impl IntoIterator<Item = (&'a str, u64, Digest)>) -> Digest {
        let mut hasher = blake3::Hasher::new();
        for (path, size_bytes, digest) in files {
            hasher.update(&(path.len() as u64).to_le_bytes());
            hasher.update(path.as_bytes());
            hasher.update(&size_bytes.to_le_bytes());
            hasher.update(&digest.0);
        }
        Digest(*hasher.finalize().as_bytes())
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A running SHA-256 of a whole file, for clients that declared one.
#[derive(Clone, Debug, Default)]
pub struct Sha256(sha2::Sha256);

impl Sha256 {
    /// Takes the next bytes.
    pub fn update(&mut self, data: &[u8]) {
        sha2::Digest::update(&mut self.0, data);
    }

    /// The digest of all bytes taken.
    pub fn finish(self) -> Digest {
        Digest(sha2::Digest::finalize(self.0).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_do_not_change_a_digest() {
        let whole = Digest::of_pieces([b"hello world".as_slice()]);
        assert_eq!(whole, Digest::of_pieces([b"hello ".as_slice(), b"", b"world"]));
        assert_eq!(whole.to_string(), blake3::hash(b"hello world").to_string());
    }

    #[test]
    fn a_path_and_its_neighbour_do_not_run_together() {
        let digest = Digest([7; 32]);
        let one = Digest::of_version([("ab", 1, digest), ("c", 1, digest)]);
        let two = Digest::of_version([("a", 1, digest), ("bc", 1, digest)]);
        assert_ne!(one, two);
    }
}
