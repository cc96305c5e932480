//! The unary protocol of Connect: one HTTP request with JSON, or with the message as it is, for one call. Each call goes on as one
//! of gRPC, so that everything behind has one kind of caller.

use std::sync::Arc;
use std::time::Duration;

use bytes::BufMut;
use bytes::Bytes;
use bytes::BytesMut;
use http::HeaderMap;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::StatusCode;
use http::Version;
use http::header;
use http_body::Body as _;
use http_body_util::BodyExt;
use http_body_util::Full;
use http_body_util::Limited;
use tokio::sync::Semaphore;
use tonic::Code;
use tonic::Status;
use tonic::body::Body;
use tonic_types::StatusExt;
use tower::Service;

use crate::domain::refusal::Refusal;
use crate::grpc::JsonMethod;
use crate::grpc::MAX_MESSAGE_BYTES;
use crate::grpc::Place;
use crate::grpc::internal;
use crate::grpc::json_error;
use crate::grpc::of_transport;
use crate::grpc::status_of;
use crate::layers::budget::Budget;
use crate::layers::budget::Claim;
use crate::layers::budget::RETRY;
use crate::layers::budget::Wait;
use crate::layers::peer::Peer;
use crate::layers::trace::Told;

/// The bytes of a request: as many as of a message, which is longer as JSON.
const MAX_BODY_BYTES: usize = MAX_MESSAGE_BYTES;
/// What stands before a message of gRPC: whether it is compressed, and its length.
const HEAD_BYTES: usize = 5;
/// A body of no more is read and written where it comes in: that takes less than a millisecond.
const INLINE_BYTES: usize = 64 << 10;
/// Larger ones that are read or written at once. One is up to ten times as large while it is.
const LARGE_AT_ONCE: usize = 1;
/// How long one waits for that.
const LARGE_WAIT: Duration = Duration::from_secs(5);
/// A call's own deadline has at most so many digits of milliseconds, by the protocol.
const TIMEOUT_DIGITS: usize = 10;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROTO: HeaderValue = HeaderValue::from_static("application/proto");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// Turns calls of Connect into calls of gRPC; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Connect {
    /// How long a request may take to arrive whole.
    whole: Duration,
    /// Bytes of requests in memory, all together.
    budget: Arc<Budget>,
    large: Arc<Semaphore>,
}

/// How the messages of a call are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    Json,
    Proto,
}

/// What a call is answered with: the message, and the place in which a large one was made.
type Answered = (Bytes, Option<Place>);

impl Connect {
    pub(super) fn new(whole: Duration, budget: Arc<Budget>) -> Connect {
        Connect { whole, budget, large: Arc::new(Semaphore::new(LARGE_AT_ONCE)) }
    }

    /// Answers a call.
    pub(super) async fn call<S>(
        self,
        codec: Codec,
        request: Request<Body>,
        inner: S,
    ) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>>,
    {
        let told = request.extensions().get::<Told>().cloned().unwrap_or_default();
        let answered = match timeout(request.headers()) {
            Ok(None) => self.answer(codec, request, inner).await?,
            // With no time at all nothing begins.
            Ok(Some(limit)) if limit.is_zero() => Err(late(limit)),
            Ok(Some(limit)) => match tokio::time::timeout(limit, self.answer(codec, request, inner)).await {
                Ok(answered) => answered?,
                Err(_) => Err(late(limit)),
            },
            Err(refusal) => Err(refused(refusal)),
        };
        Ok(match answered {
            Ok((message, place)) => {
                told.tell(Code::Ok);
                let media_type = if codec == Codec::Json { JSON } else { PROTO };
                let mut response = whole(StatusCode::OK, media_type, message);
                if let Some(place) = place {
                    response.extensions_mut().insert(place);
                }
                response
            }
            Err(status) => {
                told.tell(status.code());
                error(&status)
            }
        })
    }

