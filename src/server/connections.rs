//! Accepting connections: how many at once, how it is found that a caller is gone, and room for probes when all places are
//! taken.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use futures::Stream;
use futures::StreamExt;
use socket2::SockRef;
use socket2::TcpKeepalive;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use crate::layers::Peer;
use crate::server::counts::Connections;
use crate::server::greeting::Greeting;
use crate::server::greeting::PREFACE;
use crate::server::places::Places;
use crate::server::stream;

/// A caller that says nothing is asked after this whether it lives. Its kernel answers, not its program: a trainer of one
/// thread computes for minutes between two calls, and would be taken for dead by a PING of HTTP/2.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// It is asked again after this,
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// and so often in all before its connection ends.
const KEEPALIVE_PROBES: u32 = 3;
/// When accepting fails (no file descriptors), the loop rests so long instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long such a connection lives. A probe takes milliseconds; a trainer is disconnected, and tries again.
const SHORT_LIFE: Duration = Duration::from_secs(5);

/// Accepted connections, as many as there are places, and some that soon end; further ones wait in the kernel's queue.
pub(super) fn connections(
    listener: TcpListener,
    places: Places,
    greeting: Greeting,
) -> impl Stream<Item = io::Result<Connection>> {
    let begin = (listener, places, greeting);
    let accepted = futures::stream::unfold(begin, |(listener, mut places, greeting)| async move {
        loop {
            match listener.accept().await {
                Ok((stream, address)) => {
                    if let Err(error) = set_up(&stream) {
                        // The caller went away at once.
                        tracing::debug!(error = %error, "Could not set up a connection");
                        continue;
                    }
                    let Some(peer) = places.admit(address) else { continue };
                    let (place, is_short) = places.take().await?;
                    if !is_short {
                        places.keep(&peer);
                    }
                    let end = is_short.then(|| Box::pin(tokio::time::sleep(SHORT_LIFE)));
                    let speech = Speech::Greeting(Box::pin(greeting.clone().greet(stream, peer.clone())));
                    let counts = Arc::clone(&greeting.counts);
                    counts.opened(is_short);
                    let connection = Connection { peer, speech, end, counts, _place: place };
                    return Some((Ok(connection), (listener, places, greeting)));
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

fn set_up(stream: &TcpStream) -> io::Result<()> {
    // Small answers leave at once.
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_INTERVAL);
    SockRef::from(stream).set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_PROBES))
}

/// A connection that gives its place back when it closes.
pub(super) struct Connection {
    peer: Peer,
    speech: Speech,
    /// When one that has a short place ends.
    end: Option<Pin<Box<Sleep>>>,
    counts: Arc<Connections>,
    _place: OwnedSemaphorePermit,
}

enum Speech {
    /// It has not said what it speaks. Until then nothing is said to it either.
    Greeting(Pin<Box<dyn Future<Output = io::Result<stream::Stream>> + Send>>),
    /// HTTP/2; what was read of it already.
    Http2(stream::Stream, &'static [u8]),
    /// Something else: it was told.
    Over,
}

impl Connection {
    /// The stream, once its caller has said that it speaks HTTP/2.
    fn poll_greeted(&mut self, context: &mut Context<'_>) -> Poll<io::Result<&mut stream::Stream>> {
        if let Speech::Greeting(greeting) = &mut self.speech {
            if self.peer.is_leaving() || self.peer.poll_cut(context).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            match greeting.as_mut().poll(context) {
                Poll::Ready(Ok(stream)) => self.speech = Speech::Http2(stream, PREFACE),
                Poll::Ready(Err(error)) => {
                    self.speech = Speech::Over;
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => return self.poll_end(context).map(|()| Err(io::ErrorKind::TimedOut.into())),
            }
        }
        Poll::Ready(match &mut self.speech {
            Speech::Http2(stream, _) => Ok(stream),
            Speech::Greeting(_) | Speech::Over => Err(io::ErrorKind::NotConnected.into()),
        })
    }

    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.end.as_mut().map_or(Poll::Pending, |end| end.as_mut().poll(context))
    }
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
        self.counts.closed();
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
        ready!(self.poll_greeted(context))?;
        let Speech::Http2(stream, read) = &mut self.speech else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        if !read.is_empty() {
            let (now, later) = read.split_at(read.len().min(buffer.remaining()));
            buffer.put_slice(now);
            *read = later;
            return Poll::Ready(Ok(()));
        }
        let polled = Pin::new(stream).poll_read(context, buffer);
        if polled.is_pending() && self.poll_end(context).is_ready() {
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
        Pin::new(ready!(self.poll_greeted(context))?).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(ready!(self.poll_greeted(context))?).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.speech {
            Speech::Http2(stream, _) => Pin::new(stream).poll_shutdown(context),
            Speech::Greeting(_) | Speech::Over => Poll::Ready(Ok(())),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(ready!(self.poll_greeted(context))?).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true // as what is below
    }
}
