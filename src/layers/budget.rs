//! A sum of bytes that bodies of all peers share: taken as bytes come, given back when they are used.
//!
//! Nobody keeps the others out: a peer has at most half of it, small bodies have a part of their own, and when there is no
//! room a body that was slow gives way.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::task::ready;
use std::time::Duration;

use tokio::time::Instant;
use tokio::time::Sleep;

use crate::domain::refusal::Refusal;
use crate::layers::peer::Peer;
use crate::metrics::Counter;
use crate::metrics::Text;

/// Bytes are taken in steps of this, so that a small body takes once.
const STEP_BYTES: u64 = 16 << 10;
/// A body of no more has the part that larger ones leave: most calls are below 1 KiB.
const SMALL_BYTES: u64 = 64 << 10;
/// The part of the sum that is for small bodies alone.
const SMALL_PART: u64 = 8;
/// The part that one peer may have.
const PEER_PART: u64 = 2;
/// A body that is not whole after this gives way when others need its room: 4 MiB at 4 MB/s.
const SLOW: Duration = Duration::from_secs(1);
/// An answer that then is still there cannot end by itself: its connection is cut.
pub(super) const STUCK: Duration = Duration::from_secs(5);
/// Requests that wait for room. Each has as much on the way as its stream's window holds, 4 MiB, which is in no sum.
const WAITING_REQUESTS: usize = 16;
/// Answers that wait for room: each is in memory, up to 4 MiB of it, in no sum.
const WAITING_ANSWERS: usize = 4;
/// A body that waits looks again after this: another one may have become slow.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// So often, and then its caller is told to come back.
const LOOKS: usize = 5;
/// When a caller that found no room should come back.
pub(super) const RETRY: Duration = Duration::from_secs(2);

/// The sum.
#[derive(Debug)]
pub struct Budget {
    bytes: u64,
    waiting: usize,
    /// Whether a body may be one that nobody asks, so that it cannot end.
    cuts: bool,
    state: Mutex<State>,
    refusals: Counter,
}

#[derive(Debug, Default)]
struct State {
    taken: u64,
    of_peers: BTreeMap<u64, u64>,
    next: u64,
    claims: BTreeMap<u64, Entry>,
    /// Who waits for room, by the claim's number.
    waiting: BTreeMap<u64, Waker>,
}

#[derive(Debug)]
struct Entry {
    peer: Peer,
    taken: u64,
    /// Since when it takes bytes that are of no use before the last of them; none: it is whole.
    since: Option<Instant>,
    /// Since when it should have ended for others.
    gave_way: Option<Instant>,
    waker: Option<Waker>,
}

impl Budget {
    /// A sum of so many bytes for requests.
    pub fn of_requests(bytes: u64) -> Budget {
        Budget::new(bytes, WAITING_REQUESTS, false)
    }

    /// A sum of so many bytes for answers.
    pub fn of_answers(bytes: u64) -> Budget {
        Budget::new(bytes, WAITING_ANSWERS, true)
    }

    fn new(bytes: u64, waiting: usize, cuts: bool) -> Budget {
        Budget { bytes, waiting, cuts, state: Mutex::default(), refusals: Counter::default() }
    }

    /// Tells how the sum is used, which is of `buffers`.
    pub fn tell(&self, text: &mut Text, buffers: &str) {
        let (labels, state) = ([("buffers", buffers)], self.lock());
        text.gauge("keepbest_buffer_limit_bytes", "Room for bytes in memory, taken or not.")
            .put(&labels, self.bytes);
        text.gauge("keepbest_buffer_used_bytes", "Room for bytes in memory that is taken.")
            .put(&labels, state.taken);
        text.gauge("keepbest_buffer_waiting", "Who waits for room.").put(&labels, state.waiting.len() as u64);
        text.counter(
            "keepbest_buffer_refusals_total",
            "Calls that found no room and were told to come back.",
        )
        .put(&labels, &self.refusals);
    }

