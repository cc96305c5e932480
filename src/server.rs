//! The server: one listener, limits on what may connect, and a graceful stop that ends.

mod connections;
mod counts;
mod greeting;
mod http1;
mod metrics;
mod places;
mod serving;
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
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::background;
use crate::clock::Clock;
use crate::config::Config;
use crate::grpc;
use crate::layers::Budget;
use crate::layers::Requests;
use crate::maintenance;
use crate::metrics::seconds_of;
use crate::server::counts::Connections;
use crate::server::metrics::Disks;
use crate::server::serving::serving;
use crate::server::tls::Keeper;

pub use self::metrics::Metrics;
pub use self::tls::Term;
pub use self::tls::check as check_tls;

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
    let listener = bind(config.listen, "choose another address with --listen").await?;
    let scraped = match config.metrics.listen {
        Some(address) => Some(bind(address, "choose another one as `metrics.listen`").await?),
        None => None,
    };
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

    let (routes, health) = grpc::routes(app.clone()).await.context("set up reflection")?;
    let counted = Counted::new(&config);
    let metrics = counted.metrics(&app, &config, &health, keeper.as_ref());
    let (told, waits) = (stop.clone(), app.clone());
    tokio::spawn(async move {
        told.cancelled().await;
        waits.stop();
    });
    let is_encrypted = tls.is_some();
    let serving = serving(&config, listener, tls, app.clone(), routes, &counted, stop.clone());
    let version = env!("CARGO_PKG_VERSION");
    let at = scraped.as_ref().and_then(|it| it.local_addr().ok()).map(tracing::field::display);
    tracing::info!(version, address = %address, tls = is_encrypted, metrics = at, database = %config.database(), objects = %config.objects(), "Listening");
    let scraping = scraped.map(|listener| tokio::spawn(metrics::serve(listener, metrics.clone())));
    let tasks = in_background(&config, &app, health, keeper, scraping.is_some().then_some(&metrics), &stop);
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
    // What only waits ends with it.
    app.stop();
    for (what, task) in tasks {
        task.await.with_context(|| format!("stop {what}"))?;
    }
    app.close().await;
    drop(lock);
    // Last: what a stop waits for can be looked at.
    if let Some(scraping) = scraping {
        scraping.abort();
    }
    tracing::info!("Stopped");
    served
}

async fn bind(address: SocketAddr, remedy: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listen on {address}: {remedy}"))
}

/// What a server does by itself while it serves, each with a name for whoever waits for its end.
fn in_background(
    config: &Config,
    app: &App,
    health: grpc::Health,
    keeper: Option<Keeper>,
    metrics: Option<&Metrics>,
    stop: &CancellationToken,
) -> Vec<(&'static str, JoinHandle<()>)> {
    let interval = Duration::from_secs(config.collector.interval_seconds);
    let mut tasks = vec![
        ("the health watch", tokio::spawn(health.watch(app.clone(), stop.clone()))),
        ("the collector", tokio::spawn(background::collect_every(app.clone(), interval, stop.clone()))),
        ("the keeping of the audit log", tokio::spawn(background::keep_audit_log(app.clone(), stop.clone()))),
        ("the keeping of the feed", tokio::spawn(background::keep_feed(app.clone()))),
    ];
    if let Some(keeper) = keeper {
        tasks.push(("the look at the certificate", tokio::spawn(keeper.watch(stop.clone()))));
    }
    // What nobody asks for is not looked up.
    if let Some(metrics) = metrics {
        let backlog = background::look_at_backlog(app.clone(), stop.clone());
        tasks.push(("the look at the backlog", tokio::spawn(backlog)));
        tasks.push(("the look at the disks", tokio::spawn(metrics.disks().watch(stop.clone()))));
    }
    tasks
}

/// Where the rooms count what is not in `app`.
struct Counted {
    requests: Arc<Requests>,
    connections: Arc<Connections>,
    request_buffers: Arc<Budget>,
    answer_buffers: Arc<Budget>,
}

impl Counted {
    fn new(config: &Config) -> Counted {
        let limits = &config.limits;
        Counted {
            requests: Arc::new(Requests::new(grpc::methods())),
            connections: Arc::new(Connections::new(limits.max_connections.into())),
            request_buffers: Arc::new(Budget::of_requests(limits.request_buffers_bytes)),
            answer_buffers: Arc::new(Budget::of_answers(limits.answer_buffers_bytes)),
        }
    }

    /// With all else that is told.
    fn metrics(&self, app: &App, config: &Config, health: &grpc::Health, keeper: Option<&Keeper>) -> Metrics {
        Metrics::new(metrics::All {
            app: app.clone(),
            requests: Arc::clone(&self.requests),
            connections: Arc::clone(&self.connections),
            request_buffers: Arc::clone(&self.request_buffers),
            answer_buffers: Arc::clone(&self.answer_buffers),
            start_seconds: seconds_of(Clock::System.now_us()),
            collector_interval: config.collector.interval_seconds,
            ready: health.ready(),
            certificate_until: keeper.map(Keeper::until),
            disks: Arc::new(Disks::new(maintenance::folders(config))),
        })
    }
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
