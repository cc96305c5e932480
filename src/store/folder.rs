//! Objects as files in a folder. Whole chunks pass the page cache by, when they are written and when they are read for the first
//! time: the system's copy of them costs more than the disk. All else is `LocalFileSystem`'s.

mod seen;

use std::fmt;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::CopyOptions;
use object_store::GetOptions;
use object_store::GetResult;
use object_store::GetResultPayload;
use object_store::ListResult;
use object_store::MultipartUpload;
use object_store::ObjectMeta;
use object_store::ObjectStore;
use object_store::PutMode;
use object_store::PutMultipartOptions;
use object_store::PutOptions;
use object_store::PutPayload;
use object_store::PutResult;
use object_store::Result;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::store::blocks::ALIGN;
use crate::store::blocks::BLOCK_BYTES;
use crate::store::blocks::BLOCK_FROM;
use crate::store::blocks::Block;
use crate::store::blocks::Blocks;
use crate::store::blocks::is_aligned;
use crate::store::folder::seen::Seen;
use crate::store::leftover;

/// The store of a folder.
#[derive(Debug)]
pub(super) struct Folder {
    files: LocalFileSystem,
    blocks: Blocks,
    direct: Arc<Direct>,
    seen: Seen,
}

/// Folders are made by one put at a time: others that found them missing go on when they are durable.
static MAKING: Mutex<()> = Mutex::new(());

/// Whether the file system takes `O_DIRECT`; found out by trying, and remembered.
#[derive(Debug)]
struct Direct(AtomicBool);

impl Folder {
    /// Opens a folder, which must exist.
    pub(super) fn open(path: &Path, blocks: Blocks) -> Result<Folder> {
        let files = LocalFileSystem::new_with_prefix(path)?.with_fsync(true);
        Ok(Folder { files, blocks, direct: Arc::new(Direct(AtomicBool::new(true))), seen: Seen::default() })
    }

    /// One whose file system is taken for one that refuses `O_DIRECT`.
    #[cfg(test)]
    fn without_direct(self) -> Folder {
        self.direct.refused();
        self
    }
}

