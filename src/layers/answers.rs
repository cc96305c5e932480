//! Bodies of answers, watched as they leave: a reader that takes nothing is cut, and the bytes that wait for readers have a sum.
//!
//! hyper asks for the next bytes before it knows whether the peer takes any, and what it was handed stays with it until they are
//! written. So a large answer is handed over in parts, the next one when the last has left: what waits is here, where it can end.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use bytes::Bytes;
use futures::task::AtomicWaker;
use http::HeaderMap;
use http::Request;
use http::Response;
use http_body::Body as _;
use http_body::Frame;
use tokio::task::JoinHandle;
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;
use tower::Layer;
use tower::Service;

use crate::domain::refusal::Refusal;
use crate::grpc::refused_body;
use crate::grpc::streams_answers;
use crate::layers::budget::Budget;
use crate::layers::budget::Claim;
use crate::layers::budget::Wait;
use crate::layers::budget::overloaded;
use crate::layers::peer::OpenCall;
use crate::layers::peer::Peer;

/// Bytes of one message's answer that are in no sum: most answers are no longer, and a peer has few calls at once.
const SMALL_BYTES: usize = 16 << 10;
/// Bytes that are handed over at once. A reader must take as much in the idle time; less would cost more turns.
const PART_BYTES: usize = 256 << 10;

/// Puts `Answers` around a service.
#[derive(Clone, Debug)]
pub struct AnswersLayer {
    /// How long a reader may take nothing.
    pub idle: Duration,
    /// Bytes of answers in memory, all together.
    pub budget: Arc<Budget>,
}

impl<S> Layer<S> for AnswersLayer {
    type Service = Answers<S>;

    fn layer(&self, inner: S) -> Answers<S> {
        Answers { inner, layer: self.clone() }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Answers<S> {
    inner: S,
    layer: AnswersLayer,
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S> Service<Request<Body>> for Answers<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
        let (layer, streams) = (self.layer.clone(), streams_answers(request.uri().path()));
        let open = peer.begin();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            Ok(response.map(|body| match body.is_end_stream() {
                true => body,
                false => Body::new(Answered::new(body, streams, open, peer, layer)),
            }))
        })
    }
}

/// A body as it leaves.
struct Answered {
    body: Body,
    _open: OpenCall,
    layer: AnswersLayer,
    peer: Peer,
    claim: Claim,
    on_the_way: Arc<OnTheWay>,
    /// Cuts the connection should hyper not ask for more; there is none before the first part.
    watch: Option<JoinHandle<()>>,
    /// Whether it is more than one message: then what the method still holds for it is watched from the first one on.
    streams: bool,
    /// Bytes that came from the method.
    passed: usize,
    /// What is handed over in parts, and whether it has its room.
    rest: Bytes,
    has_room: bool,
    wait: Option<Wait>,
    patience: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

type Polled = Poll<Option<Result<Frame<Bytes>, Status>>>;

impl Answered {
    fn new(body: Body, streams: bool, open: OpenCall, peer: Peer, layer: AnswersLayer) -> Answered {
        let claim = layer.budget.claim(&peer);
        Answered {
            body,
            _open: open,
            layer,
            peer,
            claim,
            on_the_way: Arc::default(),
            watch: None,
            streams,
            passed: 0,
            rest: Bytes::new(),
            has_room: false,
            wait: None,
            patience: None,
            ended: false,
        }
    }

    /// Waits until what was handed over has left.
    fn poll_left(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        if self.on_the_way.poll_left(context).is_ready() {
            self.patience = None;
            return Poll::Ready(Ok(()));
        }
        if self.claim.gave_way(context) {
            return Poll::Ready(Err(cut(overloaded())));
        }
        let idle = self.layer.idle;
        let patience = self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
        ready!(patience.as_mut().poll(context));
        let message = format!("the reader took nothing for {} s: read on from where it is", idle.as_secs());
        Poll::Ready(Err(cut(Refusal::deadline("IDLE_TIMEOUT", message))))
    }

    /// The next part of what the method gave, once there is room for all of it.
    fn poll_part(&mut self, context: &mut Context<'_>) -> Polled {
        if !self.has_room {
            // A longer one than a peer's part goes when it has all of that.
            let bytes = (self.rest.len() as u64).min(self.claim.most());
            let room = match self.claim.poll_grow(bytes, bytes, context) {
                Poll::Ready(room) => room,
                Poll::Pending => {
                    ready!(self.wait.get_or_insert_with(Wait::begin).poll_over(context));
                    Err(overloaded())
                }
            };
            self.wait = None;
            if let Err(refusal) = room {
                return self.end_with(refusal);
            }
            self.has_room = true;
        }
        let data = self.rest.split_to(PART_BYTES.min(self.rest.len()));
        self.claim.goes_on();
        self.watch.get_or_insert_with(|| {
            tokio::spawn(watch(Arc::downgrade(&self.on_the_way), self.peer.clone(), self.layer.idle))
        });
        let part = self.on_the_way.begin(data);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(part)))))
    }

    /// Ends with a refusal where a message could begin.
    fn end_with(&mut self, refusal: Refusal) -> Polled {
        (self.ended, self.rest) = (true, Bytes::new());
        let status = refused_body(refusal);
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(match status.add_header(&mut trailers) {
            Ok(()) => Ok(Frame::trailers(trailers)),
            Err(_) => Err(status),
        }))
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        self.watch.take().iter().for_each(JoinHandle::abort);
    }
}

impl http_body::Body for Answered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        let it = &mut *self;
        if let Err(status) = ready!(it.poll_left(context)) {
            return Poll::Ready(Some(Err(status)));
        }
        if it.ended {
            return Poll::Ready(None);
        }
        if it.rest.is_empty() {
            if std::mem::take(&mut it.has_room) {
                it.claim.shrink(0);
            }
            match ready!(Pin::new(&mut it.body).poll_frame(context)) {
                Some(Ok(frame)) if frame.is_data() => {
                    let data = frame.into_data().unwrap_or_default();
                    it.passed += data.len();
                    if data.is_empty() || (!it.streams && it.passed <= SMALL_BYTES) {
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    it.rest = data;
                }
                other => return Poll::Ready(other),
            }
        }
        it.poll_part(context)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || (self.rest.is_empty() && self.body.is_end_stream())
    }
}

/// The end of a stream whose bytes do not leave: trailers would wait behind them. Clients take it for UNAVAILABLE.
fn cut(refusal: Refusal) -> Status {
    let mut status = refused_body(refusal);
    status.set_source(Arc::new(h2::Error::from(h2::Reason::REFUSED_STREAM)));
    status
}

/// Cuts the connection of a peer that takes nothing, where the answer cannot end by itself: hyper holds a part for which the
/// peer gives no window, and does not ask for more.
async fn watch(on_the_way: Weak<OnTheWay>, peer: Peer, idle: Duration) {
    let (mut before, mut still) = ((0, 0), 0);
    loop {
        tokio::time::sleep(idle / 2).await;
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
struct OnTheWay {
    begun: AtomicU64,
    left: AtomicU64,
    waker: AtomicWaker,
}

impl OnTheWay {
    fn begin(self: &Arc<OnTheWay>, data: Bytes) -> Part {
        self.begun.fetch_add(1, Ordering::AcqRel);
        Part { data, on_the_way: Arc::clone(self) }
    }

    fn poll_left(&self, context: &Context<'_>) -> Poll<()> {
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
struct Part {
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
