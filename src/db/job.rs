//! A write as a value: what a call wants changed. Writes of one kind that wait are carried out as a set, in one transaction,
//! with as many statements as one of them needs.

use std::any::Any;
use std::any::TypeId;
use std::future::Future;
use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher as _;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use futures::FutureExt;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::db::Error;
use crate::db::audit;
use crate::db::audit::NewEntry;
use crate::db::connection::Connection;
use crate::db::metrics::Metrics;
use crate::db::tx::Tx;
use crate::domain::refusal::Refusal;

/// What became of one write of a set.
#[derive(Debug)]
pub(super) enum Outcome<T> {
    /// It is done; the caller hears so after the commit.
    Done(T),
    /// A rule says no, or its rows cannot be read. Of a set it has written nothing; a lone one is undone.
    Refused(Error),
    /// Its rows are locked by another process, or an earlier write of the set changes what it needs: it is carried out alone.
    Later,
}

impl<T, E: Into<Error>> From<Result<T, E>> for Outcome<T> {
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(answer) => Outcome::Done(answer),
            Err(error) => Outcome::Refused(error.into()),
        }
    }
}

/// Why a write of a set is not carried out now.
#[derive(Debug)]
pub(super) enum Unfit {
    /// A rule says no, or its rows cannot be read.
    Refused(Error),
    /// It is carried out alone.
    Later,
}

impl Unfit {
    /// Of a write whose row was not found: in a set another process may have it.
    pub(super) fn not_found(is_lone: bool, what: &str, name: &dyn std::fmt::Display) -> Unfit {
        if is_lone { Unfit::Refused(Refusal::not_found(what, name).into()) } else { Unfit::Later }
    }
}

impl<E: Into<Error>> From<E> for Unfit {
    fn from(error: E) -> Unfit {
        Unfit::Refused(error.into())
    }
}

impl<T> From<Unfit> for Outcome<T> {
    fn from(unfit: Unfit) -> Outcome<T> {
        match unfit {
            Unfit::Refused(error) => Outcome::Refused(error),
            Unfit::Later => Outcome::Later,
        }
    }
}

/// What one call wants changed, in one transaction.
pub(super) trait Write: Send + Sync + Sized + 'static {
    /// What the call is answered after the commit.
    type Answer: Send + 'static;
    /// Whether several of them may be one set.
    const IN_SETS: bool = true;
    /// Whether the audit log tells of it, where the call that makes it is one of which it tells.
    const AUDITED: bool = true;

    /// Whose turn it takes, and how much of it.
    fn turn(&self) -> Turn;

    /// Counts what it has done, once the commit is known.
    fn count(&self, _answer: &Self::Answer, _metrics: &Metrics) {}

    /// Carries a set out: one outcome each, in their order. It loads, decides and only then writes; an error is of all of them.
    fn run<'a>(
        set: &'a [&'a Self],
        tx: &'a mut Tx<'_>,
    ) -> impl Future<Output = Result<Vec<Outcome<Self::Answer>>, Error>> + Send + 'a;
}

/// Whose turn a write takes: callers take turns, so that one with many writes does not keep the others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    /// Who calls: today the run stands for its trainer.
    pub(super) caller: u64,
    /// What it locks first and last. Of writes that share one of these a single transaction is under way.
    pub(super) lanes: [Option<u64>; 2],
    /// About how many rows it reads and writes.
    pub(super) rows: usize,
    /// Whether a training stands still until it is answered: it does not wait behind uploads.
    pub(super) is_report: bool,
}

impl Turn {
    /// The caller that is the service itself.
    pub(super) const OWN: u64 = 0;

    /// Of a call about `who`, for example a run, whose row it locks.
    pub(super) fn of(who: &impl Hash, rows: usize) -> Turn {
        let caller = lane(who);
        Turn { caller, lanes: [Some(caller), None], rows, is_report: false }
    }

    /// Of the service's own work, which locks nothing that others wait for.
    pub(super) fn own(rows: usize) -> Turn {
        Turn { caller: Turn::OWN, lanes: [None, None], rows, is_report: false }
    }
}

/// The number by which a lane is told from others.
pub(super) fn lane(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    // Zero is the service itself.
    hasher.finish().max(1)
}

/// A write in the queue, with its caller.
pub(super) trait Job: Any + Send {
    fn turn(&self) -> Turn;
    /// Writes of the same kind may be one set; none: this one is carried out alone.
    fn kind(&self) -> Option<TypeId>;
    /// When it must have begun.
    fn until(&self) -> Option<Instant>;
    /// Takes it from its caller, who may have gone away or waited too long: then there is nothing to do.
    fn take(&mut self) -> bool;
    /// Carries it out with others of its kind.
    fn run<'a>(
        &'a mut self,
        others: &'a mut [Box<dyn Job>],
        tx: &'a mut Tx<'_>,
    ) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>>;
    /// An error that is this lone write's.
    fn refuse(&mut self, error: Error);
    /// Whether what it did stays. `None`: it is to be carried out again, alone.
    fn stands(&self) -> Option<bool>;
    /// Carries it out alone next time.
    fn set_alone(&mut self);
    /// Answers the caller, once the commit is known.
    fn answer(self: Box<Self>, committed: Result<(), Error>, metrics: &Metrics);
}

struct Pending<W: Write> {
    write: W,
    /// What the audit log is to say of it.
    entry: Option<Arc<NewEntry>>,
    turn: Turn,
    is_alone: bool,
    has_begun: bool,
    until: Option<Instant>,
    is_taken: Arc<AtomicBool>,
    outcome: Outcome<W::Answer>,
    caller: oneshot::Sender<Result<W::Answer, Error>>,
}

