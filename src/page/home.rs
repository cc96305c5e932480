//! The start: the teams of whoever looks.

use std::collections::BTreeSet;

use axum::response::IntoResponse;
use axum::response::Redirect;
use axum::response::Response;
use keepbest_proto::v1;
use maud::html;

use crate::page::layout::Frame;
use crate::page::layout::nothing;
use crate::page::runs;
use crate::page::show;
use crate::page::trouble::Trouble;
use crate::page::visit::Visit;

/// Where runs are without a `project`: the clients' default.
const DEFAULT_TEAM: &str = "default";
/// Teams that a service-admin is shown.
const A_PAGE: i32 = 1_000;

pub(super) async fn home(visit: Visit) -> Result<Response, Trouble> {
    // A field on this page leads to a team: nobody can list those of a server that asks for nothing.
    let asked = visit.query.first("team").trim();
    let is_id =
        !asked.is_empty() && asked.bytes().all(|it| it.is_ascii_alphanumeric() || b"._-".contains(&it));
    if is_id {
        return Ok(Redirect::to(&format!("/teams/{asked}")).into_response());
    }
    let who = visit.admin().who_am_i(visit.ask(v1::WhoAmIRequest {})).await?.into_inner();
    // `teams/a`, or `teams/a/projects/p` where a token is of one project.
    let scopes = who.grants.iter().filter(|it| !it.scope.is_empty());
    let mut teams: BTreeSet<String> = scopes.map(|it| it.scope.clone()).collect();
    let is_admin = who.grants.iter().any(|it| it.scope.is_empty());
    if is_admin {
        let request = v1::ListTeamsRequest { page_size: A_PAGE, ..Default::default() };
        let page = visit.admin().list_teams(visit.ask(request)).await?.into_inner();
        teams.extend(page.teams.iter().map(|it| it.name.clone()));
    }
    if !who.auth_required {
        teams.insert(format!("teams/{DEFAULT_TEAM}"));
    }
    if let (1, Some(scope), true, false) = (teams.len(), teams.first(), who.auth_required, is_admin) {
        return Ok(Redirect::to(&format!("/{scope}")).into_response());
    }
    // Whoever has just begun finds what was just begun.
    let runs = match who.auth_required {
        true => None,
        false => Some(runs::list(&visit, format!("teams/{DEFAULT_TEAM}/projects/-")).await?),
    };
    let live_seconds = runs.as_ref().and_then(|it| runs::live_seconds(&it.runs));
    let frame =
        Frame { title: "Teams", live_seconds, has_session: visit.token.is_some(), ..Frame::default() };
    let page = frame.page(&html! {
        div.title { h1 { "Teams" } }
        @if is_admin {
            p.note { "A service-admin makes teams and tokens, and sees no runs and no versions." }
        }
        @if teams.is_empty() { (nothing(&html! { "You are a member of no team yet." })) }
        @else {
            ul.cards { @for scope in &teams { li { a href={ "/" (scope) } { (show::text(&short(scope))) } } } }
        }
        @if !who.auth_required {
            form.inline method="get" action="/" {
                label for="team" { "Another team" }
                input #team name="team" required pattern="[A-Za-z0-9._\\-]+" spellcheck="false" autocomplete="off";
                button type="submit" { "Open" }
            }
            p.note { "A team is the first part of a project's name: runs of " code { "vision/digits" } " are in the team " code { "vision" } "." }
        }
        @if let Some(runs) = &runs { (runs::section(&visit, runs, &format!("Runs of {DEFAULT_TEAM}"), true)) }
    });
    Ok(page.into_response())
}

/// `teams/a/projects/p` as people write it.
fn short(scope: &str) -> String {
    scope.split('/').skip(1).step_by(2).collect::<Vec<_>>().join("/")
}
