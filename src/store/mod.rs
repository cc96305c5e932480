//! Bytes in an object store. The only room that names `object_store`; keys are made here and never used again.

mod ask;
mod blocks;
mod folder;
mod mark;
mod metrics;
mod place;
mod probe;
mod put;

use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use tokio_util::sync::CancellationToken;

use crate::domain::time::date_of;
use crate::store::ask::ask;
use crate::store::blocks::Blocks;
use crate::store::folder::Folder;
use crate::store::metrics::Metrics;
use crate::store::metrics::Operation;

pub use ask::CALL_LIMIT;
pub use blocks::Block;
pub use blocks::memory_bytes;
pub use mark::MARK;
pub use mark::mark_text;
pub use place::OpenError;
pub use probe::ProbeError;
pub use put::Confirm;

/// Why bytes were not stored or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such object.
    #[error("object `{0}` is missing")]
    Missing(String),
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

/// The error with our key: the store's own text may tell where it keeps things.
fn named(error: object_store::Error, key: &str) -> Error {
    match Error::from(error) {
        Error::Missing(_) => Error::Missing(key.to_owned()),
        other => other,
    }
}

/// Where chunks are kept.
#[derive(Clone, Debug)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    /// Where the objects are files, if they are.
    folder: Option<PathBuf>,
    is_volatile: bool,
    /// What its mark must say, once that is known.
    store_id: Option<Arc<str>>,
    confirm: Confirm,
    unsynced: CancellationToken,
    blocks: Blocks,
    metrics: Arc<Metrics>,
}

impl Store {
    /// Opens a folder, which must exist. Every write is synced, file and directory, before it counts.
    pub fn open_folder(path: &Path) -> Result<Store, Error> {
        let blocks = Blocks::default();
        let objects = Folder::open(path, blocks.clone())?;
        Ok(Store { folder: Some(path.to_owned()), blocks, ..Store::over(Arc::new(objects)) })
    }

    /// In memory, for tests of what stands above.
    pub fn in_memory() -> Store {
        Store { is_volatile: true, ..Store::over(Arc::new(InMemory::new())) }
    }

    /// Whether its objects go with the process: such a store is new at each start.
    pub fn is_volatile(&self) -> bool {
        self.is_volatile
    }

    /// Any store behind the trait: tests wrap one that fails on purpose.
    pub fn over(objects: Arc<dyn ObjectStore>) -> Store {
        Store {
            objects,
            folder: None,
            is_volatile: false,
            store_id: None,
            confirm: Confirm::Size,
            unsynced: CancellationToken::new(),
            blocks: Blocks::default(),
            metrics: Arc::default(),
        }
    }

    /// The store with another rule for when an object counts as stored.
    pub fn confirming(self, confirm: Confirm) -> Store {
        Store { confirm, ..self }
    }

    /// Memory for a chunk that is to be put here.
    pub fn block(&self) -> Block {
        self.blocks.take()
    }

    /// Returns when a sync has failed. From then on nothing is stored any more.
    pub async fn sync_failed(&self) {
        self.unsynced.cancelled().await;
    }

    /// All bytes of an object.
    pub async fn get(&self, key: &str) -> Result<Bytes, Error> {
        let (objects, path) = (&self.objects, &key.into());
        let get = async {
            match ask(move || async move { objects.get(path).await?.bytes().await }).await {
                Ok(found) => Ok(found),
                Err(error) => Err(self.missing(error, key).await),
            }
        };
        let found = self.metrics.of(Operation::Get, get).await?;
        self.metrics.read(found.len() as u64);
        Ok(found)
    }

    /// The size of an object.
    pub async fn size_bytes(&self, key: &str) -> Result<u64, Error> {
        let (objects, path) = (&self.objects, &key.into());
        let size = async {
            match ask(move || async move { objects.head(path).await }).await {
                Ok(found) => Ok(found.size),
                Err(error) => Err(self.missing(error, key).await),
            }
        };
        self.metrics.of(Operation::Size, size).await
    }

