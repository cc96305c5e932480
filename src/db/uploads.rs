//! Files in: all that an upload writes of them, in one transaction for many calls. A call declares files, makes its stream their
//! writer, pins chunks whose bytes are durable, completes files, or does several of these at once.
//!
//! An object's key is reserved before its bytes are put (`chunks.rs`), so that the collector knows of it whatever happens. Here
//! its chunk gets a row, and the reservation goes. Whoever adds a pin also writes the chunk's row: that is what the collector
//! tests (`collect.rs`).

use std::collections::BTreeMap;
use std::collections::HashMap;

use crate::db::Db;
use crate::db::Error;
use crate::db::checkpoints::ExpireTimes;
use crate::db::checkpoints::Taken;
use crate::db::checkpoints::take_checkpoints;
use crate::db::chunks::Chunks;
use crate::db::chunks::PlacedChunk;
use crate::db::files::insert_files;
use crate::db::files::places_of;
use crate::db::files::update_files;
use crate::db::job::Outcome;
use crate::db::job::Turn;
use crate::db::job::Unfit;
use crate::db::job::Write;
use crate::db::metrics::Metrics;
use crate::db::new_uid;
use crate::db::tx::Tx;
use crate::domain::cells::Assembled;
use crate::domain::digest::Digest;
use crate::domain::file::NewFile;
use crate::domain::file::Places;
use crate::domain::file::StoredFile;
use crate::domain::file::check_room;
use crate::domain::file::durable_bytes;
use crate::domain::file::lost_race;
use crate::domain::file::superseded;
use crate::domain::ids::CheckpointName;
use crate::domain::ids::shown;
use crate::domain::refusal::Refusal;
use crate::failpoint::failpoint;

/// What one call writes of a checkpoint's files.
#[derive(Clone, Debug)]
pub struct WriteFiles {
    pub checkpoint: CheckpointName,
    pub attempt: i64,
    /// The stream that writes; a newer one takes a file over.
    pub token: String,
    /// The checkpoint's expiry after this call.
    pub expire: ExpireTimes,
    /// Now, in microseconds since 1970.
    pub now_us: i64,
    /// File by file.
    pub files: Vec<FileStep>,
}

/// What one call writes of one file, in this order.
#[derive(Clone, Debug, Default)]
pub struct FileStep {
    pub path: String,
    /// Declares it, or finds it again. None: it must be there.
    pub declare: Option<NewFile>,
    /// Makes the stream its writer from this byte on; what stands behind is written again.
    pub take_over: Option<i64>,
    /// Discards every byte that the stream has written of it.
    pub discard: bool,
    /// Chunks whose bytes are durable.
    pub chunks: Vec<PlacedChunk>,
    /// Completes it.
    pub finish: bool,
    /// What was found of its bytes, where its chunks do not tell it.
    pub assembled: Option<Assembled>,
}

impl Db {
    /// Writes what an upload has of its files, and answers them as they stand then. Repeated: the same answer.
    pub async fn write_files(&self, write: WriteFiles) -> Result<Vec<StoredFile>, Error> {
        self.change(write).await
    }
}

impl Write for WriteFiles {
    type Answer = Vec<StoredFile>;
    const AUDITED: bool = false;

    fn turn(&self) -> Turn {
        let chunks: usize = self.files.iter().map(|step| step.chunks.len()).sum();
        Turn::of(&self.checkpoint.run, 3 + 3 * self.files.len() + 3 * chunks)
    }

    fn count(&self, _: &Vec<StoredFile>, metrics: &Metrics) {
        metrics.pinned(self.files.iter().flat_map(|step| &step.chunks));
    }

    async fn run(set: &[&Self], tx: &mut Tx<'_>) -> Result<Vec<Outcome<Vec<StoredFile>>>, Error> {
        let taken = take_checkpoints(tx, set.iter().map(|it| &it.checkpoint)).await?;
        let files = Files::load(tx, set, &taken).await?;
        let chunks = Chunks::load(tx, set).await?;
        let mut book = Book { taken, files, chunks, is_lone: set.len() == 1 };
        let mut outcomes = Vec::with_capacity(set.len());
        for write in set {
            outcomes.push(match book.standing(write) {
                Ok(()) => book.write(write).into(),
                Err(unfit) => unfit.into(),
            });
        }
        reach(tx, set, book).await?;
        Ok(outcomes)
    }
}