    async fn answer<S>(
        &self,
        codec: Codec,
        request: Request<Body>,
        mut inner: S,
    ) -> Result<Result<Answered, Status>, S::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>>,
    {
        let method = match JsonMethod::at(request.uri().path()).and_then(|it| known(request.headers(), it)) {
            Ok(method) => method,
            Err(refusal) => return Ok(Err(refused(refusal))),
        };
        let request = match self.as_grpc(codec, &method, request).await {
            Ok(request) => request,
            Err(status) => return Ok(Err(status)),
        };
        let mut response = inner.call(request).await?;
        let place = response.extensions_mut().remove::<Place>();
        let message = match message_of(response).await {
            Ok(message) => message,
            Err(status) => return Ok(Err(of_transport(&status).unwrap_or(status))),
        };
        if codec == Codec::Proto {
            return Ok(Ok((message, place)));
        }
        let json = self.convert(message.len(), move || method.answer(&message)).await;
        Ok(json.and_then(|it| it).map(|json| (Bytes::from(json), place)))
    }

    /// The call as one of gRPC, once its body is whole.
    async fn as_grpc(
        &self,
        codec: Codec,
        method: &JsonMethod,
        request: Request<Body>,
    ) -> Result<Request<Body>, Status> {
        let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
        let (mut head, body) = request.into_parts();
        // Its room is kept until the message is made.
        let claim = self.budget.claim(&peer);
        let body = self.collect(body, &claim).await.map_err(refused)?;
        claim.is_whole();
        let message = match codec {
            Codec::Proto => body,
            Codec::Json => {
                let method = method.clone();
                let read = self.convert(body.len(), move || method.request(&body)).await?;
                Bytes::from(read.map_err(refused)?)
            }
        };
        let mut framed = BytesMut::with_capacity(HEAD_BYTES + message.len());
        framed.put_u8(0);
        framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
        framed.put(message);
        head.version = Version::HTTP_2;
        for name in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION, header::HOST] {
            head.headers.remove(name);
        }
        head.headers.insert(header::CONTENT_TYPE, GRPC);
        head.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        Ok(Request::from_parts(head, Body::new(Full::new(framed.freeze()))))
    }

    /// A request's body, if it comes in time and there is room for it.
    async fn collect(&self, mut body: Body, claim: &Claim) -> Result<Bytes, Refusal> {
        let announced = body.size_hint().lower();
        let too_long = || {
            let message =
                format!("the body is longer than {MAX_BODY_BYTES} bytes: send it in parts, or by gRPC");
            Refusal::exhausted("LIMIT_EXCEEDED", message)
        };
        if announced > MAX_BODY_BYTES as u64 {
            return Err(too_long());
        }
        let mut whole = BytesMut::new();
        let coming = async {
            loop {
                let frame = std::future::poll_fn(|context| {
                    let polled = std::pin::Pin::new(&mut body).poll_frame(context);
                    match polled.is_pending() && !whole.is_empty() && claim.gave_way(context) {
                        true => std::task::Poll::Ready(Err(claim.overloaded())),
                        false => polled.map(Ok),
                    }
                });
                let Some(frame) = frame.await? else { return Ok(whole.split().freeze()) };
                let broken = |_| Refusal::invalid("BAD_MESSAGE", "the body broke off: send it again");
                let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
                let bytes = whole.len() + data.len();
                if bytes > MAX_BODY_BYTES {
                    return Err(too_long());
                }
                let (bytes, mut wait) = (bytes as u64, None);
                std::future::poll_fn(|context| match claim.poll_grow(bytes, announced.max(bytes), context) {
                    std::task::Poll::Ready(room) => std::task::Poll::Ready(room),
                    std::task::Poll::Pending => {
                        let over = wait.get_or_insert_with(Wait::begin).poll_over(context);
                        over.map(|()| Err(claim.overloaded()))
                    }
                })
                .await?;
                whole.extend_from_slice(&data);
            }
        };
        tokio::time::timeout(self.whole, coming).await.unwrap_or_else(|_| {
            let message = format!("the request did not arrive whole within {} s", self.whole.as_secs());
            Err(Refusal::deadline("BODY_TIMEOUT", message))
        })
    }

    /// Reads or writes so many bytes; many of them beside what else goes on, and not with others.
    async fn convert<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        if bytes <= INLINE_BYTES {
            return Ok(work());
        }
        let place = tokio::time::timeout(LARGE_WAIT, Arc::clone(&self.large).acquire_owned()).await;
        let Ok(Ok(place)) = place else {
            let message =
                "more large JSON is read and written than this server does at once: come back in a moment";
            return Err(refused(Refusal::exhausted("OVERLOADED", message).retry_after(RETRY)));
        };
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(place);
            done
        });
        done.await.map_err(|it| internal(&format!("reading or writing JSON panicked: {it}")))
    }
}

