//! Write transactions: group commit on SQLite, one spawned task each on Postgres.
//!
//! A job that has begun runs to its end even if its caller goes away: sqlx 0.9.0 can lose later acknowledged writes when a future is
//! dropped inside a transaction, and tonic drops handlers whenever a client cancels.
//!
//! SQLite has one writer. It takes all jobs that wait, runs each in a savepoint, and commits them with one sync; an answer
//! leaves only after that commit.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;

use futures::FutureExt;
use sqlx::SqliteConnection;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::db::Error;
use crate::db::connection::Connection;
use crate::db::postgres::Pool;
use crate::db::postgres::Turn;
use crate::db::postgres::in_time;
use crate::failpoint::failpoint;

/// Jobs that wait for the writer. When it is full, callers wait: that is the back-pressure.
const QUEUE: usize = 1024;
/// Most jobs in one commit, so that one answer does not wait for hundreds of others' work.
const BATCH: usize = 256;

/// A future that a job makes over the connection it is lent.
pub(super) type JobFuture<'c, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'c>>;

/// One write transaction: gets a connection inside a transaction, may be refused, never begins or commits itself.
pub(super) trait Work<T>:
    for<'a, 'c> FnOnce(&'a mut Connection<'c>) -> JobFuture<'a, T> + Send + 'static
{
}
impl<T, F> Work<T> for F where
    F: for<'a, 'c> FnOnce(&'a mut Connection<'c>) -> JobFuture<'a, T> + Send + 'static
{
}

/// What becomes of a job's statements.
enum Fate {
    Keep,
    Undo,
    /// The database may have undone the whole transaction, with the work of others: the batch ends with this error.
    End(Error),
}

trait Job: Send {
    /// Runs the work.
    fn run<'a>(
        &'a mut self,
        connection: &'a mut Connection<'_>,
    ) -> Pin<Box<dyn Future<Output = Fate> + Send + 'a>>;
    /// Answers the caller, once the commit is known.
    fn answer(self: Box<Self>, committed: Result<(), Error>);
}

struct Pending<T, F> {
    work: Option<F>,
    result: Option<Result<T, Error>>,
    caller: oneshot::Sender<Result<T, Error>>,
}

impl<T: Send + 'static, F: Work<T>> Job for Pending<T, F> {
    fn run<'a>(
        &'a mut self,
        connection: &'a mut Connection<'_>,
    ) -> Pin<Box<dyn Future<Output = Fate> + Send + 'a>> {
        Box::pin(async move {
            let Some(work) = self.work.take() else { return Fate::Undo };
            if self.caller.is_closed() {
                // Nobody was promised anything, and the caller may have repeated the call: begun now, it would come after
                // its own repeat, and a stream that is gone would take its file from the one that goes on.
                return Fate::Undo;
            }
            let result = guarded(work, connection).await;
            let fate = match &result {
                Ok(_) => Fate::Keep,
                Err(error @ (Error::Full(_) | Error::Unavailable(_) | Error::Unsynced(_))) => {
                    Fate::End(error.clone())
                }
                Err(_) => Fate::Undo,
            };
            self.result = Some(result);
            fate
        })
    }

    fn answer(self: Box<Self>, committed: Result<(), Error>) {
        let result = match (self.result, committed) {
            (Some(Err(refused)), _) => Err(refused),
            (_, Err(error)) => Err(error),
            (Some(Ok(value)), Ok(())) => Ok(value),
            (None, Ok(())) => Err(Error::stopped()),
        };
        // The caller may be gone; the work stands all the same.
        drop(self.caller.send(result));
    }
}

/// Runs the work; a panic in it is an error of this job alone.
async fn guarded<T, F: Work<T>>(work: F, connection: &mut Connection<'_>) -> Result<T, Error> {
    match AssertUnwindSafe(async { work(connection).await }).catch_unwind().await {
        Ok(result) => result,
        Err(_) => Err(Error::Internal(sqlx::Error::Protocol("a write panicked".to_owned()))),
    }
}

/// The one writer of a SQLite database.
#[derive(Clone)]
pub(super) struct Writer {
    jobs: mpsc::Sender<Box<dyn Job>>,
}

