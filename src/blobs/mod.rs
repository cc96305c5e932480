//! Bytes in an object store. The only room that names `object_store`; keys are made here and never used again.

mod place;
mod probe;

use std::future::Future;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::ObjectStoreExt;
use object_store::PutPayload;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use tokio_util::sync::CancellationToken;

use crate::domain::digest::Digest;
use crate::domain::time::date_of;

pub use place::OpenError;
pub use probe::ProbeError;

/// The longest that one call waits for the store, with the retries of its client: 8 MiB at 140 KB/s. A caller that waits holds
/// buffers, so it is told to come back; whatever the call still does, its key is never used again.
pub const CALL_LIMIT: Duration = Duration::from_secs(60);

/// Why bytes were not stored or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such object.
    #[error("object `{0}` is missing")]
    Missing(String),
    /// No room.
    #[error("the object store is full")]
    Full(#[source] object_store::Error),
    /// The store is away, or refuses.
    #[error("the object store is not available")]
    Unavailable(#[source] object_store::Error),
}

impl From<object_store::Error> for Error {
    fn from(error: object_store::Error) -> Error {
        match error {
            object_store::Error::NotFound { path, .. } => Error::Missing(path),
            error if is_full(&error) => Error::Full(error),
            error => Error::Unavailable(error),
        }
    }
}

/// Looks for a full disk, a quota or a file size limit among the causes.
fn is_full(error: &object_store::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(it) = cause {
        let kind = it.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(
            kind,
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
        ) {
            return true;
        }
        cause = it.source();
    }
    false
}

/// Whether the disk failed in a put, most often its sync (EIO).
fn is_disk_error(error: &object_store::Error) -> bool {
    const EIO: i32 = 5;
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(it) = cause {
        if it.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) == Some(EIO) {
            return true;
        }
        cause = it.source();
    }
    false
}

/// What the store answers within the limit.
async fn within_limit<T>(
    call: impl Future<Output = object_store::Result<T>>,
) -> Result<T, object_store::Error> {
    match tokio::time::timeout(CALL_LIMIT, call).await {
        Ok(answer) => answer,
        Err(_) => {
            let why = format!("the store did not answer within {} s", CALL_LIMIT.as_secs());
            let source = Box::new(io::Error::new(io::ErrorKind::TimedOut, why));
            Err(object_store::Error::Generic { store: "slow", source })
        }
    }
}

/// The error with our key: the store's own text may tell where it keeps things.
fn named(error: object_store::Error, key: &str) -> Error {
    match Error::from(error) {
        Error::Missing(_) => Error::Missing(key.to_owned()),
        other => other,
    }
}

/// Where chunks are kept.
#[derive(Clone, Debug)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    /// Where the objects are files, if they are.
    folder: Option<PathBuf>,
    unsynced: CancellationToken,
}

impl Blobs {
    /// Opens a folder, which must exist. Every write is synced, file and directory, before it counts.
    pub fn open_folder(path: &Path) -> Result<Blobs, Error> {
        let store = LocalFileSystem::new_with_prefix(path)?.with_fsync(true);
        Ok(Blobs { folder: Some(path.to_owned()), ..Blobs::over(Arc::new(store)) })
    }

    /// In memory, for tests of what stands above.
    pub fn in_memory() -> Blobs {
        Blobs::over(Arc::new(InMemory::new()))
    }

    /// Any store behind the trait: tests wrap one that fails on purpose.
    pub fn over(store: Arc<dyn ObjectStore>) -> Blobs {
        Blobs { store, folder: None, unsynced: CancellationToken::new() }
    }

    /// Returns when a sync has failed. From then on nothing is stored any more.
    pub async fn sync_failed(&self) {
        self.unsynced.cancelled().await;
    }

    /// Stores an object; durable when it returns. The key is new, so repeating it is harmless.
    pub async fn put(&self, key: &str, pieces: Vec<Bytes>) -> Result<(), Error> {
        let payload: PutPayload = pieces.into_iter().collect();
        let put = within_limit(async { self.store.put(&key.into(), payload).await }).await;
        // A failed sync is not repeated, by us or by the caller: the next one may succeed and have lost what this one had.
        if put.as_ref().is_err_and(is_disk_error) {
            self.unsynced.cancel();
        }
        match put {
            Ok(_) if self.unsynced.is_cancelled() => {
                let source = "a sync of the folder failed".into();
                Err(Error::Unavailable(object_store::Error::Generic { store: "folder", source }))
            }
            Ok(_) => Ok(()),
            // The bucket or the folder is not there: nothing was stored, and nothing is lost.
            Err(error @ object_store::Error::NotFound { .. }) => Err(Error::Unavailable(error)),
            Err(error) => Err(error.into()),
        }
    }

    /// All bytes of an object.
    pub async fn get(&self, key: &str) -> Result<Bytes, Error> {
        let found = async { self.store.get(&key.into()).await?.bytes().await };
        within_limit(found).await.map_err(|error| named(error, key))
    }

    /// The size of an object.
    pub async fn size_bytes(&self, key: &str) -> Result<u64, Error> {
        let found = within_limit(async { self.store.head(&key.into()).await }).await;
        Ok(found.map_err(|error| named(error, key))?.size)
    }

    /// Removes an object; one that is gone already is fine.
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        if let Some(folder) = &self.folder {
            // `LocalFileSystem` writes to `KEY#1` and renames it: a process that died in between leaves that file, which no
            // call of the trait can name.
            match tokio::fs::remove_file(folder.join(format!("{key}#1"))).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let source = Box::new(error);
                    return Err(Error::Unavailable(object_store::Error::Generic { store: "folder", source }));
                }
                _ => {}
            }
        }
        match within_limit(async { self.store.delete(&key.into()).await }).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// A key that was never used before: `chunks/2026-01-31/0a1b2c3d-<uuid>`. The day lets a scrub compare old slices, the
/// digest's prefix spreads a day's objects.
pub fn new_key(digest: &Digest, now_us: i64) -> String {
    let [a, b, c, d, ..] = digest.0;
    let (year, month, day) = date_of(now_us);
    let unique = uuid::Uuid::now_v7().simple();
    format!("chunks/{year:04}-{month:02}-{day:02}/{a:02x}{b:02x}{c:02x}{d:02x}-{unique}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_carry_the_day_and_never_repeat() {
        let digest = Digest([0xab; 32]);
        let key = new_key(&digest, 1_795_429_230_500_000);
        assert!(key.starts_with("chunks/2026-11-23/abababab-"), "{key}");
        assert_ne!(key, new_key(&digest, 1_795_429_230_500_000));
    }
}
