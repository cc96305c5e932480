//! The page: what people look at in a browser. It is a client of the API like any other: it asks the services in this process
//! through the same layers, as whoever looks at it, and knows nothing else ([ADR 44](../../docs/adr/0044-the-page-is-a-client-of-the-api.md)).

mod alias;
mod artifact;
mod chart;
mod compare_runs;
mod compare_versions;
mod curve;
mod decisions;
mod guard;
mod home;
mod layout;
mod marks;
mod points;
mod query;
mod remove;
mod run;
mod runs;
mod scale;
mod session;
mod show;
mod statics;
mod trouble;
mod version;
mod versions;
mod visit;

use std::convert::Infallible;

use axum::Router;
use axum::middleware;
use axum::routing::get;
use axum::routing::post;
use tower::util::BoxCloneSyncService;

use crate::clock::Clock;

/// The layered service below: the door and everything behind it.
pub type Api =
    BoxCloneSyncService<http::Request<tonic::body::Body>, http::Response<tonic::body::Body>, Infallible>;

/// What all answers of the page are made with; cheap to clone.
#[derive(Clone)]
struct Site {
    api: Api,
    clock: Clock,
}

/// All that is no call of an RPC: the pages, the forms on them, and what they are made of below `/-/`.
pub fn router(api: Api) -> Router {
    let site = Site { api, clock: Clock::System };
    Router::new()
        .route("/", get(home::home))
        .route("/-/login", get(session::form).post(session::log_in))
        .route("/-/logout", post(session::log_out))
        .route("/-/static/{version}/{file}", get(statics::file))
        .route("/teams/{team}", get(runs::of_team))
        .route("/teams/{team}/projects/{project}", get(runs::of_project))
        .route("/teams/{team}/projects/{project}/compare", get(compare_runs::compare))
        .route("/teams/{team}/projects/{project}/runs/{run}", get(run::run))
        .route("/teams/{team}/projects/{project}/runs/{run}/decisions", get(decisions::all))
        .route("/teams/{team}/projects/{project}/artifacts/{artifact}", get(artifact::artifact))
        .route("/teams/{team}/projects/{project}/artifacts/{artifact}/alias", post(alias::set))
        .route(
            "/teams/{team}/projects/{project}/artifacts/{artifact}/compare",
            get(compare_versions::compare),
        )
        .route(
            "/teams/{team}/projects/{project}/artifacts/{artifact}/versions/{version}",
            get(version::version),
        )
        .route(
            "/teams/{team}/projects/{project}/artifacts/{artifact}/versions/{version}/delete",
            get(remove::ask).post(remove::remove),
        )
        .fallback(trouble::nothing_here)
        .layer(middleware::from_fn_with_state(site.clone(), guard::guard))
        .with_state(site)
}

impl std::fmt::Debug for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Site").finish_non_exhaustive()
    }
}
