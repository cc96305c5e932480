//! Room for bytes in memory: taken as they come, or before they are read, and given back when they are stored or sent. Callers
//! take turns, and each has a share.

mod held;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::app::Error;
use crate::app::buffers::held::Holders;
use crate::domain::digest::CHUNK_BYTES;
use crate::domain::refusal::Refusal;
use crate::metrics::Counter;
use crate::turns::Caller;
use crate::turns::Denied;
use crate::turns::Taken;
use crate::turns::Turns;

pub(super) use held::Held;

/// What the room of streams is counted in: one that gives way makes enough for one that waits.
pub(super) const UNIT_BYTES: u64 = 1 << 20;
/// What the part for small calls is counted in: a file of a few bytes takes one of them, which is about what its call takes
/// besides. With 256 MiB 512 such calls have room at once in this part alone.
const SMALL_UNIT_BYTES: u64 = 64 << 10;
/// How long a stream waits for its room before the caller is told to come back.
const WAIT: Duration = Duration::from_secs(5);
/// How long it waits before the slowest of those that have room is asked to give way, and until the next one is.
const TURN: Duration = Duration::from_secs(1);
/// Uploads that wait for room; further ones are told to come back at once. What waits has sent as much as its stream's window
/// holds, 4 MiB, which is in no other sum: 64 MiB at most.
const WAITING_UPLOADS: usize = 16;
/// Downloads that wait for room: they hold at most what leaves meanwhile.
const WAITING_DOWNLOADS: usize = 512;
/// When a caller that found no room should come back.
const RETRY: Duration = Duration::from_secs(2);

/// What asks for no more may also have the part that streams leave: all but the largest calls with small files.
const SMALL_BYTES: u64 = 4 << 20;
/// The part of the room that is for those alone, so that streams that are slow stop no small save.
const SMALL_PART: u64 = 8;
/// The part that chunks of uploads begin in: what is slow from the beginning never has more.
const FIRST_PART: u64 = 4;
/// What a chunk that begins must fit in: the largest message.
const FIRST_BYTES: u64 = 4 << 20;
/// The part of each that one caller may have.
const CALLER_PART: u64 = 2;

/// Where a stream's room comes from.
#[derive(Clone, Copy, Debug)]
enum Lane {
    First,
    Rest,
}

/// The room of all uploads, or of all downloads.
#[derive(Clone, Debug)]
pub(super) struct Buffers {
    /// Of chunks that begin.
    first: Turns,
    /// Of whole chunks.
    rest: Turns,
    /// Of small calls alone.
    small: Turns,
    holders: Arc<Holders>,
    refusals: Arc<Counter>,
}

/// How much room there is, and what is taken of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) limit_bytes: u64,
    pub(super) used_bytes: u64,
    pub(super) waiting: u64,
}

/// Units of a part, of which a caller has a part, but what it needs for one thing.
fn turns(bytes: u64, least: u64, waiting: usize, unit: u64) -> Turns {
    let share = (bytes / CALLER_PART).max(least);
    Turns::new(bytes / unit, share / unit, waiting)
}

impl Buffers {
    /// The least that uploads go on with: a chunk that begins, and one that is whole.
    pub(super) const LEAST_BYTES: u64 = FIRST_BYTES + CHUNK_BYTES;

    /// Room for the bytes of uploads.
    pub(super) fn of_uploads(bytes: u64) -> Buffers {
        let streams = (bytes - bytes / SMALL_PART).max(Self::LEAST_BYTES);
        let first = (streams / FIRST_PART).max(FIRST_BYTES);
        Self::of(first, streams - first, bytes.saturating_sub(streams), WAITING_UPLOADS)
    }

    /// Room for the bytes of downloads, which are known before they are read.
    pub(super) fn of_downloads(bytes: u64) -> Buffers {
        let streams = (bytes - bytes / SMALL_PART).max(CHUNK_BYTES);
        Self::of(0, streams, bytes.saturating_sub(streams), WAITING_DOWNLOADS)
    }

