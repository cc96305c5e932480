//! Files in: declare, stream into chunks, store each once, finish. Memory is bounded by the buffers taken first.

mod batch;
mod cells;
mod cutter;
mod declared;
mod filling;
mod pace;
mod repeat;
mod visible;

use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;

use bytes::Bytes;
use futures::Stream;

use crate::app::App;
use crate::app::Error;
use crate::app::chunks::Cut;
use crate::app::chunks::placed;
use crate::app::chunks::step_of;
use crate::app::micros;
use crate::app::uploads::batch::Batch;
pub use crate::app::uploads::batch::Known;
pub(super) use crate::app::uploads::cells::KnownCells;
use crate::app::uploads::cells::PassingCells;
use crate::app::uploads::cutter::Cutter;
use crate::app::uploads::declared::DIGEST_MISMATCH;
use crate::app::uploads::declared::Declared;
use crate::app::uploads::declared::UPLOAD_BROKEN;
use crate::app::uploads::declared::check_small;
use crate::app::uploads::declared::read_back_bytes;
use crate::app::uploads::filling::Filling;
pub(crate) use crate::app::uploads::pace::idle_timeout;
use crate::db::Before;
use crate::db::ExpireTimes;
use crate::db::FileStep;
use crate::db::Stored;
use crate::db::WriteFiles;
use crate::domain::digest::Digest;
use crate::domain::file::NewFile;
use crate::domain::file::StoredFile;
use crate::domain::ids::CheckpointName;
use crate::domain::ids::ProjectName;
use crate::domain::ids::shown;
use crate::domain::path;
use crate::domain::refusal::Refusal;
use crate::failpoint::failpoint;

/// Largest file: 16 TiB is two million chunks.
pub const MAX_FILE_BYTES: i64 = 16 << 40;
/// Most files in one WriteSmallFiles.
pub const MAX_SMALL_FILES: usize = 1_000;
/// Most chunks in one message that are known: 40 KiB of them.
pub const MAX_KNOWN_CHUNKS: usize = 1_000;
/// Most chunks asked for at once: 80 GiB of whole ones, in 340 KiB.
pub const MAX_FIND_CHUNKS: usize = 10_000;
/// Chunks of one stream that are stored while the next one fills: of the buffers it has those and that one, at most.
const CHUNKS_IN_FLIGHT: usize = 3;
/// Small files in one transaction; the next ones of a large call let others pass.
const SLICE_FILES: usize = 64;

/// Whose file, and who writes.
#[derive(Clone, Debug)]
pub struct Target {
    pub checkpoint: CheckpointName,
    pub attempt: i64,
    pub path: String,
}

/// One message of an upload.
#[derive(Clone, Debug, Default)]
pub struct Piece {
    /// Bytes of the file, in order.
    pub data: Bytes,
    /// CRC-32C of them.
    pub crc32c: Option<u32>,
    /// Nothing comes after this.
    pub finish: bool,
    /// A chunk ends behind the bytes.
    pub cut: bool,
    /// Chunks behind the bytes that the team has.
    pub known: Vec<Known>,
}

impl Piece {
    /// By how many bytes of the file it moves its stream on.
    fn moved_bytes(&self) -> usize {
        let known: i64 = self.known.iter().map(|it| it.size_bytes).sum();
        self.data.len().saturating_add(usize::try_from(known).unwrap_or(usize::MAX))
    }
}

/// A small file, whole.
#[derive(Clone, Debug)]
pub struct SmallFile {
    pub path: String,
    pub data: Bytes,
    /// Of them, if declared.
    pub sha256: Option<Digest>,
}

/// A stream that writes files of a checkpoint.
#[derive(Clone, Debug)]
pub(super) struct Upload {
    checkpoint: CheckpointName,
    attempt: i64,
    /// Tells it from another stream, which may take its file over.
    token: String,
}

impl Upload {
    fn begin(checkpoint: CheckpointName, attempt: i64) -> Upload {
        Upload { checkpoint, attempt, token: uuid::Uuid::new_v4().simple().to_string() }
    }

    fn project(&self) -> &ProjectName {
        &self.checkpoint.run.project
    }

    fn team(&self) -> &str {
        self.checkpoint.run.project.team.as_str()
    }
}

