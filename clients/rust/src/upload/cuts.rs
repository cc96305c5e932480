//! Where a file is cut into chunks: at the tensors of a safetensors file, so that what stays equal from save to save is known
//! wherever it moves to; any other file every 8 MiB.

use std::fs::File;
use std::io::Read as _;

use keepbest_rules::digest::CHUNK_BYTES;

/// Tensors below this share a chunk with their small neighbours: a chunk costs rows and, if it is new, an object.
const SMALL_BYTES: u64 = 4 << 10;
/// The longest header that is looked at; a tensor takes about 100 bytes of it.
const MOST_HEADER_BYTES: u64 = 8 << 20;
/// Where there would be more cuts, larger tensors count as small: the server takes 8,192 chunks more than every 8 MiB.
const MOST_CUTS: usize = 1 << 12;
/// Bytes of the header's length.
const LENGTH_BYTES: u64 = 8;

/// The ends of a file's chunks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cuts(Vec<u64>);

impl Cuts {
    /// Of a file of so many bytes, by its name. One that is not what its name says is cut every 8 MiB; if it cannot be read, whoever
    /// reads it to send it will say so.
    pub(super) fn of(name: &str, file: &File, size_bytes: u64) -> Cuts {
        let ends = name.ends_with(".safetensors").then(|| tensor_ends(file, size_bytes)).flatten();
        Cuts(ends.map(|ends| cuts(&ends, size_bytes)).unwrap_or_default())
    }

    /// Where the chunk ends that begins at `position`.
    pub(super) fn end_of_chunk(&self, position: u64, size_bytes: u64) -> u64 {
        let next = self.0.partition_point(|cut| *cut <= position);
        let whole = if self.0.is_empty() {
            (position / CHUNK_BYTES + 1) * CHUNK_BYTES
        } else {
            position + CHUNK_BYTES
        };
        self.0.get(next).map_or(whole, |cut| whole.min(*cut)).min(size_bytes)
    }
}

/// The ends of the header and of the tensors, in any order; none: this is no safetensors file.
fn tensor_ends(mut file: &File, size_bytes: u64) -> Option<Vec<u64>> {
    let mut length = [0; LENGTH_BYTES as usize];
    file.read_exact(&mut length).ok()?;
    let length = u64::from_le_bytes(length);
    let begin = LENGTH_BYTES.checked_add(length)?;
    if length > MOST_HEADER_BYTES || begin > size_bytes {
        return None;
    }
    let mut header = vec![0; usize::try_from(length).ok()?];
    file.read_exact(&mut header).ok()?;
    let header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&header).ok()?;
    let mut ends = vec![begin];
    for (_, tensor) in header.iter().filter(|(name, _)| *name != "__metadata__") {
        for offset in tensor.get("data_offsets")?.as_array()? {
            ends.push(begin.checked_add(offset.as_u64()?).filter(|it| *it <= size_bytes)?);
        }
    }
    Some(ends)
}

/// Cuts at these ends, but between small neighbours, and every 8 MiB between them.
fn cuts(ends: &[u64], size_bytes: u64) -> Vec<u64> {
    let mut ends = [ends, &[size_bytes]].concat();
    ends.sort_unstable();
    ends.dedup();
    let most = MOST_CUTS + usize::try_from(size_bytes / CHUNK_BYTES).unwrap_or(usize::MAX - MOST_CUTS);
    let mut small_bytes = SMALL_BYTES;
    loop {
        let cuts = cuts_between(&ends, small_bytes);
        if cuts.len() <= most {
            return cuts;
        }
        small_bytes *= 4;
    }
}

fn cuts_between(ends: &[u64], small_bytes: u64) -> Vec<u64> {
    let (mut cuts, mut last) = (Vec::new(), 0);
    for (index, end) in ends.iter().copied().enumerate() {
        let next = ends.get(index + 1).copied();
        let is_small = end - last < small_bytes && next.is_some_and(|next| next - end < small_bytes);
        if is_small {
            continue;
        }
        while end - last > CHUNK_BYTES {
            last += CHUNK_BYTES;
            cuts.push(last);
        }
        cuts.push(end);
        last = end;
    }
    cuts
}

#[cfg(test)]
mod tests {
    use std::io::Seek as _;
    use std::io::Write as _;

    use super::*;

    /// A file with this header, and so many bytes in all.
    fn file(header: &str, size_bytes: u64) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
        file.write_all(header.as_bytes()).unwrap();
        file.set_len(size_bytes).unwrap();
        file.rewind().unwrap();
        file
    }

    fn header(offsets: &[u64]) -> String {
        let tensor = |(index, pair): (usize, &[u64])| {
            format!(
                "\"t{index}\":{{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[{},{}]}}",
                pair[0], pair[1]
            )
        };
        let tensors: Vec<String> = offsets.windows(2).enumerate().map(tensor).collect();
        format!("{{\"__metadata__\":{{\"a\":\"b\"}},{}}}", tensors.join(","))
    }

    #[test]
    fn a_safetensors_file_is_cut_at_its_tensors() {
        const C: u64 = CHUNK_BYTES;
        let header = header(&[0, 10_000, 10_100, 10_200, 20_000, 20_000 + 2 * C + 5]);
        let begin = 8 + header.len() as u64;
        let size = begin + 20_000 + 2 * C + 5;
        let found = Cuts::of("a.safetensors", &file(&header, size), size);
        let ends = [0, 10_000, 10_200, 20_000, 20_000 + C, 20_000 + 2 * C, 20_000 + 2 * C + 5];
        assert_eq!(found.0, ends.map(|it| begin + it));
        let mut chunks = Vec::new();
        let mut position = 0;
        while position < size {
            position = found.end_of_chunk(position, size);
            chunks.push(position);
        }
        assert_eq!(chunks, found.0);
        assert_eq!(Cuts::of("a.bin", &file(&header, size), size), Cuts::default());
    }

    #[test]
    fn what_is_no_safetensors_file_is_cut_every_8_mib() {
        const C: u64 = CHUNK_BYTES;
        let good = header(&[0, 10_000]);
        let size = 8 + good.len() as u64 + 10_000;
        assert!(!Cuts::of("a.safetensors", &file(&good, size), size).0.is_empty());
        for (bad, size) in
            [("{", size), ("[]", size), ("{\"a\":1}", size), (&good, size - 1), (&*" ".repeat(99), 20)]
        {
            assert_eq!(Cuts::of("a.safetensors", &file(bad, size), size), Cuts::default(), "{bad}");
        }
        let ends = [0, 5, C, 2 * C].map(|position| Cuts::default().end_of_chunk(position, 2 * C + 5));
        assert_eq!(ends, [C, C, 2 * C, 2 * C + 5]);
    }

    #[test]
    fn of_very_many_tensors_neighbours_share_chunks() {
        let ends: Vec<u64> = (1..=3 * MOST_CUTS as u64).map(|it| it * SMALL_BYTES).collect();
        let size = 3 * MOST_CUTS as u64 * SMALL_BYTES;
        let few = cuts(&ends, size);
        assert_eq!((few.len(), few.last()), (3 * MOST_CUTS / 4, Some(&size)));
        assert_eq!(cuts(&ends[..MOST_CUTS], ends[MOST_CUTS - 1]), ends[..MOST_CUTS]);
    }
}