fn late(limit: Duration) -> Status {
    let message = format!("the call was not done within its {} ms", limit.as_millis());
    refused(Refusal::deadline("DEADLINE_EXCEEDED", message))
}

fn refused(refusal: Refusal) -> Status {
    status_of(refusal.into())
}

/// Looks at what a call says of itself.
fn known(headers: &HeaderMap, method: JsonMethod) -> Result<JsonMethod, Refusal> {
    let encoding = headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|it| !it.as_bytes().eq_ignore_ascii_case(b"identity")) {
        let message = "compressed bodies are not taken: send them as they are (content-encoding `identity`)";
        return Err(Refusal::unimplemented("COMPRESSED", message));
    }
    match headers.get("connect-protocol-version") {
        Some(version) if version != "1" => {
            let message = "the header `connect-protocol-version` is `1` or missing";
            Err(Refusal::invalid("BAD_MESSAGE", message))
        }
        _ => Ok(method),
    }
}

/// How long a call may take, if it says so.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Refusal> {
    let Some(value) = headers.get("connect-timeout-ms") else { return Ok(None) };
    let digits = value.to_str().ok().filter(|it| it.len() <= TIMEOUT_DIGITS);
    let ms = digits.and_then(|it| it.parse().ok()).ok_or_else(|| {
        let message = "the header `connect-timeout-ms` is a number of milliseconds of at most ten digits";
        Refusal::invalid("BAD_MESSAGE", message)
    })?;
    Ok(Some(Duration::from_millis(ms)))
}

/// The message of an answer of gRPC.
async fn message_of(response: Response<Body>) -> Result<Bytes, Status> {
    if let Some(status) = Status::from_header_map(response.headers()).filter(|it| it.code() != Code::Ok) {
        return Err(status);
    }
    let body = Limited::new(response.into_body(), HEAD_BYTES + MAX_MESSAGE_BYTES);
    let body = body.collect().await.map_err(|it| match it.downcast::<Status>() {
        Ok(status) => *status,
        Err(error) => internal(&format!("an answer broke off: {error}")),
    })?;
    if let Some(status) = body.trailers().and_then(Status::from_header_map).filter(|it| it.code() != Code::Ok)
    {
        return Err(status);
    }
    let mut message = body.to_bytes();
    if message.len() < HEAD_BYTES {
        return Err(internal("an answer has no message"));
    }
    Ok(message.split_off(HEAD_BYTES))
}

/// An error as Connect writes it.
pub(super) fn error(status: &Status) -> Response<Body> {
    let mut response = whole(http_status(status.code()), JSON, Bytes::from(json_error(status)));
    let headers = response.headers_mut();
    if let Some(retry) = status.get_details_retry_info().and_then(|it| it.retry_delay) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(retry.as_secs().max(1)));
    }
    if status.code() == Code::Unauthenticated {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

fn whole(status: StatusCode, media_type: HeaderValue, body: Bytes) -> Response<Body> {
    let length = body.len();
    let mut response = Response::new(Body::new(Full::new(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, media_type);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

/// A code as a status of HTTP, by Connect's table.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        // "Client closed request", which has no name of its own.
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::REQUEST_TIMEOUT),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