/// A caller's end of a write in the queue.
pub(super) struct Waiting<T> {
    pub(super) answer: oneshot::Receiver<Result<T, Error>>,
    is_taken: Arc<AtomicBool>,
}

impl<T> Waiting<T> {
    /// Takes the write back; false: it has begun.
    pub(super) fn take_back(&self) -> bool {
        !self.is_taken.swap(true, Ordering::AcqRel)
    }
}

/// A write for the queue, and its caller's end.
pub(super) fn job<W: Write>(
    write: W,
    entry: Option<Arc<NewEntry>>,
    until: Option<Instant>,
) -> (Box<dyn Job>, Waiting<W::Answer>) {
    let (caller, answer) = oneshot::channel();
    let is_taken = Arc::new(AtomicBool::new(false));
    let pending = Pending {
        turn: write.turn(),
        write,
        entry,
        is_alone: !W::IN_SETS,
        has_begun: false,
        until,
        is_taken: Arc::clone(&is_taken),
        outcome: Outcome::Later,
        caller,
    };
    (Box::new(pending), Waiting { answer, is_taken })
}

impl<W: Write> Job for Pending<W> {
    fn turn(&self) -> Turn {
        self.turn
    }

    fn kind(&self) -> Option<TypeId> {
        (!self.is_alone).then(TypeId::of::<W>)
    }

    fn until(&self) -> Option<Instant> {
        self.until
    }

    fn take(&mut self) -> bool {
        // Nobody was promised anything, and the caller may have repeated the call: begun now, it would come after its own
        // repeat, and a stream that is gone would take its file from the one that goes on.
        if self.caller.is_closed() || (!self.has_begun && self.is_taken.swap(true, Ordering::AcqRel)) {
            return false;
        }
        self.has_begun = true;
        true
    }

    fn run<'a>(
        &'a mut self,
        others: &'a mut [Box<dyn Job>],
        tx: &'a mut Tx<'_>,
    ) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>> {
        Box::pin(async move {
            let others: Vec<&mut Pending<W>> = others
                .iter_mut()
                .filter_map(|job| {
                    let job: &mut dyn Any = &mut **job;
                    job.downcast_mut()
                })
                .collect();
            let mut set: Vec<&mut Pending<W>> = Vec::with_capacity(others.len() + 1);
            set.push(self);
            set.extend(others);
            let writes: Vec<&W> = set.iter().map(|pending| &pending.write).collect();
            let outcomes = guarded(W::run(&writes, tx)).await?;
            if outcomes.len() != set.len() {
                return Err(Error::unreadable("set", "not each of its writes has an outcome"));
            }
            let mut entries = Vec::new();
            for (pending, outcome) in set.into_iter().zip(outcomes) {
                entries.extend(pending.entry.as_ref().filter(|_| matches!(outcome, Outcome::Done(_))));
                pending.outcome = outcome;
            }
            audit::append(tx, &entries).await
        })
    }

    fn refuse(&mut self, error: Error) {
        self.outcome = Outcome::Refused(error);
    }

    fn stands(&self) -> Option<bool> {
        match self.outcome {
            Outcome::Done(_) => Some(true),
            Outcome::Refused(_) => Some(false),
            Outcome::Later => None,
        }
    }

    fn set_alone(&mut self) {
        self.is_alone = true;
        self.until = None;
        self.outcome = Outcome::Later;
    }

    fn answer(self: Box<Self>, committed: Result<(), Error>, metrics: &Metrics) {
        let result = match (self.outcome, committed) {
            (Outcome::Refused(refused), _) => Err(refused),
            (_, Err(error)) => Err(error),
            (Outcome::Done(answer), Ok(())) => {
                self.write.count(&answer, metrics);
                Ok(answer)
            }
            (Outcome::Later, Ok(())) => Err(Error::stopped()),
        };
        // The caller may be gone; the work stands all the same.
        drop(self.caller.send(result));
    }
}

/// A panic is an error of this set alone.
async fn guarded<T>(run: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match AssertUnwindSafe(run).catch_unwind().await {
        Ok(result) => result,
        Err(_) => Err(Error::Internal(sqlx::Error::Protocol("a write panicked".to_owned()))),
    }
}

/// A future that a closure makes over the connection it is lent.
pub(super) type WorkFuture<'c, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'c>>;

/// A write as a closure, for what is rare and needs no set.
pub(super) trait Work<T>:
    for<'a, 'c> FnOnce(&'a mut Connection<'c>) -> WorkFuture<'a, T> + Send + 'static
{
}
impl<T, F> Work<T> for F where
    F: for<'a, 'c> FnOnce(&'a mut Connection<'c>) -> WorkFuture<'a, T> + Send + 'static
{
}

/// A closure in the queue.
pub(super) struct Rare<T, F> {
    work: Mutex<Option<F>>,
    turn: Turn,
    answer: std::marker::PhantomData<fn() -> T>,
}

impl<T, F> Rare<T, F> {
    pub(super) fn new(work: F, turn: Turn) -> Rare<T, F> {
        Rare { work: Mutex::new(Some(work)), turn, answer: std::marker::PhantomData }
    }
}

impl<T: Send + 'static, F: Work<T>> Write for Rare<T, F> {
    type Answer = T;
    const IN_SETS: bool = false;

    fn turn(&self) -> Turn {
        self.turn
    }

    async fn run(set: &[&Self], tx: &mut Tx<'_>) -> Result<Vec<Outcome<T>>, Error> {
        let mut outcomes = Vec::with_capacity(set.len());
        for rare in set {
            let work = rare.work.lock().unwrap_or_else(PoisonError::into_inner).take();
            let work = work.ok_or_else(Error::stopped)?;
            outcomes.push(Outcome::Done(work(tx.connection()).await?));
        }
        Ok(outcomes)
    }
}
