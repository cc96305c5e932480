//! A connection as the bodies on it know it: who it is, and how it is cut.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;

use futures::task::AtomicWaker;

/// A connection; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Peer(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    number: u64,
    is_cut: AtomicBool,
    waker: AtomicWaker,
}

impl Peer {
    /// The connection of that number.
    pub fn new(number: u64) -> Peer {
        Peer(Arc::new(Shared { number, ..Shared::default() }))
    }

    pub(super) fn number(&self) -> u64 {
        self.0.number
    }

    /// Ends the connection with all that is open on it.
    pub(super) fn cut(&self) {
        self.0.is_cut.store(true, Ordering::Release);
        self.0.waker.wake();
    }

    /// Ready once it is cut.
    pub fn poll_cut(&self, context: &Context<'_>) -> Poll<()> {
        self.0.waker.register(context.waker());
        if self.0.is_cut.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}
