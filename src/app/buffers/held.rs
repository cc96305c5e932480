//! Room that a stream holds for as long as its sender takes: whoever is slow gives way to others that wait.

use std::future::Future;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::Weak;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::app::buffers::RETRY;
use crate::app::buffers::TURN;
use crate::domain::refusal::Refusal;

/// A sender below this rate gives way: it needs more than a minute for a chunk of 8 MiB. A trainer on a slow line has ten times
/// as much.
const SLOW_BYTES_PER_SECOND: u64 = 128 << 10;
/// So long its sender must have been waited for, before its rate says anything.
const KNOWN: Duration = Duration::from_secs(3);
/// What was long ago counts half as much each time that so much more was waited: who was quick once may be slow now.
const MEMORY: Duration = Duration::from_secs(10);

/// All that hold room.
#[derive(Debug, Default)]
pub(super) struct Holders(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    senders: Vec<Weak<Sender>>,
    /// When one was asked to give way last: its room is enough for one that waits.
    asked: Option<Instant>,
}

/// Room, and what is known of the sender who fills it.
#[derive(Debug)]
pub(in crate::app) struct Held {
    pub(in crate::app) room: Arc<OwnedSemaphorePermit>,
    sender: Arc<Sender>,
}

#[derive(Debug, Default)]
struct Sender {
    pace: Mutex<Pace>,
    gives_way: CancellationToken,
}

#[derive(Debug, Default)]
struct Pace {
    bytes: u64,
    /// Time in which nothing but the sender was waited for: a slow store is not its fault.
    waited: Duration,
    since: Option<Instant>,
}

impl Pace {
    fn waited(&self) -> Duration {
        self.waited + self.since.map(|since| since.elapsed()).unwrap_or_default()
    }

    /// Bytes a second, of a sender that is known to be slow.
    fn slow(&self) -> Option<u64> {
        let waited = self.waited();
        let rate =
            self.bytes.saturating_mul(1_000) / u64::try_from(waited.as_millis()).unwrap_or(u64::MAX).max(1);
        (waited >= KNOWN && rate < SLOW_BYTES_PER_SECOND).then_some(rate)
    }
}

impl Sender {
    fn pace<T>(&self, with: impl FnOnce(&mut Pace) -> T) -> T {
        with(&mut self.pace.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Holders {
    pub(super) fn add(&self, room: OwnedSemaphorePermit) -> Held {
        let sender = Arc::<Sender>::default();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.senders.retain(|it| it.strong_count() > 0);
        all.senders.push(Arc::downgrade(&sender));
        Held { room: Arc::new(room), sender }
    }

    /// Ends the slowest of the slow, if there is one and none was ended just now, however many wait.
    pub(super) fn ask_slowest(&self) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.asked.is_some_and(|asked| asked.elapsed() < TURN) {
            return;
        }
        let senders = all.senders.iter().filter_map(Weak::upgrade).filter(|it| !it.gives_way.is_cancelled());
        let slow = senders.filter_map(|it| it.pace(|pace| pace.slow()).map(|rate| (rate, it)));
        if let Some((_, slowest)) = slow.min_by_key(|(rate, _)| *rate) {
            slowest.gives_way.cancel();
            all.asked = Some(Instant::now());
        }
    }
}

impl Held {
    /// What the sender sends next, and how many bytes that are, unless it must give way first.
    pub(in crate::app) async fn next<T>(
        &self,
        next: impl Future<Output = T>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Result<T, Refusal> {
        self.sender.pace(|pace| pace.since = Some(Instant::now()));
        let next = tokio::select! {
            biased;
            next = next => Ok(next),
            () = self.sender.gives_way.cancelled() => Err(gave_way()),
        };
        self.sender.pace(|pace| {
            pace.waited = pace.waited();
            pace.since = None;
            let came = next.as_ref().map_or(0, bytes);
            pace.bytes = pace.bytes.saturating_add(u64::try_from(came).unwrap_or(u64::MAX));
            while pace.waited >= MEMORY {
                (pace.bytes, pace.waited) = (pace.bytes / 2, pace.waited / 2);
            }
        });
        next
    }
}

fn gave_way() -> Refusal {
    let message = format!(
        "the upload sent less than {} KiB/s while others waited for its room in the server's memory: what is durable stays, \
         ask PrepareFile where to go on",
        SLOW_BYTES_PER_SECOND >> 10
    );
    Refusal::exhausted("OVERLOADED", message).retry_after(RETRY)
}
