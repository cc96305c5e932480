//! What a load balancer and a supervisor ask: is it ready, is it alive (`grpc.health.v1`).
//!
//! The service `""` and each of ours are SERVING while the database answers: a load balancer sends calls elsewhere when they
//! are not. `liveness` is SERVING as long as the process can say so: a supervisor that restarts servers because their
//! database is away makes it worse.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::app::App;
use crate::app::causes;
use crate::metrics::Gauge;

/// Ask for this service to learn whether the process is alive.
pub const LIVENESS: &str = "liveness";
/// Pause between questions to the database: a load balancer hears of an outage one pause and one timeout later.
const INTERVAL: Duration = Duration::from_secs(1);
/// A database that takes longer for one row is away.
const PATIENCE: Duration = Duration::from_secs(2);

/// Says of all services whether they are ready.
#[derive(Debug)]
pub struct Health {
    reporter: HealthReporter,
    services: Vec<&'static str>,
    ready: Arc<Gauge>,
}

impl Health {
    /// Ready at once: whoever makes it has just opened the database.
    pub(super) async fn new(reporter: HealthReporter, services: Vec<&'static str>) -> Health {
        let health = Health { reporter, services, ready: Arc::default() };
        health.reporter.set_service_status(LIVENESS, ServingStatus::Serving).await;
        health.say(true).await;
        health
    }

    /// Whether it is ready: 1, or 0.
    pub fn ready(&self) -> Arc<Gauge> {
        Arc::clone(&self.ready)
    }

    async fn say(&self, ready: bool) {
        self.ready.set(i64::from(ready));
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in &self.services {
            self.reporter.set_service_status(*service, status).await;
        }
    }

    /// Asks the database again and again until the server stops; then nothing is ready any more, so that calls go elsewhere
    /// while the open ones end.
    pub async fn watch(self, app: App, stop: CancellationToken) {
        let mut ready = true;
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return self.say(false).await,
                asked = tokio::time::timeout(PATIENCE, app.ping()) => asked,
            };
            let now = matches!(asked, Ok(Ok(())));
            if ready != now {
                match asked {
                    Ok(Ok(())) => tracing::info!("Ready again: the database answers"),
                    Ok(Err(error)) => {
                        tracing::error!(error = %causes(&error), "Not ready: the database is away");
                    }
                    Err(_) => tracing::error!("Not ready: the database does not answer"),
                }
                self.say(now).await;
                ready = now;
            }
            tokio::select! {
                () = stop.cancelled() => return self.say(false).await,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }
}
