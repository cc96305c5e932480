//! Readers of SQLite: connections that are opened when they are first needed and kept, and how long a read may take.
//!
//! Each is a thread. What it does is looked at again and again while it works, so that a read ends when its time is over or its
//! caller went away.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use sqlx::ConnectOptions as _;
use sqlx::Connection as _;
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteConnectOptions;
use tokio::runtime::Handle;

use crate::db::Error;
use crate::db::places::Places;
use crate::db::places::Read;
use crate::turns::Taken;

/// Short reads at once; each takes well below a millisecond of a core.
const SHORT: u64 = 4;
/// Long reads at once: more would only share the cores that short ones and writes need.
const LONG: u64 = 3;
/// How long a read may take, as on Postgres.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Instructions between two looks at the clock: a tenth of a millisecond.
const INSTRUCTIONS: i32 = 10_000;

/// Connections that read.
#[derive(Debug)]
pub(super) struct Readers {
    options: SqliteConnectOptions,
    places: Places,
    idle: Mutex<Vec<Reader>>,
    since: Instant,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) connection: SqliteConnection,
    /// When what it does must end, in milliseconds of its readers.
    until_ms: Arc<AtomicU64>,
}

impl Readers {
    pub(super) async fn open(options: SqliteConnectOptions) -> Result<Arc<Readers>, Error> {
        let places = Places::new(SHORT, LONG);
        let readers = Arc::new(Readers { options, places, idle: Mutex::default(), since: Instant::now() });
        readers.lend(Read::Ping).await?.give_back();
        Ok(readers)
    }

    /// A connection, for one read.
    pub(super) async fn lend(self: &Arc<Self>, read: Read) -> Result<LentReader, Error> {
        let place = self.places.take(read).await?;
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let reader = match idle {
            Some(reader) => reader,
            None => {
                let connection = self.options.connect().await?;
                let mut reader = Reader { connection, until_ms: Arc::default() };
                self.arm(&mut reader).await?;
                reader
            }
        };
        reader.until_ms.store(millis(self.since.elapsed() + READ_TIMEOUT), Ordering::Relaxed);
        Ok(LentReader { lent: Some((reader, place)), home: Arc::clone(self) })
    }

    /// Has SQLite look at the clock while it reads.
    pub(super) async fn arm(&self, reader: &mut Reader) -> Result<(), Error> {
        let (until_ms, since) = (Arc::clone(&reader.until_ms), self.since);
        let goes_on = move || millis(since.elapsed()) < until_ms.load(Ordering::Relaxed);
        reader.connection.lock_handle().await?.set_progress_handler(INSTRUCTIONS, goes_on);
        Ok(())
    }

    pub(super) fn places(&self) -> &Places {
        &self.places
    }

    pub(super) async fn close(&self) {
        self.places.close();
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        for reader in idle {
            drop(reader.connection.close().await);
        }
    }

    fn take_back(&self, reader: Reader, place: Taken) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
        drop(place);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A connection on loan. One that is dropped before it is given back was left in the middle of a statement.
pub(super) struct LentReader {
    lent: Option<(Reader, Taken)>,
    home: Arc<Readers>,
}

impl LentReader {
    pub(super) fn reader(&mut self) -> Result<&mut Reader, Error> {
        self.lent.as_mut().map(|(reader, _)| reader).ok_or_else(Error::stopped)
    }

    /// It is not lent again.
    pub(super) fn close(mut self) {
        drop(self.lent.take());
    }

    /// The read came to its end.
    pub(super) fn give_back(mut self) {
        if let Some((reader, place)) = self.lent.take() {
            self.home.take_back(reader, place);
        }
    }
}

impl Drop for LentReader {
    fn drop(&mut self) {
        let (Some((mut reader, place)), Ok(runtime)) = (self.lent.take(), Handle::try_current()) else {
            return;
        };
        // At its next look at the clock.
        reader.until_ms.store(0, Ordering::Relaxed);
        let home = Arc::clone(&self.home);
        runtime.spawn(async move {
            // Once its thread is done with the statement. Its place is its own until then.
            if reader.connection.lock_handle().await.is_ok() {
                home.take_back(reader, place);
            }
        });
    }
}
