//! The manifest: what the store alone knows of a version, so that the database can be made anew from it.
//!
//! One JSON document, written as a stream: the artifact, the run, the version and each file on a line of its own, then the
//! digest of all bytes before it. Numbers round-trip exactly, also NaN and the infinities.

use serde::Deserialize;
use serde::Serialize;

use crate::domain::cells::digest_of_chunks;
use crate::domain::digest::Digest;
use crate::domain::digest::VersionDigest;
use crate::domain::ids::Id;
use crate::domain::metric::Direction;
use crate::domain::metric::Metrics;
use crate::domain::metric::exact;
use crate::domain::monitor::MonitorState;
use crate::domain::path;
use crate::domain::strategy::Strategy;

/// Name and number of the format. Fields may be added; a change of what one means is another number.
pub const FORMAT: &str = "keepbest.manifest/1";
/// Between the files and the digest over everything before it.
const BEFORE_DIGEST: &str = "\n],\n\"blake3\":\"";
/// Behind the digest.
const END: &str = "\"}\n";
/// What a file of one chunk takes in a manifest, with a path of 100 characters.
const FILE_BYTES: u64 = 420;
/// And each further chunk.
const CHUNK_LINE_BYTES: u64 = 190;
/// A manifest is handed to the store in pieces of this size: a save of 100,000 files has one of 40 MB, which stands in memory
/// once.
const PIECE_BYTES: usize = 1 << 20;

/// Where the version stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ManifestState {
    /// It can be read.
    Committed,
    /// Its number is never given out again; it has no files.
    Deleted,
}

/// The artifact of the version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ManifestArtifact {
    /// Unique for ever.
    pub uid: String,
    /// Also of the run.
    pub team: Id,
    /// Also of the run.
    pub project: Id,
    pub id: Id,
    /// For example `model`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The metric that `best` follows.
    pub monitor: String,
    pub direction: Direction,
    /// Microseconds since 1970.
    pub create_time_us: i64,
}

/// The run of the version, as it was when the manifest was written: at the commit or later.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ManifestRun {
    /// Unique for ever.
    pub uid: String,
    pub id: Id,
    /// When to save.
    pub strategy: Strategy,
    /// Resolved when it started.
    pub direction: Direction,
    /// What the strategy remembers.
    pub monitor_state: MonitorState,
    /// The newest attempt.
    pub attempt: i64,
    /// `ACTIVE`, `FINISHED` or `FAILED`.
    pub state: String,
    /// Grows with every change of the run: of two manifests the one with more knows it better.
    pub revision: i64,
    /// 0-based epoch of the newest event.
    pub last_epoch: Option<i64>,
    /// The trainer's settings, JSON in a text: kept to the letter.
    pub config_json: Option<String>,
    /// Microseconds since 1970.
    pub create_time_us: i64,
    /// Microseconds since 1970.
    pub update_time_us: i64,
    /// Microseconds since 1970.
    pub finish_time_us: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ManifestVersion {
    pub state: ManifestState,
    /// N of `vN`.
    pub number: i64,
    /// Its checkpoint, unique for ever.
    pub checkpoint: String,
    /// The attempt that saved it.
    pub attempt: i64,
    /// 0-based.
    pub epoch: i64,
    /// 0-based.
    pub batch: Option<i64>,
    /// Optimizer steps.
    pub step: Option<i64>,
    /// The rendered template.
    pub path: String,
    /// Whether it holds the weights only.
    pub weights_only: bool,
    /// The monitored value.
    #[serde(with = "exact::optional")]
    pub value: Option<f64>,
    /// The decision's reason code.
    pub reason: String,
    /// The same as a sentence.
    pub reason_text: String,
    /// Names that it got at the commit, beside `latest` and `best`, which follow from the numbers and the metrics.
    pub aliases: Vec<String>,
    /// Of its event.
    pub metrics: Metrics,
    /// Free JSON in a text: kept to the letter.
    pub metadata_json: Option<String>,
    /// Bytes of all files.
    pub size_bytes: i64,
    pub file_count: i64,
    /// Of how many parts it was made; none: one process committed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_count: Option<i64>,
    /// Over its files.
    pub digest: Digest,
    /// Of the decision, microseconds since 1970.
    pub create_time_us: i64,
    /// Microseconds since 1970.
    pub commit_time_us: i64,
    /// Microseconds since 1970.
    pub delete_time_us: Option<i64>,
}

