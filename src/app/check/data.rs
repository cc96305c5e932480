//! The bytes behind the rows: each chunk once, however many versions share it.
//!
//! A file that declared its SHA-256, or that was cut elsewhere than every 8 MiB, is read from its beginning to its end instead, since
//! nothing less can tell it.

use std::collections::HashSet;

use futures::StreamExt;

use crate::app::App;
use crate::app::Error;
use crate::app::check::CheckReport;
use crate::app::check::ReadData;
use crate::db::CheckChunk;
use crate::db::CheckFile;
use crate::domain::digest::Digest;
use crate::domain::digest::FileDigest;
use crate::domain::digest::Sha256;

/// Chunks that are read at once, 32 MiB of them at most.
const READS: usize = 4;
/// Objects that are asked for their size at once: each answer is a round trip to the store.
const SIZES: usize = 32;
/// Files that are remembered as read, 96 bytes each; beyond that an equal one is read again.
const MOST_REMEMBERED: usize = 1 << 18;

/// Chunks that are remembered as read with their file, 32 bytes each: 8 TiB of full ones. Beyond that they are read again.
const MOST_CHUNKS_REMEMBERED: usize = 1 << 20;

/// What the bytes of a file can have against it.
const OTHER_DIGEST: &str = "has other bytes than its digest says";
const OTHER_SHA256: &str = "has another SHA-256 than was declared";

/// Chunks that were read with a whole file.
#[derive(Default)]
struct ReadWithFile(HashSet<Digest>);

impl ReadWithFile {
    fn key(team: &str, digest: Digest) -> Digest {
        Digest::of_pieces([team.as_bytes(), b"/", digest.as_bytes()])
    }

    fn add(&mut self, team: &str, digest: Digest) {
        if self.0.len() < MOST_CHUNKS_REMEMBERED {
            self.0.insert(Self::key(team, digest));
        }
    }

    fn has(&self, chunk: &CheckChunk) -> bool {
        !self.0.is_empty() && self.0.contains(&Self::key(&chunk.team, chunk.digest))
    }
}

/// What stands of a chunk: bytes read, or why not.
type Found = Result<u64, String>;

impl App {
    pub(super) async fn check_data(&self, read: ReadData, report: &mut CheckReport) -> Result<(), Error> {
        let (mut damaged, mut done) = (HashSet::new(), ReadWithFile::default());
        if read == ReadData::Everything {
            self.check_whole_files(report, &mut damaged, &mut done).await?;
        }
        let at_once = if read == ReadData::Nothing { SIZES } else { READS };
        let mut after = (String::new(), Vec::new());
        loop {
            let (page, next) = self.db.check_chunks(&after).await?;
            report.chunks += page.len() as u64;
            let done = &done;
            let found = |chunk: CheckChunk| async move {
                // Not again.
                let found = if done.has(&chunk) { Ok(Ok(0)) } else { self.check_chunk(&chunk, read).await };
                (found, chunk)
            };
            // All of them before the first is reported: one that is not polled holds a connection that the report waits for.
            let found: Vec<_> = futures::stream::iter(page).map(found).buffered(at_once).collect().await;
            for (found, chunk) in found {
                match found? {
                    Ok(bytes) => report.bytes_read += bytes,
                    Err(why) => {
                        self.report_damage(&chunk.team, chunk.digest, &why, report, &mut damaged).await?;
                    }
                }
            }
            let Some(next) = next else { return Ok(()) };
            after = next;
        }
    }

    async fn check_chunk(&self, chunk: &CheckChunk, read: ReadData) -> Result<Found, Error> {
        let reads = match read {
            ReadData::Nothing => false,
            ReadData::Subset(subset) => subset.has(&chunk.digest),
            ReadData::Everything => true,
        };
        let mut key = chunk.object_key.clone();
        loop {
            let found = if reads {
                let read = self.read_chunk(&chunk.team, &key, chunk.size_bytes, chunk.digest).await;
                read.map(|data| Ok(data.len() as u64))
            } else {
                self.size_problem(&key, chunk.size_bytes).await.map(|why| why.map_or(Ok(0), Err))
            };
            let found = match found {
                Err(Error::DataLoss(why)) => Err(why),
                found => found?,
            };
            if found.is_ok() {
                return Ok(found);
            }
            // Collected and stored again since it was listed?
            match self.db.chunk_key(&chunk.team, chunk.digest).await? {
                Some(newer) if newer != key => key = newer,
                _ => return Ok(found),
            }
        }
    }

