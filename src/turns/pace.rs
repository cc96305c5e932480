//! How fast a peer sends or takes, while it alone is waited for; and that one who is slow must give way.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A peer below this rate gives way to others: it needs more than a minute for a chunk of 8 MiB. A slow line has ten times as
/// much.
const SLOW_BYTES_PER_SECOND: u64 = 128 << 10;
/// So long it must have been waited for, before its rate says anything.
const KNOWN: Duration = Duration::from_secs(3);
/// What was long ago counts half as much each time that so much more was waited: who was quick once may be slow now.
const MEMORY: Duration = Duration::from_secs(10);

/// Of one stream of bytes.
#[derive(Debug, Default)]
pub struct Pace {
    rate: Mutex<Rate>,
    gives_way: CancellationToken,
}

#[derive(Debug, Default)]
struct Rate {
    bytes: u64,
    /// Time in which nothing but the peer was waited for: a slow store is not its fault.
    waited: Duration,
    since: Option<Instant>,
}

impl Pace {
    /// In KiB a second: below this it is slow.
    pub const SLOW_KIB_PER_SECOND: u64 = SLOW_BYTES_PER_SECOND >> 10;

    /// From now on the peer is waited for.
    pub fn wait(&self) {
        self.rate(|it| it.since = Some(Instant::now()));
    }

    /// The wait is over, and it moved so many bytes.
    pub fn moved(&self, bytes: usize) {
        self.rate(|it| {
            it.waited = it.waited();
            it.since = None;
            it.bytes = it.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
            while it.waited >= MEMORY {
                (it.bytes, it.waited) = (it.bytes / 2, it.waited / 2);
            }
        });
    }

    /// Bytes a second of a peer that is known to be slow.
    pub fn slow(&self) -> Option<u64> {
        self.rate(|it| it.slow())
    }

    /// Tells it to give way.
    pub fn give_way(&self) {
        self.gives_way.cancel();
    }

    /// Whether it was told so, and when it is.
    pub fn gives_way(&self) -> &CancellationToken {
        &self.gives_way
    }

    fn rate<T>(&self, with: impl FnOnce(&mut Rate) -> T) -> T {
        with(&mut self.rate.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Rate {
    fn waited(&self) -> Duration {
        self.waited + self.since.map(|since| since.elapsed()).unwrap_or_default()
    }

    fn slow(&self) -> Option<u64> {
        let waited = self.waited();
        let rate =
            self.bytes.saturating_mul(1_000) / u64::try_from(waited.as_millis()).unwrap_or(u64::MAX).max(1);
        (waited >= KNOWN && rate < SLOW_BYTES_PER_SECOND).then_some(rate)
    }
}