/// A file of the version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Within the version.
    pub path: String,
    pub size_bytes: i64,
    /// Over its cells.
    pub digest: Digest,
    /// As the client declared it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
    /// From its beginning to its end.
    pub chunks: Vec<ManifestChunk>,
}

impl ManifestFile {
    /// Whether its chunks tell another digest than it has. Those of a file that was cut in other places than every 8 MiB tell
    /// none: its bytes must be read.
    pub fn is_another(&self) -> bool {
        let by_chunks = digest_of_chunks(self.chunks.iter().map(|it| (it.size_bytes, it.digest)));
        by_chunks.is_some_and(|it| it != self.digest)
    }
}

/// A stored piece of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestChunk {
    /// Where it stands in the file.
    pub offset_bytes: i64,
    pub size_bytes: i64,
    /// BLAKE3 of its bytes.
    pub digest: Digest,
    /// The object that holds its bytes.
    pub object_key: String,
}

/// Everything but the files.
#[derive(Clone, Debug, PartialEq)]
pub struct ManifestHead {
    pub artifact: ManifestArtifact,
    pub run: ManifestRun,
    pub version: ManifestVersion,
}

impl ManifestHead {
    /// For people: `team/project/artifact:vN`.
    pub fn shown(&self) -> String {
        let ManifestArtifact { team, project, id, .. } = &self.artifact;
        format!("{team}/{project}/{id}:v{}", self.version.number)
    }

    /// About how many bytes the manifest has, by the version's files and their chunks.
    pub fn about_bytes(&self, chunk_count: u64) -> u64 {
        let files = u64::try_from(self.version.file_count).unwrap_or(0);
        // A file's first chunk is counted with it.
        let chunks = chunk_count.saturating_sub(files);
        files.saturating_mul(FILE_BYTES).saturating_add(chunks.saturating_mul(CHUNK_LINE_BYTES))
    }
}

/// A manifest that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Everything but the files.
    pub head: ManifestHead,
    /// In the order of their paths (by bytes); none of a deleted version.
    pub files: Vec<ManifestFile>,
}

/// Why bytes are no manifest that can be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// No digest at its end.
    #[error("it does not end with a digest: it was cut, or is no manifest")]
    Cut,
    /// Other bytes than were written.
    #[error("its bytes have the digest {is}, but were written with {was}")]
    Damaged {
        /// Of the bytes before the digest.
        is: Digest,
        /// As it stands at the end.
        was: Digest,
    },
    /// Written by another program, or a newer one.
    #[error("its format is `{0}`, but this program reads `{FORMAT}`")]
    Format(String),
    /// Not what the format says.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// Its parts do not belong together.
    #[error("it contradicts itself: {0}")]
    Contradiction(String),
}

/// Writes a manifest piece by piece.
#[derive(Debug)]
pub struct ManifestWriter {
    pieces: Vec<Vec<u8>>,
    piece: Vec<u8>,
    files: VersionDigest,
    count: usize,
}

impl ManifestWriter {
    /// Begins with everything but the files.
    pub fn new(head: &ManifestHead) -> Result<ManifestWriter, ManifestError> {
        let ManifestHead { artifact, run, version } = head;
        let begin = format!(
            "{{\"format\":\"{FORMAT}\",\n\"artifact\":{},\n\"run\":{},\n\"version\":{},\n\"files\":[\n",
            json(artifact)?,
            json(run)?,
            json(version)?
        );
        Ok(ManifestWriter {
            pieces: Vec::new(),
            piece: begin.into_bytes(),
            files: VersionDigest::default(),
            count: 0,
        })
    }

