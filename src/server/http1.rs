//! Connections of HTTP/1: browsers without TLS, curl, and whoever collects metrics. They have the same service as those of HTTP/2, and
//! limits of their own: a head has a size and a time, and so has a connection that asks for nothing.

use std::convert::Infallible;
use std::time::Duration;

use http::Request;
use http::Response;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use hyper_util::service::TowerToHyperService;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::Service;
use tower::ServiceExt;

use crate::config::Limits;
use crate::server::connections::Connection;

/// The least that hyper takes as a limit of a head.
const LEAST_HEAD_BYTES: usize = 8 << 10;

/// How connections of HTTP/1 are served.
#[derive(Clone)]
pub(super) struct Http1<S> {
    service: S,
    builder: http1::Builder,
}

impl<S> Http1<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    pub(super) fn new(service: S, limits: &Limits) -> Http1<S> {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            // Also how long a connection may ask for nothing.
            .header_read_timeout(Duration::from_secs(limits.request_seconds))
            .max_buf_size((limits.header_bytes as usize).max(LEAST_HEAD_BYTES));
        Http1 { service, builder }
    }

    /// Serves what comes until `stop`; then each connection ends after the request that it is at. Dropped, it ends them at once.
    pub(super) async fn serve(self, mut connections: UnboundedReceiver<Connection>, stop: CancellationToken) {
        let mut open = JoinSet::new();
        loop {
            tokio::select! {
                Some(connection) = connections.recv() => {
                    open.spawn(self.clone().serve_one(connection, stop.clone()));
                }
                Some(_) = open.join_next() => {}
                () = stop.cancelled() => break,
            }
        }
        while open.join_next().await.is_some() {}
    }

    async fn serve_one(self, connection: Connection, stop: CancellationToken) {
        let peer = connection.peer().clone();
        let service = self.service.map_request(move |request: Request<hyper::body::Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer.clone());
            request
        });
        let service = TowerToHyperService::new(service);
        let mut serving = std::pin::pin!(self.builder.serve_connection(TokioIo::new(connection), service));
        let served = tokio::select! {
            served = serving.as_mut() => served,
            () = stop.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        if let Err(error) = served {
            // As of HTTP/2: a caller that went away, or was not done in time.
            tracing::debug!(error = %error, "A connection of HTTP/1 ended early");
        }
    }
}
