//! One log line a request: method, resource, caller, code, latency, bytes, request id. And two repairs on the way: a panic becomes
//! INTERNAL with an id, and what tonic says of a message that is too long or no message gets our codes and reasons.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Instant;

use futures::FutureExt;
use http::HeaderMap;
use http::Request;
use http::Response;
use http_body::Body as _;
use http_body::Frame;
use tonic::Code;
use tonic::Status;
use tonic::body::Body;
use tower::Layer;
use tower::Service;
use tracing::Instrument;
use tracing::Span;

use crate::grpc::internal;
use crate::grpc::of_transport;
use crate::layers::certificate::Certificate;
use crate::layers::kinds::is_grpc;
use crate::layers::kinds::status_as;
use crate::layers::peer::Peer;
use crate::layers::proxies::Proxies;

/// The request id comes in and goes out under this name; one is made if it is missing.
pub(super) const REQUEST_ID: &str = "x-request-id";
/// Longest request id taken from a caller.
const MAX_REQUEST_ID_BYTES: usize = 64;
/// What the caller says that it is, as `grpc-python/1.80.0 grpc-c/52.0.0`: the longest that is logged.
const MAX_PROGRAM_BYTES: usize = 128;

/// What a call came to, of which no header of gRPC speaks: who turns it into something else tells it here.
#[derive(Clone, Debug, Default)]
pub(super) struct Told(Arc<OnceLock<Code>>);

impl Told {
    /// The first word counts.
    pub(super) fn tell(&self, code: Code) {
        self.0.get_or_init(|| code);
    }
}

/// Puts `Trace` around a service.
#[derive(Clone, Debug, Default)]
pub struct TraceLayer {
    /// Who may say for whom it calls.
    pub proxies: Proxies,
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Trace<S> {
        Trace { inner, proxies: self.proxies.clone() }
    }
}

#[derive(Clone, Debug)]
pub struct Trace<S> {
    inner: S,
    proxies: Proxies,
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S> Service<Request<Body>> for Trace<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Answer<S::Error> {
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        let started = Instant::now();
        let is_grpc = is_grpc(request.headers());
        let request_id = request_id(request.headers());
        let method = request.uri().path().trim_start_matches('/').to_owned();
        let connection = request.extensions().get::<Peer>().cloned().unwrap_or_default();
        let peer = connection.address();
        let caller = peer.map(|it| self.proxies.caller(it.ip(), request.headers()));
        if let Some(caller) = caller {
            request.extensions_mut().insert(caller);
        }
        let (address, proxy) = match caller.filter(|it| it.is_told) {
            Some(caller) => (Some(caller.ip.to_string()), peer),
            None => (peer.map(|it| it.to_string()), None),
        };
        let span = tracing::info_span!(
            "request",
            rpc.method = %method,
            request.id = %request_id,
            peer.address = address.map(tracing::field::display),
            peer.proxy = proxy.map(tracing::field::display),
            peer.certificate = connection.certificate().map(Certificate::name),
            peer.program = program(request.headers()),
            http.status = tracing::field::Empty,
            principal = tracing::field::Empty,
            resource = tracing::field::Empty
        );
        let received = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&received);
        let mut request = request.map(|body| Body::new(Counted { body, received: counted }));
        let id = http::HeaderValue::from_str(&request_id).ok();
        if let Some(id) = id.clone() {
            request.headers_mut().insert(REQUEST_ID, id);
        }
        let told = Told::default();
        request.extensions_mut().insert(told.clone());
        let mut line = Line { started, span: span.clone(), code: None, told, received, sent_bytes: 0 };
        let answer = async move {
            let answered = AssertUnwindSafe(inner.call(request)).catch_unwind().await;
            let mut response = match answered {
                Ok(response) => response?,
                Err(_) => status_as(is_grpc, &internal(&format!("{method} panicked"))),
            };
            repair(&mut response);
            if let Some(id) = id {
                response.headers_mut().insert(REQUEST_ID, id);
            }
            // An answer without a body has its code in the headers.
            line.code = code_in(response.headers()).or(response.body().is_end_stream().then_some(Code::Ok));
            if !is_grpc {
                line.span.record("http.status", response.status().as_u16());
            }
            Ok(response.map(|body| Body::new(Logged { body, line })))
        };
        Box::pin(answer.instrument(span))
    }
}

