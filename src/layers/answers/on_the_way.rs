//! Parts of an answer that the transport has, and what ends a connection that takes none of them.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::Weak;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::task::AtomicWaker;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::layers::budget::Claim;
use crate::layers::budget::STUCK;
use crate::layers::peer::OpenCall;
use crate::layers::peer::Peer;

/// Cuts the connection of a peer that takes nothing, where the answer cannot end by itself: hyper holds a part for which the
/// peer gives no window, and does not ask for more.
pub(super) async fn watch(
    on_the_way: Weak<OnTheWay>,
    peer: Peer,
    idle: Duration,
    gives_way: CancellationToken,
) {
    let (mut before, mut still) = ((0, 0), 0);
    loop {
        tokio::select! {
            () = tokio::time::sleep(idle / 2) => {}
            () = gives_way.cancelled() => {
                tokio::time::sleep(STUCK).await;
                if on_the_way.strong_count() > 0 {
                    tracing::info!("Cut a connection that takes nothing of an answer that others wait for");
                    peer.cut();
                }
                return;
            }
        }
        let Some(on_the_way) = on_the_way.upgrade() else { return };
        let now = (on_the_way.begun.load(Ordering::Acquire), on_the_way.left.load(Ordering::Acquire));
        still = if now == before && now.0 > now.1 { still + 1 } else { 0 };
        before = now;
        // By then an answer that is asked for more has ended by itself.
        if still == 3 {
            tracing::info!("Cut a connection that takes nothing of an answer");
            return peer.cut();
        }
    }
}

/// Parts of one answer that were handed over, and those of them that were written.
#[derive(Debug, Default)]
pub(super) struct OnTheWay {
    begun: AtomicU64,
    left: AtomicU64,
    waker: AtomicWaker,
    /// What an answer has that was handed over to its end: it goes with the last part.
    kept: Mutex<Option<Kept>>,
}

/// What an answer has as long as it is on the way.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) _open: OpenCall,
    pub(super) _claim: Claim,
    pub(super) _watch: Option<AbortOnDropHandle<()>>,
}

impl OnTheWay {
    pub(super) fn begin(self: &Arc<OnTheWay>, data: Bytes) -> Part {
        self.begun.fetch_add(1, Ordering::AcqRel);
        Part { data, on_the_way: Arc::clone(self) }
    }

    /// Keeps what an answer has until its last part has left. hyper drops a body when it has all of its bytes, which may wait long.
    pub(super) fn keep(&self, kept: Kept) {
        if self.left.load(Ordering::Acquire) < self.begun.load(Ordering::Acquire) {
            *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        }
    }

    pub(super) fn poll_left(&self, context: &Context<'_>) -> Poll<()> {
        let have_left = || self.left.load(Ordering::Acquire) == self.begun.load(Ordering::Acquire);
        if have_left() {
            return Poll::Ready(());
        }
        self.waker.register(context.waker());
        if have_left() { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// Bytes that tell when the transport has dropped them, which it does once they are written.
#[derive(Debug)]
pub(super) struct Part {
    data: Bytes,
    on_the_way: Arc<OnTheWay>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.on_the_way.left.fetch_add(1, Ordering::AcqRel);
        self.on_the_way.waker.wake();
    }
}