/// Writes the rows, and passes the points at which tests let a server fail.
async fn reach(tx: &mut Tx<'_>, set: &[&WriteFiles], book: Book) -> Result<(), Error> {
    let Book { taken, files, chunks, .. } = book;
    let is_written = files.write(tx).await? | chunks.write(tx).await?;
    taken.write(tx).await?;
    if !is_written {
        return Ok(());
    }
    let has = |what: fn(&FileStep) -> bool| set.iter().flat_map(|it| &it.files).any(what);
    if has(|step| step.declare.is_some() && step.take_over.is_none()) {
        failpoint!("prepare.written");
    }
    if has(|step| step.take_over.is_some()) {
        failpoint!("upload.written");
    }
    if has(|step| !step.chunks.is_empty()) {
        failpoint!("chunk.settling");
    }
    if has(|step| step.finish) {
        failpoint!("finish.written");
    }
    Ok(())
}

/// What the set has loaded, as it leaves it so far.
struct Book {
    taken: Taken,
    files: Files,
    chunks: Chunks,
    is_lone: bool,
}

impl Book {
    fn standing(&self, write: &WriteFiles) -> Result<(), Unfit> {
        let name = &write.checkpoint;
        let Some((checkpoint, newest)) = self.taken.get(name) else {
            return Err(Unfit::not_found(self.is_lone, "checkpoint", name));
        };
        if self.repeats(write) {
            return Ok(());
        }
        checkpoint.check_newest(name, write.attempt, newest)?;
        Ok(checkpoint.check_pending(name)?)
    }

    /// Whether the call only asks again for files of a checkpoint that is committed.
    fn repeats(&self, write: &WriteFiles) -> bool {
        let is_same = |step: &FileStep| {
            step.declare.is_some()
                && self.files.get(&write.checkpoint, &step.path).is_some_and(FileState::is_complete)
        };
        let is_committed = self.taken.is_committed(&write.checkpoint);
        is_committed && !write.files.is_empty() && write.files.iter().all(is_same)
    }

    /// All steps of a call, or none.
    fn write(&mut self, write: &WriteFiles) -> Result<Vec<StoredFile>, Refusal> {
        let name = &write.checkpoint;
        let mut file_count = self.taken.get(name).map_or(0, |(checkpoint, _)| checkpoint.file_count);
        let before = file_count;
        let (mut files, mut chunks) = (Vec::with_capacity(write.files.len()), self.chunks.begin(write));
        for step in &write.files {
            let mut file = match (self.files.get(name, &step.path), &step.declare) {
                (Some(file), Some(new)) => {
                    file.stored.check_declared(name, new)?;
                    if step.finish && new.sha256.is_none() && file.stored.sha256.is_some() {
                        // Declared since the call looked: it has to look at the bytes again.
                        return Err(lost_race());
                    }
                    file.clone()
                }
                (Some(file), None) => file.clone(),
                (None, Some(new)) => {
                    check_room(name, file_count)?;
                    file_count += 1;
                    FileState::declared(new)
                }
                (None, None) => return Err(Refusal::not_found("file", shown(&step.path))),
            };
            file.take_over(write, step, &mut chunks)?;
            if file.is_complete() && (step.declare.is_some() || step.take_over.is_some()) {
                // An answer that was lost: the file is complete, and the same bytes are there.
                if step.finish {
                    let digests = step.chunks.iter().map(|chunk| chunk.digest);
                    file.stored.check_bytes(name, Digest::of_file(digests))?;
                }
            } else {
                file.place(write, step, &mut chunks)?;
            }
            file.stored.durable_bytes = match file.is_complete() {
                true => file.stored.size_bytes,
                false => file.places.as_ref().map_or(0, durable_bytes),
            };
            files.push(file);
        }
        self.chunks.keep(chunks);
        self.taken.written(name, file_count - before, write.expire);
        let answers = files.iter().map(|file| file.stored.clone()).collect();
        self.files.keep(name, files);
        Ok(answers)
    }
}

/// A file as the set leaves it so far.
#[derive(Clone)]
pub(super) struct FileState {
    pub(super) stored: StoredFile,
    pub(super) token: String,
    /// Its chunks, where the call needs to know them.
    pub(super) places: Option<Places>,
    pub(super) is_new: bool,
    pub(super) is_changed: bool,
}

impl FileState {
    fn declared(new: &NewFile) -> FileState {
        let stored = StoredFile::declared(new_uid(), new);
        FileState {
            stored,
            token: String::new(),
            places: Some(Places::new()),
            is_new: true,
            is_changed: false,
        }
    }

