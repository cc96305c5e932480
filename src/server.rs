//! The server: one listener, limits on what may connect, and a graceful stop that ends.

mod connections;
mod greeting;
mod http1;
mod places;
mod stream;
mod tls;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::anyhow;
use tokio::net::TcpListener;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::Server;
use tower::Layer;
use tower::ServiceBuilder;
use tower::ServiceExt;

use crate::app::App;
use crate::background;
use crate::config::Config;
use crate::config::Limits;
use crate::grpc;
use crate::layers::AnswersLayer;
use crate::layers::Budget;
use crate::layers::DoorLayer;
use crate::layers::Http;
use crate::layers::KindsLayer;
use crate::layers::Proxies;
use crate::layers::RequestsLayer;
use crate::layers::TraceLayer;
use crate::maintenance;
use crate::page;
use crate::server::connections::connections;
use crate::server::greeting::Greeting;
use crate::server::http1::Http1;
use crate::server::places::Places;
use crate::server::tls::Tls;

pub use self::tls::Term;
pub use self::tls::check as check_tls;

/// 1 MiB frames double the throughput of 16 KiB ones at half the CPU.
const FRAME_BYTES: u32 = 1 << 20;
/// Bytes under way on one stream: 4 MiB fill a link of 400 MB/s at 10 ms.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Bytes under way on one connection.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Serves until SIGINT or SIGTERM. `on_ready` hears the address once connections are accepted.
pub async fn serve(config: Config, on_ready: impl FnOnce(SocketAddr) + Send) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        told.cancel();
    });
    serve_until(config, on_ready, stop).await
}

/// Serves until `stop`, then lets calls finish within the drain limit.
pub async fn serve_until(
    config: Config,
    on_ready: impl FnOnce(SocketAddr) + Send,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    // First of all: a port that is taken leaves no data folder behind.
    let listener = TcpListener::bind(config.listen).await;
    let listener = listener
        .with_context(|| format!("listen on {}: choose another address with --listen", config.listen))?;
    let (tls, keeper) = tls::open(&config.tls)?.unzip();
    let lock = maintenance::lock(&config)?;
    let app = tokio::select! {
        app = maintenance::open(&config) => app?,
        () = stop.cancelled() => {
            tracing::info!("Stopped before it had started");
            return Ok(());
        }
    };
    let address = listener.local_addr().context("find the address")?;

    let interval = Duration::from_secs(config.collector.interval_seconds);
    let collector = tokio::spawn(background::collect_every(app.clone(), interval, stop.clone()));
    let auditing = tokio::spawn(background::keep_audit_log(app.clone(), stop.clone()));
    let (routes, health) = grpc::routes(app.clone()).await.context("set up reflection")?;
    let watching = tokio::spawn(health.watch(app.clone(), stop.clone()));
    let (told, waits) = (stop.clone(), app.clone());
    tokio::spawn(async move {
        told.cancelled().await;
        waits.stop();
    });
    let reading = keeper.map(|it| tokio::spawn(it.watch(stop.clone())));
    let is_encrypted = tls.is_some();
    let serving = serving(&config, listener, address, tls, app.clone(), routes, stop.clone());
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(version, address = %address, tls = is_encrypted, database = %config.database(), objects = %config.objects(), "Listening");
    on_ready(address);

    let drain = Duration::from_secs(config.limits.drain_seconds);
    let mut serving = std::pin::pin!(drained(serving, &stop, drain));
    let served = tokio::select! {
        served = &mut serving => served.context("serve"),
        what = app.sync_failed() => {
            tracing::error!("A sync of {what} failed: stopping, for what it wrote may be lost; look at its disk");
            stop.cancel();
            // Nothing is written any more, so calls that are open end soon; their callers hear that it was not done.
            drop(serving.await);
            Err(anyhow!("a sync of {what} failed: look at its disk, then start again"))
        }
    };
    stop.cancel();
    watching.await.context("stop the health watch")?;
    collector.await.context("stop the collector")?;
    auditing.await.context("stop the keeping of the audit log")?;
    if let Some(reading) = reading {
        reading.await.context("stop the look at the certificate")?;
    }
    app.close().await;
    drop(lock);
    tracing::info!("Stopped");
    served
}

/// Serves connections of both kinds, with the same layers before the same services.
fn serving(
    config: &Config,
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Tls>,
    app: App,
    routes: Routes,
    stop: CancellationToken,
) -> impl Future<Output = Result<(), tonic::transport::Error>> + use<> {
    let proxies = Proxies::new(&config.proxy.trusted);
    let greeting = Greeting { tls, within: Duration::from_secs(config.limits.handshake_seconds) };
    let places = Places::new(&config.limits, proxies.clone());
    let requests = requests(&config.limits);
    let kinds =
        KindsLayer::new(requests.whole, Arc::clone(&requests.budget), address.ip().is_loopback(), pages);
    let layers = ServiceBuilder::new()
        .layer(TraceLayer { proxies })
        .layer(answers(&config.limits))
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

fn answers(limits: &Limits) -> AnswersLayer {
    AnswersLayer {
        idle: Duration::from_secs(limits.upload_idle_seconds),
        budget: Arc::new(Budget::of_answers(limits.answer_buffers_bytes)),
    }
}

fn requests(limits: &Limits) -> RequestsLayer {
    RequestsLayer {
        whole: Duration::from_secs(limits.request_seconds),
        budget: Arc::new(Budget::of_requests(limits.request_buffers_bytes)),
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

/// tonic's graceful stop waits for every open stream, however long: after the drain limit this drops what is still open. Writes
/// that have begun finish nevertheless, and clients resume.
async fn drained<E>(
    serving: impl Future<Output = Result<(), E>>,
    stop: &CancellationToken,
    drain: Duration,
) -> Result<(), E> {
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        served = &mut serving => return served,
        () = stop.cancelled() => {}
    }
    tracing::info!(drain_seconds = drain.as_secs(), "Stopping: no new connections, open calls may finish");
    match tokio::time::timeout(drain, serving).await {
        Ok(served) => served,
        Err(_) => {
            tracing::warn!("Dropped the calls that were still open after the drain limit");
            Ok(())
        }
    }
}
