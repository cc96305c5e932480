//! Places of reads: how many go on at once, by their kind, so that long ones leave room for short ones, for writes and for the
//! question whether the database is there.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;

use crate::db::Error;
use crate::domain::refusal::Refusal;

/// How long a long read waits for its place.
const LONG_WAIT: Duration = Duration::from_secs(5);
/// Long reads that wait, a few KiB each; a page takes milliseconds, so these are served in a few seconds.
const MOST_LONG_WAITING: usize = 256;
/// Short reads that wait: more than processes of one training that ask for its decisions.
const MOST_SHORT_WAITING: usize = 8_192;
/// When a caller that found no place should come back.
const RETRY: Duration = Duration::from_secs(2);

/// What a read is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Whether the database answers.
    Ping,
    /// Some rows by their keys: what saves and trainers wait for.
    Short,
    /// A page of a list, or of a check.
    Long,
}

/// Places of all kinds.
#[derive(Clone, Debug)]
pub(super) struct Places {
    ping: Lane,
    short: Lane,
    long: Lane,
}

/// Places of one kind.
#[derive(Clone, Debug)]
struct Lane {
    free: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Lane {
    fn new(places: usize, waiting: usize) -> Lane {
        Lane { free: Arc::new(Semaphore::new(places)), waiting: Arc::new(Semaphore::new(waiting)) }
    }
}

impl Places {
    pub(super) fn new(short: usize, long: usize) -> Places {
        Places {
            ping: Lane::new(1, MOST_SHORT_WAITING),
            short: Lane::new(short, MOST_SHORT_WAITING),
            long: Lane::new(long, MOST_LONG_WAITING),
        }
    }

    /// Takes a place, in the order of asking. A short read waits as long as its caller does.
    pub(super) async fn take(&self, read: Read) -> Result<OwnedSemaphorePermit, Error> {
        let lane = match read {
            Read::Ping => &self.ping,
            Read::Short => &self.short,
            Read::Long => &self.long,
        };
        // Without a timer where nobody has to wait.
        if let Ok(place) = Arc::clone(&lane.free).try_acquire_owned() {
            return Ok(place);
        }
        let _waiting = lane.waiting.try_acquire().map_err(|_| match read {
            Read::Ping | Read::Short => Error::Busy(Arc::new(sqlx::Error::PoolTimedOut)),
            Read::Long => overloaded(),
        })?;
        let place = Arc::clone(&lane.free).acquire_owned();
        match read {
            Read::Ping | Read::Short => place.await.map_err(|_| Error::stopped()),
            Read::Long => match tokio::time::timeout(LONG_WAIT, place).await {
                Ok(place) => place.map_err(|_| Error::stopped()),
                Err(_) => Err(overloaded()),
            },
        }
    }

    /// Nobody gets a place any more.
    pub(super) fn close(&self) {
        for lane in [&self.ping, &self.short, &self.long] {
            lane.free.close();
        }
    }
}

fn overloaded() -> Error {
    let message = "more reads wait for the database than it can serve soon: come back in a moment";
    Refusal::exhausted("OVERLOADED", message).retry_after(RETRY).into()
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn long_reads_wait_for_their_own_places_and_not_for_ever() {
        let places = Places::new(1, 2);
        let held = [places.take(Read::Long).await.unwrap(), places.take(Read::Long).await.unwrap()];
        let mut next = Box::pin(places.take(Read::Long));
        assert!(next.as_mut().now_or_never().is_none());
        drop(places.take(Read::Short).await.unwrap());
        drop(places.take(Read::Ping).await.unwrap());
        let refused = places.take(Read::Long).await.unwrap_err();
        assert!(matches!(&refused, Error::Refused(it) if it.reason == "OVERLOADED"), "{refused:?}");
        drop(held);
        drop(next.await.unwrap());
    }

    #[tokio::test]
    async fn only_so_many_wait() {
        let places = Places::new(1, 1);
        let _held = places.take(Read::Long).await.unwrap();
        let mut waiting: Vec<_> = (0..MOST_LONG_WAITING).map(|_| Box::pin(places.take(Read::Long))).collect();
        for wait in &mut waiting {
            assert!(wait.now_or_never().is_none());
        }
        let refused = places.take(Read::Long).now_or_never().expect("one more does not wait").unwrap_err();
        assert!(matches!(&refused, Error::Refused(it) if it.reason == "OVERLOADED"), "{refused:?}");
    }
}
