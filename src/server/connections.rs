//! Accepting connections: how many at once, how long one may say nothing, and room for probes when all places are taken.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use futures::Stream;
use futures::StreamExt;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use crate::layers::Peer;

/// A connection that says nothing at first gives its place to another.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// What every HTTP/2 connection begins with.
const PREFACE_BYTES: usize = 24;
/// When accepting fails (no file descriptors), the loop rests so long instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection without a call for so long gives its place to a new one: longer than a client needs for its first call.
const IDLE: Duration = Duration::from_secs(1);
/// How long a connection that was idle may take to make room for another.
const LEAVING: Duration = Duration::from_secs(1);
/// Connections beyond the limit that are accepted all the same, one after the other: a supervisor that finds no place for its
/// probe restarts a server that is only busy.
const SHORT: usize = 16;
/// How long such a connection lives. A probe takes milliseconds; a trainer is disconnected, and tries again.
const SHORT_LIFE: Duration = Duration::from_secs(5);

/// Accepted connections, at most `most` at once, and some that soon end; further ones wait in the kernel's queue.
pub(super) fn connections(listener: TcpListener, most: u32) -> impl Stream<Item = io::Result<Connection>> {
    let most = usize::try_from(most).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
    let places = Places {
        lasting: Arc::new(Semaphore::new(most)),
        short: Arc::new(Semaphore::new(SHORT)),
        peers: Vec::new(),
        accepted: 0,
    };
    let accepted = futures::stream::unfold((listener, places), |(listener, mut places)| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    places.accepted += 1;
                    let peer = Peer::new(places.accepted);
                    let (place, is_short) = places.take().await?;
                    places.peers.retain(|it| !it.is_closed());
                    // A short place ends by itself, and would give nothing to one that wants a lasting one.
                    places.peers.extend((!is_short).then(|| peer.clone()));
                    // Small answers leave at once.
                    drop(stream.set_nodelay(true));
                    let silent = Some(Box::pin(tokio::time::sleep(PREFACE_TIMEOUT)));
                    let end = is_short.then(|| Box::pin(tokio::time::sleep(SHORT_LIFE)));
                    let connection = Connection { peer, stream, silent, end, received: 0, _place: place };
                    return Some((Ok(connection), (listener, places)));
                }
                Err(error) => {
                    tracing::warn!(error = %error, "Could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    accepted.boxed()
}

struct Places {
    lasting: Arc<Semaphore>,
    short: Arc<Semaphore>,
    /// Who has one, to find who is idle.
    peers: Vec<Peer>,
    /// Connections so far.
    accepted: u64,
}

impl Places {
    /// The next place, and whether it is a short one. When all are taken, the connection that has been idle longest makes room.
    async fn take(&mut self) -> Option<(OwnedSemaphorePermit, bool)> {
        if let Ok(place) = Arc::clone(&self.lasting).try_acquire_owned() {
            return Some((place, false));
        }
        let idle = self.peers.iter().filter_map(|it| Some((it.idle_since()?, it)));
        let longest = idle.filter(|(since, _)| since.elapsed() >= IDLE);
        if longest.min_by_key(|(since, _)| *since).is_some_and(|(_, it)| it.leave())
            && let Ok(place) = tokio::time::timeout(LEAVING, Arc::clone(&self.lasting).acquire_owned()).await
        {
            return Some((place.ok()?, false));
        }
        tokio::select! {
            biased;
            place = Arc::clone(&self.lasting).acquire_owned() => Some((place.ok()?, false)),
            place = Arc::clone(&self.short).acquire_owned() => Some((place.ok()?, true)),
        }
    }
}

/// A connection that gives its place back when it closes.
#[derive(Debug)]
pub(super) struct Connection {
    peer: Peer,
    stream: TcpStream,
    /// When one that has a short place ends.
    end: Option<Pin<Box<Sleep>>>,
    /// Runs until the caller has sent its preface: keepalive only guards connections that speak HTTP/2 already.
    silent: Option<Pin<Box<Sleep>>>,
    received: usize,
    _place: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.peer.closed();
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.peer.is_leaving() {
            // As if the peer had said that it has no more to ask.
            return Poll::Ready(Ok(()));
        }
        if self.peer.poll_cut(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.received = self.received.saturating_add(buffer.filled().len() - before);
        if self.received >= PREFACE_BYTES {
            self.silent = None;
        }
        if let (Poll::Pending, Some(silent)) = (&polled, &mut self.silent)
            && silent.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if let (Poll::Pending, Some(end)) = (&polled, &mut self.end)
            && end.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
