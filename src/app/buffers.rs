//! Room for bytes in memory: taken before they are read, in the order of asking, and given back when they are stored or sent.

mod held;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::app::Error;
use crate::app::buffers::held::Holders;
use crate::domain::refusal::Refusal;

pub(super) use held::Held;

/// What room is counted in: a small file takes one of them, not a whole chunk.
const UNIT_BYTES: u64 = 1 << 20;
/// How long a stream waits for its room before the caller is told to come back.
const WAIT: Duration = Duration::from_secs(5);
/// How long it waits before the slowest of those that have room is asked to give way, and until the next one is.
const TURN: Duration = Duration::from_secs(1);
/// Uploads that wait for room; further ones are told to come back at once. What waits has sent as much as its stream's window
/// holds, 4 MiB, which is in no other sum: 64 MiB at most.
pub(super) const WAITING_UPLOADS: usize = 16;
/// Downloads that wait for room: they hold nothing yet.
pub(super) const WAITING_DOWNLOADS: usize = 512;
/// When a caller that found no room should come back.
const RETRY: Duration = Duration::from_secs(2);

/// What asks for no more may also have the part that streams leave: all but the largest calls with small files.
const SMALL_BYTES: u64 = 4 << 20;
/// The part of the room that is for those alone, so that streams that are slow stop no small save.
const SMALL_PART: u64 = 8;

/// The room of all uploads, or of all downloads.
#[derive(Clone, Debug)]
pub(super) struct Buffers {
    room: Arc<Semaphore>,
    /// Units of it.
    most: u32,
    small: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    holders: Arc<Holders>,
}

impl Buffers {
    /// Room for so many bytes, and how many may wait for it. A stream may take `stream` of them, whatever is kept for others.
    pub(super) fn new(bytes: u64, stream: u64, waiting: usize) -> Buffers {
        let room = (bytes - bytes / SMALL_PART).max(stream);
        let units = |bytes: u64| usize::try_from(bytes / UNIT_BYTES).unwrap_or(usize::MAX);
        let semaphore = |bytes| Arc::new(Semaphore::new(units(bytes).min(Semaphore::MAX_PERMITS)));
        Buffers {
            room: semaphore(room),
            most: u32::try_from(units(room)).unwrap_or(u32::MAX),
            small: semaphore(bytes.saturating_sub(room)),
            waiting: Arc::new(Semaphore::new(waiting)),
            holders: Arc::default(),
        }
    }

    /// Takes room for a stream whose sender may turn out to be slow: then it gives way to others that wait.
    pub(super) async fn hold(&self, bytes: u64) -> Result<Held, Error> {
        Ok(self.holders.add(self.take(bytes).await?))
    }

    /// Refuses at once a caller that `take` would refuse, before it has cost more than a message.
    pub(super) fn check_crowd(&self) -> Result<(), Error> {
        if self.waiting.available_permits() == 0 { Err(overloaded()) } else { Ok(()) }
    }

    /// Takes room for so many bytes, or tells the caller to come back. Who asks for more than there is gets all of it, alone.
    pub(super) async fn take(&self, bytes: u64) -> Result<OwnedSemaphorePermit, Error> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.most);
        // Nobody who waits is passed by: what becomes free is theirs.
        let small = Some(&self.small).filter(|_| bytes <= SMALL_BYTES);
        for room in [Some(&self.room), small].into_iter().flatten() {
            if let Ok(room) = Arc::clone(room).try_acquire_many_owned(units) {
                return Ok(room);
            }
        }
        let _waiting = self.waiting.try_acquire().map_err(|_| overloaded())?;
        // One place in each queue for all of the wait.
        let room = Arc::clone(&self.room).acquire_many_owned(units);
        let kept = async {
            match small {
                Some(small) => Arc::clone(small).acquire_many_owned(units).await,
                None => std::future::pending().await,
            }
        };
        let mut room = std::pin::pin!(async {
            tokio::select! {
                room = room => room,
                room = kept => room,
            }
        });
        for _ in 0..WAIT.as_secs() / TURN.as_secs() {
            match timeout(TURN, room.as_mut()).await {
                Ok(Ok(room)) => return Ok(room),
                Ok(Err(_)) => break,
                Err(_) => self.holders.ask_slowest(),
            }
        }
        Err(overloaded())
    }
}

