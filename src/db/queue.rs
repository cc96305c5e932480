//! Writes that wait: callers take turns, reports and other short writes have lanes of their own, and a transaction takes no more
//! work than the others can wait for.

use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::sync::Notify;

use crate::db::Error;
use crate::db::job::Job;
use crate::db::job::Turn;
use crate::domain::refusal::Refusal;

/// Writes that wait, all callers together; each is a call that holds its request, a few KiB.
const MOST: usize = 16_384;
/// Writes of one caller that wait.
const MOST_OF_A_CALLER: usize = 1_024;
/// A write of at most so many rows is short: a report, a save of one file, its commit.
const SHORT_ROWS: usize = 40;
/// Rows of one kind of short writes in one transaction: 10 ms of SQLite's work for reports, and few round trips to Postgres.
const ALIKE_WORK: usize = 2_048;
/// Rows of short writes of all kinds but reports in one transaction on SQLite: 10 ms of its work.
const MIXED_WORK: usize = 256;
/// Rows of one kind of writes between two looks for reports in a transaction on SQLite: 2 ms of its work, which a report waits for.
pub(super) const ROWS_BETWEEN_REPORTS: usize = 64;
/// Rows of long writes in one transaction: 2 ms of SQLite's work, for which a short write has to wait once or twice.
const LONG_WORK: usize = 512;
/// When a caller that found the queue full should come back.
const RETRY: Duration = Duration::from_secs(1);

/// Which writes may share a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mix {
    /// Any: each kind is a set of its own, and one sync serves all.
    Kinds,
    /// Those of one kind, so that a transaction is as few round trips as its kind needs. Long ones have so many transactions
    /// at most.
    OneKind { long: usize },
}

/// Writes that wait for a transaction.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Default)]
struct Waiting {
    /// Short reports: a training waits for each of them.
    reports: Ring,
    /// Whether the newest transaction took reports before anything else: then it is the others' turn.
    were_reports: bool,
    short: Ring,
    long: Ring,
    /// Lanes of transactions that are under way.
    busy: HashSet<u64>,
    /// Transactions with long writes that are under way.
    long_under_way: usize,
    is_closed: bool,
}

/// Writes by their callers, who take turns.
#[derive(Default)]
struct Ring {
    turns: VecDeque<u64>,
    jobs: HashMap<u64, VecDeque<Box<dyn Job>>>,
    count: usize,
}

/// What one transaction carries out.
pub(super) struct Batch {
    pub(super) jobs: Vec<Box<dyn Job>>,
    pub(super) hold: Hold,
}

/// What a transaction keeps while it is under way.
pub(super) struct Hold {
    lanes: HashSet<u64>,
    is_long: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a write wait.
    pub(super) fn push(&self, job: Box<dyn Job>) -> Result<(), Error> {
        let mut waiting = self.lock();
        if waiting.is_closed {
            return Err(Error::stopped());
        }
        let turn = job.turn();
        let is_full = waiting.reports.count + waiting.short.count + waiting.long.count >= MOST;
        let ring = waiting.ring(turn);
        // The service's own writes are parts of calls that were let in.
        let is_crowd = turn.caller != Turn::OWN
            && ring.jobs.get(&turn.caller).is_some_and(|jobs| jobs.len() >= MOST_OF_A_CALLER);
        if is_full || is_crowd {
            let message = "too many writes wait for the database: come back in a moment";
            return Err(Refusal::exhausted("OVERLOADED", message).retry_after(RETRY).into());
        }
        ring.push(turn.caller, job, false);
        drop(waiting);
        self.changed.notify_one();
        Ok(())
    }

    /// A transaction is over: its lanes are free.
    pub(super) fn release(&self, hold: Hold) {
        let mut waiting = self.lock();
        for lane in hold.lanes {
            waiting.busy.remove(&lane);
        }
        waiting.long_under_way -= usize::from(hold.is_long);
        drop(waiting);
        self.changed.notify_one();
    }

    /// Takes writes back that were to be carried out and were not; they come first.
    pub(super) fn put_back(&self, jobs: Vec<Box<dyn Job>>) {
        let mut waiting = self.lock();
        for job in jobs.into_iter().rev() {
            let turn = job.turn();
            waiting.ring(turn).push(turn.caller, job, true);
        }
        drop(waiting);
        self.changed.notify_one();
    }

    /// The reports that came while SQLite's transaction is under way, for that transaction. Their lanes do not matter: it is the
    /// only one, and carries its writes out one after the other.
    pub(super) fn take_reports(&self) -> Vec<Box<dyn Job>> {
        let mut jobs = Vec::new();
        self.lock().reports.take(ALIKE_WORK, &mut jobs, |_, _| true);
        jobs
    }

