//! Cells: the pieces of 8 MiB that a file's digest goes over. Where a file was cut into chunks of 8 MiB, each cell is a chunk;
//! where its client cut it in other places, a cell consists of parts of chunks, and its digest must be found out from the bytes.

use crate::domain::digest::CHUNK_BYTES;
use crate::domain::digest::Digest;
use crate::domain::file::Places;

/// Bytes of a cell, as offsets are counted.
pub const CELL_BYTES: i64 = CHUNK_BYTES as i64;

/// A part of a chunk, or a whole one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The whole chunk's.
    pub digest: Digest,
    pub chunk_bytes: i64,
    /// Bytes of the chunk before the part.
    pub skip_bytes: i64,
    pub size_bytes: i64,
}

/// What a cell consists of, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell(pub Vec<Part>);

impl Cell {
    /// The digest of a cell that is one whole chunk.
    pub fn chunk(&self) -> Option<Digest> {
        match self.0[..] {
            [part] if part.size_bytes == part.chunk_bytes => Some(part.digest),
            _ => None,
        }
    }

    /// What tells its bytes apart from those of any other cell of the team, without any of them.
    pub fn key(&self, team: &str) -> Digest {
        let numbers: Vec<[[u8; 8]; 2]> =
            self.0.iter().map(|it| [it.skip_bytes.to_le_bytes(), it.size_bytes.to_le_bytes()]).collect();
        // A team's name has no slash.
        let mut pieces = vec![team.as_bytes(), b"/"];
        for (part, [skip, size]) in self.0.iter().zip(&numbers) {
            pieces.extend([part.digest.as_bytes(), skip, size]);
        }
        Digest::of_pieces(pieces)
    }
}

/// The cells of a file whose chunks, sizes and digests in their order, hold all its bytes.
pub fn cells_of(chunks: impl IntoIterator<Item = (i64, Digest)>) -> Vec<Cell> {
    let (mut cells, mut cell, mut filled) = (Vec::new(), Cell::default(), 0);
    for (chunk_bytes, digest) in chunks {
        let mut skip_bytes = 0;
        while skip_bytes < chunk_bytes {
            let size_bytes = (CELL_BYTES - filled).min(chunk_bytes - skip_bytes);
            cell.0.push(Part { digest, chunk_bytes, skip_bytes, size_bytes });
            (skip_bytes, filled) = (skip_bytes + size_bytes, filled + size_bytes);
            if filled == CELL_BYTES {
                cells.push(std::mem::take(&mut cell));
                filled = 0;
            }
        }
    }
    cells.extend(Some(cell).filter(|it| !it.0.is_empty()));
    cells
}

/// The file's digest, if each of its cells is a chunk: then the chunks tell it.
pub fn digest_of_chunks(chunks: impl IntoIterator<Item = (i64, Digest)>) -> Option<Digest> {
    let digests: Option<Vec<Digest>> = cells_of(chunks).iter().map(Cell::chunk).collect();
    Some(Digest::of_file(digests?))
}

/// A file whose bytes were put together, and the digest that was found of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assembled {
    /// Of its chunks: it counts for no other ones.
    of: Digest,
    pub digest: Digest,
}

impl Assembled {
    /// The digests of a file's cells, found of these chunks.
    pub fn new(places: &Places, cells: impl IntoIterator<Item = Digest>) -> Assembled {
        Assembled { of: digest_of_places(places), digest: Digest::of_file(cells) }
    }

    /// The file's digest, if its chunks are still the same.
    pub fn digest_of(&self, places: &Places) -> Option<Digest> {
        (self.of == digest_of_places(places)).then_some(self.digest)
    }
}

fn digest_of_places(places: &Places) -> Digest {
    let sizes: Vec<[u8; 8]> = places.values().map(|(size_bytes, _)| size_bytes.to_le_bytes()).collect();
    let pairs = sizes.iter().zip(places.values());
    Digest::of_pieces(pairs.flat_map(|(size, (_, digest))| [size.as_slice(), digest.as_bytes()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(of: u8) -> Digest {
        Digest([of; 32])
    }

    fn part(of: u8, chunk_bytes: i64, skip_bytes: i64, size_bytes: i64) -> Part {
        Part { digest: digest(of), chunk_bytes, skip_bytes, size_bytes }
    }

    #[test]
    fn cells_stand_every_8_mib_wherever_chunks_end() {
        const C: i64 = CELL_BYTES;
        type Cells<'a> = &'a [&'a [Part]];
        let table: [(&[i64], Cells<'_>); 5] = [
            (&[], &[]),
            (&[C, C, 5], &[&[part(0, C, 0, C)], &[part(1, C, 0, C)], &[part(2, 5, 0, 5)]]),
            (&[3, C], &[&[part(0, 3, 0, 3), part(1, C, 0, C - 3)], &[part(1, C, C - 3, 3)]]),
            (&[C - 1, 1, 7], &[&[part(0, C - 1, 0, C - 1), part(1, 1, 0, 1)], &[part(2, 7, 0, 7)]]),
            (&[3, 4], &[&[part(0, 3, 0, 3), part(1, 4, 0, 4)]]),
        ];
        for (sizes, expected) in table {
            let chunks = sizes.iter().enumerate().map(|(index, size)| (*size, digest(index as u8)));
            let cells: Vec<Vec<Part>> = cells_of(chunks).into_iter().map(|it| it.0).collect();
            assert_eq!(cells, expected, "{sizes:?}");
        }
    }

    #[test]
    fn only_chunks_that_are_cells_tell_a_files_digest() {
        const C: i64 = CELL_BYTES;
        let of = |sizes: &[i64]| digest_of_chunks(sizes.iter().map(|size| (*size, digest(1))));
        assert_eq!(of(&[]), Some(Digest::of_file([])));
        assert_eq!(of(&[C, 5]), Some(Digest::of_file([digest(1), digest(1)])));
        for cut in [&[5, C][..], &[C, 5, 1], &[C - 1, 1], &[3, 4]] {
            assert_eq!(of(cut), None, "{cut:?}");
        }
    }

    #[test]
    fn equal_cells_of_a_team_have_equal_keys_and_no_others() {
        let cell = Cell(vec![part(1, 9, 0, 3), part(2, 9, 0, 4)]);
        assert_eq!(cell.key("a"), cell.clone().key("a"));
        let others = [
            Cell(vec![part(2, 9, 0, 4), part(1, 9, 0, 3)]),
            Cell(vec![part(1, 9, 1, 3), part(2, 9, 0, 4)]),
            Cell(vec![part(1, 9, 0, 3), part(2, 9, 0, 5)]),
            Cell(vec![part(1, 9, 0, 3)]),
        ];
        assert!(others.iter().all(|it| it.key("a") != cell.key("a")) && cell.key("b") != cell.key("a"));
    }

    #[test]
    fn what_was_put_together_counts_for_the_same_chunks_alone() {
        let places = Places::from([(0, (3, digest(1))), (3, (4, digest(2)))]);
        let assembled = Assembled::new(&places, [digest(9)]);
        assert_eq!(assembled.digest_of(&places), Some(Digest::of_file([digest(9)])));
        let others = Places::from([(0, (4, digest(1))), (4, (3, digest(2)))]);
        assert_eq!(assembled.digest_of(&others), None);
    }
}
