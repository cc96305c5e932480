//! How connections are served: the layers before the services, for HTTP/2 and for HTTP/1.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::Server;
use tower::Layer;
use tower::ServiceBuilder;
use tower::ServiceExt;

use crate::app::App;
use crate::config::Config;
use crate::config::Limits;
use crate::layers::AnswersLayer;
use crate::layers::DoorLayer;
use crate::layers::Http;
use crate::layers::KindsLayer;
use crate::layers::Proxies;
use crate::layers::RequestsLayer;
use crate::layers::TraceLayer;
use crate::page;
use crate::server::Counted;
use crate::server::connections::connections;
use crate::server::greeting::Greeting;
use crate::server::http1::Http1;
use crate::server::places::Places;
use crate::server::tls::Tls;

/// 1 MiB frames double the throughput of 16 KiB ones at half the CPU.
const FRAME_BYTES: u32 = 1 << 20;
/// Bytes under way on one stream: 4 MiB fill a link of 400 MB/s at 10 ms.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Bytes under way on one connection.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Serves connections of both kinds, with the same layers before the same services.
pub(super) fn serving(
    config: &Config,
    listener: TcpListener,
    tls: Option<Tls>,
    app: App,
    routes: Routes,
    counted: &Counted,
    stop: CancellationToken,
) -> impl Future<Output = Result<(), tonic::transport::Error>> + use<> {
    let proxies = Proxies::new(&config.proxy.trusted);
    let within = Duration::from_secs(config.limits.handshake_seconds);
    let greeting = Greeting { tls, within, stop: stop.clone(), counts: Arc::clone(&counted.connections) };
    let places = Places::new(&config.limits, proxies.clone(), Arc::clone(&counted.connections));
    let requests = requests(&config.limits, counted);
    let kinds = KindsLayer::new(
        requests.whole,
        Arc::clone(&requests.budget),
        config.listen.ip().is_loopback(),
        pages,
    );
    let layers = ServiceBuilder::new()
        .layer(TraceLayer { proxies, requests: Arc::clone(&counted.requests) })
        .layer(answers(&config.limits, counted))
        .layer(kinds)
        .layer(DoorLayer { app, opens_reflection: config.auth.open_reflection })
        .layer(requests)
        .into_inner();
    let http1 = Http1::new(layers.layer(routes.clone()), &config.limits);
    let (of_http1, incoming_http1) = mpsc::unbounded_channel();
    let http1 = http1.serve(incoming_http1, stop.clone());
    let http2 = transport(&config.limits)
        .layer(layers)
        .add_routes(routes)
        .serve_with_incoming_shutdown(connections(listener, places, greeting, of_http1), async move {
            stop.cancelled().await
        });
    async move { futures::join!(http2, http1).0 }
}

/// What answers requests that are no calls: the page, which is a client of the service behind it.
fn pages(calls: Http) -> Http {
    let pages = page::router(calls)
        .map_request(|request: http::Request<Body>| request.map(axum::body::Body::new))
        .map_response(|response: http::Response<axum::body::Body>| response.map(Body::new));
    Http::new(pages)
}

fn answers(limits: &Limits, counted: &Counted) -> AnswersLayer {
    AnswersLayer {
        idle: Duration::from_secs(limits.upload_idle_seconds),
        budget: Arc::clone(&counted.answer_buffers),
    }
}

fn requests(limits: &Limits, counted: &Counted) -> RequestsLayer {
    RequestsLayer {
        whole: Duration::from_secs(limits.request_seconds),
        budget: Arc::clone(&counted.request_buffers),
    }
}

fn transport(limits: &Limits) -> Server {
    Server::builder()
        .max_frame_size(FRAME_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(limits.max_streams_per_connection)
        .http2_max_header_list_size(limits.header_bytes)
}
