//! What the service does, in the order it does it: one file a noun. It reads, has the domain decide, and writes.

pub mod check;
pub mod collect;
pub mod commits;
mod error;
pub mod events;
pub mod queries;
pub mod reads;
pub mod runs;
pub mod uploads;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;

use crate::blobs::Blobs;
use crate::clock::Clock;
use crate::domain::refusal::Refusal;
use crate::store::Graces;
use crate::store::Store;

pub use error::Error;

// What the faces show of what is stored.
pub use crate::store::AliasRow;
pub use crate::store::ArtifactRow;
pub use crate::store::CheckpointRow;
pub use crate::store::CheckpointState;
pub use crate::store::DecisionFilter;
pub use crate::store::DecisionRow;
pub use crate::store::FileRow;
pub use crate::store::RunRow;
pub use crate::store::RunState;
pub use crate::store::VersionRow;

/// What buffers are counted in: a small file takes one of them, not a whole chunk.
const BUFFER_UNIT: u64 = 1 << 20;
/// How long a stream waits for its buffers before the caller is told to come back.
const BUFFER_WAIT: Duration = Duration::from_secs(5);
/// When a caller that found no buffers should come back.
const BUFFER_RETRY: Duration = Duration::from_secs(2);

/// The checked settings that use cases need.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of chunks in memory, all streams together.
    pub buffer_bytes: u64,
    /// An upload must send 64 KiB in this time.
    pub upload_idle: Duration,
    /// A pending checkpoint without a write expires after this.
    pub pending_expiry: Duration,
    /// How long the collector keeps what nobody needs.
    pub graces: Graces,
}

/// The service: its rooms, and what it may use.
#[derive(Clone, Debug)]
pub struct App {
    store: Arc<Store>,
    blobs: Blobs,
    clock: Clock,
    limits: Limits,
    buffers: Arc<Semaphore>,
}

impl App {
    /// Puts the rooms together.
    pub fn new(store: Store, blobs: Blobs, clock: Clock, limits: Limits) -> App {
        let bytes = limits.buffer_bytes.max(uploads::STREAM_BYTES);
        let units = usize::try_from(bytes / BUFFER_UNIT).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        App { store: Arc::new(store), blobs, clock, limits, buffers: Arc::new(Semaphore::new(units)) }
    }

    /// Closes the database's connections.
    pub async fn close(&self) {
        self.store.close().await;
    }

    /// Takes room for so many bytes, or tells the caller to come back.
    async fn take_buffers(&self, bytes: u64) -> Result<Arc<OwnedSemaphorePermit>, Error> {
        let units = u32::try_from(bytes.div_ceil(BUFFER_UNIT)).unwrap_or(u32::MAX);
        let permits = Arc::clone(&self.buffers).acquire_many_owned(units);
        match tokio::time::timeout(BUFFER_WAIT, permits).await {
            Ok(Ok(permit)) => Ok(Arc::new(permit)),
            Ok(Err(_)) | Err(_) => {
                let message = "the server moves as many bytes as its memory allows: come back in a moment";
                Err(Refusal::exhausted("OVERLOADED", message).retry_after(BUFFER_RETRY).into())
            }
        }
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
