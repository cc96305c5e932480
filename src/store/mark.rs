//! The mark of a store: an object that says which database its objects belong to.
//!
//! A missing object is a lost one only in the right store. In another bucket, or in the empty folder over which a disk should
//! be mounted, everything is missing, and what is written there is lost as soon as the mistake is mended.

use std::io;

use bytes::Bytes;
use object_store::ObjectStoreExt;
use serde::Deserialize;
use serde::Serialize;

use crate::store::Error;
use crate::store::Store;
use crate::store::ask::ask;
use crate::store::named;

/// Where the mark stands, below the store's prefix.
pub const MARK: &str = "keepbest-store.json";

#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    store_id: String,
}

/// What the mark's object says for a store.
pub fn mark_text(store_id: &str) -> String {
    serde_json::json!({ "store_id": store_id }).to_string()
}

impl Store {
    /// The id in the store's mark, if there is one.
    pub async fn read_mark(&self) -> Result<Option<String>, Error> {
        let (objects, path) = (&self.objects, &MARK.into());
        let text = match ask(move || async move { objects.get(path).await?.bytes().await }).await {
            Ok(text) => text,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(named(error, MARK)),
        };
        match serde_json::from_slice(&text) {
            Ok(Mark { store_id }) => Ok(Some(store_id)),
            Err(error) => Err(Error::Unavailable(trouble(format!("`{MARK}` cannot be read: {error}")))),
        }
    }

    pub async fn write_mark(&self, store_id: &str) -> Result<(), Error> {
        self.put(MARK, vec![Bytes::from(mark_text(store_id))]).await
    }

    /// From now on this must be the store with this mark: nothing counts as missing, is written to a folder or taken for
    /// deleted where the mark is gone.
    pub fn marked(self, store_id: String) -> Store {
        Store { store_id: Some(store_id.into()), ..self }
    }

    /// Fails where something was missing because this is another store than it was.
    pub(super) async fn check_mark(&self) -> Result<(), Error> {
        let Some(store_id) = &self.store_id else { return Ok(()) };
        match self.read_mark().await? {
            Some(found) if found == **store_id => Ok(()),
            _ => Err(Error::Unavailable(changed())),
        }
    }

    /// Whether the folder still is what it was. A bucket is not unmounted, so only a folder is asked before each write.
    pub(super) async fn check_folder(&self) -> Result<(), object_store::Error> {
        let (Some(folder), Some(_)) = (&self.folder, &self.store_id) else { return Ok(()) };
        match tokio::fs::try_exists(folder.join(MARK)).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(changed()),
            Err(error) => Err(trouble(format!("`{MARK}` cannot be looked up: {error}"))),
        }
    }
}

fn changed() -> object_store::Error {
    trouble(format!("it has lost its mark `{MARK}`: is it still mounted, and the same?"))
}

fn trouble(why: String) -> object_store::Error {
    object_store::Error::Generic { store: "marked", source: Box::new(io::Error::other(why)) }
}