fn overloaded() -> Error {
    let message = "the server moves as many bytes as its memory allows: come back in a moment";
    Refusal::exhausted("OVERLOADED", message).retry_after(RETRY).into()
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn only_so_many_wait_and_they_are_served_in_their_order() {
        let buffers = Buffers::new(10 * UNIT_BYTES, 10 * UNIT_BYTES, 16);
        let all = buffers.take(10 * UNIT_BYTES).await.unwrap();
        let mut waiting: Vec<_> = (0..16).map(|_| Box::pin(buffers.take(6 * UNIT_BYTES))).collect();
        for wait in &mut waiting {
            assert!(wait.now_or_never().is_none());
        }
        let refused = buffers.take(1).now_or_never().expect("one more does not wait").unwrap_err();
        assert!(matches!(&refused, Error::Refused(it) if it.reason == "OVERLOADED"), "{refused:?}");
        assert!(buffers.check_crowd().is_err());
        drop(all);
        let first = waiting.remove(0).await.unwrap();
        assert!(buffers.check_crowd().is_ok());
        // Four units are left, but they are for the next in the queue.
        assert!(buffers.take(UNIT_BYTES).now_or_never().is_none());
        drop(first);
        drop(waiting.remove(0).await.unwrap());
    }

    #[tokio::test]
    async fn what_is_small_waits_for_either_part_and_what_is_too_large_gets_all() {
        let buffers = Buffers::new(64 * UNIT_BYTES, 24 * UNIT_BYTES, 16);
        let streams = buffers.take(u64::MAX).await.unwrap();
        assert_eq!(streams.num_permits(), 56);
        let small = [buffers.take(SMALL_BYTES).await.unwrap(), buffers.take(SMALL_BYTES).await.unwrap()];
        let mut waiting = Box::pin(buffers.take(SMALL_BYTES));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(small);
        drop(waiting.await.unwrap());
        drop(streams);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_slow_gives_way_at_a_time() {
        let buffers = Buffers::new(64 * UNIT_BYTES, 24 * UNIT_BYTES, 16);
        let (first, second) =
            (buffers.hold(24 * UNIT_BYTES).await.unwrap(), buffers.hold(24 * UNIT_BYTES).await.unwrap());
        let silent = || std::future::pending::<usize>();
        let (mut a, mut b) =
            (Box::pin(first.next(silent(), |it| *it)), Box::pin(second.next(silent(), |it| *it)));
        assert!(a.as_mut().now_or_never().is_none() && b.as_mut().now_or_never().is_none());
        buffers.holders.ask_slowest();
        assert!(a.as_mut().now_or_never().is_none() && b.as_mut().now_or_never().is_none(), "not known yet");
        tokio::time::advance(Duration::from_secs(10)).await;
        buffers.holders.ask_slowest();
        buffers.holders.ask_slowest();
        let ended = [a.as_mut().now_or_never(), b.as_mut().now_or_never()];
        assert_eq!(
            ended
                .iter()
                .flatten()
                .filter(|it| it.as_ref().is_err_and(|it| it.reason == "OVERLOADED"))
                .count(),
            1
        );
        tokio::time::advance(TURN).await;
        buffers.holders.ask_slowest();
        assert_eq!(
            [ended[0].is_none().then(|| a.now_or_never()), ended[1].is_none().then(|| b.now_or_never())]
                .iter()
                .flatten()
                .flatten()
                .count(),
            1
        );
    }

    #[tokio::test]
    async fn streams_leave_a_part_for_what_is_small() {
        let buffers = Buffers::new(64 * UNIT_BYTES, 24 * UNIT_BYTES, 16);
        let streams = buffers.take(56 * UNIT_BYTES).await.unwrap();
        assert!(buffers.take(SMALL_BYTES + 1).now_or_never().is_none());
        let small = [buffers.take(SMALL_BYTES).await.unwrap(), buffers.take(SMALL_BYTES).await.unwrap()];
        assert!(buffers.take(1).now_or_never().is_none());
        drop(streams);
        drop(buffers.take(56 * UNIT_BYTES).await.unwrap());
        drop(small);
    }
}