    /// Why an object is not there with its size.
    pub(in crate::app) async fn size_problem(
        &self,
        key: &str,
        size_bytes: i64,
    ) -> Result<Option<String>, Error> {
        match self.store.size_bytes(key).await.map_err(Error::from) {
            Ok(size) if i64::try_from(size) == Ok(size_bytes) => Ok(None),
            Ok(size) => Ok(Some(format!("object `{key}` has {size} bytes, not {size_bytes}"))),
            Err(Error::DataLoss(why)) => Ok(Some(why)),
            Err(error) => Err(error),
        }
    }

    /// Names every version and file that has the chunk, and marks it for the next upload of its bytes; none has one that was
    /// deleted and collected meanwhile.
    async fn report_damage(
        &self,
        team: &str,
        digest: Digest,
        why: &str,
        report: &mut CheckReport,
        damaged: &mut HashSet<(String, Digest)>,
    ) -> Result<(), Error> {
        if damaged.insert((team.to_owned(), digest)) {
            if let Some(key) = self.db.chunk_key(team, digest).await? {
                self.suspect(team, digest, &key).await;
            }
            let places = self.db.chunk_places(team, digest).await?;
            report.problems.extend(places.into_iter().map(|place| format!("{place}: {why}")));
        }
        Ok(())
    }

    /// Reads the files that only all their bytes can tell to be right; of equal ones the first.
    async fn check_whole_files(
        &self,
        report: &mut CheckReport,
        damaged: &mut HashSet<(String, Digest)>,
        done: &mut ReadWithFile,
    ) -> Result<(), Error> {
        let (mut read, mut wrong) = (HashSet::new(), HashSet::new());
        let mut after = String::new();
        loop {
            let (page, next) = self.db.check_files(&after).await?;
            for file in page {
                let same = (file.team.clone(), file.digest, file.sha256);
                if read.len() == MOST_REMEMBERED {
                    read.clear();
                }
                if read.insert(same.clone()) {
                    match self.other_bytes(&file, report, damaged, done).await? {
                        Some(found) => wrong.extend(found.into_iter().map(|what| (same.clone(), what))),
                        // It says nothing of equal ones.
                        None => drop(read.remove(&same)),
                    }
                }
                let found = [OTHER_DIGEST, OTHER_SHA256]
                    .into_iter()
                    .filter(|it| wrong.contains(&(same.clone(), *it)));
                report.problems.extend(found.map(|what| format!("{} {what}", file.name)));
            }
            let Some(next) = next else { return Ok(()) };
            after = next;
        }
    }

    /// What the file's bytes have against it; none: they are not all there. Of damaged ones nothing more can be said, and of one
    /// that was deleted and collected since its row was read there is nothing to say.
    async fn other_bytes(
        &self,
        file: &CheckFile,
        report: &mut CheckReport,
        damaged: &mut HashSet<(String, Digest)>,
        done: &mut ReadWithFile,
    ) -> Result<Option<Vec<&'static str>>, Error> {
        let chunks = self.db.file_chunks(&file.uid, 0, i64::MAX).await?;
        let chunk_bytes: i64 = chunks.iter().map(|it| it.size_bytes).sum();
        let (mut sha256, mut digest) = (Sha256::default(), FileDigest::default());
        let mut is_whole = chunk_bytes == file.size_bytes;
        for chunk in chunks {
            if chunk.object_key.is_empty() {
                // Its row is missing, which the structure told.
                is_whole = false;
                continue;
            }
            done.add(&file.team, chunk.digest);
            match self.read_chunk(&file.team, &chunk.object_key, chunk.size_bytes, chunk.digest).await {
                Ok(data) => {
                    report.bytes_read += data.len() as u64;
                    digest.update(&data);
                    if file.sha256.is_some() {
                        sha256.update(&data);
                    }
                }
                Err(Error::DataLoss(why)) => {
                    is_whole = false;
                    self.report_damage(&file.team, chunk.digest, &why, report, damaged).await?;
                }
                Err(error) => return Err(error),
            }
        }
        if !is_whole {
            return Ok(None);
        }
        let is_other = [
            (OTHER_DIGEST, digest.finish() != file.digest),
            (OTHER_SHA256, file.sha256.is_some_and(|declared| declared != sha256.finish())),
        ];
        Ok(Some(is_other.into_iter().filter(|(_, is_other)| *is_other).map(|(what, _)| what).collect()))
    }
}
