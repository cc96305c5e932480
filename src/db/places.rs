//! Places of reads: how many go on at once, by their kind, so that long ones leave room for short ones, for writes and for the
//! question whether the database is there.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::db::Error;
use crate::domain::refusal::Refusal;
use crate::metrics::Each;
use crate::metrics::Seconds;
use crate::turns::Caller;
use crate::turns::Denied;
use crate::turns::Taken;
use crate::turns::Turns;
use crate::turns::Usage;

/// How long a long read waits for its place.
const LONG_WAIT: Duration = Duration::from_secs(5);
/// Long reads that wait, a few KiB each; a page takes milliseconds, so these are served in a few seconds.
const MOST_LONG_WAITING: usize = 256;
/// Short reads that wait: more than processes of one training that ask for its decisions.
const MOST_SHORT_WAITING: usize = 8_192;
/// When a caller that found no place should come back.
const RETRY: Duration = Duration::from_secs(2);

/// What a read is like. Its places and figures are in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Whether the database answers.
    Ping,
    /// Some rows by their keys: what saves and trainers wait for.
    Short,
    /// A page of a list, or of a check.
    Long,
}

impl Read {
    /// The kinds, as they are told.
    pub(super) const WORDS: [&str; 3] = ["ping", "short", "long"];
}

/// Places of all kinds.
#[derive(Clone, Debug)]
pub(super) struct Places {
    ping: Turns,
    short: Turns,
    long: Turns,
    waits: Arc<Each<Seconds, 3>>,
}

impl Places {
    /// One caller has at most all but one of those for long reads, which may be taken for seconds.
    pub(super) fn new(short: u64, long: u64) -> Places {
        Places {
            ping: Turns::new(1, 1, MOST_SHORT_WAITING),
            short: Turns::new(short, short, MOST_SHORT_WAITING),
            long: Turns::new(long, long.saturating_sub(1).max(1), MOST_LONG_WAITING),
            waits: Arc::new(Each::of(&Read::WORDS)),
        }
    }

    /// Takes a place when it is its caller's turn. A short read waits as long as its caller does.
    pub(super) async fn take(&self, read: Read) -> Result<Taken, Error> {
        let lane = match read {
            Read::Ping => &self.ping,
            Read::Short => &self.short,
            Read::Long => &self.long,
        };
        let caller = Caller::current().number();
        // Without a timer where nobody has to wait.
        if let Some(place) = lane.try_take(caller, 1) {
            return Ok(place);
        }
        let (place, begin) = (lane.take(caller, 1), Instant::now());
        let place = match read {
            Read::Ping | Read::Short => place.await,
            Read::Long => tokio::time::timeout(LONG_WAIT, place).await.unwrap_or(Err(Denied::Crowded)),
        };
        self.waits.at(read as usize).since(begin);
        place.map_err(|denied| match (denied, read) {
            (Denied::Closed, _) => Error::stopped(),
            (Denied::Crowded, Read::Long) => overloaded(),
            (Denied::Crowded, _) => Error::Busy(Arc::new(sqlx::Error::PoolTimedOut)),
        })
    }

    /// How the places of each kind are used.
    pub(super) fn usage(&self) -> [Usage; 3] {
        [&self.ping, &self.short, &self.long].map(Turns::usage)
    }

    /// How long reads of each kind waited that had to.
    pub(super) fn waits(&self) -> &Each<Seconds, 3> {
        &self.waits
    }

    /// Nobody gets a place any more.
    pub(super) fn close(&self) {
        for lane in [&self.ping, &self.short, &self.long] {
            lane.close();
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
        let mine = places.take(Read::Long).await.unwrap();
        let mut more = Box::pin(places.take(Read::Long));
        assert!(more.as_mut().now_or_never().is_none(), "the last one is for others");
        let other = || Caller::new(7).scope(places.take(Read::Long));
        let held = [mine, other().await.unwrap()];
        drop(more);
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
    async fn a_caller_with_many_short_reads_does_not_keep_another_from_one() {
        let places = Places::new(4, 3);
        let take = |caller| Caller::new(caller).scope(places.take(Read::Short));
        let mut held = Vec::new();
        let mut flood = Vec::new();
        for _ in 0..100 {
            let mut read = Box::pin(take(1));
            match read.as_mut().now_or_never() {
                Some(place) => held.push(place.unwrap()),
                None => flood.push(read),
            }
        }
        let mut other = Box::pin(take(2));
        assert!(other.as_mut().now_or_never().is_none());
        held.pop();
        assert!(
            other.now_or_never().is_some_and(|place| place.is_ok()),
            "it goes before the rest of the flood"
        );
        drop(flood);
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
