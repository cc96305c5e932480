//! Writing an object, and what the store must show before it counts as stored.

use std::io;

use bytes::Bytes;
use futures::StreamExt;
use object_store::GetOptions;
use object_store::GetRange;
use object_store::ObjectStoreExt;
use object_store::PutPayload;
use object_store::path::Path;

use crate::store::Error;
use crate::store::Store;
use crate::store::ask::ask;
use crate::store::metrics::Operation;

/// What is asked of the store, beside its own answer, before an object counts as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirm {
    Nothing,
    /// Its size: one call more. Finds a store that kept nothing, or a part.
    Size,
    /// All its bytes: they are read once more. Finds everything.
    Bytes,
}

impl Store {
    /// Stores an object; durable when it returns. Its key is new or its bytes say the same, so repeating it is harmless.
    pub async fn put(&self, key: &str, pieces: Vec<Bytes>) -> Result<(), Error> {
        let payload: PutPayload = pieces.into_iter().collect();
        let bytes = payload.content_length() as u64;
        self.metrics.of(Operation::Put, self.put_payload(key, payload)).await?;
        self.metrics.wrote(bytes);
        Ok(())
    }

    async fn put_payload(&self, key: &str, payload: PutPayload) -> Result<(), Error> {
        let (path, written) = (&Path::from(key), &payload);
        let put = ask(move || async move {
            self.check_folder().await?;
            self.objects.put(path, written.clone()).await
        });
        let put = put.await;
        // A failed sync is not repeated, by us or by the caller: the next one may succeed and have lost what this one had.
        if put.as_ref().is_err_and(is_disk_error) {
            self.unsynced.cancel();
        }
        match put {
            Ok(_) if self.unsynced.is_cancelled() => {
                let source = "a sync of the folder failed".into();
                Err(Error::Unavailable(object_store::Error::Generic { store: "folder", source }))
            }
            Ok(_) => self.confirm(path, written).await,
            // The bucket or the folder is not there: nothing was stored, and nothing is lost.
            Err(error @ object_store::Error::NotFound { .. }) => Err(Error::Unavailable(error)),
            Err(error) => Err(error.into()),
        }
    }

    /// Fails where the store did not keep what it said that it kept. The caller may try again, under another key.
    async fn confirm(&self, key: &Path, written: &PutPayload) -> Result<(), Error> {
        let shown = match self.confirm {
            Confirm::Nothing => return Ok(()),
            Confirm::Size => {
                let found = ask(move || async move { self.objects.head(key).await }).await;
                found.map(|found| (found.size != written.content_length() as u64).then_some(found.size))
            }
            Confirm::Bytes => ask(move || self.compare(key, written)).await,
        };
        let what = match shown {
            Ok(None) => return Ok(()),
            Ok(Some(found)) => format!("{found} other bytes are there"),
            Err(object_store::Error::NotFound { .. }) => "it is not there".to_owned(),
            Err(error) => return Err(error.into()),
        };
        let why = format!(
            "the store said that it had stored object `{key}` of {} bytes, but {what}: it does not keep what it confirms",
            written.content_length()
        );
        let source = Box::new(io::Error::new(io::ErrorKind::InvalidData, why));
        Err(Error::Unavailable(object_store::Error::Generic { store: "lying", source }))
    }

    /// Reads an object as it comes, never whole, and answers its size if its bytes are others.
    async fn compare(&self, key: &Path, written: &PutPayload) -> object_store::Result<Option<u64>> {
        // Of a folder the range is what makes it come in pieces.
        let range = self.folder.is_some().then_some(GetRange::Offset(0));
        let found = self.objects.get_opts(key, GetOptions { range, ..GetOptions::default() }).await?;
        let size = found.meta.size;
        let mut pieces = written.iter().filter(|piece| !piece.is_empty());
        let mut left = Bytes::new();
        let mut read = found.into_stream();
        while let Some(data) = read.next().await {
            let mut data = data?;
            while !data.is_empty() {
                if left.is_empty() {
                    let Some(piece) = pieces.next() else { return Ok(Some(size)) };
                    left = piece.clone();
                }
                let both = data.len().min(left.len());
                if data.split_to(both) != left.split_to(both) {
                    return Ok(Some(size));
                }
            }
        }
        Ok((!left.is_empty() || pieces.next().is_some()).then_some(size))
    }
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
