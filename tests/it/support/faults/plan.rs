//! What goes wrong with a store: which calls, in which way, by turns, by keys or by chance.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::support::random::Random;

/// What becomes of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PutFault {
    /// It stored nothing and says so.
    Before,
    /// It stored all, but said that it failed.
    After,
    /// It stored nothing and never answers.
    Hangs,
    /// Its disk failed: `EIO`.
    Disk,
    /// It stored nothing, for there is nothing to store in.
    NoBucket,
    /// It says that it stored all; the object is damaged so from then on.
    Lies(Damage),
    /// 409: it stored nothing, for something else is going on with the key.
    Conflict,
    /// 412: it stored nothing, as if there were a condition.
    Precondition,
}

/// What is wrong with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// It is not there.
    Missing,
    /// One bit is another; counted on from the beginning if the object has fewer.
    Flip(usize),
    /// It has only so many bytes.
    Short(usize),
    /// Bytes that nobody wrote stand behind it.
    Long,
}

impl Damage {
    /// The bytes with the damage; nothing if none are left.
    pub(crate) fn to(self, data: &[u8]) -> Option<Vec<u8>> {
        let mut data = data.to_vec();
        match self {
            Damage::Missing => return None,
            // Of no bytes there is none to flip.
            Damage::Flip(_) if data.is_empty() => {}
            Damage::Flip(bit) => {
                let bit = bit % (data.len() * 8);
                data[bit / 8] ^= 1 << (bit % 8);
            }
            Damage::Short(length) => data.truncate(length),
            Damage::Long => data.push(0),
        }
        Some(data)
    }
}

/// What becomes of a get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GetFault {
    /// No bytes come, and it says so.
    Fails,
    /// It never answers.
    Hangs,
    /// 409.
    Conflict,
    /// Other bytes come.
    Lies(Damage),
}

/// What goes wrong, by turns, by keys or by chance.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Puts of chunks so far.
    pub(crate) puts: usize,
    /// Gets so far, of bytes or of a size alone.
    pub(crate) gets: usize,
    /// Of these those of a size alone.
    pub(crate) heads: usize,
    /// By the number of the put, from 0.
    pub(crate) put_faults: HashMap<usize, PutFault>,
    /// What happens to every put of a manifest.
    pub(crate) manifest_fault: Option<PutFault>,
    /// By key, at every get.
    pub(crate) get_faults: HashMap<String, GetFault>,
    /// By key, at the next gets, the last one first.
    pub(crate) passing_faults: HashMap<String, Vec<GetFault>>,
    /// Keys that cannot be deleted.
    pub(crate) stuck: Vec<String>,
    /// Deletes never answer.
    pub(crate) delete_hangs: bool,
    /// Calls that never answered.
    pub(crate) hung: usize,
    /// All calls fail.
    pub(crate) away: bool,
    /// Calls fail by chance.
    pub(crate) chance: Option<Chance>,
    /// How long each put takes.
    pub(crate) put_takes: Duration,
    /// Where each put and each get of a chunk waits, unless it asks for the size alone.
    pub(crate) gate: Option<Arc<Gate>>,
}

/// Dice for faults.
#[derive(Debug)]
pub(crate) struct Chance {
    pub(crate) random: Random,
    /// So many of a hundred calls go wrong.
    pub(crate) percent: usize,
    /// Puts are of those that lie, too: what they say is stored is damaged for good.
    pub(crate) puts_lie: bool,
    /// Faults so far, by kind.
    pub(crate) thrown: BTreeMap<&'static str, usize>,
}

impl Chance {
    pub(crate) fn new(seed: u64, percent: usize, puts_lie: bool) -> Chance {
        Chance { random: Random::new(seed), percent, puts_lie, thrown: BTreeMap::new() }
    }

    fn hits(&mut self) -> bool {
        self.random.below(100) < self.percent
    }

    fn damage(&mut self) -> Damage {
        let bit = self.random.below(usize::MAX);
        [Damage::Missing, Damage::Flip(bit), Damage::Short(bit % 100), Damage::Long][self.random.below(4)]
    }

    pub(super) fn put(&mut self) -> Option<PutFault> {
        let damage = self.damage();
        let (fault, kind) = match self.hits().then(|| self.random.below(if self.puts_lie { 3 } else { 2 }))? {
            0 => (PutFault::Before, "put failed before"),
            1 => (PutFault::After, "put failed after"),
            _ => (PutFault::Lies(damage), "put lied"),
        };
        *self.thrown.entry(kind).or_default() += 1;
        Some(fault)
    }

    pub(super) fn get(&mut self) -> Option<GetFault> {
        let damage = self.damage();
        let (fault, kind) = match self.hits().then(|| self.random.below(2))? {
            0 => (GetFault::Fails, "get failed"),
            _ => (GetFault::Lies(damage), "get lied"),
        };
        *self.thrown.entry(kind).or_default() += 1;
        Some(fault)
    }

    /// Whether a delete fails, and then whether after it was done.
    pub(super) fn delete(&mut self) -> Option<bool> {
        let after = self.hits().then(|| self.random.below(2) == 1)?;
        *self.thrown.entry("delete failed").or_default() += 1;
        Some(after)
    }
}

/// Holds calls until it is opened for one.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// Told when one waits.
    pub(crate) arrived: Notify,
    /// Lets one through.
    pub(crate) open: Notify,
}

impl Gate {
    pub(super) async fn pass(&self) {
        self.arrived.notify_one();
        self.open.notified().await;
    }
}
