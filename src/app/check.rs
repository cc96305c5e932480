//! The check: every committed version against its digests, and the rows against each other. Runs beside live traffic.

use crate::app::App;
use crate::app::Error;
use crate::domain::digest::Digest;
use crate::domain::digest::Sha256;
use crate::store::CheckChunk;
use crate::store::CheckVersion;
use crate::store::FileRow;

/// Versions looked up at once.
const PAGE: i64 = 100;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CheckReport {
    /// Versions checked.
    pub versions: u64,
    /// Files of them.
    pub files: u64,
    /// Chunks of those.
    pub chunks: u64,
    /// Bytes read and hashed; 0 unless asked for.
    pub bytes_read: u64,
    /// One sentence each; none is right.
    pub problems: Vec<String>,
}

impl App {
    /// Checks all committed versions; with `read_data` every byte, else that every object stands with its size.
    pub async fn check(&self, read_data: bool) -> Result<CheckReport, Error> {
        let mut report =
            CheckReport { problems: self.store.contradictions().await?, ..CheckReport::default() };
        let mut after = String::new();
        loop {
            let page = self.store.check_versions(&after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(report) };
            after.clone_from(&last.uid);
            for version in &page {
                let mut problems = Vec::new();
                self.check_version(version, read_data, &mut report, &mut problems).await?;
                // One that was deleted and collected while it was read is no problem.
                if problems.is_empty() || self.store.is_committed(&version.uid).await? {
                    report.problems.append(&mut problems);
                }
            }
        }
    }

    async fn check_version(
        &self,
        version: &CheckVersion,
        read_data: bool,
        report: &mut CheckReport,
        problems: &mut Vec<String>,
    ) -> Result<(), Error> {
        report.versions += 1;
        let files = self.store.files(&version.uid).await?;
        for file in &files {
            report.files += 1;
            let chunks = self.store.check_chunks(&file.uid).await?;
            let mut wrong = structure_problems(file, &chunks);
            // Hashed only for a file that declared it: it is the slowest part.
            let mut sha256 = file.sha256.filter(|_| read_data).map(|declared| (declared, Sha256::default()));
            for chunk in &chunks {
                report.chunks += 1;
                let hasher = sha256.as_mut().map(|(_, hasher)| hasher);
                if let Some(why) = self.check_chunk(chunk, read_data, hasher, report).await? {
                    wrong.push(format!("at byte {}: {why}", chunk.offset_bytes));
                }
            }
            if wrong.is_empty() && sha256.is_some_and(|(declared, hasher)| hasher.finish() != declared) {
                wrong.push("has another SHA-256 than was declared".to_owned());
            }
            problems
                .extend(wrong.into_iter().map(|why| format!("{} file `{}` {why}", version.name, file.path)));
        }
        let parts = files
            .iter()
            .filter_map(|it| Some((it.path.as_str(), u64::try_from(it.size_bytes).unwrap_or(0), it.digest?)));
        if Digest::of_version(parts) != version.digest {
            problems.push(format!("{} has other files than its digest says", version.name));
        }
        Ok(())
    }

    async fn check_chunk(
        &self,
        chunk: &CheckChunk,
        read_data: bool,
        hasher: Option<&mut Sha256>,
        report: &mut CheckReport,
    ) -> Result<Option<String>, Error> {
        let Some(key) = &chunk.object_key else { return Ok(Some("its chunk has no row".to_owned())) };
        if read_data {
            return match self.read_chunk(key, chunk.size_bytes, chunk.digest).await {
                Ok(data) => {
                    report.bytes_read += data.len() as u64;
                    if let Some(hasher) = hasher {
                        hasher.update(&data);
                    }
                    Ok(None)
                }
                Err(Error::DataLoss(why)) => Ok(Some(why)),
                Err(error) => Err(error),
            };
        }
        match self.blobs.size_bytes(key).await.map_err(Error::from) {
            Ok(size) if i64::try_from(size) == Ok(chunk.size_bytes) => Ok(None),
            Ok(size) => Ok(Some(format!("object `{key}` has {size} bytes, not {}", chunk.size_bytes))),
            Err(Error::DataLoss(why)) => Ok(Some(why)),
            Err(error) => Err(error),
        }
    }
}

fn structure_problems(file: &FileRow, chunks: &[CheckChunk]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut end = 0;
    for chunk in chunks {
        if chunk.offset_bytes != end {
            problems.push(format!("has a gap or an overlap at byte {end}"));
        }
        end = chunk.offset_bytes.saturating_add(chunk.size_bytes);
    }
    if end != file.size_bytes {
        problems.push(format!("has chunks of {end} bytes, not {}", file.size_bytes));
    }
    if file.digest != Some(Digest::of_file(chunks.iter().map(|it| it.digest))) {
        problems.push("has other chunks than its digest says".to_owned());
    }
    problems
}