    /// What the next transaction carries out, if anything may begin.
    pub(super) fn take(&self, mix: Mix) -> Option<Batch> {
        let mut waiting = self.lock();
        let Waiting { reports, were_reports, short, long, busy, long_under_way, .. } = &mut *waiting;
        let mut jobs = Vec::new();
        let mut is_long = false;
        let may_join = |taken: &[Box<dyn Job>], job: &dyn Job| {
            let is_alike = mix == Mix::Kinds
                || taken.first().is_none_or(|it| it.kind().is_some() && it.kind() == job.kind());
            is_alike && is_free(busy, job.turn())
        };
        if !*were_reports {
            reports.take(ALIKE_WORK, &mut jobs, may_join);
        }
        *were_reports = !jobs.is_empty();
        match mix {
            _ if *were_reports => {}
            Mix::Kinds => {
                short.take(MIXED_WORK, &mut jobs, may_join);
                let before = jobs.len();
                long.take(LONG_WORK, &mut jobs, may_join);
                is_long = jobs.len() > before;
            }
            Mix::OneKind { long: most } => {
                // Of the long ones one is always under way, however many short ones come.
                if *long_under_way == 0 {
                    long.take(LONG_WORK, &mut jobs, may_join);
                    is_long = !jobs.is_empty();
                }
                if jobs.is_empty() {
                    short.take(ALIKE_WORK, &mut jobs, may_join);
                }
                if jobs.is_empty() && *long_under_way < most {
                    long.take(LONG_WORK, &mut jobs, may_join);
                    is_long = !jobs.is_empty();
                }
            }
        }
        if jobs.is_empty() {
            // Nobody else's turn was there to be taken.
            reports.take(ALIKE_WORK, &mut jobs, may_join);
            *were_reports = !jobs.is_empty();
        }
        if jobs.is_empty() {
            return None;
        }
        let lanes: HashSet<u64> = jobs.iter().flat_map(|job| job.turn().lanes).flatten().collect();
        busy.extend(&lanes);
        *long_under_way += usize::from(is_long);
        Some(Batch { jobs, hold: Hold { lanes, is_long } })
    }

    /// The next batch; none once the queue is closed and empty.
    pub(super) async fn next(&self, mix: Mix) -> Option<Batch> {
        loop {
            let changed = self.changed.notified();
            if let Some(batch) = self.take(mix) {
                return Some(batch);
            }
            if self.lock().is_closed {
                return None;
            }
            changed.await;
        }
    }

    /// How many writes wait, in the order of [`Turn::KINDS`].
    pub(super) fn waiting(&self) -> [usize; 3] {
        let waiting = self.lock();
        [waiting.reports.count, waiting.short.count, waiting.long.count]
    }

    /// Nothing more comes in; what waits is still carried out.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_one();
    }

    /// Nothing more comes in, and what waits is given up: its callers hear that it was not done.
    pub(super) fn abandon(&self) {
        let mut waiting = self.lock();
        waiting.is_closed = true;
        let Waiting { reports, short, long, .. } = &mut *waiting;
        let rings = [reports, short, long].map(std::mem::take);
        drop(waiting);
        // Who waits for one of them is told by its end of the channel, which is dropped with it.
        drop(rings);
        self.changed.notify_one();
    }

    /// Whether a write of this turn waits for rows that another one keeps, and not for a connection.
    pub(super) fn is_busy(&self, turn: Turn) -> bool {
        !is_free(&self.lock().busy, turn)
    }
}

fn is_free(busy: &HashSet<u64>, turn: Turn) -> bool {
    !turn.lanes.iter().flatten().any(|lane| busy.contains(lane))
}

impl Turn {
    /// The kinds of writes, as they are told.
    pub(super) const KINDS: [&str; 3] = ["report", "short", "long"];

    /// Its place among the kinds.
    pub(super) fn kind(self) -> usize {
        match self {
            Turn { rows, .. } if rows > SHORT_ROWS => 2,
            Turn { is_report: true, .. } => 0,
            Turn { is_report: false, .. } => 1,
        }
    }
}

impl Waiting {
    fn ring(&mut self, turn: Turn) -> &mut Ring {
        match turn.kind() {
            0 => &mut self.reports,
            1 => &mut self.short,
            _ => &mut self.long,
        }
    }
}

impl Ring {
    fn push(&mut self, caller: u64, job: Box<dyn Job>, is_first: bool) {
        let jobs = self.jobs.entry(caller).or_default();
        match (jobs.is_empty(), is_first) {
            (true, true) => self.turns.push_front(caller),
            (true, false) => self.turns.push_back(caller),
            (false, _) => {}
        }
        if is_first {
            jobs.push_front(job)
        } else {
            jobs.push_back(job)
        }
        self.count += 1;
    }

    /// Takes one write of each caller in turn, as long as it may join what is taken and the rows are not used up. The first
    /// one may have more rows than that.
    fn take(
        &mut self,
        rows: usize,
        taken: &mut Vec<Box<dyn Job>>,
        may_join: impl Fn(&[Box<dyn Job>], &dyn Job) -> bool,
    ) {
        let before = taken.len();
        let mut left = rows;
        // How many callers in a row had none.
        let mut passed = 0;
        while passed < self.turns.len() && left > 0 {
            let Some(caller) = self.turns.pop_front() else { break };
            let Some(jobs) = self.jobs.get_mut(&caller) else { continue };
            let is_next =
                |job: &dyn Job| (job.turn().rows <= left || taken.len() == before) && may_join(taken, job);
            match jobs.pop_front() {
                Some(mut job) if is_next(&*job) => {
                    self.count -= 1;
                    passed = 0;
                    if job.take() {
                        left = left.saturating_sub(job.turn().rows.max(1));
                        taken.push(job);
                    }
                }
                job => {
                    passed += 1;
                    jobs.extend(job);
                    jobs.rotate_right(1);
                }
            }
            if jobs.is_empty() {
                self.jobs.remove(&caller);
            } else {
                self.turns.push_back(caller);
            }
        }
    }
}
