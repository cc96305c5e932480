//! Bodies of answers, watched as they leave: a reader that takes nothing is cut, and the bytes that wait for readers have a sum.
//!
//! hyper asks for the next bytes before it knows whether the peer takes any, and what it was handed stays with it until they are
//! written. So a large answer is handed over in parts, the next one when the last has left: what waits is here, where it can end.

mod on_the_way;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::Request;
use http::Response;
use http_body::Body as _;
use http_body::Frame;
use tokio::task::JoinHandle;
use tokio::time::Sleep;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;
use tonic::body::Body;
use tower::Layer;
use tower::Service;

use crate::domain::refusal::Refusal;
use crate::grpc::Place;
use crate::grpc::refused_body;
use crate::grpc::streams_answers;
use crate::layers::answers::on_the_way::OnTheWay;
use crate::layers::answers::on_the_way::watch;
use crate::layers::budget::Budget;
use crate::layers::budget::Claim;
use crate::layers::budget::RETRY;
use crate::layers::budget::Wait;
use crate::layers::kinds::is_grpc;
use crate::layers::kinds::status_as;
use crate::layers::peer::OpenCall;
use crate::layers::peer::Peer;
use crate::layers::proxies::CallerAddress;
use crate::turns::Caller;
use crate::turns::Pace;

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
        let layer = self.layer.clone();
        let form =
            Form { streams: streams_answers(request.uri().path()), is_grpc: is_grpc(request.headers()) };
        let open = peer.begin();
        let address = request.extensions().get::<CallerAddress>();
        let caller = Caller::new(address.map_or(peer.number(), |it| it.turn(peer.number())));
        let answer = caller.clone().scope(self.inner.call(request));
        Box::pin(async move {
            let mut response = answer.await?;
            let place = response.extensions_mut().remove::<Place>();
            let (head, body) = response.into_parts();
            if body.is_end_stream() {
                return Ok(Response::from_parts(head, body));
            }
            let mut answered = Answered::new(body, form, open, peer, caller, layer);
            if let Err(refusal) = answered.begin().await {
                return Ok(status_as(form.is_grpc, &refused_body(refusal)));
            }
            drop(place);
            Ok(Response::from_parts(head, Body::new(answered)))
        })
    }
}

/// What an answer is like.
#[derive(Clone, Copy, Debug)]
struct Form {
    /// Whether it is more than one message: then what the method still holds for it is watched from the first one on.
    streams: bool,
    /// Whether it has trailers that its reader looks at.
    is_grpc: bool,
}