impl Direct {
    fn is_taken(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn refused(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Has what is written and read from here on pass the page cache by, or not. A file system that refuses says so here or at
    /// the first write.
    fn set(&self, file: &File, on: bool) -> io::Result<bool> {
        let flags = rustix::fs::fcntl_getfl(file)?;
        let wanted = if on { flags | OFlags::DIRECT } else { flags - OFlags::DIRECT };
        match rustix::fs::fcntl_setfl(file, wanted) {
            Ok(()) => Ok(on),
            Err(Errno::INVAL) if on => {
                self.refused();
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// An error of a file, as the trait has them.
fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> object_store::Error {
    move |error| {
        let path = path.display().to_string();
        match error.kind() {
            io::ErrorKind::NotFound => object_store::Error::NotFound { path, source: Box::new(error) },
            _ => {
                let source = Box::new(Failed { what, path, error });
                object_store::Error::Generic { store: "folder", source }
            }
        }
    }
}

/// What could not be done with a file.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} `{path}`")]
struct Failed {
    what: &'static str,
    path: String,
    #[source]
    error: io::Error,
}

/// How often missing folders are made for one file: who removes them as often does not want it.
const MAKE_FOLDERS: usize = 3;

/// A new file beside the one that it becomes, in folders that are made where they are missing.
fn stage(path: &Path) -> Result<(File, PathBuf)> {
    let (mut number, mut attempts) = (1, 0);
    loop {
        let staged = leftover_of(path, number);
        match OpenOptions::new().read(true).write(true).create_new(true).open(&staged) {
            Ok(file) => return Ok((file, staged)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound && attempts < MAKE_FOLDERS => {
                attempts += 1;
                make_folders(path)?;
            }
            Err(error) => return Err(failed("make", &staged)(error)),
        }
    }
}

fn leftover_of(path: &Path, number: u32) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(leftover(&name, number))
}

/// Makes the folders that a file is to lie in, durably, where they are missing.
fn make_folders(path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    let _one_at_a_time = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let missing: Vec<&Path> = parent.ancestors().take_while(|it| !it.exists()).collect();
    std::fs::create_dir_all(parent).map_err(failed("make the folder", parent))?;
    // The folder that was there has a new entry, too.
    for folder in missing.iter().copied().chain(missing.last().and_then(|it| it.parent())) {
        sync_folder(folder)?;
    }
    Ok(())
}

fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|it| it.sync_all()).map_err(failed("sync the folder", folder))
}

/// Writes a file whole and durably, under its name only when it is.
fn write(path: &Path, payload: &PutPayload, direct: &Direct) -> Result<()> {
    let (mut file, staged) = stage(path)?;
    let written = fill(&mut file, payload, direct)
        .map_err(failed("write", &staged))
        .and_then(|()| file.sync_all().map_err(failed("sync", &staged)));
    // Before it has its name: file systems of a network may tell only now that they could not keep it.
    let written = written
        .and_then(|()| nix::unistd::close(file).map_err(io::Error::from).map_err(failed("close", &staged)));
    let named = written.and_then(|()| std::fs::rename(&staged, path).map_err(failed("rename", &staged)));
    if named.is_err() {
        // Should this fail too, the collector finds it.
        drop(std::fs::remove_file(&staged));
    }
    named?;
    path.parent().map_or(Ok(()), sync_folder)
}

fn fill(file: &mut File, payload: &PutPayload, direct: &Direct) -> io::Result<()> {
    let mut rest: Vec<&[u8]> = payload.iter().map(|it| &**it).filter(|it| !it.is_empty()).collect();
    if let [bytes] = rest[..]
        && bytes.len() >= BLOCK_FROM
        && is_aligned(bytes)
    {
        rest = vec![&bytes[write_pages(file, bytes, direct)?..]];
    }
    rest.into_iter().try_for_each(|bytes| file.write_all(bytes))
}

/// Writes the whole pages of what begins at a page, past the page cache, and answers how many bytes that were: none where the file
/// system refuses.
fn write_pages(file: &mut File, bytes: &[u8], direct: &Direct) -> io::Result<usize> {
    if !direct.is_taken() || !direct.set(file, true)? {
        return Ok(0);
    }
    let pages = bytes.len() - bytes.len() % ALIGN;
    let written = match file.write_all(&bytes[..pages]) {
        Ok(()) => pages,
        Err(error) if is_refusal(&error) => {
            direct.refused();
            file.rewind()?;
            0
        }
        Err(error) => return Err(error),
    };
    direct.set(file, false)?;
    Ok(written)
}

/// Reads a file whole, past the page cache or through it.
fn read(file: &mut File, size: usize, block: &mut Block, direct: Option<&Direct>) -> io::Result<()> {
    if let Some(direct) = direct
        && direct.is_taken()
        && direct.set(file, true)?
    {
        match read_up_to(file, size.next_multiple_of(ALIGN), block, true) {
            Err(error) if is_refusal(&error) => direct.refused(),
            done => return done,
        }
        block.clear();
        file.rewind()?;
        direct.set(file, false)?;
    }
    read_up_to(file, size, block, false)
}

/// How a file system says that it does not take `O_DIRECT`, or not for these bytes.
fn is_refusal(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::INVAL.raw_os_error())
}

/// Reads so many bytes, or what there is. With `O_DIRECT` a part of a page is the end of the file, behind which there is nothing to
/// ask for: it would not be at a page.
fn read_up_to(file: &mut File, size: usize, block: &mut Block, is_direct: bool) -> io::Result<()> {
    while block.filled().len() < size {
        let missing = size - block.filled().len();
        match file.read(&mut block.rest()[..missing]) {
            Ok(bytes) => {
                block.fill(bytes);
                if bytes == 0 || (is_direct && !bytes.is_multiple_of(ALIGN)) {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(source) => Err(object_store::Error::JoinError { source }),
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.fmt(formatter)
    }
}

#[async_trait]
impl ObjectStore for Folder {
    async fn put_opts(&self, key: &Key, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if !matches!(options.mode, PutMode::Overwrite) {
            return self.files.put_opts(key, payload, options).await;
        }
        let (path, direct) = (self.files.path_to_filesystem(key)?, Arc::clone(&self.direct));
        on_a_thread(move || write(&path, &payload, &direct)).await?;
        Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
    }

    async fn get_opts(&self, key: &Key, options: GetOptions) -> Result<GetResult> {
        let is_whole = options.range.is_none() && !options.head;
        let found = self.files.get_opts(key, options).await?;
        let size = usize::try_from(found.meta.size).unwrap_or(usize::MAX);
        if !is_whole || !(BLOCK_FROM..=BLOCK_BYTES).contains(&size) {
            return Ok(found);
        }
        let GetResultPayload::File(mut file, path) = found.payload else { return Ok(found) };
        // What is read a second time is worth a place in the page cache, and what is read once is not.
        let direct = (!self.seen.again(key.as_ref())).then(|| Arc::clone(&self.direct));
        let mut block = self.blocks.take();
        let bytes: Bytes = on_a_thread(move || {
            read(&mut file, size, &mut block, direct.as_deref()).map_err(failed("read", &path))?;
            Ok(block.freeze())
        })
        .await?;
        let payload = GetResultPayload::Stream(futures::stream::iter([Ok(bytes)]).boxed());
        Ok(GetResult { payload, ..found })
    }

    async fn put_multipart_opts(
        &self,
        key: &Key,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.files.put_multipart_opts(key, options).await
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Key>>) -> BoxStream<'static, Result<Key>> {
        self.files.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> Result<ListResult> {
        self.files.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> Result<()> {
        self.files.copy_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests;
