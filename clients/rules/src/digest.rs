//! Digests: BLAKE3 of a chunk, of a file over its cells, of a version over its files; and how a file is cut.

use std::fmt;
use std::io;

/// Most bytes of a chunk. A file that its client does not cut has chunks of so many, the last one shorter. 8 MiB: large enough that
/// requests and syncs do not count, small enough that two of them for each upload fit into memory.
pub const CHUNK_BYTES: u64 = 8 << 20;

/// A digest in its bytes.
pub type Bytes = [u8; 32];

/// A running BLAKE3.
#[derive(Clone, Debug, Default)]
pub struct Hasher(blake3::Hasher);

impl Hasher {
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// The digest of all bytes taken.
    pub fn finish(&self) -> Bytes {
        *self.0.finalize().as_bytes()
    }

    /// Begins anew.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

/// So that what is read can be copied into it.
impl io::Write for Hasher {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.update(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// BLAKE3 of bytes that came in pieces.
pub fn of_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Bytes {
    let mut hasher = Hasher::default();
    pieces.into_iter().for_each(|piece| hasher.update(piece));
    hasher.finish()
}

/// A file's digest: BLAKE3 over the digests of its cells in their order. A file of one cell keeps the rule. A cell is a piece of
/// [`CHUNK_BYTES`], the last one shorter; where a file was not cut by its client, its chunks are its cells.
pub fn of_file(cells: impl IntoIterator<Item = Bytes>) -> Bytes {
    let mut hasher = Hasher::default();
    cells.into_iter().for_each(|cell| hasher.update(&cell));
    hasher.finish()
}

/// The digest of a file whose bytes come one after the other.
#[derive(Clone, Debug, Default)]
pub struct FileDigest {
    cell: Hasher,
    cell_bytes: u64,
    file: Hasher,
}

impl FileDigest {
    /// Adds the next bytes of the file.
    pub fn update(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let room = usize::try_from(CHUNK_BYTES - self.cell_bytes).expect("a cell fits into memory");
            let (now, later) = data.split_at(room.min(data.len()));
            self.cell.update(now);
            self.cell_bytes += now.len() as u64;
            if self.cell_bytes == CHUNK_BYTES {
                self.end_cell();
            }
            data = later;
        }
    }

    /// Whether the next byte begins a cell.
    pub fn is_at_cell(&self) -> bool {
        self.cell_bytes == 0
    }

    /// Adds the bytes of a whole cell, which is known by its digest. Only where one begins; of the last cell of the file, too.
    pub fn add_cell(&mut self, digest: &Bytes) {
        assert!(self.is_at_cell(), "a cell begins where the one before it ended");
        self.file.update(digest);
    }

    /// The digest of all bytes that were added.
    pub fn finish(mut self) -> Bytes {
        if !self.is_at_cell() {
            self.end_cell();
        }
        self.file.finish()
    }

    fn end_cell(&mut self) {
        self.file.update(&self.cell.finish());
        self.cell.reset();
        self.cell_bytes = 0;
    }
}

/// A version's digest: BLAKE3 over length and text of each path, size and digest of each file, in the order of their paths' bytes;
/// numbers are 64 bits, little-endian. It depends on paths and bytes alone, so equal models have equal digests.
#[derive(Clone, Debug, Default)]
pub struct VersionDigest(Hasher);

impl VersionDigest {
    /// Takes the next file in the order of their paths.
    pub fn add(&mut self, path: &str, size_bytes: u64, digest: &[u8]) {
        self.0.update(&(path.len() as u64).to_le_bytes());
        self.0.update(path.as_bytes());
        self.0.update(&size_bytes.to_le_bytes());
        self.0.update(digest);
    }

    /// The digest of all files taken.
    pub fn finish(self) -> Bytes {
        self.0.finish()
    }
}

/// Writes a digest as lower-case hexadecimal digits.
pub fn write_hex(digest: &[u8], to: &mut impl fmt::Write) -> fmt::Result {
    digest.iter().try_for_each(|byte| write!(to, "{byte:02x}"))
}

/// The digest that is written so: 64 lower-case hexadecimal digits.
pub fn parse_hex(text: &str) -> Option<Bytes> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut digest = [0; 32];
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != digest.len() || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in digest.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_definition(data: &[u8]) -> Bytes {
        let chunks: Vec<Bytes> =
            data.chunks(CHUNK_BYTES as usize).map(|chunk| *blake3::hash(chunk).as_bytes()).collect();
        of_file(chunks)
    }

    #[test]
    fn pieces_do_not_change_a_digest() {
        let whole = of_pieces([b"hello world".as_slice()]);
        assert_eq!(whole, of_pieces([b"hello ".as_slice(), b"", b"world"]));
        assert_eq!(whole, *blake3::hash(b"hello world").as_bytes());
    }

    #[test]
    fn a_files_digest_is_over_its_cells_digests() {
        let chunk = CHUNK_BYTES as usize;
        let data: Vec<u8> = (0..2 * chunk + 5).map(|index| (index % 251) as u8).collect();
        for length in [0, 1, chunk - 1, chunk, chunk + 1, 2 * chunk, 2 * chunk + 5] {
            let mut digest = FileDigest::default();
            for piece in data[..length].chunks(3_000_001) {
                digest.update(piece);
            }
            assert_eq!(digest.finish(), by_definition(&data[..length]), "{length}");
            let mut by_cells = FileDigest::default();
            data[..length].chunks(chunk).for_each(|cell| by_cells.add_cell(&of_pieces([cell])));
            assert_eq!(by_cells.finish(), by_definition(&data[..length]), "{length}");
        }
    }

    #[test]
    fn a_path_and_its_neighbour_do_not_run_together() {
        let version = |files: [(&str, u64); 2]| {
            let mut version = VersionDigest::default();
            files.iter().for_each(|(path, size_bytes)| version.add(path, *size_bytes, &[7; 32]));
            version.finish()
        };
        assert_ne!(version([("ab", 1), ("c", 1)]), version([("a", 1), ("bc", 1)]));
    }

    #[test]
    fn hexadecimal_digits_are_lower_case() {
        let mut text = String::new();
        write_hex(&[0, 0xAB, 255], &mut text).unwrap();
        assert_eq!(text, "00abff");
    }

    #[test]
    fn a_digest_reads_as_it_is_written() {
        let digest = of_pieces([b"hello world".as_slice()]);
        let mut text = String::new();
        write_hex(&digest, &mut text).unwrap();
        assert_eq!(parse_hex(&text), Some(digest));
        for bad in ["", "0", &text[1..], &text.to_uppercase(), &format!("{text}0"), &text.replace('a', "g")] {
            assert_eq!(parse_hex(bad), None, "{bad}");
        }
    }
}
