//! The port of the metrics: HTTP/1.1, one request a connection. It is for one Prometheus or two, so all of it is small.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::server::metrics::Metrics;

/// Connections at once; further ones are closed. Each may hold a text of some 100 KiB.
const CONNECTIONS: usize = 16;
/// How long the head of a request may take.
const HEAD: Duration = Duration::from_secs(5);
/// How long a connection may take in all: Prometheus gives up after 10 s if it is told nothing else.
const WHOLE: Duration = Duration::from_secs(15);
/// The longest head: the least that hyper takes.
const HEAD_BYTES: usize = 8 << 10;
/// When accepting fails (no file descriptors), the loop rests so long instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers until it is dropped, and its connections with it.
pub(in crate::server) async fn serve(listener: TcpListener, metrics: Metrics) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                while connections.try_join_next().is_some() {}
                if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                    connections.spawn(connection(stream, metrics.clone(), place));
                }
            }
            Err(error) => {
                tracing::warn!(error = %error, "Could not accept a connection at the port of the metrics");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, metrics: Metrics, _place: OwnedSemaphorePermit) {
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let answer = metrics.answer(request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(answer) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(WHOLE, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(error = %error, "A connection at the port of the metrics broke"),
        Err(_) => tracing::debug!("A connection at the port of the metrics took too long"),
    }
}
