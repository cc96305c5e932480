//! A connection as the bodies on it know it: who it is, whether calls are open on it, and how it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;

use futures::task::AtomicWaker;
use tokio::time::Instant;

use crate::layers::certificate::Certificate;

/// A connection; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Peer(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    number: u64,
    /// Where it comes from; none where a test has no network.
    address: Option<SocketAddr>,
    /// Empty where nothing is encrypted; inside, the certificate that was shown.
    encrypted: OnceLock<Option<Certificate>>,
    is_cut: AtomicBool,
    waker: AtomicWaker,
    usage: Mutex<Use>,
}

#[derive(Debug)]
struct Use {
    open: usize,
    /// Since when no call is open.
    since: Instant,
    is_leaving: bool,
    is_closed: bool,
}

impl Default for Use {
    fn default() -> Use {
        Use { open: 0, since: Instant::now(), is_leaving: false, is_closed: false }
    }
}

impl Peer {
    /// The connection of that number.
    pub fn new(number: u64) -> Peer {
        Peer(Arc::new(Shared { number, ..Shared::default() }))
    }

    /// The same, of one that comes from `address`.
    pub fn connected(number: u64, address: SocketAddr) -> Peer {
        Peer(Arc::new(Shared { number, address: Some(address), ..Shared::default() }))
    }

    /// Where it comes from; none where a test has no network.
    pub fn address(&self) -> Option<SocketAddr> {
        self.0.address
    }

    /// From now on it is encrypted; the certificate is one that was verified. Before its first request, and once.
    pub fn encrypt(&self, certificate: Option<Certificate>) {
        // A second time changes nothing: who a connection is stays so.
        drop(self.0.encrypted.set(certificate));
    }

    /// Whether it is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.0.encrypted.get().is_some()
    }

    /// The certificate that its caller has shown, verified.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.0.encrypted.get()?.as_ref()
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

    /// A call begins; it is open as long as what this returns.
    pub(super) fn begin(&self) -> OpenCall {
        self.used(|it| it.open += 1);
        OpenCall(self.clone())
    }

    /// Since when no call is open; none: one is.
    pub fn idle_since(&self) -> Option<Instant> {
        self.used(|it| (it.open == 0 && !it.is_leaving).then_some(it.since))
    }

    /// Asks the connection to end if no call is open on it; whether it will.
    pub fn leave(&self) -> bool {
        let leaves = self.used(|it| {
            it.is_leaving |= it.open == 0;
            it.is_leaving
        });
        self.0.waker.wake();
        leaves
    }

    /// Whether it was asked to end.
    pub fn is_leaving(&self) -> bool {
        self.used(|it| it.is_leaving)
    }

    /// The connection is no more.
    pub fn closed(&self) {
        self.used(|it| it.is_closed = true);
    }

    /// Whether it is.
    pub fn is_closed(&self) -> bool {
        self.used(|it| it.is_closed)
    }

    fn used<T>(&self, change: impl FnOnce(&mut Use) -> T) -> T {
        change(&mut self.0.usage.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A call that is open on a connection.
#[derive(Debug)]
pub(super) struct OpenCall(Peer);

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.used(|it| {
            it.open -= 1;
            it.since = Instant::now();
        });
    }
}
