//! The door: who calls is settled here, once for each call, before anything of its body is read. What the caller may do is settled
//! where its request is known (`grpc/door.rs`).
//!
//! A stream may stand for hours: while it does, its caller is looked at again and again, and one that is not let in any more is cut.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use http::HeaderMap;
use http::Request;
use http::Response;
use http_body::Frame;
use tonic::Status;
use tonic::body::Body;
use tower::Layer;
use tower::Service;
use tracing::Span;

use crate::app::App;
use crate::app::Error;
use crate::app::access::FRESH;
use crate::domain::access::Principal;
use crate::domain::member::Identity;
use crate::domain::refusal::Refusal;
use crate::grpc::Call;
use crate::grpc::OPENAPI;
use crate::grpc::status_of;
use crate::grpc::streams_answers;
use crate::grpc::streams_requests;
use crate::layers::certificate::Certificate;
use crate::layers::peer::Peer;
use crate::layers::proxies::CallerAddress;
use crate::layers::trace::REQUEST_ID;

/// What needs no caller: whoever watches over the service has no token.
const OPEN: &str = "/grpc.health.v1.Health/";
/// What is open if the settings say so.
const REFLECTION: [&str; 3] =
    ["/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/", OPENAPI];

/// Puts the door before a service.
#[derive(Clone, Debug)]
pub struct DoorLayer {
    pub app: App,
    /// Whether the contract may be read without a token.
    pub opens_reflection: bool,
}

impl<S> Layer<S> for DoorLayer {
    type Service = Door<S>;

    fn layer(&self, inner: S) -> Door<S> {
        Door { inner, app: self.app.clone(), opens_reflection: self.opens_reflection }
    }
}

#[derive(Clone, Debug)]
pub struct Door<S> {
    inner: S,
    app: App,
    opens_reflection: bool,
}

impl<S> Door<S> {
    fn is_open(&self, path: &str) -> bool {
        path.starts_with(OPEN) || (self.opens_reflection && REFLECTION.iter().any(|it| path.starts_with(it)))
    }
}

impl<S> Service<Request<Body>> for Door<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        if self.is_open(request.uri().path()) {
            return Box::pin(inner.call(request));
        }
        let app = self.app.clone();
        Box::pin(async move {
            let certificate = request.extensions().get::<Peer>().and_then(Peer::certificate);
            let certificate = certificate.map(identities_of);
            let shown = Shown { token: token_of(request.headers()), certificate, app };
            let principal = match shown.principal().await {
                Ok(principal) => principal,
                Err(error) => return Ok(status_of(error).into_http()),
            };
            Span::current().record("principal", tracing::field::display(&principal.name));
            let watch = shown.app.asks_who_calls();
            let path = request.uri().path();
            let (in_stream, out_stream) = (watch && streams_requests(path), watch && streams_answers(path));
            let call = Arc::new(call_of(&request, principal));
            request.extensions_mut().insert(Arc::clone(&call));
            let guarded = |body, is_answer| Body::new(Guarded::new(body, shown.clone(), &call, is_answer));
            if in_stream {
                request = request.map(|body| guarded(body, false));
            }
            let response = inner.call(request).await?;
            Ok(if out_stream { response.map(|body| guarded(body, true)) } else { response })
        })
    }
}

fn call_of(request: &Request<Body>, principal: Principal) -> Call {
    let method = request.uri().path().trim_start_matches("/keepbest.v1.").to_owned();
    let request_id = request.headers().get(REQUEST_ID).and_then(|it| it.to_str().ok()).unwrap_or_default();
    let peer = request.extensions().get::<Peer>().and_then(Peer::address).map(|it| it.to_string());
    // Behind a trusted proxy the address that it names.
    let told =
        request.extensions().get::<CallerAddress>().filter(|it| it.is_told).map(|it| it.ip.to_string());
    Call { principal, method, request_id: request_id.to_owned(), address: told.or(peer).unwrap_or_default() }
}

/// The token in the header `authorization`; a header of another form is none that can be read.
fn token_of(headers: &HeaderMap) -> Result<Option<Arc<str>>, Refusal> {
    let Some(value) = headers.get(http::header::AUTHORIZATION) else { return Ok(None) };
    let malformed = || {
        let message = "the header `authorization` is not of the form `Bearer TOKEN`";
        Refusal::unauthenticated("TOKEN_MALFORMED", message)
    };
    let (scheme, token) = value.to_str().ok().and_then(|it| it.split_once(' ')).ok_or_else(malformed)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(malformed());
    }
    Ok(Some(token.trim().into()))
}

/// Who the holder of a certificate is: what its subject alternative names say.
fn identities_of(certificate: &Certificate) -> Arc<[Identity]> {
    let of = |kind: &'static str, names: &[String]| {
        names.iter().filter_map(|name| Identity::of_certificate(kind, name)).collect::<Vec<_>>()
    };
    let names =
        [of("uri", &certificate.uris), of("dns", &certificate.dns_names), of("email", &certificate.emails)];
    names.concat().into()
}

/// What a caller shows of itself.
#[derive(Clone)]
struct Shown {
    token: Result<Option<Arc<str>>, Refusal>,
    /// The identities in its certificate, if it has one that was verified.
    certificate: Option<Arc<[Identity]>>,
    app: App,
}

impl Shown {
    async fn principal(&self) -> Result<Principal, Error> {
        match &self.token {
            // A server that does not ask looks at nothing.
            Err(refusal) if self.app.asks_who_calls() => Err(refusal.clone().into()),
            Err(_) => self.app.principal(None, None).await,
            Ok(token) => self.app.principal(token.as_deref(), self.certificate.as_deref()).await,
        }
    }

    /// Returns once the caller is not let in any more, or may do something else than when it began.
    async fn not_any_more(self, call: Arc<Call>) -> Status {
        loop {
            tokio::time::sleep(FRESH).await;
            match self.principal().await {
                Ok(principal) if principal != call.principal => {
                    let message =
                        "what the caller may do has changed since this stream began: open another one";
                    return status_of(Refusal::aborted("ROLES_CHANGED", message).into());
                }
                // The database is away or busy: who was let in stays.
                Ok(_) | Err(Error::Unavailable { .. } | Error::Busy(_)) => {}
                Err(Error::Refused(refusal)) if refusal.retry_after.is_some() => {}
                Err(error) => return status_of(error),
            }
        }
    }
}

/// A body that ends when its caller is not let in any more: one of a request with an error, an answer with a status in its trailers, as
/// every answer.
struct Guarded {
    body: Body,
    is_answer: bool,
    end: Pin<Box<dyn Future<Output = Status> + Send>>,
    is_over: bool,
}

impl Guarded {
    fn new(body: Body, shown: Shown, call: &Arc<Call>, is_answer: bool) -> Guarded {
        let end = Box::pin(shown.not_any_more(Arc::clone(call)));
        Guarded { body, is_answer, end, is_over: false }
    }

    fn last(&self, status: Status) -> Result<Frame<bytes::Bytes>, Status> {
        let mut trailers = HeaderMap::new();
        match self.is_answer && status.add_header(&mut trailers).is_ok() {
            true => Ok(Frame::trailers(trailers)),
            false => Err(status),
        }
    }
}

impl http_body::Body for Guarded {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(status) = self.end.as_mut().poll(context) {
            self.is_over = true;
            return Poll::Ready(Some(self.last(status)));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