impl App {
    /// What an upload writes now; its checkpoint lives on.
    pub(super) fn writes(&self, upload: &Upload, files: Vec<FileStep>) -> WriteFiles {
        let now_us = self.clock.now_us();
        WriteFiles {
            checkpoint: upload.checkpoint.clone(),
            attempt: upload.attempt,
            token: upload.token.clone(),
            expire: ExpireTimes {
                pending_us: now_us.saturating_add(micros(self.limits.pending_expiry)),
                parts_us: now_us.saturating_add(micros(self.limits.parts_expiry)),
            },
            now_us,
            files,
        }
    }

    /// The same of one file.
    async fn write_one(&self, upload: &Upload, step: FileStep) -> Result<StoredFile, Error> {
        let written = self.db.write_files(self.writes(upload, vec![step])).await?;
        written.into_iter().next().ok_or_else(|| Error::Internal("a write answered no file".into()))
    }

    /// Declares a file, or finds it again, and says how much of it is durable.
    pub async fn prepare_file(
        &self,
        target: Target,
        size_bytes: i64,
        sha256: Option<Digest>,
    ) -> Result<StoredFile, Error> {
        path::check(&target.path)?;
        if !(0..=MAX_FILE_BYTES).contains(&size_bytes) {
            let message = format!("size_bytes {size_bytes} is not between 0 and {MAX_FILE_BYTES}");
            return Err(Refusal::invalid("SIZE_MISMATCH", message).into());
        }
        let new = NewFile { path: target.path, size_bytes, sha256 };
        let upload = Upload::begin(target.checkpoint, target.attempt);
        let file = self.write_one(&upload, declaration(&new)).await?;
        failpoint!("prepare.committed");
        Ok(file)
    }

    /// Writes a prepared file from `offset_bytes` on. Ends well only with a piece that says `finish`.
    pub async fn write_file(
        &self,
        target: Target,
        offset_bytes: i64,
        pieces: impl Stream<Item = Result<Piece, Error>> + Send,
    ) -> Result<StoredFile, Error> {
        path::check(&target.path)?;
        self.upload_buffers.check_crowd()?;
        let upload = Upload::begin(target.checkpoint, target.attempt);
        let begin = FileStep { path: target.path, take_over: Some(offset_bytes), ..FileStep::default() };
        let file = self.write_one(&upload, begin).await?;
        failpoint!("upload.committed");
        if file.digest.is_some() {
            return self.repeat_file(file, offset_bytes, pieces).await;
        }
        let held = self.upload_buffers.sender();
        let declared = match read_back_bytes(&file) {
            0 => Declared::begin(self, upload.team(), &file).await,
            bytes => {
                let _room = held.take(bytes).await?;
                Declared::begin(self, upload.team(), &file).await
            }
        };
        let declared = self.or_anew(&upload, &file, declared).await?;
        let before = match offset_bytes {
            0 => Before::default(),
            _ => self.db.before(&file, offset_bytes).await?,
        };
        let mut cutter = Cutter {
            app: self,
            upload: &upload,
            declared,
            held,
            room: Vec::new(),
            next_offset: offset_bytes,
            file: &file,
            filling: Filling::default(),
            cells: PassingCells::at(offset_bytes, before.is_cut),
            chunk_count: before.chunk_count,
            batch: Batch::default(),
            in_flight: VecDeque::new(),
        };
        let received = cutter.receive(pieces, self.limits.upload_idle).await;
        let settled = cutter.settle_all().await;
        let finished = received?;
        settled?;
        failpoint!("finish.committed");
        Ok(finished)
    }

    /// Passes on what a check of a file's bytes found. If they are refused, what the file has so far is discarded.
    async fn or_anew<T>(
        &self,
        upload: &Upload,
        file: &StoredFile,
        checked: Result<T, Error>,
    ) -> Result<T, Error> {
        if let Err(Error::Refused(refusal)) = &checked
            && [DIGEST_MISMATCH, UPLOAD_BROKEN].contains(&refusal.reason)
        {
            let discard = FileStep { path: file.path.clone(), discard: true, ..FileStep::default() };
            self.write_one(upload, discard).await?;
        }
        checked
    }

