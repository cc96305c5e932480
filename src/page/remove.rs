//! Deleting a version: first what it would free and take along, then a button that does it.

use axum::extract::Path;
use axum::extract::Request;
use axum::extract::State;
use axum::response::Redirect;
use keepbest_proto::v1;
use maud::Markup;
use maud::html;
use tonic::Status;
use tonic_types::StatusExt as _;

use crate::figures;
use crate::page::Site;
use crate::page::layout::Frame;
use crate::page::session;
use crate::page::show;
use crate::page::trouble::Trouble;
use crate::page::visit::Visit;

/// Names of people point at it; they go with it, if that is said.
const HAS_ALIASES: &str = "VERSION_HAS_ALIASES";

type Names = Path<(String, String, String, String)>;

fn name_of(Path((team, project, artifact, version)): Names) -> String {
    format!("teams/{team}/projects/{project}/artifacts/{artifact}/versions/{version}")
}

/// What would be done; nothing changes.
pub(super) async fn ask(visit: Visit, names: Names) -> Result<Markup, Trouble> {
    let request = v1::GetVersionRequest { name: name_of(names), include_files: false };
    let version = visit.artifacts().get_version(visit.ask(request)).await?.into_inner();
    let try_out = async |delete_aliases: bool| {
        let name = version.name.clone();
        let request = v1::DeleteVersionRequest { name, delete_aliases, validate_only: true };
        visit.artifacts().delete_version(visit.ask(request)).await.map(tonic::Response::into_inner)
    };
    let (would, takes_names) = match try_out(false).await {
        Err(status) if is_named(&status) => (try_out(true).await?, true),
        answer => (answer?, false),
    };
    let id = show::id(&version.name);
    let title = format!("Delete {id}");
    let is_servers = |alias: &str| alias == "latest" || alias == "best" || alias.starts_with("epoch_");
    let taken: Vec<_> = version.aliases.iter().filter(|it| !is_servers(it)).collect();
    let shown = version.aliases.join(",");
    Ok(Frame::of(&visit, &title, show::parent(&version.name, 1)).page(&html! {
        section.narrow {
            h1 { "Delete " (show::text(id)) "?" }
            dl.figures {
                div.main {
                    dt { "Frees" }
                    dd { @match would.freed_bytes { Some(bytes) => (figures::size(bytes)), None => span.soft { "too much to count" } } }
                }
                div { dt { "Of" } dd { (figures::size(would.size_bytes)) } }
                @if let Some(time) = &would.purge_time { div { dt { "At the earliest" } dd { (show::date(time.seconds)) } } }
            }
            p { "Its number is never used again, and no call reads it any more. What other versions share with it stays." }
            @if version.aliases.iter().any(|it| it == "best") { p.warning { "It is the best. " code { "best" } " moves to the next one." } }
            @if takes_names {
                p.warning { "These names go with it: " @for alias in &taken { (show::alias_chip(alias)) " " } }
            }
            form method="post" action={ "/" (version.name) "/delete" } {
                @if takes_names { input type="hidden" name="names" value=(shown); }
                button.danger type="submit" { "Delete " (id) }
                " " a href={ "/" (version.name) } { "Keep it" }
            }
        }
    }))
}

fn is_named(status: &Status) -> bool {
    status.get_details_error_info().is_some_and(|it| it.reason == HAS_ALIASES)
}

pub(super) async fn remove(
    State(site): State<Site>,
    names: Names,
    request: Request,
) -> Result<Redirect, Trouble> {
    let (parts, body) = request.into_parts();
    let visit = Visit::of(&parts, &site);
    let form = session::fields(Request::from_parts(parts, body)).await?;
    let name = name_of(names);
    let back = Redirect::to(&format!("/{}", show::parent(&name, 1)));
    let shown = form.first("names");
    let delete_aliases = !shown.is_empty();
    if delete_aliases {
        let request = v1::GetVersionRequest { name: name.clone(), include_files: false };
        let version = visit.artifacts().get_version(visit.ask(request)).await?.into_inner();
        if version.aliases.join(",") != shown {
            let text = "its names have changed since that was shown: open the page again and look at them";
            return Err(Trouble::bad(text));
        }
    }
    let request = v1::DeleteVersionRequest { name, delete_aliases, validate_only: false };
    visit.artifacts().delete_version(visit.ask(request)).await?;
    Ok(back)
}