    /// A body's share, which is empty at first.
    pub(super) fn claim(self: &Arc<Budget>, peer: &Peer) -> Claim {
        let mut state = self.lock();
        state.next += 1;
        let number = state.next;
        state
            .claims
            .insert(number, Entry { peer: peer.clone(), taken: 0, since: None, gave_way: None, waker: None });
        Claim { budget: Arc::clone(self), number }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Whether a peer may have so many bytes more.
    fn has_room(&self, state: &State, peer: u64, is_small: bool, more: u64) -> bool {
        let most = if is_small { self.bytes } else { self.bytes - self.bytes / SMALL_PART };
        state.taken + more <= most && self.is_within_part(state, peer, more)
    }

    /// Whether a peer with so many bytes more would have no more than its part.
    fn is_within_part(&self, state: &State, peer: u64, more: u64) -> bool {
        state.of_peers.get(&peer).copied().unwrap_or(0) + more <= self.bytes / PEER_PART
    }
}

impl State {
    /// The body that gives way: of those that are slow the oldest of the peer that has most, or of one peer alone.
    fn slowest(&mut self, now: Instant, cuts: bool, of: Option<u64>) -> Option<&mut Entry> {
        let is_over = |since: Option<Instant>, most| since.is_some_and(|it| now.duration_since(it) >= most);
        let stuck = self.claims.values().filter(|it| cuts && it.taken > 0 && is_over(it.gave_way, STUCK));
        for stuck in stuck {
            stuck.peer.cut();
        }
        let of_peers = &self.of_peers;
        let slow = self
            .claims
            .values_mut()
            .filter(|it| it.gave_way.is_none() && it.taken > 0 && is_over(it.since, SLOW))
            .filter(|it| of.is_none_or(|peer| it.peer.number() == peer));
        slow.max_by_key(|it| (of_peers.get(&it.peer.number()), std::cmp::Reverse(it.since)))
    }

    /// Gives bytes of a peer back.
    fn give_back(&mut self, peer: u64, bytes: u64) {
        if bytes == 0 {
            return;
        }
        self.taken -= bytes;
        if let Some(of_peer) = self.of_peers.get_mut(&peer) {
            *of_peer -= bytes;
            if *of_peer == 0 {
                self.of_peers.remove(&peer);
            }
        }
        self.wake_waiting();
    }

