//! Write transactions: who runs them, and what becomes of each write when one of them, or all, fail.
//!
//! A write that has begun runs to its end even if its caller goes away: sqlx 0.9.0 can lose later acknowledged writes when a future is
//! dropped inside a transaction, and tonic drops handlers whenever a client cancels.
//!
//! SQLite has one writer: it takes writes of all kinds that wait, and commits them with one sync. On Postgres as many tasks as
//! there are connections for writes each take those of one kind. Either way an answer leaves after its commit.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use sqlx::Connection as _;
use sqlx::SqliteConnection;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::db::Error;
use crate::db::audit::NewEntry;
use crate::db::connection::Connection;
use crate::db::job::Job;
use crate::db::job::Write;
use crate::db::job::job;
use crate::db::metrics::Metrics;
use crate::db::postgres::Pool;
use crate::db::postgres::in_time;
use crate::db::queue::Batch;
use crate::db::queue::Mix;
use crate::db::queue::Queue;
use crate::db::queue::ROWS_BETWEEN_REPORTS;
use crate::db::tx::Tx;
use crate::failpoint::failpoint;

/// How long a process that ends waits for its writer. A disk that answers nothing must not keep it; the next start copies the log.
const CLOSE: Duration = Duration::from_secs(10);

/// The one way in which anything is changed.
pub(super) struct Writer {
    queue: Arc<Queue>,
    postgres: Option<Arc<Tasks>>,
    statements: Arc<AtomicU64>,
    /// Cancelled once SQLite's connection is closed; on Postgres none is the writer's own.
    closed: CancellationToken,
}

/// Tasks that carry out writes on Postgres.
struct Tasks {
    pool: Pool,
    queue: Arc<Queue>,
    running: AtomicUsize,
    statements: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Writer {
    /// Takes the connection over and carries writes out until the last one after this is dropped.
    ///
    /// It has a thread of its own: a transaction is some ten turns between it and the connection's thread, and on the threads that
    /// serve calls each turn would wait behind whatever they have to do, and all that wait for the transaction with it.
    pub(super) fn on_sqlite(
        connection: SqliteConnection,
        unsynced: CancellationToken,
        metrics: Arc<Metrics>,
    ) -> Result<Writer, Error> {
        let (queue, statements) = (Arc::new(Queue::default()), Arc::new(AtomicU64::new(0)));
        let closed = CancellationToken::new();
        let guard = closed.clone().drop_guard();
        let serving = serve(connection, Arc::clone(&queue), unsynced, Arc::clone(&statements), metrics);
        // With a clock, since failpoints sleep.
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(sqlx::Error::Io)?;
        let thread = std::thread::Builder::new().name("keepbest-writer".to_owned());
        let serving = move || {
            runtime.block_on(serving);
            drop(guard);
        };
        thread.spawn(serving).map_err(sqlx::Error::Io)?;
        Ok(Writer { queue, postgres: None, statements, closed })
    }

    pub(super) fn on_postgres(pool: Pool, metrics: Arc<Metrics>) -> Writer {
        let (queue, statements) = (Arc::new(Queue::default()), Arc::new(AtomicU64::new(0)));
        let tasks = Tasks {
            pool,
            queue: Arc::clone(&queue),
            running: AtomicUsize::new(0),
            statements: Arc::clone(&statements),
            metrics,
        };
        let closed = CancellationToken::new();
        closed.cancel();
        Writer { queue, postgres: Some(Arc::new(tasks)), statements, closed }
    }

    /// Lets what waits be carried out, and closes SQLite's connection, which copies the log into the database.
    pub(super) async fn close(&self) {
        self.queue.close();
        drop(tokio::time::timeout(CLOSE, self.closed.cancelled()).await);
    }

    /// Statements of all transactions so far, without those that begin and end one.
    pub(super) fn statements(&self) -> u64 {
        self.statements.load(Ordering::Relaxed)
    }

    /// How many writes of each kind wait.
    pub(super) fn waiting(&self) -> [usize; 3] {
        self.queue.waiting()
    }

    /// Queues a write and waits for its commit.
    pub(super) async fn write<W: Write>(
        &self,
        write: W,
        entry: Option<Arc<NewEntry>>,
    ) -> Result<W::Answer, Error> {
        let turn = write.turn();
        let until = self.postgres.as_ref().map(|tasks| tasks.pool.turn_until());
        let (job, mut waiting) = job(write, entry, until);
        self.queue.push(job)?;
        if let Some(tasks) = &self.postgres {
            tasks.wake();
        }
        if let Some(until) = until {
            tokio::select! {
                answer = &mut waiting.answer => return answered(answer),
                () = tokio::time::sleep_until(until) => {}
            }
            if waiting.take_back() {
                let late = Arc::new(sqlx::Error::PoolTimedOut);
                return Err(if self.queue.is_busy(turn) {
                    Error::Busy(late)
                } else {
                    Error::Unavailable(late)
                });
            }
        }
        answered(waiting.answer.await)
    }
}

/// A write that took too long may well be done the next time: others were in the way, or the database had too much to do.
fn answered<T>(answer: Result<Result<T, Error>, oneshot::error::RecvError>) -> Result<T, Error> {
    match answer {
        Ok(Err(Error::Late(error))) => Err(Error::Busy(error)),
        Ok(answer) => answer,
        Err(_) => Err(Error::stopped()),
    }
}

async fn serve(
    mut connection: SqliteConnection,
    queue: Arc<Queue>,
    unsynced: CancellationToken,
    statements: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
) {
    while let Some(Batch { jobs, hold }) = queue.next(Mix::Kinds).await {
        let mut left = sets_of(jobs, ROWS_BETWEEN_REPORTS);
        // What a transaction leaves for the sake of reports is next, before anything else: nothing is left for good.
        while !left.is_empty() {
            let (mut sets, begin) = (std::mem::take(&mut left), Instant::now());
            let mut tx = Tx::new(Connection::Sqlite(&mut connection), false);
            let committed = commit(&mut tx, &mut sets, &mut left, || queue.take_reports()).await;
            statements.fetch_add(tx.statements(), Ordering::Relaxed);
            if committed.is_err() {
                // Whatever failed, the next transaction begins outside of one.
                drop(tx.connection().control("ROLLBACK").await);
            }
            metrics.transaction(sizes(&sets), begin, committed.is_ok());
            queue.put_back(settle(sets, &committed, &metrics));
            if let Err(Error::Unsynced(_)) = committed {
                // Never again: the next sync may succeed and have lost what this one could not write. Closing the connection would
                // sync once more, so it stays open until the process ends.
                std::mem::forget(connection);
                queue.abandon();
                unsynced.cancel();
                return;
            }
        }
        queue.release(hold);
    }
    drop(connection.close().await);
}

impl Tasks {
    /// Sees to it that somebody takes what waits.
    fn wake(self: &Arc<Self>) {
        let most = self.pool.places();
        let begun = self.running.fetch_update(Ordering::AcqRel, Ordering::Acquire, |running| {
            (running < most).then_some(running + 1)
        });
        if begun.is_ok() {
            tokio::spawn(Arc::clone(self).work());
        }
    }

