//! A file while it is downloaded: one local file holds its bytes, another one records which chunks are verified.
//!
//! The record is text: one line says what is downloaded, then each chunk has a line with its number and its digest, in the order
//! of arrival. Before a download goes on, the recorded chunks are read and hashed again. So it does not matter in which order the
//! two files reached the disk, and a torn line costs one chunk.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::path::Place;
use keepbest_rules::digest::{Hasher, of_file, parse_hex};

use crate::digest::{CHUNK_BYTES, file_digest, file_sha256, hex};
use crate::error::{Error, Result};

/// How many chunks one call asks for: 64 MiB.
const RANGE_CHUNKS: usize = 8;

/// How often the folder of unfinished downloads is made again because another pull removed it before a record was made in it.
const FOLDER_TRIES: usize = 10;

/// What was found where a file should be.
#[derive(Debug)]
pub(super) enum Opened {
    /// The file, with the right bytes.
    Equal,
    /// Nothing, other bytes, or a part of the file.
    Part(Part),
}

#[derive(Debug)]
pub(super) struct Part {
    place: Place,
    size_bytes: u64,
    digest: [u8; 32],
    record: Mutex<Record>,
}

#[derive(Debug)]
struct Record {
    /// Locked as long as this process writes the file.
    file: File,
    /// By number, the digests of the verified chunks.
    chunks: Vec<Option<[u8; 32]>>,
}

/// Finds out what is there already of a file with this size and digest.
pub(super) fn open(place: Place, size_bytes: u64, digest: [u8; 32]) -> Result<Opened> {
    if is_equal(&place.target, size_bytes, &digest)? {
        // What a download left that was stopped between its last two steps.
        let _ = fs::remove_file(&place.data);
        let _ = fs::remove_file(&place.record);
        return Ok(Opened::Equal);
    }
    let written = |error| Error::io("written", &place.record, error);
    let mut file = open_record(&place.record).map_err(written)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::Invalid(format!(
                "`{}` is being written by another pull: wait for it",
                place.target.display()
            )));
        }
        Err(TryLockError::Error(error)) => return Err(Error::io("locked", &place.record, error)),
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(|error| Error::io("read", &place.record, error))?;
    let header = format!("keepbest-part 1 {size_bytes} {}\n", hex(&digest));
    let count =
        usize::try_from(size_bytes.div_ceil(CHUNK_BYTES)).expect("a file of 16 TiB has 2 million chunks");
    let mut chunks = recorded(&String::from_utf8_lossy(&text), &header, count);
    keep_verified(&place.data, size_bytes, &mut chunks)
        .map_err(|error| Error::io("written", &place.data, error))?;
    let part = Part { place, size_bytes, digest, record: Mutex::new(Record { file, chunks }) };
    part.write_record(&header).map_err(|error| Error::io("written", &part.place.record, error))?;
    Ok(Opened::Part(part))
}

/// Opens or makes a record. Its folder was there a moment ago, but another pull that ends removes it if it is empty.
fn open_record(path: &Path) -> std::io::Result<File> {
    let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    for _ in 0..FOLDER_TRIES {
        match open() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                path.parent().map_or(Ok(()), fs::create_dir_all)?;
            }
            opened => return opened,
        }
    }
    open()
}

pub(super) fn is_equal(path: &Path, size_bytes: u64, digest: &[u8; 32]) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.len() == size_bytes => {
            Ok(file_digest(path)? == *digest)
        }
        _ => Ok(false),
    }
}

/// The chunks that a record names; none if the record is about other bytes.
fn recorded(text: &str, header: &str, count: usize) -> Vec<Option<[u8; 32]>> {
    let mut chunks = vec![None; count];
    let Some(lines) = text.strip_prefix(header) else { return chunks };
    for line in lines.split_inclusive('\n') {
        let entry = line.strip_suffix('\n').and_then(|line| line.split_once(' '));
        let Some((number, digest)) = entry else { continue };
        let chunk = number.parse::<usize>().ok().and_then(|number| chunks.get_mut(number));
        if let (Some(chunk), Some(digest)) = (chunk, parse_hex(digest)) {
            *chunk = Some(digest);
        }
    }
    chunks
}

