//! Room that a stream holds for as long as its peer takes: whoever is slow gives way to others that wait.

use std::future::Future;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::Weak;

use tokio::time::Instant;

use crate::app::Error;
use crate::app::buffers::Buffers;
use crate::app::buffers::Lane;
use crate::app::buffers::RETRY;
use crate::app::buffers::TURN;
use crate::domain::refusal::Refusal;
use crate::turns::Caller;
use crate::turns::Pace;
use crate::turns::Taken;

/// All streams that hold room.
#[derive(Debug, Default)]
pub(super) struct Holders(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    streams: Vec<(u64, Weak<Pace>)>,
    /// When one was asked to give way last: its room is enough for one that waits.
    asked: Option<Instant>,
}

impl Holders {
    pub(super) fn add(&self, caller: u64, pace: &Arc<Pace>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.streams.retain(|(_, it)| it.strong_count() > 0);
        all.streams.push((caller, Arc::downgrade(pace)));
    }

    /// Ends the slowest of the slow, of one caller alone if only that can make room, and if none was ended just now, however
    /// many wait.
    pub(super) fn ask_slowest(&self, of: Option<u64>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.asked.is_some_and(|asked| asked.elapsed() < TURN) {
            return;
        }
        let of_them = all.streams.iter().filter(|(caller, _)| of.is_none_or(|it| it == *caller));
        let paces = of_them.filter_map(|(_, it)| it.upgrade()).filter(|it| !it.gives_way().is_cancelled());
        let slow = paces.filter_map(|it| it.slow().map(|rate| (rate, it)));
        if let Some((_, slowest)) = slow.min_by_key(|(rate, _)| *rate) {
            slowest.give_way();
            all.asked = Some(Instant::now());
        }
    }
}

/// A stream that takes room as its bytes come or go.
#[derive(Debug)]
pub(in crate::app) struct Held {
    buffers: Buffers,
    caller: u64,
    pace: Arc<Pace>,
}

impl Held {
    /// One whose bytes come: how fast is seen here.
    pub(super) fn of_sender(buffers: &Buffers) -> Held {
        Held::of(buffers, Caller::current().number(), Arc::default())
    }

    /// One whose bytes go: how fast is seen where they leave.
    pub(super) fn of_reader(buffers: &Buffers) -> Held {
        let caller = Caller::current();
        Held::of(buffers, caller.number(), Arc::clone(caller.takes()))
    }

    fn of(buffers: &Buffers, caller: u64, pace: Arc<Pace>) -> Held {
        buffers.holders.add(caller, &pace);
        Held { buffers: buffers.clone(), caller, pace }
    }

    /// Room for bytes of a chunk that begins, whose peer may turn out to be slow.
    pub(in crate::app) async fn take_first(&self, bytes: u64) -> Result<Taken, Error> {
        self.buffers.take_of(self.caller, Lane::First, bytes).await
    }

    /// Room for bytes that are known to come or to go soon.
    pub(in crate::app) async fn take(&self, bytes: u64) -> Result<Taken, Error> {
        self.buffers.take_of(self.caller, Lane::Rest, bytes).await
    }

    /// What the sender sends next, and how many bytes that are, unless it must give way first.
    pub(in crate::app) async fn next<T>(
        &self,
        next: impl Future<Output = T>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Result<T, Refusal> {
        self.pace.wait();
        let next = tokio::select! {
            biased;
            next = next => Ok(next),
            () = self.pace.gives_way().cancelled() => Err(gave_way()),
        };
        self.pace.moved(next.as_ref().map_or(0, bytes));
        next
    }
}

fn gave_way() -> Refusal {
    let message = format!(
        "the upload sent less than {} KiB/s while others waited for its room in the server's memory: what is durable stays, \
         ask PrepareFile where to go on",
        Pace::SLOW_KIB_PER_SECOND
    );
    Refusal::exhausted("OVERLOADED", message).retry_after(RETRY)
}
