//! All that a server counts, put together when somebody asks: the text for Prometheus, and a port of its own for it.

mod disks;
mod port;

use std::fmt;
use std::sync::Arc;

use http::Method;
use http::Response;
use http::StatusCode;
use http::header;

use crate::app::App;
use crate::layers::Budget;
use crate::layers::Requests;
use crate::metrics::Gauge;
use crate::metrics::Text;
use crate::metrics::tell_process;
use crate::server::counts::Connections;

pub(super) use self::disks::Disks;
pub(super) use self::port::serve;

/// Where the metrics are.
const PATH: &str = "/metrics";
/// How the text is called.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a server counts; cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<All>);

/// What is asked.
pub(super) struct All {
    pub(super) app: App,
    pub(super) requests: Arc<Requests>,
    pub(super) connections: Arc<Connections>,
    pub(super) request_buffers: Arc<Budget>,
    pub(super) answer_buffers: Arc<Budget>,
    /// When it started, in seconds since 1970.
    pub(super) start_seconds: f64,
    /// Seconds between two passes of the collector.
    pub(super) collector_interval: u64,
    /// Whether it is ready: 1, or 0.
    pub(super) ready: Arc<Gauge>,
    /// Until when the certificate is good, in seconds since 1970; none: nothing is encrypted.
    pub(super) certificate_until: Option<Arc<Gauge>>,
    pub(super) disks: Arc<Disks>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Metrics")
    }
}

impl Metrics {
    pub(super) fn new(all: All) -> Metrics {
        Metrics(Arc::new(all))
    }

    pub(super) fn disks(&self) -> Arc<Disks> {
        Arc::clone(&self.0.disks)
    }

    /// What is counted, as Prometheus reads it (its text format 0.0.4). Some thousand numbers in memory are read; no lock is held that
    /// a request would wait for, but for the moments in which the use of buffers and queues is looked at.
    pub fn text(&self) -> String {
        let (all, mut text) = (&*self.0, Text::default());
        all.app.tell(&mut text);
        all.requests.tell(&mut text);
        all.connections.tell(&mut text);
        all.request_buffers.tell(&mut text, "requests");
        all.answer_buffers.tell(&mut text, "answers");
        all.disks.tell(&mut text);
        text.gauge("keepbest_ready", "Whether the database answers, so that the server's health is SERVING.")
            .put(&[], &*all.ready);
        text.gauge("keepbest_collector_interval_seconds", "How long the collector rests between two passes.")
            .put(&[], all.collector_interval);
        let mut certificate = text
            .gauge("keepbest_certificate_expiry_timestamp_seconds", "When the certificate of TLS expires.");
        if let Some(until) = &all.certificate_until {
            certificate.put(&[], &**until);
        }
        text.gauge("keepbest_build_info", "Which program this is; always 1.")
            .put(&[("version", env!("CARGO_PKG_VERSION"))], 1_u64);
        text.gauge(
            "process_start_time_seconds",
            "When the server started; the time since then is its uptime.",
        )
        .put(&[], all.start_seconds);
        tell_process(&mut text);
        text.to_string()
    }

    /// The answer to a request of HTTP.
    pub fn answer(&self, method: &Method, path: &str) -> Response<String> {
        let (status, kind, body) = match (method, path) {
            (&Method::GET | &Method::HEAD, PATH) => (StatusCode::OK, TEXT, self.text()),
            (_, PATH) => {
                (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET is known here\n".to_owned())
            }
            _ => (StatusCode::NOT_FOUND, "text/plain", format!("there is nothing but {PATH}\n")),
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        }
        response
    }
}
