//! Does the store do what it must? Asked once at the start: a write, a read, a delete.

use bytes::Bytes;

use crate::store::Error;
use crate::store::Store;

/// What is written; any bytes would do.
const CONTENT: &[u8] = b"keepbest looks whether it may write, read and delete here";

/// Which of the three failed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No right to write, no such bucket, nobody there.
    #[error("cannot write `{key}`")]
    Write {
        key: String,
        #[source]
        source: Error,
    },
    /// It was written and cannot be read.
    #[error("wrote `{key}` and cannot read it")]
    Read {
        key: String,
        #[source]
        source: Error,
    },
    /// It reads as something else.
    #[error("wrote `{key}` and read {found} other bytes: this store cannot be trusted")]
    Differs {
        key: String,
        /// How many were read.
        found: usize,
    },
    /// It was read and cannot be deleted: the collector could free nothing.
    #[error("wrote and read `{key}` and cannot delete it")]
    Delete {
        key: String,
        #[source]
        source: Error,
    },
}

impl Store {
    /// Writes an object under a new key, reads it back and deletes it.
    pub async fn probe(&self) -> Result<(), ProbeError> {
        let key = format!("probes/{}", uuid::Uuid::now_v7().simple());
        if let Err(source) = self.put(&key, vec![Bytes::from_static(CONTENT)]).await {
            return Err(ProbeError::Write { key, source });
        }
        match self.get(&key).await {
            Ok(read) if read == CONTENT => {}
            Ok(read) => return Err(ProbeError::Differs { key, found: read.len() }),
            Err(source) => return Err(ProbeError::Read { key, source }),
        }
        self.delete(&key).await.map_err(|source| ProbeError::Delete { key, source })
    }
}