    fn of(first: u64, rest: u64, small: u64, waiting: usize) -> Buffers {
        Buffers {
            first: turns(first, FIRST_BYTES, waiting, UNIT_BYTES),
            rest: turns(rest, CHUNK_BYTES, waiting, UNIT_BYTES),
            small: turns(small, UNIT_BYTES, waiting, SMALL_UNIT_BYTES),
            holders: Arc::default(),
            refusals: Arc::default(),
        }
    }

    /// A stream that sends and takes room as its bytes come.
    pub(super) fn sender(&self) -> Held {
        Held::of_sender(self)
    }

    /// A stream that is read and takes room before each chunk.
    pub(super) fn reader(&self) -> Held {
        Held::of_reader(self)
    }

    /// Refuses at once an upload that would find no place to wait, before it has cost more than a message.
    pub(super) fn check_crowd(&self) -> Result<(), Error> {
        match self.first.is_crowded(Caller::current().number()) {
            true => Err(self.overloaded()),
            false => Ok(()),
        }
    }

    /// Takes room for so many bytes, which are there or are known to come soon, or tells the caller to come back. Who asks for
    /// more than its share gets its share.
    pub(super) async fn take(&self, bytes: u64) -> Result<Taken, Error> {
        let (caller, units) = (Caller::current().number(), bytes.div_ceil(UNIT_BYTES));
        let small = Some(&self.small).filter(|_| bytes <= SMALL_BYTES);
        let small_units = bytes.div_ceil(SMALL_UNIT_BYTES);
        // What is less than a unit of the streams' room would take all of one there.
        let tiny = small.filter(|_| bytes < UNIT_BYTES);
        for (room, units) in [(tiny, small_units), (Some(&self.rest), units), (small, small_units)] {
            if let Some(room) = room.and_then(|it| it.try_take(caller, units)) {
                return Ok(room);
            }
        }
        let room = async {
            // One place in each queue for all of the wait.
            let rest = self.rest.take(caller, units);
            match small {
                None => rest.await,
                Some(small) => tokio::select! {
                    room = rest => room,
                    room = small.take(caller, small_units) => room,
                },
            }
        };
        self.in_time(caller, &self.rest, units, room).await
    }

    async fn take_of(&self, caller: u64, lane: Lane, bytes: u64) -> Result<Taken, Error> {
        let room = match lane {
            Lane::First => &self.first,
            Lane::Rest => &self.rest,
        };
        let units = bytes.div_ceil(UNIT_BYTES);
        if let Some(room) = room.try_take(caller, units) {
            return Ok(room);
        }
        self.in_time(caller, room, units, room.take(caller, units)).await
    }

    /// Waits for room, and has slow ones give way meanwhile.
    async fn in_time(
        &self,
        caller: u64,
        of: &Turns,
        units: u64,
        room: impl Future<Output = Result<Taken, Denied>>,
    ) -> Result<Taken, Error> {
        let mut room = std::pin::pin!(room);
        for _ in 0..WAIT.as_secs() / TURN.as_secs() {
            match timeout(TURN, room.as_mut()).await {
                Ok(room) => return room.map_err(|_| self.overloaded()),
                Err(_) => {
                    self.holders.ask_slowest((!of.is_within_share(caller, units)).then_some(caller));
                }
            }
        }
        Err(self.overloaded())
    }

    fn overloaded(&self) -> Error {
        self.refusals.add(1);
        overloaded()
    }

    /// How many calls found no room.
    pub(super) fn refusals(&self) -> &Counter {
        &self.refusals
    }

    /// How the room is used now, in all of its parts.
    pub(super) fn usage(&self) -> Usage {
        let parts = [(&self.first, UNIT_BYTES), (&self.rest, UNIT_BYTES), (&self.small, SMALL_UNIT_BYTES)];
        let mut all = Usage { limit_bytes: 0, used_bytes: 0, waiting: 0 };
        for (part, unit) in parts {
            let usage = part.usage();
            all.limit_bytes += usage.units * unit;
            all.used_bytes += usage.taken * unit;
            all.waiting += usage.waiting as u64;
        }
        all
    }
}

fn overloaded() -> Error {
    let message = "the server moves as many bytes as its memory allows: come back in a moment";
    Refusal::exhausted("OVERLOADED", message).retry_after(RETRY).into()
}

#[cfg(test)]
mod tests;