    async fn work(self: Arc<Self>) {
        // Half of the connections are for short writes.
        let mix = Mix::OneKind { long: self.pool.places().div_ceil(2) };
        loop {
            while let Some(batch) = self.queue.take(mix) {
                self.carry_out(batch).await;
            }
            self.running.fetch_sub(1, Ordering::AcqRel);
            // What came after the last look, and found all tasks running, would wait for nobody.
            let Some(batch) = self.queue.take(mix) else { return };
            self.running.fetch_add(1, Ordering::AcqRel);
            self.carry_out(batch).await;
        }
    }

    async fn carry_out(&self, batch: Batch) {
        let until = batch.jobs.iter().filter_map(|job| job.until()).min();
        let (mut sets, begin) = (sets_of(batch.jobs, usize::MAX), Instant::now());
        let committed = async {
            let mut lent = self.pool.lend_until(until).await?;
            let is_set = sets.first().is_some_and(|set| set.len() > 1);
            let committed = async {
                let mut tx = Tx::new(lent.connection()?, is_set);
                let committed = commit(&mut tx, &mut sets, &mut Vec::new(), Vec::new).await;
                self.statements.fetch_add(tx.statements(), Ordering::Relaxed);
                if committed.is_err() {
                    // Whatever failed, the connection goes back outside of a transaction.
                    drop(tx.connection().control("ROLLBACK").await);
                }
                committed
            };
            let committed = in_time(committed).await?;
            lent.give_back();
            committed
        };
        let committed = committed.await;
        self.metrics.transaction(sizes(&sets), begin, committed.is_ok());
        self.queue.put_back(settle(sets, &committed, &self.metrics));
        self.queue.release(batch.hold);
    }
}

/// Writes of one kind, or a lone one.
type Set = Vec<Box<dyn Job>>;

/// The kind of each set's writes, and how many it has.
fn sizes(sets: &[Set]) -> impl Iterator<Item = (usize, usize)> {
    sets.iter().filter_map(|set| Some((set.first()?.turn().kind(), set.len())))
}

/// The writes by their kinds, in the order in which each kind came first. A set has so many rows at most, unless it is of
/// reports or a lone write.
fn sets_of(jobs: Vec<Box<dyn Job>>, rows: usize) -> Vec<Set> {
    let mut sets: Vec<(usize, Set)> = Vec::new();
    for job in jobs {
        let (kind, turn) = (job.kind(), job.turn());
        let joins = |(taken, set): &&mut (usize, Set)| {
            let is_alike = kind.is_some() && set.first().is_some_and(|first| first.kind() == kind);
            is_alike && (turn.is_report || taken.saturating_add(turn.rows) <= rows)
        };
        match sets.iter_mut().find(joins) {
            Some((taken, set)) => {
                *taken += turn.rows;
                set.push(job);
            }
            None => sets.push((turn.rows, vec![job])),
        }
    }
    sets.into_iter().map(|(_, set)| set).collect()
}

/// Answers everybody but those who are to be carried out again, alone, and gives these back.
fn settle(sets: Vec<Set>, committed: &Result<(), Error>, metrics: &Metrics) -> Vec<Box<dyn Job>> {
    let mut again = Vec::new();
    for mut job in sets.into_iter().flatten() {
        if committed.is_ok() && job.stands().is_none() {
            job.set_alone();
            again.push(job);
        } else {
            job.answer(committed.clone(), metrics);
        }
    }
    again
}

/// Carries the sets out in one transaction. `late` gives the reports that came meanwhile: they do not wait for the sets that
/// have not begun, which are then `left` for the next transaction.
async fn commit(
    tx: &mut Tx<'_>,
    sets: &mut Vec<Set>,
    left: &mut Vec<Set>,
    late: impl Fn() -> Vec<Box<dyn Job>>,
) -> Result<(), Error> {
    let begin = match tx.connection() {
        Connection::Sqlite(_) => "BEGIN IMMEDIATE",
        Connection::Postgres(_) => "BEGIN",
    };
    tx.connection().control(begin).await?;
    if let [alone] = &mut sets[..] {
        // The transaction is its savepoint: two statements less for every call of a lone trainer.
        return match carry_out(tx, alone).await? {
            Carried::Out => end(tx).await,
            Carried::Refused | Carried::Undone => tx.connection().control("ROLLBACK").await,
        };
    }
    let mut next = 0;
    while let Some(set) = sets.get_mut(next) {
        next += 1;
        if set.iter().all(|job| job.kind().is_some()) {
            // Its refusals have written nothing, so it needs no savepoint, for which SQLite would copy each page that changes.
            if let Carried::Undone = carry_out(tx, set).await? {
                sets.iter_mut().flatten().for_each(|job| job.set_alone());
                return tx.connection().control("ROLLBACK").await;
            }
        } else {
            tx.connection().control("SAVEPOINT one_set").await?;
            // SQLite rolls back on its own when the disk is full or fails, and then knows no savepoint any more.
            if !matches!(carry_out(tx, set).await?, Carried::Out) {
                tx.connection().control("ROLLBACK TO one_set").await?;
            }
            tx.connection().control("RELEASE one_set").await?;
        }
        if next < sets.len() && left.is_empty() {
            let reports = late();
            if !reports.is_empty() {
                left.extend(sets.drain(next..));
                sets.extend(sets_of(reports, usize::MAX));
            }
        }
    }
    end(tx).await
}

/// What became of a set.
enum Carried {
    Out,
    /// It was a lone write, and a rule said no.
    Refused,
    /// It failed, and may have written something that must not stand.
    Undone,
}

/// Carries one set out. An error may have undone the whole transaction.
async fn carry_out(tx: &mut Tx<'_>, set: &mut Set) -> Result<Carried, Error> {
    let Some((first, others)) = set.split_first_mut() else { return Ok(Carried::Out) };
    match first.run(others, tx).await {
        Ok(()) if !others.is_empty() || first.stands() == Some(true) => Ok(Carried::Out),
        Ok(()) => Ok(Carried::Refused),
        Err(error) if ends_all(&error) => Err(error),
        // Which of them it is of is found when each is alone.
        Err(_) if !others.is_empty() => {
            set.iter_mut().for_each(|job| job.set_alone());
            Ok(Carried::Undone)
        }
        Err(error) => {
            first.refuse(error);
            Ok(Carried::Undone)
        }
    }
}

/// After such an error no statement of the transaction may stand.
fn ends_all(error: &Error) -> bool {
    matches!(error, Error::Full(_) | Error::Unavailable(_) | Error::Late(_) | Error::Unsynced(_))
}

/// The commit itself. When it fails, nobody knows whether it took place: callers repeat their calls.
async fn end(tx: &mut Tx<'_>) -> Result<(), Error> {
    failpoint!("writer.commit");
    tx.connection().control("COMMIT").await?;
    failpoint!("writer.committed");
    Ok(())
}

#[cfg(test)]
mod tests;
