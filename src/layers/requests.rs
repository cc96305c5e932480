//! Bodies of requests, watched as they arrive: one that does not come whole in time is refused, the bytes of all of them
//! together have a sum, and what stands in a message is counted before it is built.
//!
//! tonic collects a message before a method sees it, and waits for its last byte as long as the connection lives.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::Body as _;
use http_body::Frame;
use tokio::time::Instant;
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;
use tower::Layer;
use tower::Service;

use crate::domain::refusal::Refusal;
use crate::grpc::Counts;
use crate::grpc::refused_body;
use crate::grpc::streams_requests;
use crate::layers::budget::Budget;
use crate::layers::budget::Claim;
use crate::layers::budget::Wait;
use crate::layers::framing::Framing;
use crate::layers::framing::Part;
use crate::layers::peer::Peer;

/// Puts `Requests` around a service.
#[derive(Clone, Debug)]
pub struct RequestsLayer {
    /// How long a request may take to arrive whole, or a message of a stream from its first byte on.
    pub whole: Duration,
    /// Bytes of requests in memory, all together.
    pub budget: Arc<Budget>,
}

impl<S> Layer<S> for RequestsLayer {
    type Service = Requests<S>;

    fn layer(&self, inner: S) -> Requests<S> {
        Requests { inner, layer: self.clone() }
    }
}

#[derive(Clone, Debug)]
pub struct Requests<S> {
    inner: S,
    layer: RequestsLayer,
}

type Answer<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

impl<S> Service<Request<Body>> for Requests<S>
where
    S: Service<Request<Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Answer<S::Response, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
        let claim = Arc::new(self.layer.budget.claim(&peer));
        let path = request.uri().path();
        let (streams, counts) = (streams_requests(path), Counts::of(path));
        let (clock, held) = (Clock::start(self.layer.whole), Arc::clone(&claim));
        let request =
            request.map(|body| Body::new(Received { body, streams, counts, clock, ..Received::of(held) }));
        let answer = self.inner.call(request);
        // What a method works with is still in memory.
        Box::pin(async move {
            let answered = answer.await;
            drop(claim);
            answered
        })
    }
}

/// A body as it arrives.
struct Received {
    body: Body,
    /// Whether its messages come when there is something to say; else there is one, and it comes at once.
    streams: bool,
    framing: Framing,
    counts: Counts,
    clock: Clock,
    claim: Arc<Claim>,
    /// Bytes that were passed on and are not used yet.
    held: u64,
    /// Came, and waits for room.
    frame: Option<Frame<Bytes>>,
    wait: Option<Wait>,
}

impl Received {
    fn of(claim: Arc<Claim>) -> Received {
        Received {
            body: Body::empty(),
            streams: false,
            framing: Framing::default(),
            counts: Counts::default(),
            clock: Clock::start(Duration::ZERO),
            claim,
            held: 0,
            frame: None,
            wait: None,
        }
    }

    /// Whether the peer owes something.
    fn is_due(&self) -> bool {
        !self.streams || !self.framing.is_between()
    }

    /// tonic asks for more of a stream when it has handed out what was whole.
    fn let_go(&mut self) {
        let under_way = self.framing.under_way() as u64;
        if self.streams && self.frame.is_none() && under_way < self.held {
            self.held = under_way;
            self.claim.shrink(under_way);
        }
    }

    /// The next frame from the peer, if it comes in time.
    fn poll_peer(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let over = match &polled {
            Poll::Ready(None | Some(Err(_))) => false,
            Poll::Ready(Some(Ok(_))) => self.is_due() && self.clock.is_over(),
            Poll::Pending if self.is_due() && self.held > 0 && self.claim.gave_way(context) => {
                return refuse(self.claim.overloaded());
            }
            Poll::Pending => self.is_due() && self.clock.poll_over(context),
        };
        if over { refuse(self.clock.refusal()) } else { polled }
    }

    /// Takes room for a frame, and passes it on.
    fn poll_room(
        &mut self,
        frame: Frame<Bytes>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(data) = frame.data_ref() else { return Poll::Ready(Some(Ok(frame))) };
        let mut framing = self.framing.clone();
        let ended = framing.pass(data);
        let (bytes, announced) = (self.held + data.len() as u64, framing.announced() as u64);
        match self.claim.poll_grow(bytes, announced.max(bytes), context) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(refusal)) => return refuse(refusal),
            Poll::Pending => {
                self.frame = Some(frame);
                ready!(self.wait.get_or_insert_with(Wait::begin).poll_over(context));
                return refuse(self.claim.overloaded());
            }
        }
        (self.held, self.wait) = (bytes, None);
        let mut counted = Ok(());
        let begins = self.framing.is_between();
        self.framing.pass_with(data, |part| match part {
            Part::Begin(length) => self.counts.begin(length),
            Part::Bytes(bytes) if counted.is_ok() => counted = self.counts.pass(bytes),
            Part::Bytes(_) => {}
        });
        if let Err(refusal) = counted {
            return refuse(refusal);
        }
        if self.streams && (begins || ended > 0) {
            self.clock.restart();
        }
        if ended > 0 && self.framing.is_between() {
            self.claim.is_whole();
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

fn refuse<T>(refusal: Refusal) -> Poll<Option<Result<T, Status>>> {
    Poll::Ready(Some(Err(refused_body(refusal))))
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let it = &mut *self;
        it.clock.go_on();
        it.let_go();
        let frame = match it.frame.take() {
            Some(frame) => frame,
            None => match ready!(it.poll_peer(context)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            },
        };
        // From here on the peer owes nothing: what takes time is ours.
        it.clock.rest();
        it.poll_room(frame, context)
    }

    fn is_end_stream(&self) -> bool {
        self.frame.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// Counts the time in which the peer was waited for, not that in which a method was busy with what had come.
struct Clock {
    whole: Duration,
    end: Instant,
    resting: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Clock {
    fn start(whole: Duration) -> Clock {
        let now = Instant::now();
        Clock { whole, end: now + whole, resting: Some(now), sleep: None }
    }

    fn restart(&mut self) {
        (self.end, self.sleep) = (Instant::now() + self.whole, None);
    }

    fn rest(&mut self) {
        self.resting = Some(Instant::now());
    }

    fn go_on(&mut self) {
        if let Some(since) = self.resting.take() {
            self.end += since.elapsed();
            self.sleep = None;
        }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    fn poll_over(&mut self, context: &mut Context<'_>) -> bool {
        let end = self.end;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        sleep.as_mut().poll(context).is_ready()
    }

    fn refusal(&self) -> Refusal {
        let message = format!(
            "the request did not arrive whole within {} s: send it again, all of it at once",
            self.whole.as_secs()
        );
        Refusal::deadline("BODY_TIMEOUT", message)
    }
}