impl Writer {
    /// Takes the connection over and serves jobs until the last handle is gone.
    pub(super) fn start(connection: SqliteConnection, unsynced: CancellationToken) -> Writer {
        let (jobs, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(serve(connection, waiting, unsynced));
        Writer { jobs }
    }

    /// Queues the work and waits for its commit.
    pub(super) async fn write<T: Send + 'static>(&self, work: impl Work<T>) -> Result<T, Error> {
        let (caller, answer) = oneshot::channel();
        let job = Pending { work: Some(work), result: None, caller };
        self.jobs.send(Box::new(job)).await.map_err(|_| Error::stopped())?;
        answer.await.map_err(|_| Error::stopped())?
    }
}

async fn serve(
    mut connection: SqliteConnection,
    mut waiting: mpsc::Receiver<Box<dyn Job>>,
    unsynced: CancellationToken,
) {
    let mut batch = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        let committed = commit(&mut Connection::Sqlite(&mut connection), &mut batch).await;
        if committed.is_err() {
            // Whatever failed, the next batch begins outside of a transaction.
            drop(Connection::Sqlite(&mut connection).control("ROLLBACK").await);
        }
        for job in batch.drain(..) {
            job.answer(committed.clone());
        }
        if let Err(Error::Unsynced(_)) = committed {
            // Never again: the next sync may succeed and have lost what this one could not write. Closing the connection would
            // sync once more, so it stays open until the process ends.
            std::mem::forget(connection);
            unsynced.cancel();
            return;
        }
    }
}

async fn commit(connection: &mut Connection<'_>, batch: &mut [Box<dyn Job>]) -> Result<(), Error> {
    connection.control("BEGIN IMMEDIATE").await?;
    if let [alone] = batch {
        // The transaction is its savepoint: two statements less for every call of a lone trainer.
        return match alone.run(connection).await {
            Fate::Keep => end(connection).await,
            Fate::Undo => connection.control("ROLLBACK").await,
            Fate::End(error) => Err(error),
        };
    }
    for job in batch {
        connection.control("SAVEPOINT job").await?;
        match job.run(connection).await {
            Fate::Keep => {}
            Fate::Undo => connection.control("ROLLBACK TO job").await?,
            // SQLite rolls back on its own when the disk is full or fails, and then knows no savepoint any more.
            Fate::End(error) => return Err(error),
        }
        connection.control("RELEASE job").await?;
    }
    end(connection).await
}

/// The commit itself. When it fails, nobody knows whether it took place: callers repeat their calls.
async fn end(connection: &mut Connection<'_>) -> Result<(), Error> {
    failpoint!("writer.commit");
    connection.control("COMMIT").await?;
    failpoint!("writer.committed");
    Ok(())
}

/// The same promise on Postgres: the section runs in a task of its own and is joined. It ends in time, or its connection
/// is closed; either way it gives its turn back.
pub(super) async fn write_postgres<T: Send + 'static>(
    pool: Pool,
    turn: Turn,
    work: impl Work<T>,
) -> Result<T, Error> {
    let (caller, _waits) = oneshot::channel::<()>();
    let section = async move {
        let turn = turn;
        let mut lent = pool.lend_to(&turn).await?;
        if caller.is_closed() {
            // As on SQLite: what has not begun is left out.
            lent.give_back();
            return Err(Error::stopped());
        }
        let result = in_time(transaction(lent.connection()?, work)).await?;
        lent.give_back();
        result
    };
    tokio::spawn(section).await.map_err(|_| Error::stopped())?
}

async fn transaction<T>(mut connection: Connection<'_>, work: impl Work<T>) -> Result<T, Error> {
    connection.control("BEGIN").await?;
    match guarded(work, &mut connection).await {
        Ok(value) => match end(&mut connection).await {
            Ok(()) => Ok(value),
            Err(error) => {
                // Whatever failed, the connection goes back outside of a transaction.
                drop(connection.control("ROLLBACK").await);
                Err(error)
            }
        },
        Err(refused) => {
            connection.control("ROLLBACK").await?;
            Err(refused)
        }
    }
}

#[cfg(test)]
mod tests;