/// Opens or makes the file of the bytes, and forgets recorded chunks whose bytes are not in it.
fn keep_verified(path: &Path, size_bytes: u64, chunks: &mut [Option<[u8; 32]>]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    file.set_len(size_bytes)?;
    for (number, chunk) in chunks.iter_mut().enumerate() {
        let Some(digest) = chunk else { continue };
        file.seek(SeekFrom::Start(number as u64 * CHUNK_BYTES))?;
        let mut hasher = Hasher::default();
        std::io::copy(&mut (&mut file).take(CHUNK_BYTES), &mut hasher)?;
        if hasher.finish() != *digest {
            *chunk = None;
        }
    }
    Ok(())
}

impl Part {
    /// The file that the bytes are written to.
    pub(super) fn data_path(&self) -> &Path {
        &self.place.data
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// How many bytes of the file are verified.
    pub(super) fn verified_bytes(&self) -> u64 {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let verified = record.chunks.iter().enumerate().filter(|(_, chunk)| chunk.is_some());
        verified.map(|(number, _)| CHUNK_BYTES.min(self.size_bytes - number as u64 * CHUNK_BYTES)).sum()
    }

    /// The ranges of bytes that are missing, each of at most 64 MiB.
    pub(super) fn missing_ranges(&self) -> Vec<Range<u64>> {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ranges = Vec::new();
        let mut number = 0;
        while number < record.chunks.len() {
            let missing =
                record.chunks[number..].iter().take(RANGE_CHUNKS).take_while(|chunk| chunk.is_none());
            let count = missing.count();
            if count > 0 {
                let end = ((number + count) as u64 * CHUNK_BYTES).min(self.size_bytes);
                ranges.push(number as u64 * CHUNK_BYTES..end);
            }
            number += count.max(1);
        }
        ranges
    }

    /// Records a chunk after its bytes were written.
    pub(super) fn chunk_written(&self, number: u64, digest: [u8; 32]) -> Result<()> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let index = usize::try_from(number).expect("a number of a chunk of this file");
        record.chunks[index] = Some(digest);
        let line = format!("{number} {}\n", hex(&digest));
        record
            .file
            .write_all(line.as_bytes())
            .map_err(|error| Error::io("written", &self.place.record, error))
    }

    /// Verifies the whole file, syncs it to the disk and moves it to its place.
    pub(super) fn finish(&self, sha256: &[u8]) -> Result<()> {
        if let Err(error) = self.verify(sha256) {
            // The next download must not go on with bytes that are wrong.
            let _ = fs::remove_file(&self.place.data);
            let _ = fs::remove_file(&self.place.record);
            return Err(error);
        }
        let target = &self.place.target;
        let written = |error| Error::io("written", target, error);
        let data = OpenOptions::new().write(true).open(&self.place.data);
        data.and_then(|file| file.sync_all()).map_err(written)?;
        fs::rename(&self.place.data, target).map_err(written)?;
        if let Some(folder) = target.parent().filter(|_| cfg!(unix)) {
            // The new name must be on the disk too. An empty path stands for the working directory.
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(written)?;
        }
        let _ = fs::remove_file(&self.place.record);
        Ok(())
    }

    fn verify(&self, sha256: &[u8]) -> Result<()> {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let chunks: Option<Vec<_>> = record.chunks.iter().copied().collect();
        let target = self.place.target.display();
        let chunks = chunks.ok_or_else(|| Error::Protocol(format!("`{target}` is not whole")))?;
        let corrupt =
            |kind: &str| Error::Corrupt(format!("the bytes received for `{target}` do not match its {kind}"));
        if of_file(chunks) != self.digest {
            return Err(corrupt("digest"));
        }
        if !sha256.is_empty() && file_sha256(&self.place.data)?[..] != *sha256 {
            return Err(corrupt("SHA-256"));
        }
        Ok(())
    }

    /// Writes the record anew, without torn lines and without chunks that turned out to be wrong.
    fn write_record(&self, header: &str) -> std::io::Result<()> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = header.to_owned();
        for (number, chunk) in record.chunks.iter().enumerate() {
            if let Some(digest) = chunk {
                text.push_str(&format!("{number} {}\n", hex(digest)));
            }
        }
        record.file.seek(SeekFrom::Start(0))?;
        record.file.set_len(0)?;
        record.file.write_all(text.as_bytes())
    }
}

#[cfg(test)]
mod tests;
