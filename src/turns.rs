//! What callers share, room in memory or places in the database, given out in turns: who has least of it goes first.
//!
//! A queue in the order of asking belongs to whoever asks most. Here each caller has a queue of its own, and at most its share, so
//! that one who asks for a thousand things and keeps them leaves the next caller what it needs.

mod caller;
mod pace;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use tokio::sync::oneshot;

pub use caller::Caller;
pub use pace::Pace;

/// Units that are shared; cheap to clone.
#[derive(Clone, Debug)]
pub struct Turns(Arc<Shared>);

/// Why nothing was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// As many wait as may, and none of them is of a caller that has more waiting than this one.
    Crowded,
    /// Nothing is given out any more.
    Closed,
}

/// How much of what is shared is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// All units.
    pub units: u64,
    pub taken: u64,
    /// Things that are asked for and wait.
    pub waiting: usize,
}

#[derive(Debug)]
struct Shared {
    units: u64,
    /// The most that one caller has.
    share: u64,
    /// The most that wait.
    waiting: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    free: u64,
    /// Things given so far: the order in which callers were served.
    given: u64,
    /// Things asked for that had to wait so far.
    asked: u64,
    waiting: usize,
    is_closed: bool,
    callers: BTreeMap<u64, Standing>,
    /// Those of whom something waits, in the order in which they are served.
    order: BTreeSet<(u64, u64, u64)>,
}

/// What one caller has and waits for.
#[derive(Debug, Default)]
struct Standing {
    taken: u64,
    /// When it was served last.
    served: u64,
    waiting: BTreeMap<u64, Waiter>,
}

#[derive(Debug)]
struct Waiter {
    units: u64,
    answer: oneshot::Sender<Taken>,
}

type Given = Vec<(oneshot::Sender<Taken>, Taken)>;

impl Turns {
    /// So many units, of which one caller has at most its share, and so many that may wait.
    pub fn new(units: u64, share: u64, waiting: usize) -> Turns {
        let state = State { free: units, ..State::default() };
        Turns(Arc::new(Shared { units, share, waiting, state: Mutex::new(state) }))
    }

    /// Takes units, once it is the caller's turn. Who asks for more than a share gets a share.
    pub async fn take(&self, caller: u64, units: u64) -> Result<Taken, Denied> {
        let (number, answer) = {
            let mut state = self.lock();
            if let Some(taken) = self.take_at_once(&mut state, caller, units) {
                return Ok(taken);
            }
            self.queue(&mut state, caller, units)?
        };
        let _place = Place { turns: self, caller, number };
        answer.await.map_err(|_| if self.lock().is_closed { Denied::Closed } else { Denied::Crowded })
    }

    /// The same if nobody has to wait for it.
    pub fn try_take(&self, caller: u64, units: u64) -> Option<Taken> {
        self.take_at_once(&mut self.lock(), caller, units)
    }

    /// Whether a caller that would have to wait is denied that.
    pub fn is_crowded(&self, caller: u64) -> bool {
        let state = self.lock();
        state.waiting >= self.0.waiting && state.most_waiting(caller).is_none()
    }

    /// Whether so many units are within what the caller may have: else only it can make room for itself.
    pub fn is_within_share(&self, caller: u64, units: u64) -> bool {
        let taken = self.lock().callers.get(&caller).map_or(0, |it| it.taken);
        taken + units.min(self.0.share) <= self.0.share
    }

    /// How much is taken now.
    pub fn usage(&self) -> Usage {
        let (units, state) = (self.0.units, self.lock());
        Usage { units, taken: units.saturating_sub(state.free), waiting: state.waiting }
    }

    /// Nothing is given any more.
    pub fn close(&self) {
        let mut state = self.lock();
        (state.is_closed, state.waiting) = (true, 0);
        state.order.clear();
        // Whose answer is dropped hears that.
        state.callers.values_mut().for_each(|it| it.waiting.clear());
    }

    fn take_at_once(&self, state: &mut State, caller: u64, units: u64) -> Option<Taken> {
        let units = units.min(self.0.share);
        let (taken, served) = state.callers.get(&caller).map_or((0, 0), |it| (it.taken, it.served));
        // Those who wait and are before it in the order keep what is free.
        let is_first = self.next(state).is_none_or(|next| (taken, served, caller) < next.0);
        let is_free = !state.is_closed && taken + units <= self.0.share && units <= state.free && is_first;
        is_free.then(|| self.give(state, caller, units))
    }

