//! The check: every committed version against its digests and its manifest, every chunk in the store, and the rows against
//! each other. Runs beside live traffic; what is committed while it runs may be left to the next one.

mod audit;
mod data;

use serde::Serialize;

use crate::app::App;
use crate::app::Error;
use crate::db::CheckVersion;
use crate::db::Db;
use crate::domain::digest::VersionDigest;
use crate::domain::manifest::Manifest;
use crate::domain::manifest::ManifestFile;
use crate::store::manifest_key;

pub use crate::domain::subset::Subset;

/// Which bytes a check reads; of all other objects it asks for the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadData {
    Nothing,
    /// One part of all chunks.
    Subset(Subset),
    /// All, and the SHA-256 of the files that declared one.
    Everything,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    pub versions: u64,
    pub files: u64,
    /// Chunks of those, each once.
    pub chunks: u64,
    /// Bytes read and hashed; 0 unless asked for.
    pub bytes_read: u64,
    /// Manifests read and compared with the database.
    pub manifests: u64,
    /// Manifests that a commit or a deletion under way, or the next pass of the collector, has yet to write.
    pub due_manifests: u64,
    /// Entries of the audit log, each held against the one before it.
    pub audit_entries: u64,
    /// One sentence each; none is right.
    pub problems: Vec<String>,
}

impl App {
    /// Checks all committed versions; with `read_data` every byte, else that every object stands with its size.
    pub async fn check(&self, read_data: bool) -> Result<CheckReport, Error> {
        self.check_with(if read_data { ReadData::Everything } else { ReadData::Nothing }).await
    }

    /// Checks all committed versions and reads what is asked for.
    pub async fn check_with(&self, read: ReadData) -> Result<CheckReport, Error> {
        let mut report = CheckReport { problems: self.db.contradictions().await?, ..CheckReport::default() };
        let mut after = String::new();
        loop {
            let (page, next) = self.db.check_versions(&after).await?;
            for version in &page {
                let mut problems = Vec::new();
                self.check_version(version, &mut report, &mut problems).await?;
                // One that was deleted and collected while it was read is no problem.
                if problems.is_empty() || self.db.is_committed(&version.uid).await? {
                    report.problems.append(&mut problems);
                }
            }
            let Some(next) = next else { break };
            after = next;
        }
        self.check_data(read, &mut report).await?;
        self.check_audit_log(&mut report).await?;
        report.due_manifests = u64::try_from(self.db.count_due_manifests().await?).unwrap_or(0);
        Ok(report)
    }

    async fn check_version(
        &self,
        version: &CheckVersion,
        report: &mut CheckReport,
        problems: &mut Vec<String>,
    ) -> Result<(), Error> {
        report.versions += 1;
        let mut manifest = self.check_manifest(version, report, problems).await?;
        let mut told = manifest.take().map(|it| it.files.into_iter());
        let mut digest = VersionDigest::default();
        let files = self.db.files(&version.uid).await?;
        for page in files.chunks(Db::MANIFEST_FILES) {
            for file in self.db.manifest_files(page).await? {
                report.files += 1;
                let mut wrong = structure_problems(&file);
                digest.add(&file.path, u64::try_from(file.size_bytes).unwrap_or(0), file.digest);
                let is_another = told.as_mut().is_some_and(|told| told.next().as_ref() != Some(&file));
                if is_another && wrong.is_empty() {
                    wrong.push("is another in the manifest".to_owned());
                }
                let named =
                    wrong.into_iter().map(|why| format!("{} file `{}` {why}", version.name, file.path));
                problems.extend(named);
            }
        }
        if digest.finish() != version.digest {
            problems.push(format!("{} has other files than its digest says", version.name));
        }
        if told.is_some_and(|mut told| told.next().is_some()) {
            problems.push(format!("{} has more files in the manifest", version.name));
        }
        Ok(())
    }

    /// Reads the version's manifest and compares all but its files.
    async fn check_manifest(
        &self,
        version: &CheckVersion,
        report: &mut CheckReport,
        problems: &mut Vec<String>,
    ) -> Result<Option<Manifest>, Error> {
        let Some(stored) = self.db.manifest(&version.uid).await?.filter(|it| !it.is_due) else {
            return Ok(None);
        };
        let key = manifest_key(&version.uid, stored.head.version.commit_time_us);
        let manifest = match self.read_manifest(&key).await? {
            Ok(manifest) => manifest,
            Err(why) => {
                problems.push(format!("{} manifest `{key}`: {why}", version.name));
                return Ok(None);
            }
        };
        report.manifests += 1;
        let (is, was) = (&manifest.head, &stored.head);
        // The run goes on after the manifest was written. As texts, for NaN is not equal to itself.
        for (what, is, was) in [
            ("version", text(&is.version), text(&was.version)),
            ("artifact", text(&is.artifact), text(&was.artifact)),
            ("run", text(&is.run.uid), text(&was.run.uid)),
        ] {
            if is != was {
                problems
                    .push(format!("{} manifest `{key}` has another {what}: {is}, not {was}", version.name));
            }
        }
        Ok(Some(manifest))
    }
}

fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| error.to_string())
}

fn structure_problems(file: &ManifestFile) -> Vec<String> {
    let mut problems = Vec::new();
    let mut end = 0;
    for chunk in &file.chunks {
        if chunk.offset_bytes != end {
            problems.push(format!("has a gap or an overlap at byte {end}"));
        }
        if chunk.object_key.is_empty() {
            problems.push(format!("at byte {}: its chunk has no row", chunk.offset_bytes));
        }
        end = chunk.offset_bytes.saturating_add(chunk.size_bytes);
    }
    if end != file.size_bytes {
        problems.push(format!("has chunks of {end} bytes, not {}", file.size_bytes));
    }
    if file.is_another() {
        problems.push("has other chunks than its digest says".to_owned());
    }
    problems
}