    /// The error with our key; what is missing is so only in the right store.
    async fn missing(&self, error: object_store::Error, key: &str) -> Error {
        match named(error, key) {
            missing @ Error::Missing(_) => self.check_mark().await.err().unwrap_or(missing),
            other => other,
        }
    }

    /// The folders in a folder, in their order.
    pub async fn folders(&self, folder: &str) -> Result<Vec<String>, Error> {
        let (objects, path) = (&self.objects, &folder.into());
        let list =
            async { Ok(ask(move || async move { objects.list_with_delimiter(Some(path)).await }).await?) };
        let listed = self.metrics.of(Operation::List, list).await?;
        let mut folders: Vec<String> = listed.common_prefixes.iter().map(ToString::to_string).collect();
        folders.sort_unstable();
        Ok(folders)
    }

    /// The keys of all objects in a folder, in their order. For reading only: nothing is ever deleted because of a list.
    pub async fn keys(&self, folder: &str) -> Result<Vec<String>, Error> {
        let listed = self.objects.list(Some(&folder.into()));
        let list = async { Ok(listed.map_ok(|it| it.location.to_string()).try_collect().await?) };
        let mut keys: Vec<String> = self.metrics.of(Operation::List, list).await?;
        keys.sort_unstable();
        Ok(keys)
    }

    /// Removes an object; one that is gone already is fine.
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        let (objects, path) = (&self.objects, &key.into());
        let delete = async {
            self.delete_leftover(key, 1).await?;
            match ask(move || async move { objects.delete(path).await }).await {
                Ok(()) => Ok(()),
                Err(object_store::Error::NotFound { .. }) => self.check_mark().await,
                Err(error) => Err(error.into()),
            }
        };
        self.metrics.of(Operation::Delete, delete).await
    }

    /// Removes what processes left of an object that died while they wrote it, so long before it was written last. Answers
    /// whether nothing is left now: what is younger may be of a process that still writes. Both times are of the clock that the
    /// files have, whichever machine's that is.
    pub async fn sweep(&self, key: &str, age: Duration) -> Result<bool, Error> {
        let Some(folder) = &self.folder else { return Ok(true) };
        let modified = async |name: String| tokio::fs::metadata(folder.join(name)).await?.modified();
        let written = modified(key.to_owned()).await;
        let mut is_clean = true;
        for number in 1..=LEFTOVERS {
            let Ok(left) = modified(leftover(key, number)).await else { continue };
            let is_old = written
                .as_ref()
                .is_ok_and(|written| written.duration_since(left).is_ok_and(|older_by| older_by >= age));
            if is_old {
                self.delete_leftover(key, number).await?;
            } else {
                is_clean = false;
            }
        }
        Ok(is_clean)
    }

    /// Of a process that died while it wrote the object; no call of the trait can name that file.
    async fn delete_leftover(&self, key: &str, number: u32) -> Result<(), Error> {
        let Some(folder) = &self.folder else { return Ok(()) };
        match tokio::fs::remove_file(folder.join(leftover(key, number))).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let source = Box::new(error);
                Err(Error::Unavailable(object_store::Error::Generic { store: "folder", source }))
            }
            _ => Ok(()),
        }
    }
}

/// The objects of a folder, for tests that put something before them.
pub fn objects_in(path: &Path) -> Result<Arc<dyn ObjectStore>, Error> {
    Ok(Arc::new(Folder::open(path, Blocks::default())?))
}

/// A key that was never used before: `chunks/2026-01-31/0a1b2c3d-<uuid>`. The day lets a scrub compare old slices, the random
/// prefix spreads a day's objects.
pub fn new_key(now_us: i64) -> String {
    let (year, month, day) = date_of(now_us);
    let prefix = uuid::Uuid::new_v4().as_fields().0;
    let unique = uuid::Uuid::now_v7().simple();
    format!("chunks/{year:04}-{month:02}-{day:02}/{prefix:08x}-{unique}")
}

