//! Digests as values of the service; how they are computed, and how a file is cut, the clients know too (`clients/rules`).

use std::fmt;

use keepbest_rules::digest as rules;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de::Error as _;

pub use keepbest_rules::digest::CHUNK_BYTES;

/// A BLAKE3 or SHA-256 digest, 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest in 32 bytes; none if there are more or fewer.
    pub fn from_slice(bytes: &[u8]) -> Option<Digest> {
        bytes.try_into().ok().map(Digest)
    }

    /// The digest that prints so: 64 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Option<Digest> {
        rules::parse_hex(text).map(Digest)
    }

    /// BLAKE3 of a chunk that came in pieces.
    pub fn of_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Digest {
        Digest(rules::of_pieces(pieces))
    }

    /// A file's digest: BLAKE3 over its cells' digests in their order, of which each has 8 MiB. A file of one cell keeps the rule.
    pub fn of_file(cells: impl IntoIterator<Item = Digest>) -> Digest {
        Digest(rules::of_file(cells.into_iter().map(|it| it.0)))
    }

    /// A version's digest: BLAKE3 over length and text of each path, size and digest of each file, in the order of their
    /// paths. It depends on paths and bytes alone, so equal models have equal digests.
    pub fn of_version<'a>(files: impl IntoIterator<Item = (&'a str, u64, Digest)>) -> Digest {
        let mut version = VersionDigest::default();
        for (path, size_bytes, digest) in files {
            version.add(path, size_bytes, digest);
        }
        version.finish()
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A version's digest (see [`Digest::of_version`]) of files that come one after the other.
#[derive(Clone, Debug, Default)]
pub struct VersionDigest(rules::VersionDigest);

impl VersionDigest {
    /// Takes the next file in the order of their paths.
    pub fn add(&mut self, path: &str, size_bytes: u64, digest: Digest) {
        self.0.add(path, size_bytes, &digest.0);
    }

    /// The digest of all files taken.
    pub fn finish(self) -> Digest {
        Digest(self.0.finish())
    }
}

/// A running BLAKE3 of a chunk or a cell whose bytes are not kept.
#[derive(Clone, Debug, Default)]
pub struct ChunkDigest(rules::Hasher);

impl ChunkDigest {
    /// Takes the next bytes.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// The digest of all bytes taken.
    pub fn finish(self) -> Digest {
        Digest(self.0.finish())
    }
}

/// The digest of a file whose bytes come one after the other (see [`Digest::of_file`]).
#[derive(Clone, Debug, Default)]
pub struct FileDigest(rules::FileDigest);

impl FileDigest {
    /// Takes the next bytes.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// The digest of all bytes taken.
    pub fn finish(self) -> Digest {
        Digest(self.0.finish())
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

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Digest::parse(&text).ok_or_else(|| D::Error::custom("a digest has 64 hexadecimal digits"))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        rules::write_hex(&self.0, f)
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
    fn a_digest_reads_as_it_prints() {
        let digest = Digest::of_pieces([b"hello world".as_slice()]);
        assert_eq!(Digest::parse(&digest.to_string()), Some(digest));
        let text = digest.to_string();
        for bad in ["", "0", &text[1..], &text.to_uppercase(), &format!("{text}0"), &text.replace('a', "g")] {
            assert_eq!(Digest::parse(bad), None, "{bad}");
        }
    }
}
