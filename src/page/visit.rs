//! One look at a page: who looks, at which address, and how the API is asked for them.

use std::convert::Infallible;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use axum::extract::FromRequestParts;
use http::Extensions;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::header;
use http::request::Parts;
use keepbest_proto::v1::admin_client::AdminClient;
use keepbest_proto::v1::artifacts_client::ArtifactsClient;
use keepbest_proto::v1::checkpoints_client::CheckpointsClient;
use keepbest_proto::v1::projects_client::ProjectsClient;
use keepbest_proto::v1::runs_client::RunsClient;
use tonic::Request;
use tonic::metadata::MetadataMap;
use tower::ServiceExt;
use tracing::Instrument;

use crate::page::Api;
use crate::page::Site;
use crate::page::query::Query;
use crate::page::session;

/// What the layers below look at in a call besides its token: they see of whoever looks at a page what they would see of a caller.
const CARRIED: [&str; 3] = ["x-forwarded-for", "x-request-id", "user-agent"];

/// What a page is made for.
pub(super) struct Visit {
    site: Site,
    /// Those of the connection, and what was found out about it.
    pub(super) extensions: Extensions,
    carried: HeaderMap,
    pub(super) token: Option<String>,
    /// The server's name and port, as the browser called it.
    pub(super) host: Option<String>,
    pub(super) query: Query,
    /// Microseconds since 1970.
    pub(super) now_us: i64,
    /// Whether the page's log line has heard who looks, and at what.
    is_recorded: AtomicBool,
}

impl Visit {
    pub(super) fn of(parts: &Parts, site: &Site) -> Visit {
        let names = CARRIED.map(HeaderName::from_static);
        let carried = names.iter().flat_map(|name| {
            parts.headers.get_all(name).iter().map(move |value| (name.clone(), value.clone()))
        });
        let named = parts.headers.get(header::HOST).and_then(|it| it.to_str().ok());
        let host = parts.uri.authority().map(http::uri::Authority::as_str).or(named);
        Visit {
            extensions: parts.extensions.clone(),
            carried: carried.collect(),
            token: session::token(&parts.headers),
            host: host.map(str::to_owned),
            query: Query::of(parts.uri.query().unwrap_or_default().as_bytes()),
            now_us: site.clock.now_us(),
            is_recorded: AtomicBool::new(false),
            site: site.clone(),
        }
    }

    /// The API. What is behind it says in the log line who calls, and for what. The line of a page has room for one of each: those of
    /// the first call, which is for what the page is about.
    fn api(&self) -> Api {
        let api = self.site.api.clone();
        if !self.is_recorded.swap(true, Ordering::Relaxed) {
            return api;
        }
        let call = move |request| api.clone().oneshot(request).instrument(tracing::info_span!("part"));
        Api::new(tower::service_fn(call))
    }

    /// A request to the API, made for whoever looks.
    pub(super) fn ask<T>(&self, message: T) -> Request<T> {
        self.ask_as(self.token.as_deref(), message)
    }

    /// The same with another token.
    pub(super) fn ask_as<T>(&self, token: Option<&str>, message: T) -> Request<T> {
        let mut headers = self.carried.clone();
        // What a header cannot hold is no token; then none is shown.
        if let Some(value) = token.and_then(|it| HeaderValue::from_str(&format!("Bearer {it}")).ok()) {
            headers.insert(header::AUTHORIZATION, value);
        }
        Request::from_parts(MetadataMap::from_headers(headers), self.extensions.clone(), message)
    }

    pub(super) fn admin(&self) -> AdminClient<Api> {
        AdminClient::new(self.api())
    }

    pub(super) fn artifacts(&self) -> ArtifactsClient<Api> {
        ArtifactsClient::new(self.api())
    }

    pub(super) fn checkpoints(&self) -> CheckpointsClient<Api> {
        CheckpointsClient::new(self.api())
    }

    pub(super) fn projects(&self) -> ProjectsClient<Api> {
        ProjectsClient::new(self.api())
    }

    pub(super) fn runs(&self) -> RunsClient<Api> {
        RunsClient::new(self.api())
    }
}

impl FromRequestParts<Site> for Visit {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, site: &Site) -> Result<Visit, Infallible> {
        Ok(Visit::of(parts, site))
    }
}