    /// The first in the order that does not wait for what it has itself, and what it wants.
    fn next(&self, state: &State) -> Option<((u64, u64, u64), u64)> {
        state.order.iter().find_map(|place| {
            let units = state.callers.get(&place.2)?.waiting.first_key_value()?.1.units;
            (place.0 + units <= self.0.share).then_some((*place, units))
        })
    }

    fn give(&self, state: &mut State, caller: u64, units: u64) -> Taken {
        state.free -= units;
        state.given += 1;
        let given = state.given;
        state.change(caller, |it| (it.taken, it.served) = (it.taken + units, given));
        Taken { turns: self.clone(), caller, units }
    }

    /// Queues it, if need be in the place of one whose caller has more waiting.
    fn queue(
        &self,
        state: &mut State,
        caller: u64,
        units: u64,
    ) -> Result<(u64, oneshot::Receiver<Taken>), Denied> {
        if state.is_closed {
            return Err(Denied::Closed);
        }
        if state.waiting >= self.0.waiting {
            let most = state.most_waiting(caller).ok_or(Denied::Crowded)?;
            state.change(most, |it| drop(it.waiting.pop_last()));
            state.waiting -= 1;
        }
        let (answer, answered) = oneshot::channel();
        state.asked += 1;
        state.waiting += 1;
        let number = state.asked;
        let waiter = Waiter { units: units.min(self.0.share), answer };
        state.change(caller, |it| drop(it.waiting.insert(number, waiter)));
        Ok((number, answered))
    }

    /// Gives what is free to those whose turn it is. What is returned must be sent without the lock.
    fn settle(&self, state: &mut State) -> Given {
        let mut given = Vec::new();
        loop {
            let next = self.next(state).map(|((.., caller), units)| (caller, units));
            // Nobody is passed by: what becomes free is kept for the first one.
            let Some((caller, units)) = next.filter(|(_, units)| *units <= state.free) else { return given };
            let mut first = None;
            state.change(caller, |it| first = it.waiting.pop_first());
            state.waiting -= 1;
            let taken = self.give(state, caller, units);
            given.extend(first.map(|(_, waiter)| (waiter.answer, taken)));
        }
    }

    /// Changes something, after which others may be served.
    fn settled(&self, change: impl FnOnce(&mut State)) {
        let given = {
            let mut state = self.lock();
            change(&mut state);
            if state.is_closed { Vec::new() } else { self.settle(&mut state) }
        };
        for (answer, taken) in given {
            // Who went away meanwhile gives it back.
            drop(answer.send(taken));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Changes what a caller has or waits for, and its place in the order.
    fn change(&mut self, caller: u64, change: impl FnOnce(&mut Standing)) {
        let standing = self.callers.entry(caller).or_default();
        self.order.remove(&(standing.taken, standing.served, caller));
        change(standing);
        if !standing.waiting.is_empty() {
            self.order.insert((standing.taken, standing.served, caller));
        } else if standing.taken == 0 {
            self.callers.remove(&caller);
        }
    }

    /// The caller that has most waiting, if that is more than this one would have.
    fn most_waiting(&self, caller: u64) -> Option<u64> {
        let own = self.callers.get(&caller).map_or(0, |it| it.waiting.len());
        let (most, standing) = self.callers.iter().max_by_key(|(_, it)| it.waiting.len())?;
        (standing.waiting.len() > own + 1).then_some(*most)
    }
}

/// Units that somebody has, until this is dropped.
#[derive(Debug)]
pub struct Taken {
    turns: Turns,
    caller: u64,
    units: u64,
}

impl Taken {
    /// How many.
    pub fn units(&self) -> u64 {
        self.units
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.turns.settled(|state| {
            state.free += self.units;
            state.change(self.caller, |it| it.taken -= self.units);
        });
    }
}

/// A place in the queue, which goes with its caller.
struct Place<'a> {
    turns: &'a Turns,
    caller: u64,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.turns.settled(|state| {
            let mut left = None;
            if state.callers.contains_key(&self.caller) {
                state.change(self.caller, |it| left = it.waiting.remove(&self.number));
            }
            state.waiting -= usize::from(left.is_some());
        });
    }
}

#[cfg(test)]
mod tests;
