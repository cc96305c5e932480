//! Replicas that die. Each is a runtime of its own with its own connections: a crash drops all its tasks where they stand,
//! and the database sees connections that end in the middle of a transaction.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;

use keepbest::app::App;
use tokio::runtime::Builder;
use tokio::runtime::Runtime;

use crate::support::apps::TestApp;
use crate::support::random::Random;

/// Of a hundred calls so many die on their way.
const DEATHS_PERCENT: usize = 3;
/// A call that dies does so before its n-th turn, and n is less than this.
const MOST_TURNS: usize = 16;

/// The caller heard nothing: the call may have done all, some or nothing of its work.
#[derive(Debug)]
pub(super) struct Silence;

/// The replicas of one service.
pub(super) struct Replicas {
    test: Arc<TestApp>,
    running: Vec<Mutex<Replica>>,
    /// Replicas that crashed.
    pub(super) crashes: AtomicUsize,
    /// Calls that got no answer.
    pub(super) silences: AtomicUsize,
}

struct Replica {
    app: App,
    runtime: Option<Runtime>,
}

impl Replica {
    async fn start(test: &Arc<TestApp>) -> Replica {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let test = Arc::clone(test);
        let app = runtime.spawn(async move { test.replica().await }).await.unwrap();
        Replica { app, runtime: Some(runtime) }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Replicas {
    pub(super) async fn start(test: &Arc<TestApp>, count: usize) -> Replicas {
        let mut running = Vec::with_capacity(count);
        for _ in 0..count {
            running.push(Mutex::new(Replica::start(test).await));
        }
        let (crashes, silences) = Default::default();
        Replicas { test: Arc::clone(test), running, crashes, silences }
    }

    /// One call on any replica. It may die on its way, alone or with its replica.
    pub(super) async fn call<T: Send + 'static, F>(
        &self,
        random: &mut Random,
        work: impl FnOnce(App) -> F,
    ) -> Result<T, Silence>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let turns = (random.below(100) < DEATHS_PERCENT).then(|| random.below(MOST_TURNS));
        let task = {
            let replica = self.running[random.below(self.running.len())].lock().unwrap();
            let work = Mortal { work: Some(Box::pin(work(replica.app.clone()))), turns };
            replica.runtime.as_ref().unwrap().spawn(work)
        };
        match task.await {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => {}
            Err(error) if error.is_cancelled() => {}
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
        self.silences.fetch_add(1, Ordering::SeqCst);
        Err(Silence)
    }

    /// One replica crashes, another for each round, and a new one takes its place.
    pub(super) async fn crash(&self, round: usize) {
        let fresh = Replica::start(&self.test).await;
        let place = round % self.running.len();
        drop(std::mem::replace(&mut *self.running[place].lock().unwrap(), fresh));
        self.crashes.fetch_add(1, Ordering::SeqCst);
    }
}

/// A future that is dropped instead of getting its n-th turn.
struct Mortal<F> {
    work: Option<Pin<Box<F>>>,
    turns: Option<usize>,
}

impl<F: Future> Future for Mortal<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.turns {
            Some(0) => self.work = None,
            Some(turns) => *turns -= 1,
            None => {}
        }
        match &mut self.work {
            Some(work) => work.as_mut().poll(context).map(Some),
            None => Poll::Ready(None),
        }
    }
}