    /// Adds the next file in the order of their paths.
    pub fn file(&mut self, file: &ManifestFile) -> Result<(), ManifestError> {
        if self.count > 0 {
            self.piece.extend_from_slice(b",\n");
        }
        self.count += 1;
        self.files.add(&file.path, u64::try_from(file.size_bytes).unwrap_or(0), file.digest);
        self.piece.extend_from_slice(json(file)?.as_bytes());
        if self.piece.len() >= PIECE_BYTES {
            self.pieces.push(std::mem::take(&mut self.piece));
        }
        Ok(())
    }

    /// The whole in pieces, and the digest of a version of these files.
    pub fn finish(mut self) -> (Vec<Vec<u8>>, Digest) {
        self.piece.extend_from_slice(BEFORE_DIGEST.as_bytes());
        self.pieces.push(self.piece);
        let digest = Digest::of_pieces(self.pieces.iter().map(Vec::as_slice));
        self.pieces.push(format!("{digest}{END}").into_bytes());
        (self.pieces, self.files.finish())
    }
}

#[derive(Deserialize)]
struct Document {
    artifact: ManifestArtifact,
    run: ManifestRun,
    version: ManifestVersion,
    files: Vec<ManifestFile>,
}

/// Only what tells whether the rest can be read.
#[derive(Deserialize)]
struct Format {
    format: String,
}

impl Manifest {
    /// Reads a manifest and believes nothing: its bytes must have their digest, and its files and chunks theirs.
    pub fn read(data: &[u8]) -> Result<Manifest, ManifestError> {
        check_digest(data)?;
        let format = format_of(data)?;
        if format != FORMAT {
            return Err(ManifestError::Format(format));
        }
        let Document { artifact, run, version, files } =
            serde_json::from_slice(data).map_err(|error| ManifestError::Unreadable(error.to_string()))?;
        let manifest = Manifest { head: ManifestHead { artifact, run, version }, files };
        manifest.check_parts()?;
        Ok(manifest)
    }

    fn check_parts(&self) -> Result<(), ManifestError> {
        let version = &self.head.version;
        if version.state == ManifestState::Deleted {
            return Ok(());
        }
        for file in &self.files {
            path::check(&file.path).map_err(|refusal| ManifestError::Contradiction(refusal.message))?;
            let size_bytes = file.chunks.iter().fold(0_i64, |sum, it| sum.saturating_add(it.size_bytes));
            if size_bytes != file.size_bytes || file.is_another() {
                let message = format!("file `{}` is not the sum of its chunks", file.path);
                return Err(ManifestError::Contradiction(message));
            }
        }
        let parts = self.files.iter();
        let parts = parts.map(|it| (it.path.as_str(), u64::try_from(it.size_bytes).unwrap_or(0), it.digest));
        if Digest::of_version(parts) != version.digest {
            return Err(ManifestError::Contradiction("the version is not the sum of its files".to_owned()));
        }
        Ok(())
    }
}

fn check_digest(data: &[u8]) -> Result<(), ManifestError> {
    /// Hexadecimal digits.
    const DIGITS: usize = 64;
    let begin = data.len().checked_sub(DIGITS + END.len()).ok_or(ManifestError::Cut)?;
    let (before, digest) = data.split_at_checked(begin).ok_or(ManifestError::Cut)?;
    let digest = digest.strip_suffix(END.as_bytes()).and_then(|it| std::str::from_utf8(it).ok());
    let was = digest.and_then(Digest::parse).ok_or(ManifestError::Cut)?;
    let is = Digest::of_pieces([before]);
    if is == was { Ok(()) } else { Err(ManifestError::Damaged { is, was }) }
}

fn format_of(data: &[u8]) -> Result<String, ManifestError> {
    let format: Result<Format, _> = serde_json::from_slice(data);
    format.map(|it| it.format).map_err(|error| ManifestError::Unreadable(error.to_string()))
}

fn json(value: &impl Serialize) -> Result<String, ManifestError> {
    serde_json::to_string(value).map_err(|error| ManifestError::Unreadable(error.to_string()))
}

#[cfg(test)]
mod tests;
