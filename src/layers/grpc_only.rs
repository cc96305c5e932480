//! What is not gRPC has no effect: tonic goes by the path alone and would read any body as messages, those that a page in a
//! browser may send anywhere without asking among them.

use std::future::Ready;
use std::task::Context;
use std::task::Poll;

use futures::future::Either;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header;
use tonic::Code;
use tonic::body::Body;
use tower::Layer;
use tower::Service;

/// Messages are protobuf; the first is what nearly all clients say.
const MEDIA_TYPES: [&str; 2] = ["application/grpc", "application/grpc+proto"];

/// Puts `GrpcOnly` around a service.
#[derive(Clone, Copy, Debug, Default)]
pub struct GrpcOnlyLayer;

impl<S> Layer<S> for GrpcOnlyLayer {
    type Service = GrpcOnly<S>;

    fn layer(&self, inner: S) -> GrpcOnly<S> {
        GrpcOnly { inner }
    }
}

#[derive(Clone, Debug)]
pub struct GrpcOnly<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for GrpcOnly<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.method() != Method::POST {
            let mut response = refused(StatusCode::METHOD_NOT_ALLOWED, "a call of gRPC is a POST\n");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
            return Either::Right(std::future::ready(Ok(response)));
        }
        if !is_grpc(request.headers().get(header::CONTENT_TYPE)) {
            let line = "this is a Keepbest server: it takes gRPC alone, as content-type `application/grpc`\n";
            let response = refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, line);
            return Either::Right(std::future::ready(Ok(response)));
        }
        Either::Left(self.inner.call(request))
    }
}

fn is_grpc(content_type: Option<&HeaderValue>) -> bool {
    let text = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = text.split(';').next().unwrap_or_default().trim();
    MEDIA_TYPES.iter().any(|known| media_type.eq_ignore_ascii_case(known))
}

/// A line for people, and a code for those who read nothing else.
fn refused(status: StatusCode, line: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::new(line.to_owned()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert("grpc-status", HeaderValue::from(Code::InvalidArgument as i32));
    response
}