fn request_id(headers: &HeaderMap) -> String {
    let harmless = |id: &&str| {
        (1..=MAX_REQUEST_ID_BYTES).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(harmless);
    given.map_or_else(|| uuid::Uuid::new_v4().simple().to_string(), str::to_owned)
}

/// What the caller says that it is, if that can stand in a log line.
fn program(headers: &HeaderMap) -> Option<&str> {
    let program = headers.get(http::header::USER_AGENT)?.to_str().ok()?;
    let is_harmless = program.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    (program.len() <= MAX_PROGRAM_BYTES && is_harmless).then_some(program)
}

fn code_in(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|value| Code::from_bytes(value.as_bytes()))
}

/// An answer without a body has its status in the headers; see [`of_transport`].
pub(super) fn repair(response: &mut Response<Body>) {
    if let Some(status) = Status::from_header_map(response.headers()).as_ref().and_then(of_transport) {
        *response = status.into_http();
    }
}

/// The same for the trailers, which end an answer that is a stream.
pub(super) fn repair_trailers(frame: Frame<bytes::Bytes>) -> Frame<bytes::Bytes> {
    let Some(status) = frame.trailers_ref().and_then(Status::from_header_map) else { return frame };
    let mut trailers = HeaderMap::new();
    match of_transport(&status).map(|it| it.add_header(&mut trailers)) {
        Some(Ok(())) => Frame::trailers(trailers),
        _ => frame,
    }
}

/// Writes its line when it is dropped: also for a caller that went away.
#[derive(Debug)]
struct Line {
    started: Instant,
    span: Span,
    code: Option<Code>,
    told: Told,
    /// Bytes of the request's body that have arrived.
    received: Arc<AtomicU64>,
    /// Bytes of the answer's body that were given to the connection.
    sent_bytes: u64,
}

impl Drop for Line {
    fn drop(&mut self) {
        let code = match self.code {
            None => Code::Cancelled,
            Some(code) => self.told.0.get().copied().unwrap_or(code),
        };
        let latency_ms = self.started.elapsed().as_secs_f64() * 1_000.0;
        let (received_bytes, sent_bytes) = (self.received.load(Ordering::Relaxed), self.sent_bytes);
        self.span.in_scope(
            || tracing::info!(rpc.code = ?code, latency_ms, received_bytes, sent_bytes, "Answered"),
        );
    }
}

/// Passes the body of a request on and counts its bytes.
struct Counted {
    body: Body,
    received: Arc<AtomicU64>,
}

impl http_body::Body for Counted {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            self.received.fetch_add(data_bytes(frame), Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

fn data_bytes(frame: &Frame<bytes::Bytes>) -> u64 {
    frame.data_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX))
}

/// Passes a body on, and remembers the code in its trailers and its bytes.
struct Logged {
    body: Body,
    line: Line,
}

impl http_body::Body for Logged {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let span = self.line.span.clone();
        let frame = {
            let _entered = span.enter();
            let polled =
                std::panic::catch_unwind(AssertUnwindSafe(|| Pin::new(&mut self.body).poll_frame(context)));
            match polled {
                Ok(frame) => ready!(frame).map(|it| it.map(repair_trailers)),
                // Only this call ends, not the others on its connection.
                Err(_) => Some(Err(internal("a response stream panicked"))),
            }
        };
        match &frame {
            Some(Ok(frame)) => {
                self.line.sent_bytes += data_bytes(frame);
                if let Some(trailers) = frame.trailers_ref() {
                    self.line.code = Some(code_in(trailers).unwrap_or(Code::Ok));
                } else if self.body.is_end_stream() {
                    // Where its length is known nobody asks for more.
                    self.line.code = self.line.code.or(Some(Code::Ok));
                }
            }
            Some(Err(status)) => self.line.code = Some(status.code()),
            None => {
                self.line.code = self.line.code.or(Some(Code::Ok));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
