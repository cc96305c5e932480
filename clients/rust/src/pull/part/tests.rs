//! Tests of a file while it is downloaded: what is recorded, what is believed after an interruption, what is refused.

use std::fs;
use std::path::Path;

use super::{Opened, Part, Place, open};
use crate::digest::{CHUNK_BYTES, FileDigest};

const CHUNK: usize = CHUNK_BYTES as usize;

/// Ten chunks and a bit.
fn content() -> Vec<u8> {
    (0..10 * CHUNK + 7).map(|index| (index % 253) as u8).collect()
}

fn digest(data: &[u8]) -> [u8; 32] {
    let mut digest = FileDigest::default();
    digest.update(data);
    digest.finish()
}

fn place(target: &Path) -> Place {
    Place {
        target: target.to_owned(),
        data: target.with_extension("part"),
        record: target.with_extension("record"),
    }
}

fn part(path: &Path, data: &[u8]) -> Part {
    match open(place(path), data.len() as u64, digest(data)).unwrap() {
        Opened::Part(part) => part,
        Opened::Equal => panic!("the file is not there yet"),
    }
}

fn write_chunk(part: &Part, data: &[u8], number: usize) {
    let range = number * CHUNK..((number + 1) * CHUNK).min(data.len());
    let mut bytes = fs::read(part.data_path()).unwrap();
    bytes[range.clone()].copy_from_slice(&data[range.clone()]);
    fs::write(part.data_path(), bytes).unwrap();
    part.chunk_written(number as u64, keepbest_rules::digest::of_pieces([&data[range]])).unwrap();
}

#[test]
fn a_download_goes_on_with_what_is_verified() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    let data = content();
    let first = part(&path, &data);
    let mib = |range: &std::ops::Range<u64>| (range.start >> 20, range.end >> 20);
    assert_eq!(first.missing_ranges().iter().map(mib).collect::<Vec<_>>(), [(0, 64), (64, 80)]);
    for number in [0, 2, 10] {
        write_chunk(&first, &data, number);
    }
    drop(first);

    let second = part(&path, &data);
    assert_eq!(second.verified_bytes(), 2 * CHUNK_BYTES + 7);
    assert_eq!(second.missing_ranges().iter().map(mib).collect::<Vec<_>>(), [(8, 16), (24, 80)]);
    for number in [1, 3, 4, 5, 6, 7, 8, 9] {
        write_chunk(&second, &data, number);
    }
    assert!(second.missing_ranges().is_empty());
    second.finish(&[]).unwrap();
    assert!(fs::read(&path).unwrap() == data);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let again = open(place(&path), data.len() as u64, digest(&data)).unwrap();
    assert!(matches!(again, Opened::Equal));
}

#[test]
fn recorded_chunks_that_are_not_on_the_disk_are_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    let data = content();
    let first = part(&path, &data);
    write_chunk(&first, &data, 1);
    write_chunk(&first, &data, 2);
    let mut bytes = fs::read(first.data_path()).unwrap();
    bytes[CHUNK + 5] ^= 1;
    fs::write(first.data_path(), bytes).unwrap();
    drop(first);
    assert_eq!(part(&path, &data).verified_bytes(), CHUNK_BYTES);
}

#[test]
fn the_part_of_another_version_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    let mut data = content();
    write_chunk(&part(&path, &data), &data, 1);
    data[0] ^= 1;
    assert_eq!(part(&path, &data).verified_bytes(), 0);
}

#[test]
fn two_pulls_do_not_write_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    let _first = part(&path, b"data");
    let error = open(place(&path), 4, digest(b"data")).unwrap_err().to_string();
    assert!(error.contains("another pull"), "{error}");
}

#[test]
fn bytes_that_do_not_match_never_get_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    fs::write(&path, "before").unwrap();
    for (data, sha256) in [(b"wrong".as_slice(), [].as_slice()), (b"right".as_slice(), [7; 32].as_slice())] {
        let part = part(&path, b"right");
        write_chunk(&part, data, 0);
        assert!(part.finish(sha256).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"before");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

#[test]
fn an_empty_file_needs_no_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    let part = part(&path, b"");
    assert!(part.missing_ranges().is_empty());
    part.finish(&[]).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"");
}