    fn wake_waiting(&mut self) {
        std::mem::take(&mut self.waiting).into_values().for_each(Waker::wake);
    }
}

/// What one body has of the sum.
#[derive(Debug)]
pub(super) struct Claim {
    budget: Arc<Budget>,
    number: u64,
}

impl Claim {
    /// Grows to hold so many bytes, waits for room, or is refused. `announced`: how many it will be.
    pub(super) fn poll_grow(
        &self,
        bytes: u64,
        announced: u64,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Refusal>> {
        let mut state = self.budget.lock();
        let Some(entry) = state.claims.get_mut(&self.number) else { return Poll::Ready(Ok(())) };
        if entry.gave_way.is_some() {
            return Poll::Ready(Err(self.overloaded()));
        }
        entry.since.get_or_insert_with(Instant::now);
        let peer = entry.peer.number();
        let more = bytes.next_multiple_of(STEP_BYTES).saturating_sub(entry.taken);
        if more == 0 || self.budget.has_room(&state, peer, announced <= SMALL_BYTES, more) {
            state.taken += more;
            *state.of_peers.entry(peer).or_default() += more;
            state.waiting.remove(&self.number);
            if let Some(entry) = state.claims.get_mut(&self.number) {
                entry.taken += more;
            }
            return Poll::Ready(Ok(()));
        }
        // Where it is the peer's own part that has no room, only what the peer has can make some.
        let of = (!self.budget.is_within_part(&state, peer, more)).then_some(peer);
        if let Some(slowest) = state.slowest(Instant::now(), self.budget.cuts, of) {
            slowest.gave_way = Some(Instant::now());
            slowest.waker.take().into_iter().for_each(Waker::wake);
        }
        if state.waiting.len() >= self.budget.waiting && !state.waiting.contains_key(&self.number) {
            return Poll::Ready(Err(self.overloaded()));
        }
        state.waiting.insert(self.number, context.waker().clone());
        Poll::Pending
    }

    /// The refusal of a body for which there is no room.
    pub(super) fn overloaded(&self) -> Refusal {
        self.budget.refusals.add(1);
        let message = "the server holds as many bytes of requests and answers as its memory allows: come back in a moment";
        Refusal::exhausted("OVERLOADED", message).retry_after(RETRY)
    }

    /// The most that it can have.
    pub(super) fn most(&self) -> u64 {
        self.budget.bytes / PEER_PART
    }

    /// Whether it must give way to others; if not yet, the task is woken when it must.
    pub(super) fn gave_way(&self, context: &Context<'_>) -> bool {
        let mut state = self.budget.lock();
        let Some(entry) = state.claims.get_mut(&self.number) else { return false };
        entry.waker = Some(context.waker().clone());
        entry.gave_way.is_some()
    }

    /// Its bytes are whole: it is slow no more.
    pub(super) fn is_whole(&self) {
        if let Some(entry) = self.budget.lock().claims.get_mut(&self.number) {
            (entry.since, entry.waker) = (None, None);
        }
    }

    /// It moves: only from now on it may become slow.
    pub(super) fn goes_on(&self) {
        if let Some(entry) = self.budget.lock().claims.get_mut(&self.number) {
            entry.since = Some(Instant::now());
        }
    }

    /// Gives back what it has beyond so many bytes, which are the first of something new.
    pub(super) fn shrink(&self, bytes: u64) {
        let mut state = self.budget.lock();
        if let Some(entry) = state.claims.get_mut(&self.number) {
            let kept = bytes.next_multiple_of(STEP_BYTES).min(entry.taken);
            let (peer, given) = (entry.peer.number(), entry.taken - kept);
            (entry.taken, entry.since) = (kept, (kept > 0).then(Instant::now));
            state.give_back(peer, given);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.budget.lock();
        state.waiting.remove(&self.number);
        if let Some(entry) = state.claims.remove(&self.number) {
            state.give_back(entry.peer.number(), entry.taken);
        }
    }
}

/// How long a body waits for room.
pub(super) struct Wait {
    looks: usize,
    sleep: Pin<Box<Sleep>>,
}

impl Wait {
    pub(super) fn begin() -> Wait {
        Wait { looks: 0, sleep: Box::pin(tokio::time::sleep(LOOK_AGAIN)) }
    }

    pub(super) fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<()> {
        ready!(self.sleep.as_mut().poll(context));
        self.looks += 1;
        if self.looks >= LOOKS {
            return Poll::Ready(());
        }
        self.sleep.as_mut().reset(Instant::now() + LOOK_AGAIN);
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn grow(claim: &Claim, bytes: u64) -> Poll<Result<(), Refusal>> {
        claim.poll_grow(bytes, bytes, &mut Context::from_waker(Waker::noop()))
    }

    fn gets(claim: &Claim, bytes: u64) -> bool {
        matches!(grow(claim, bytes), Poll::Ready(Ok(())))
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_has_half_and_small_bodies_a_part_of_their_own() {
        let budget = Arc::new(Budget::of_requests(16 * MIB));
        let [first, second, third] = [1, 1, 2].map(|peer| budget.claim(&Peer::new(peer)));
        assert!(gets(&first, 8 * MIB) && !gets(&second, STEP_BYTES));
        assert!(gets(&third, 6 * MIB) && !gets(&third, 7 * MIB));
        let small: Vec<Claim> = (0..32).map(|peer| budget.claim(&Peer::new(10 + peer))).collect();
        assert!(small.iter().all(|it| gets(it, SMALL_BYTES)));
        assert!(!gets(&budget.claim(&Peer::new(50)), 1));
        drop(first);
        assert!(gets(&second, 6 * MIB));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_body_gives_way_and_one_that_is_whole_does_not() {
        let budget = Arc::new(Budget::of_answers(16 * MIB));
        let peer = Peer::new(2);
        let [whole, new] = [1, 3].map(|peer| budget.claim(&Peer::new(peer)));
        let slow = budget.claim(&peer);
        assert!(gets(&whole, 8 * MIB) && gets(&slow, 6 * MIB));
        whole.is_whole();
        let context = Context::from_waker(Waker::noop());
        assert!(grow(&new, 4 * MIB).is_pending() && !slow.gave_way(&context));
        tokio::time::advance(SLOW).await;
        assert!(grow(&new, 4 * MIB).is_pending());
        assert!(slow.gave_way(&context) && !whole.gave_way(&context));
        assert!(matches!(grow(&slow, 7 * MIB), Poll::Ready(Err(_))));
        // It does not end: then its connection does.
        tokio::time::advance(STUCK).await;
        assert!(grow(&new, 4 * MIB).is_pending() && peer.poll_cut(&context).is_ready());
        drop(slow);
        assert!(gets(&new, 4 * MIB));
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_wait_and_what_shrinks_gives_back() {
        let budget = Arc::new(Budget::of_requests(16 * MIB));
        let [one, two] = [1, 2].map(|peer| budget.claim(&Peer::new(peer)));
        assert!(gets(&one, 8 * MIB) && gets(&two, 6 * MIB));
        let waiting: Vec<Claim> = (0..17).map(|peer| budget.claim(&Peer::new(10 + peer))).collect();
        assert!(waiting[..WAITING_REQUESTS].iter().all(|it| grow(it, MIB).is_pending()));
        assert!(matches!(grow(&waiting[WAITING_REQUESTS], MIB), Poll::Ready(Err(_))));
        one.shrink(1);
        assert!(waiting[..7].iter().all(|it| gets(it, MIB)) && grow(&waiting[7], MIB).is_pending());
        drop((one, two, waiting));
        let state = budget.lock();
        assert!(state.taken == 0 && state.of_peers.is_empty() && state.waiting.is_empty());
    }
}
