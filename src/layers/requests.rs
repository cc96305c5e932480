//! Bodies of requests, watched as they arrive: one that does not come whole in time is refused.
//!
//! tonic collects a message before a method sees it, and waits for its last byte as long as the connection lives.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::Frame;
use tokio::time::Instant;
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;
use tower::Layer;
use tower::Service;

use crate::domain::refusal::Refusal;
use crate::grpc::refused_body;
use crate::grpc::streams_requests;
use crate::layers::framing::Framing;

/// Puts `Requests` around a service.
#[derive(Clone, Copy, Debug)]
pub struct RequestsLayer {
    /// How long a request may take to arrive whole, or a message of a stream from its first byte on.
    pub whole: Duration,
}

impl<S> Layer<S> for RequestsLayer {
    type Service = Requests<S>;

    fn layer(&self, inner: S) -> Requests<S> {
        Requests { inner, layer: *self }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Requests<S> {
    inner: S,
    layer: RequestsLayer,
}

impl<S: Service<Request<Body>>> Service<Request<Body>> for Requests<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> S::Future {
        let streams = streams_requests(request.uri().path());
        let clock = Clock::start(self.layer.whole);
        let request =
            request.map(|body| Body::new(Received { body, streams, clock, framing: Framing::default() }));
        self.inner.call(request)
    }
}

/// A body as it arrives.
struct Received {
    body: Body,
    /// Whether its messages come when there is something to say; else there is one, and it comes at once.
    streams: bool,
    framing: Framing,
    clock: Clock,
}

impl Received {
    fn take(&mut self, data: &Bytes) {
        let begins = self.framing.is_between();
        let ended = self.framing.pass(data);
        if self.streams && (begins || ended > 0) {
            self.clock.restart();
        }
    }

    /// Whether the peer owes something.
    fn is_due(&self) -> bool {
        !self.streams || !self.framing.is_between()
    }
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.clock.go_on();
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.take(data);
        }
        let over = match &polled {
            Poll::Ready(None | Some(Err(_))) => false,
            Poll::Ready(Some(Ok(_))) => self.is_due() && self.clock.is_over(),
            Poll::Pending => self.is_due() && self.clock.poll_over(context),
        };
        if over {
            return Poll::Ready(Some(Err(refused_body(self.clock.refusal()))));
        }
        if polled.is_ready() {
            self.clock.rest();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
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
