//! Who calls, known to all that works for the call without being handed on.

use std::future::Future;
use std::sync::Arc;

use crate::turns::Pace;

tokio::task_local! {
    static CALLER: Caller;
}

/// Who calls: a connection, as long as nothing better is known. What the service does by itself is of one caller, too.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    number: u64,
    takes: Arc<Pace>,
}

impl Caller {
    /// A call on the connection of that number, which is not 0.
    pub fn new(number: u64) -> Caller {
        Caller { number, takes: Arc::default() }
    }

    /// The one whom this task works for.
    pub fn current() -> Caller {
        CALLER.try_with(Clone::clone).unwrap_or_default()
    }

    /// Tells it from others.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// How fast it takes the answer to this call.
    pub fn takes(&self) -> &Arc<Pace> {
        &self.takes
    }

    /// Does something for it. A task that is spawned meanwhile does not know of it.
    pub fn scope<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        CALLER.scope(self, work)
    }

    /// The same of what does not wait.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        CALLER.sync_scope(self.clone(), work)
    }
}
