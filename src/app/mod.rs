//! What the service does, in the order it does it: one file a noun. It reads, has the domain decide, and writes.

pub mod access;
pub mod admin;
mod buffers;
pub mod check;
mod chunks;
pub mod collect;
pub mod commits;
pub mod decisions;
pub mod deletions;
mod error;
pub mod events;
pub mod feed;
mod hints;
pub mod keys;
mod manifests;
mod metrics;
pub mod parts;
pub mod queries;
pub mod rates;
pub mod reads;
pub mod rebuild;
pub mod runs;
pub mod uploads;
mod waits;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::access::Access;
use crate::app::buffers::Buffers;
use crate::app::feed::Feed;
use crate::app::keys::Keys;
use crate::app::metrics::Metrics;
use crate::app::rates::Most;
use crate::app::rates::Rates;
use crate::app::uploads::KnownCells;
use crate::clock::Clock;
use crate::clock::Reading;
use crate::db::Db;
use crate::db::Graces;
use crate::db::Sign;
use crate::domain::access::Principal;
use crate::store::Store;

pub use error::Error;
pub use error::causes;

// What the faces show of what is stored.
pub use crate::db::AliasRow;
pub use crate::db::ArtifactRow;
pub use crate::db::DecisionFilter;
pub use crate::db::DecisionRow;
pub use crate::db::EventRow;
pub use crate::db::LedTo;
pub use crate::db::PartRow;
pub use crate::db::Team;
pub use crate::db::VersionRow;
pub use crate::domain::checkpoint::Checkpoint;
pub use crate::domain::checkpoint::CheckpointState;
pub use crate::domain::file::StoredFile;
pub use crate::domain::run::Run;
pub use crate::domain::run::RunState;

/// The checked settings that use cases need.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of chunks in memory, all uploads together.
    pub upload_buffer_bytes: u64,
    /// Bytes of chunks in memory, all downloads together.
    pub download_buffer_bytes: u64,
    /// An upload must send 64 KiB in this time, and a reader take a piece.
    pub upload_idle: Duration,
    /// A pending checkpoint without a write expires after this.
    pub pending_expiry: Duration,
    /// One of several parts expires after this without a write or a part that completes.
    pub parts_expiry: Duration,
    /// How long the collector keeps what nobody needs.
    pub graces: Graces,
    /// Keys of objects that are reserved at once.
    pub keys_at_once: usize,
    /// Whether callers must show who they are.
    pub requires_authentication: bool,
    pub audit: Audit,
    /// What one team may ask for in a second.
    pub rates: Most,
}

/// What the audit log holds, and how long.
#[derive(Clone, Copy, Debug, Default)]
pub struct Audit {
    /// None: for ever.
    pub kept: Option<Duration>,
    /// Of so many reads of weights one has an entry; 0: none has.
    pub reads_one_in: u64,
}

/// The service: its rooms, and what it may use.
#[derive(Clone, Debug)]
pub struct App {
    db: Db,
    store: Store,
    clock: Clock,
    limits: Limits,
    upload_buffers: Buffers,
    download_buffers: Buffers,
    keys: Arc<Keys>,
    cells: Arc<KnownCells>,
    access: Arc<Access>,
    rates: Arc<Rates>,
    metrics: Arc<Metrics>,
    /// Who calls; none: the service itself.
    caller: Option<Arc<Principal>>,
    feed: Feed,
    stopping: CancellationToken,
}

/// What the database's clock told, if it has one.
fn reading(sign: Sign) -> Option<Reading> {
    sign.time_us.map(|time_us| Reading::new(time_us, sign.asked, sign.answered))
}

impl App {
    /// Puts the rooms together. The time is the database's, so that replicas agree on what expires and what came first however
    /// wrong one's own clock is; a database in a file has only the system's.
    pub async fn open(db: Db, store: Store, limits: Limits) -> Result<App, Error> {
        let clock = reading(db.first_sign().await?).map_or(Clock::System, Clock::of);
        Ok(App::new(db, store, clock, limits))
    }

    /// The same with a clock.
    pub fn new(db: Db, store: Store, clock: Clock, limits: Limits) -> App {
        App {
            db,
            store,
            clock,
            upload_buffers: Buffers::of_uploads(limits.upload_buffer_bytes),
            download_buffers: Buffers::of_downloads(limits.download_buffer_bytes),
            keys: Arc::default(),
            cells: Arc::default(),
            access: Arc::new(Access::new(limits.requires_authentication)),
            rates: Arc::new(Rates::new(limits.rates)),
            metrics: Arc::default(),
            caller: None,
            feed: Feed::default(),
            stopping: CancellationToken::new(),
            limits,
        }
    }

    /// The server stops: calls that only wait end.
    pub fn stop(&self) {
        self.stopping.cancel();
    }

    /// What comes next for a caller that sends now and then, unless the server stops first.
    pub(crate) async fn until_stop<T>(&self, next: impl Future<Output = T>) -> Result<T, Error> {
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => Err(Error::Stopping),
            next = next => Ok(next),
        }
    }

    /// Closes the database's connections.
    pub async fn close(&self) {
        self.db.close().await;
    }

    /// Whether the database answers. Without the object store events and queries still work, so it is not asked.
    pub async fn ping(&self) -> Result<(), Error> {
        if let Some(reading) = reading(self.db.ping().await?) {
            self.clock.correct(reading);
        }
        Ok(())
    }

    /// Statements of all write transactions so far, without those that begin and end one.
    pub fn statements(&self) -> u64 {
        self.db.statements()
    }

    /// Returns what could not be synced once that has happened: from then on nothing is acknowledged, and the process should end.
    pub async fn sync_failed(&self) -> &'static str {
        tokio::select! {
            () = self.db.sync_failed() => "the database",
            () = self.store.sync_failed() => "the object store",
        }
    }

    /// The time, in microseconds since 1970.
    pub(crate) fn now_us(&self) -> i64 {
        self.clock.now_us()
    }

    /// How long an upload may be idle.
    pub(crate) fn upload_idle(&self) -> Duration {
        self.limits.upload_idle
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