    /// Writes small files whole: declares, stores and finishes all of them.
    pub async fn write_small_files(
        &self,
        checkpoint: CheckpointName,
        attempt: i64,
        files: Vec<SmallFile>,
    ) -> Result<Vec<StoredFile>, Error> {
        if files.len() > MAX_SMALL_FILES {
            let message = format!("{} files in one call: at most {MAX_SMALL_FILES} are allowed", files.len());
            return Err(Refusal::exhausted("LIMIT_EXCEEDED", message).into());
        }
        let mut new = Vec::with_capacity(files.len());
        let mut paths = HashSet::new();
        for file in &files {
            path::check(&file.path)?;
            if !paths.insert(file.path.as_str()) {
                let message =
                    format!("path `{}` stands twice in one call: which one is right?", shown(&file.path));
                return Err(Refusal::invalid("BAD_PATH", message).into());
            }
            let size_bytes = i64::try_from(file.data.len()).unwrap_or(i64::MAX);
            new.push(NewFile { path: file.path.clone(), size_bytes, sha256: file.sha256 });
        }
        let bytes = files.iter().fold(0, |sum, file| sum + file.data.len() as u64);
        let _permit = self.upload_buffers.take(bytes).await?;
        let upload = Upload::begin(checkpoint, attempt);
        let declared: Vec<FileStep> = new.iter().map(declaration).collect();
        let written = self.write_slices(&upload, new.into_iter().zip(files)).await;
        if let Err(Error::Unavailable { .. } | Error::Full { .. } | Error::Busy(_)) = &written {
            // A commit that names no number of files must not publish the checkpoint without them. Should this fail too, the
            // database is away, and so is the commit.
            drop(self.db.write_files(self.writes(&upload, declared)).await);
        }
        let written = written?;
        failpoint!("finish.committed");
        Ok(written)
    }

    async fn write_slices(
        &self,
        upload: &Upload,
        files: impl Iterator<Item = (NewFile, SmallFile)>,
    ) -> Result<Vec<StoredFile>, Error> {
        let (mut files, mut written) = (files.peekable(), Vec::new());
        while files.peek().is_some() {
            let slice: Vec<_> = files.by_ref().take(SLICE_FILES).collect();
            written.extend(self.write_slice(upload, slice).await?);
        }
        Ok(written)
    }

    /// The files with the SHA-256 that was declared of each, in this call or before, once they have it.
    async fn with_declared(
        &self,
        upload: &Upload,
        mut files: Vec<(NewFile, SmallFile)>,
    ) -> Result<Vec<(NewFile, SmallFile)>, Error> {
        let paths: Vec<&str> = files.iter().map(|(new, _)| new.path.as_str()).collect();
        let before = self.db.declared_sha256(&upload.checkpoint, &paths).await?;
        for (new, _) in &mut files {
            new.sha256 = new.sha256.or_else(|| before.get(&new.path).copied());
        }
        check_small(&files).await?;
        Ok(files)
    }

    /// Some of a call's small files, in one transaction once their bytes are durable.
    async fn write_slice(
        &self,
        upload: &Upload,
        files: Vec<(NewFile, SmallFile)>,
    ) -> Result<Vec<StoredFile>, Error> {
        let files = self.with_declared(upload, files).await?;
        let (new, pieces): (Vec<NewFile>, Vec<Cut>) = files
            .into_iter()
            .map(|(new, file)| {
                let digest = Digest::of_pieces([&*file.data]);
                (new, Cut { offset_bytes: 0, digest, data: file.data })
            })
            .unzip();
        let stored = self.put_pieces(upload.team(), &pieces).await?;
        let steps = |stored: &HashMap<Digest, Stored>| {
            let step = |(new, piece): (&NewFile, &Cut)| {
                let pieces = if piece.data.is_empty() { &[][..] } else { std::slice::from_ref(piece) };
                FileStep {
                    declare: Some(new.clone()),
                    take_over: Some(0),
                    ..step_of(&new.path, placed(pieces, stored), true)
                }
            };
            self.writes(upload, new.iter().zip(&pieces).map(step).collect())
        };
        self.write_pieces(upload.team(), &pieces, stored, steps).await
    }
}

/// The step that only declares a file.
fn declaration(new: &NewFile) -> FileStep {
    FileStep { path: new.path.clone(), declare: Some(new.clone()), ..FileStep::default() }
}
