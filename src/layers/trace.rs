//! One log line a request: method, resource, caller, code, latency, bytes, request id. And two repairs on the way: a panic becomes
//! INTERNAL with an id, and what tonic says of a message that is too long or no message gets our codes and reasons.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

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
use crate::layers::metrics::OpenRequest;
use crate::layers::metrics::Requests;
use crate::layers::peer::Peer;
use crate::layers::proxies::Proxies;

/// The request id comes in and goes out under this name; one is made if it is missing.
pub(super) const REQUEST_ID: &str = "x-request-id";
/// Where a caller says which trace it is in.
const TRACE_PARENT: &str = "traceparent";
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
#[derive(Clone, Debug)]
pub struct TraceLayer {
    /// Who may say for whom it calls.
    pub proxies: Proxies,
    /// Where requests are counted.
    pub requests: Arc<Requests>,
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Trace<S> {
        Trace { inner, layer: self.clone() }
    }
}

#[derive(Clone, Debug)]
pub struct Trace<S> {
    inner: S,
    layer: TraceLayer,
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
        let is_grpc = is_grpc(request.headers());
        let request_id = request_id(request.headers());
        let method = request.uri().path().trim_start_matches('/').to_owned();
        let open = Arc::new(self.layer.requests.begin(&method));
        let connection = request.extensions().get::<Peer>().cloned().unwrap_or_default();
        let peer = connection.address();
        let caller = peer.map(|it| self.layer.proxies.caller(it.ip(), request.headers()));
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
            trace.id = trace_id(request.headers()),
            principal = tracing::field::Empty,
            resource = tracing::field::Empty
        );
        let counted = Arc::clone(&open);
        let mut request = request.map(|body| Body::new(Counted { body, open: counted }));
        let id = http::HeaderValue::from_str(&request_id).ok();
        if let Some(id) = id.clone() {
            request.headers_mut().insert(REQUEST_ID, id);
        }
        let told = Told::default();
        request.extensions_mut().insert(told.clone());
        let mut line = Line { open, span: span.clone(), code: None, told, sent_bytes: 0 };
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

/// The trace that the caller is in (W3C Trace Context): of `00-TRACE-PARENT-FLAGS` the second part, if all is as it must be.
fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let mut parts = headers.get(TRACE_PARENT)?.to_str().ok()?.split('-');
    let is_hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_id = |part: &str, length| is_hex(part, length) && part.bytes().any(|it| it != b'0');
    let (version, trace) = (parts.next()?, parts.next()?);
    let is_right = is_hex(version, 2)
        && version != "ff"
        && is_id(trace, 32)
        && parts.next().is_some_and(|parent| is_id(parent, 16))
        && parts.next().is_some_and(|flags| is_hex(flags, 2))
        // A later version may say more behind these.
        && (version != "00" || parts.next().is_none());
    is_right.then_some(trace)
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
    open: Arc<OpenRequest>,
    span: Span,
    code: Option<Code>,
    told: Told,
    /// Bytes of the answer's body that were given to the connection.
    sent_bytes: u64,
}

impl Drop for Line {
    fn drop(&mut self) {
        let code = match self.code {
            None => Code::Cancelled,
            Some(code) => self.told.0.get().copied().unwrap_or(code),
        };
        let latency_ms = self.open.end(code).as_secs_f64() * 1_000.0;
        let (received_bytes, sent_bytes) = (self.open.received_bytes(), self.sent_bytes);
        self.span.in_scope(
            || tracing::info!(rpc.code = ?code, latency_ms, received_bytes, sent_bytes, "Answered"),
        );
    }
}

/// Passes the body of a request on and counts its bytes.
struct Counted {
    body: Body,
    open: Arc<OpenRequest>,
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
            self.open.receive(data_bytes(frame));
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
                let bytes = data_bytes(frame);
                self.line.sent_bytes += bytes;
                self.line.open.send(bytes);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_trace_parent_names_a_trace() {
        const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
        let of = |text: &str| {
            let headers = HeaderMap::from_iter([(TRACE_PARENT.parse().unwrap(), text.parse().unwrap())]);
            trace_id(&headers).map(str::to_owned)
        };
        assert_eq!(trace_id(&HeaderMap::new()), None);
        for right in
            [format!("00-{TRACE}-00f067aa0ba902b7-01"), format!("01-{TRACE}-00f067aa0ba902b7-00-more")]
        {
            assert_eq!(of(&right).as_deref(), Some(TRACE), "{right}");
        }
        for wrong in [
            String::new(),
            TRACE.to_owned(),
            format!("00-{TRACE}-00f067aa0ba902b7"),
            format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{TRACE}4-00f067aa0ba902b7-01"),
        ] {
            assert_eq!(of(&wrong), None, "{wrong}");
        }
    }
}