    fn is_complete(&self) -> bool {
        self.stored.digest.is_some()
    }

    fn take_over(
        &mut self,
        write: &WriteFiles,
        step: &FileStep,
        chunks: &mut super::chunks::Changes,
    ) -> Result<(), Refusal> {
        if step.discard && (self.is_complete() || self.token != write.token) {
            return Err(superseded());
        }
        let from = if step.discard { Some(0) } else { step.take_over };
        let Some(offset_bytes) = from.filter(|_| !self.is_complete()) else { return Ok(()) };
        let places = self.places.get_or_insert_default();
        self.stored.check_offset(offset_bytes, places)?;
        // Also what a cut left behind a gap.
        for (offset, (_, digest)) in places.split_off(&offset_bytes) {
            chunks.unpin(&self.stored.uid, offset, digest);
        }
        (self.token, self.is_changed) = (write.token.clone(), true);
        Ok(())
    }

    fn place(
        &mut self,
        write: &WriteFiles,
        step: &FileStep,
        chunks: &mut super::chunks::Changes,
    ) -> Result<(), Refusal> {
        if step.chunks.is_empty() && !step.finish {
            return Ok(());
        }
        if self.is_complete() || self.token != write.token {
            return Err(superseded());
        }
        for chunk in &step.chunks {
            chunks.pin(&self.stored.uid, chunk)?;
            if let Some(places) = &mut self.places {
                places.insert(chunk.offset_bytes, (chunk.size_bytes, chunk.digest));
            }
        }
        if step.finish {
            let places = self.places.get_or_insert_default();
            self.stored.complete(places, step.assembled.as_ref())?;
            self.is_changed = true;
        }
        Ok(())
    }
}

/// Files by checkpoint and path.
#[derive(Default)]
pub(super) struct Files(HashMap<String, BTreeMap<String, FileState>>);

impl Files {
    async fn load(tx: &mut Tx<'_>, set: &[&WriteFiles], taken: &Taken) -> Result<Files, Error> {
        let wanted = set.iter().filter(|write| taken.get(&write.checkpoint).is_some());
        let keys: std::collections::HashSet<(&str, &str)> = wanted
            .flat_map(|write| {
                let uid = write.checkpoint.checkpoint.as_str();
                write.files.iter().map(move |step| (uid, step.path.as_str()))
            })
            .collect();
        let mut files = Files::default();
        for (checkpoint_uid, file) in super::files::find_files(tx, keys).await? {
            files.0.entry(checkpoint_uid).or_default().insert(file.stored.path.clone(), file);
        }
        // Chunks in the middle of a stream need not know of the others.
        let mut open = Vec::new();
        for write in set {
            for step in &write.files {
                let knows = step.declare.is_some() || step.take_over.is_some() || step.discard || step.finish;
                let file = files.get(&write.checkpoint, &step.path);
                open.extend(file.filter(|it| knows && !it.is_complete()).map(|it| it.stored.uid.clone()));
            }
        }
        let mut places = places_of(tx, open).await?;
        for file in files.0.values_mut().flat_map(BTreeMap::values_mut) {
            file.places = places.remove(&file.stored.uid);
        }
        Ok(files)
    }

    fn get(&self, name: &CheckpointName, path: &str) -> Option<&FileState> {
        self.0.get(name.checkpoint.as_str())?.get(path)
    }

    fn keep(&mut self, name: &CheckpointName, files: Vec<FileState>) {
        let by_path = self.0.entry(name.checkpoint.as_str().to_owned()).or_default();
        by_path.extend(files.into_iter().map(|file| (file.stored.path.clone(), file)));
    }

    /// Writes what is new or changed; whether anything was.
    async fn write(self, tx: &mut Tx<'_>) -> Result<bool, Error> {
        let all =
            self.0.into_iter().flat_map(|(uid, files)| files.into_values().map(move |it| (uid.clone(), it)));
        let (new, old): (Vec<_>, Vec<_>) = all.partition(|(_, file)| file.is_new);
        let changed: Vec<_> = old.into_iter().map(|(_, file)| file).filter(|it| it.is_changed).collect();
        let is_written = !new.is_empty() || !changed.is_empty();
        insert_files(tx, new).await?;
        update_files(tx, changed).await?;
        Ok(is_written)
    }
}