/// How many writers of one object at once can leave something that [`Store::sweep`] finds.
const LEFTOVERS: u32 = 8;

/// An object is written to `KEY#1`, or the next number that is free, and gets its name when it is whole.
fn leftover(key: &str, number: u32) -> String {
    format!("{key}#{number}")
}

/// Where manifests are.
pub const MANIFESTS: &str = "manifests";
/// How the key of a deleted version's manifest ends: never the key of another, so no late write can bring a version back.
const DELETED: &str = ".deleted.json";
/// How the key of a version's manifest ends.
const COMMITTED: &str = ".json";

/// The key of a version's manifest: `manifests/2026-01-31/<checkpoint>.json`, by the day of its commit. It is written
/// again with the same version only.
pub fn manifest_key(checkpoint_uid: &str, commit_time_us: i64) -> String {
    manifest_key_with(checkpoint_uid, commit_time_us, COMMITTED)
}

/// The key of what a deleted version leaves.
pub fn deleted_manifest_key(checkpoint_uid: &str, commit_time_us: i64) -> String {
    manifest_key_with(checkpoint_uid, commit_time_us, DELETED)
}

fn manifest_key_with(checkpoint_uid: &str, commit_time_us: i64, end: &str) -> String {
    let (year, month, day) = date_of(commit_time_us);
    format!("{MANIFESTS}/{year:04}-{month:02}-{day:02}/{checkpoint_uid}{end}")
}

/// The deleted version's checkpoint, if the key is of such a manifest.
pub fn deleted_by(manifest_key: &str) -> Option<&str> {
    manifest_key.rsplit('/').next().and_then(|name| name.strip_suffix(DELETED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_carry_the_day_and_never_repeat() {
        let key = new_key(1_795_429_230_500_000);
        assert!(key.starts_with("chunks/2026-11-23/"), "{key}");
        assert_ne!(key, new_key(1_795_429_230_500_000));
    }

    #[tokio::test]
    async fn what_dead_writers_left_is_swept_and_what_living_ones_write_is_not() {
        const MINUTE: Duration = Duration::from_secs(60);
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_folder(folder.path()).unwrap();
        store.put("manifests/a.json", vec![]).await.unwrap();
        let manifests = folder.path().join("manifests");
        let written = std::fs::metadata(manifests.join("a.json")).unwrap().modified().unwrap();
        for (name, older_by) in [("a.json#1", MINUTE), ("a.json#3", MINUTE / 2), ("b.json#1", MINUTE)] {
            let left = std::fs::File::create(manifests.join(name)).unwrap();
            left.set_modified(written - older_by).unwrap();
        }
        let names = || {
            let left = std::fs::read_dir(&manifests).unwrap().map(|it| it.unwrap().file_name());
            let mut names: Vec<_> = left.collect();
            names.sort();
            names
        };
        assert!(!store.sweep("manifests/a.json", MINUTE).await.unwrap(), "the third may still be written");
        assert_eq!(names(), ["a.json", "a.json#3", "b.json#1"]);
        assert!(store.sweep("manifests/a.json", MINUTE / 2).await.unwrap());
        assert!(!store.sweep("manifests/b.json", MINUTE).await.unwrap(), "nobody says when it was written");
        assert_eq!(names(), ["a.json", "b.json#1"]);
    }

    #[test]
    fn manifests_of_standing_and_deleted_versions_have_keys_of_their_own() {
        let (standing, deleted) = (manifest_key("0a1b", 0), deleted_manifest_key("0a1b", 0));
        assert_eq!(standing, "manifests/1970-01-01/0a1b.json");
        assert_eq!(deleted, "manifests/1970-01-01/0a1b.deleted.json");
        assert_eq!((deleted_by(&standing), deleted_by(&deleted)), (None, Some("0a1b")));
    }
}
