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

use bytes::Bytes;
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
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use crate::layers::Peer;
use crate::server::counts::Connections;
use crate::server::greeting::Begun;
use crate::server::greeting::Greeting;
use crate::server::greeting::Protocol;
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

/// Accepted connections, as many as there are places, and some that soon end; further ones wait in the kernel's queue. Those that turn
/// out to speak HTTP/1 go to `http1`, which holds no more of them than there are places.
pub(super) fn connections(
    listener: TcpListener,
    places: Places,
    greeting: Greeting,
    http1: UnboundedSender<Connection>,
) -> impl Stream<Item = io::Result<Connection>> {
    let begin = (listener, places, greeting, http1);
    let accepted = futures::stream::unfold(begin, |(listener, mut places, greeting, http1)| async move {
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
                    let whose = Some(Whose { counts, _place: place, http1: http1.clone() });
                    let connection = Connection { peer, speech, end, whose };
                    return Some((Ok(connection), (listener, places, greeting, http1)));
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
    /// None: it was passed on.
    whose: Option<Whose>,
}

/// What goes along with a connection.
struct Whose {
    counts: Arc<Connections>,
    _place: OwnedSemaphorePermit,
    /// Who serves it if it speaks HTTP/1.
    http1: UnboundedSender<Connection>,
}

enum Speech {
    /// It has not said what it speaks. Until then nothing is said to it either.
    Greeting(Pin<Box<dyn Future<Output = io::Result<Begun>> + Send>>),
    /// HTTP; what was read of it already.
    Http(stream::Stream, Bytes),
    /// Something else, which was told, or somebody else's by now.
    Over,
}

impl Connection {
    /// Who it is.
    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The stream, once its caller has said what it speaks.
    fn poll_greeted(&mut self, context: &mut Context<'_>) -> Poll<io::Result<&mut stream::Stream>> {
        if let Speech::Greeting(greeting) = &mut self.speech {
            if self.peer.is_leaving() || self.peer.poll_cut(context).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            match greeting.as_mut().poll(context) {
                Poll::Ready(Ok(begun)) => self.begin(begun),
                Poll::Ready(Err(error)) => {
                    self.speech = Speech::Over;
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => return self.poll_end(context).map(|()| Err(io::ErrorKind::TimedOut.into())),
            }
        }
        Poll::Ready(match &mut self.speech {
            Speech::Http(stream, _) => Ok(stream),
            Speech::Greeting(_) | Speech::Over => Err(io::ErrorKind::NotConnected.into()),
        })
    }

    /// Keeps what has begun, or passes it on to who speaks HTTP/1: then this one is over.
    fn begin(&mut self, Begun { stream, protocol, read }: Begun) {
        self.speech = Speech::Http(stream, read);
        if protocol == Protocol::Http1 {
            let speech = std::mem::replace(&mut self.speech, Speech::Over);
            if let Some(whose) = self.whose.take() {
                let http1 = whose.http1.clone();
                let (peer, end, whose) = (self.peer.clone(), self.end.take(), Some(whose));
                // Nobody takes it while the server stops: then it ends here.
                drop(http1.send(Connection { peer, speech, end, whose }));
            }
        }
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
        if let Some(whose) = &self.whose {
            self.peer.closed();
            whose.counts.closed();
        }
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
        let Speech::Http(stream, read) = &mut self.speech else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        if !read.is_empty() {
            let now = read.len().min(buffer.remaining());
            buffer.put_slice(&read.split_to(now));
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
            Speech::Http(stream, _) => Pin::new(stream).poll_shutdown(context),
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