/// A body as it leaves.
struct Answered {
    body: Body,
    _open: OpenCall,
    layer: AnswersLayer,
    peer: Peer,
    caller: Caller,
    /// Ready when it must give way to others that wait for what the method holds for it.
    gives_way: Pin<Box<WaitForCancellationFutureOwned>>,
    claim: Claim,
    on_the_way: Arc<OnTheWay>,
    /// Bytes of the part that is on the way.
    handed: usize,
    /// Cuts the connection should hyper not ask for more; there is none before the first part.
    watch: Option<JoinHandle<()>>,
    form: Form,
    /// What it begins with, where that is small.
    first: Option<Option<Result<Frame<Bytes>, Status>>>,
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
    fn new(
        body: Body,
        form: Form,
        open: OpenCall,
        peer: Peer,
        caller: Caller,
        layer: AnswersLayer,
    ) -> Answered {
        let claim = layer.budget.claim(&peer);
        let gives_way = Box::pin(caller.takes().gives_way().clone().cancelled_owned());
        Answered {
            body,
            _open: open,
            layer,
            peer,
            caller,
            gives_way,
            claim,
            on_the_way: Arc::default(),
            handed: 0,
            watch: None,
            form,
            first: None,
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
            if self.handed > 0 {
                self.caller.takes().moved(std::mem::take(&mut self.handed));
            }
            return Poll::Ready(Ok(()));
        }
        if self.claim.gave_way(context) {
            return Poll::Ready(Err(cut(self.claim.overloaded())));
        }
        if self.gives_way.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(cut(slow())));
        }
        let idle = self.layer.idle;
        let patience = self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
        ready!(patience.as_mut().poll(context));
        let message = format!("the reader took nothing for {} s: read on from where it is", idle.as_secs());
        Poll::Ready(Err(cut(Refusal::deadline("IDLE_TIMEOUT", message))))
    }

    /// Takes an answer of one message from its method, and room for it, before the transport has it: until then it keeps the place
    /// in which it was made, and one for which there is no room is refused as a whole.
    async fn begin(&mut self) -> Result<(), Refusal> {
        if self.form.streams {
            return Ok(());
        }
        std::future::poll_fn(|context| {
            if self.rest.is_empty() {
                match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                    Some(Ok(frame)) if frame.data_ref().is_some_and(|it| it.len() > SMALL_BYTES) => {
                        self.rest = frame.into_data().unwrap_or_default();
                        self.passed = self.rest.len();
                    }
                    small => {
                        let data = small.as_ref().and_then(|it| it.as_ref().ok()?.data_ref());
                        self.passed = data.map_or(0, Bytes::len);
                        self.first = Some(small);
                        return Poll::Ready(Ok(()));
                    }
                }
            }
            self.poll_room(context)
        })
        .await
    }

    /// Takes room for all of what the method gave.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        if self.has_room {
            return Poll::Ready(Ok(()));
        }
        // A longer one than a peer's part goes when it has all of that.
        let bytes = (self.rest.len() as u64).min(self.claim.most());
        let room = match self.claim.poll_grow(bytes, bytes, context) {
            Poll::Ready(room) => room,
            Poll::Pending => {
                ready!(self.wait.get_or_insert_with(Wait::begin).poll_over(context));
                Err(self.claim.overloaded())
            }
        };
        self.wait = None;
        self.has_room = room.is_ok();
        Poll::Ready(room)
    }

    /// The next part of what the method gave, once there is room for all of it.
    fn poll_part(&mut self, context: &mut Context<'_>) -> Polled {
        if let Err(refusal) = ready!(self.poll_room(context)) {
            return self.end_with(refusal);
        }
        let data = self.rest.split_to(PART_BYTES.min(self.rest.len()));
        self.claim.goes_on();
        self.watch.get_or_insert_with(|| {
            let gives_way = self.caller.takes().gives_way().clone();
            tokio::spawn(watch(
                Arc::downgrade(&self.on_the_way),
                self.peer.clone(),
                self.layer.idle,
                gives_way,
            ))
        });
        self.handed = data.len();
        self.caller.takes().wait();
        let part = self.on_the_way.begin(data);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(part)))))
    }

    /// Ends with a refusal where a message could begin.
    fn end_with(&mut self, refusal: Refusal) -> Polled {
        (self.ended, self.rest) = (true, Bytes::new());
        let status = refused_body(refusal);
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(match status.add_header(&mut trailers) {
            Ok(()) if self.form.is_grpc => Ok(Frame::trailers(trailers)),
            // It would look whole.
            _ => Err(status),
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
        if let Some(first) = it.first.take() {
            return Poll::Ready(first);
        }
        if it.rest.is_empty() {
            if std::mem::take(&mut it.has_room) {
                it.claim.shrink(0);
            }
            // What the method does for the rest of a stream it does here.
            match ready!(it.caller.enter(|| Pin::new(&mut it.body).poll_frame(context))) {
                Some(Ok(frame)) if frame.is_data() => {
                    let data = frame.into_data().unwrap_or_default();
                    it.passed += data.len();
                    if data.is_empty() || (!it.form.streams && it.passed <= SMALL_BYTES) {
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
        self.ended || (self.first.is_none() && self.rest.is_empty() && self.body.is_end_stream())
    }
}

/// The end of a stream whose bytes do not leave: trailers would wait behind them. Clients take it for UNAVAILABLE.
fn cut(refusal: Refusal) -> Status {
    let mut status = refused_body(refusal);
    status.set_source(Arc::new(h2::Error::from(h2::Reason::REFUSED_STREAM)));
    status
}

fn slow() -> Refusal {
    let message = format!(
        "the reader took less than {} KiB/s while others waited for its room in the server's memory: read on from where it is",
        Pace::SLOW_KIB_PER_SECOND
    );
    Refusal::exhausted("OVERLOADED", message).retry_after(RETRY)
}
