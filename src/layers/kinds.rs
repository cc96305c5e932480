//! What a request speaks: gRPC goes on as it is, gRPC-Web and Connect (JSON) become gRPC, and what asks for a page gets one. What is
//! none of them has no effect: tonic goes by the path alone and would read any body as messages.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use http::HeaderMap;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http::Version;
use http::header;
use http_body::Frame;
use tonic::Code;
use tonic::Status;
use tonic::body::Body;
use tonic_web::GrpcWebLayer;
use tower::Layer;
use tower::Service;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use crate::layers::budget::Budget;
use crate::layers::connect;
use crate::layers::connect::Codec;
use crate::layers::connect::Connect;
use crate::layers::origin;
use crate::layers::trace::Told;
use crate::layers::trace::repair;
use crate::layers::trace::repair_trailers;

/// A service as those who call it within the server see it, and one that answers what is no call.
pub type Http = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// The paths of services begin so; pages have none of them.
const SERVICES: [&str; 2] = ["/keepbest.", "/grpc."];
/// What is answered by a service that is no call, behind the door as all of them.
const DOCUMENTS: [&str; 1] = ["/openapi.json"];

/// Puts `Kinds` around a service.
#[derive(Clone, Debug)]
pub struct KindsLayer {
    connect: Connect,
    is_loopback: bool,
    pages: fn(Http) -> Http,
}

impl KindsLayer {
    /// `whole`: how long a request may take to arrive; `budget`: the bytes of all of them; `is_loopback`: whether the server listens there
    /// alone; `pages`: makes, of the service behind this layer, what answers requests that are no calls.
    pub fn new(
        whole: Duration,
        budget: Arc<Budget>,
        is_loopback: bool,
        pages: fn(Http) -> Http,
    ) -> KindsLayer {
        KindsLayer { connect: Connect::new(whole, budget), is_loopback, pages }
    }
}

impl<S> Layer<S> for KindsLayer
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    type Service = Kinds<S>;

    fn layer(&self, inner: S) -> Kinds<S> {
        let pages = (self.pages)(BoxCloneSyncService::new(inner.clone()));
        Kinds { inner, connect: self.connect.clone(), is_loopback: self.is_loopback, pages }
    }
}

#[derive(Clone, Debug)]
pub struct Kinds<S> {
    inner: S,
    connect: Connect,
    is_loopback: bool,
    pages: Http,
}

/// What a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Grpc,
    Web,
    Connect(Codec),
    Document,
    Page,
    /// None of them: a status, and a line for people.
    Refused(StatusCode, &'static str),
}

const NO_TYPE: &str = "this is a Keepbest server: it takes gRPC, as content-type `application/grpc`, gRPC-Web as `application/grpc-web+proto`, and \
    unary calls as `application/json` or `application/proto`\n";

impl Kind {
    fn of<B>(request: &Request<B>, is_loopback: bool) -> Kind {
        match Kind::named(request) {
            // A browser sends neither by itself, or it has no effect.
            it @ (Kind::Grpc | Kind::Refused(..)) => it,
            it => match origin::check(request, is_loopback) {
                Ok(()) => it,
                Err(foreign) => Kind::Refused(foreign.status, foreign.line),
            },
        }
    }

    /// What it says that it is.
    fn named<B>(request: &Request<B>) -> Kind {
        let (path, is_post) = (request.uri().path(), request.method() == Method::POST);
        let media_type = media_type(request.headers());
        let is = |known: &[&str]| known.iter().any(|it| media_type.eq_ignore_ascii_case(it));
        if is_post && is_grpc(request.headers()) {
            return match request.version() {
                Version::HTTP_2 => Kind::Grpc,
                _ => Kind::Refused(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "gRPC needs HTTP/2\n"),
            };
        }
        if !SERVICES.iter().any(|it| path.starts_with(it)) {
            return if DOCUMENTS.contains(&path) { Kind::Document } else { Kind::Page };
        }
        if !is_post {
            return Kind::Refused(StatusCode::METHOD_NOT_ALLOWED, "a call is a POST\n");
        }
        match () {
            () if is(&["application/json"]) => Kind::Connect(Codec::Json),
            () if is(&["application/proto"]) => Kind::Connect(Codec::Proto),
            () if is(&["application/grpc-web", "application/grpc-web+proto"]) => Kind::Web,
            () if is(&["application/grpc-web-text", "application/grpc-web-text+proto"]) => Kind::Web,
            () => Kind::Refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, NO_TYPE),
        }
    }
}

/// Whether a request says that it is gRPC. Its messages are protobuf; the first is what nearly all clients say.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let media_type = media_type(headers);
    ["application/grpc", "application/grpc+proto"].iter().any(|it| media_type.eq_ignore_ascii_case(it))
}

/// A status as an answer to a request that was gRPC, or was not.
pub(super) fn status_as(is_grpc: bool, status: &Status) -> Response<Body> {
    if is_grpc { status.clone().into_http() } else { connect::error(status) }
}

fn media_type(headers: &HeaderMap) -> &str {
    let text = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim()
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S> Service<Request<Body>> for Kinds<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer<Infallible>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Answer<Infallible> {
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        let told = request.extensions().get::<Told>().cloned().unwrap_or_default();
        match Kind::of(&request, self.is_loopback) {
            Kind::Grpc => Box::pin(inner.call(request)),
            Kind::Refused(status, line) => Box::pin(std::future::ready(Ok(refused(status, line)))),
            Kind::Web => {
                let noted = inner.map_response(move |it: Response<Body>| noted(it, told));
                Box::pin(GrpcWebLayer::new().layer(noted).call(request))
            }
            Kind::Connect(codec) => Box::pin(self.connect.clone().call(codec, request, inner)),
            Kind::Document => Box::pin(async move {
                let response = inner.call(request).await?;
                // What the door refuses is a status of gRPC.
                Ok(match Status::from_header_map(response.headers()) {
                    Some(status) => {
                        told.tell(status.code());
                        connect::error(&status)
                    }
                    None => response,
                })
            }),
            Kind::Page => Box::pin(self.pages.clone().call(request)),
        }
    }
}

/// A line for people, and a code for those who read nothing else.
fn refused(status: StatusCode, line: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::new(line.to_owned()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert("grpc-status", HeaderValue::from(Code::InvalidArgument as i32));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
    }
    response
}

/// An answer of which gRPC-Web hides the code in its body.
fn noted(mut response: Response<Body>, told: Told) -> Response<Body> {
    repair(&mut response);
    if let Some(status) = Status::from_header_map(response.headers()) {
        told.tell(status.code());
    }
    response.map(|body| Body::new(Noted { body, told }))
}

/// Tells the log the code in the trailers of a body.
struct Noted {
    body: Body,
    told: Told,
}

impl http_body::Body for Noted {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let frame = frame.map(|it| it.map(repair_trailers));
        if let Some(Ok(frame)) = &frame
            && let Some(status) = frame.trailers_ref().and_then(Status::from_header_map)
        {
            self.told.tell(status.code());
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
