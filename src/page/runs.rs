//! The runs of a team or a project, and what they keep.

use axum::extract::Path;
use keepbest_proto::v1;
use maud::Markup;
use maud::html;

use crate::figures;
use crate::page::layout::Frame;
use crate::page::layout::LIVE_SECONDS;
use crate::page::layout::more;
use crate::page::layout::nothing;
use crate::page::show;
use crate::page::trouble::Trouble;
use crate::page::visit::Visit;

const RUNS_A_PAGE: i32 = 50;
const ARTIFACTS_A_PAGE: i32 = 50;
const PROJECTS_A_PAGE: i32 = 200;
/// Filters that are typed often.
const FILTERS: [(&str, &str); 4] = [
    ("", "all"),
    ("state = \"ACTIVE\"", "active"),
    ("state = \"FINISHED\"", "finished"),
    ("state = \"FAILED\"", "failed"),
];

pub(super) async fn of_team(visit: Visit, Path(team): Path<String>) -> Result<Markup, Trouble> {
    let parent = format!("teams/{team}");
    let request =
        v1::ListProjectsRequest { parent: parent.clone(), page_size: PROJECTS_A_PAGE, ..Default::default() };
    let projects =
        async { Ok::<_, Trouble>(visit.projects().list_projects(visit.ask(request)).await?.into_inner()) };
    let (projects, runs) = tokio::try_join!(projects, list(&visit, format!("{parent}/projects/-")))?;
    let frame = Frame { live_seconds: live_seconds(&runs.runs), ..Frame::of(&visit, &team, "") };
    Ok(frame.page(&html! {
        div.title { h1 { (show::text(&team)) } }
        @if !projects.projects.is_empty() {
            section aria-labelledby="projects" {
                h2 #projects { "Projects" }
                ul.cards { @for project in &projects.projects { li { (show::link(&project.name)) } } }
                @if !projects.next_page_token.is_empty() { p.note { "These are the first " (projects.projects.len()) "." } }
            }
        }
        (section(&visit, &runs, "Runs", true))
    }))
}

pub(super) async fn of_project(
    visit: Visit,
    Path((team, project)): Path<(String, String)>,
) -> Result<Markup, Trouble> {
    let parent = format!("teams/{team}/projects/{project}");
    let request = v1::ListArtifactsRequest {
        parent: parent.clone(),
        page_size: ARTIFACTS_A_PAGE,
        page_token: visit.query.first("artifacts").to_owned(),
    };
    let artifacts =
        async { Ok::<_, Trouble>(visit.artifacts().list_artifacts(visit.ask(request)).await?.into_inner()) };
    let (artifacts, runs) = tokio::try_join!(artifacts, list(&visit, parent.clone()))?;
    let frame = Frame::of(&visit, &project, show::parent(&parent, 1));
    let frame = Frame { live_seconds: live_seconds(&runs.runs), ..frame };
    Ok(frame.page(&html! {
        div.title { h1 { (show::text(&project)) } }
        (section(&visit, &runs, "Runs", false))
        section aria-labelledby="artifacts" {
            h2 #artifacts { "Artifacts" }
            @if artifacts.artifacts.is_empty() { (nothing(&html! { "Nothing was kept yet." })) }
            @else { (artifact_table(&artifacts.artifacts, visit.now_us)) }
            @if !artifacts.next_page_token.is_empty() {
                (more(&visit.query.with("artifacts", &artifacts.next_page_token).link(), "More artifacts"))
            }
        }
    }))
}

/// A page of runs, as the address asks for them.
pub(super) async fn list(visit: &Visit, parent: String) -> Result<v1::ListRunsResponse, Trouble> {
    let request = v1::ListRunsRequest {
        parent,
        page_size: RUNS_A_PAGE,
        page_token: visit.query.first("page").to_owned(),
        filter: visit.query.first("filter").to_owned(),
    };
    Ok(visit.runs().list_runs(visit.ask(request)).await?.into_inner())
}

/// Whether any of them goes on, so that it is worth to look again.
pub(super) fn live_seconds(runs: &[v1::Run]) -> Option<u32> {
    runs.iter().any(|it| it.state() == v1::RunState::Active).then_some(LIVE_SECONDS)
}

/// Runs with what narrows them down.
pub(super) fn section(
    visit: &Visit,
    runs: &v1::ListRunsResponse,
    heading: &str,
    has_projects: bool,
) -> Markup {
    let filter = visit.query.first("filter");
    let fresh = visit.query.with("page", "");
    html! {
        section aria-labelledby="runs" {
            h2 #runs { (heading) }
            div.bar {
                nav.tabs aria-label="Which runs" {
                    @for (value, label) in FILTERS {
                        a href=(fresh.with("filter", value).link()) aria-current=[(value == filter).then_some("page")] { (label) }
                    }
                }
                form.inline method="get" role="search" {
                    label for="filter" { "Filter" }
                    input #filter type="search" name="filter" value=(filter) spellcheck="false" autocomplete="off"
                        placeholder="config : \"adam\" AND last_epoch >= 9" aria-describedby="fields";
                    button type="submit" { "Search" }
                }
            }
            p.note #fields { "Fields: run, state, artifact, monitor, config, create_time, heard_time, attempt, last_epoch "
                "(from 0), event_count. The newest first." }
            div data-part="runs" {
                @if runs.runs.is_empty() && filter.is_empty() {
                    (nothing(&html! { "No run has begun here yet." }))
                } @else if runs.runs.is_empty() {
                    (nothing(&html! { "No run on this page matches." }))
                } @else {
                    (table(&runs.runs, has_projects, visit.now_us))
                }
            }
            @if !runs.next_page_token.is_empty() {
                (more(&visit.query.with("page", &runs.next_page_token).link(), "Older runs"))
            }
        }
    }
}

fn table(runs: &[v1::Run], has_projects: bool, now_us: i64) -> Markup {
    html! {
        // The button sends what is chosen to the page that compares; without a choice it says so.
        form method="get" action={ "/" (show::parent(&runs[0].name, 1)) "/compare" } {
            div.scroll #list tabindex="0" role="region" aria-label="Table of runs" {
                table {
                    thead { tr {
                        @if !has_projects { th.pick scope="col" { span.hidden { "Compare" } } }
                        th scope="col" { "Run" }
                        th scope="col" { "State" }
                        th.number scope="col" { "Best" }
                        th.number scope="col" { "Epoch" }
                        th scope="col" { "Monitor" }
                        th.number scope="col" { "Events" }
                        th.number scope="col" { "Attempt" }
                        th scope="col" { "Heard" }
                        th scope="col" { "Began" }
                    } }
                    tbody { @for run in runs { (row(run, has_projects, now_us)) } }
                }
            }
            @if !has_projects && runs.len() > 1 { button type="submit" { "Compare the chosen runs" } }
        }
    }
}

fn row(run: &v1::Run, has_projects: bool, now_us: i64) -> Markup {
    let id = show::id(&run.name);
    html! {
        tr {
            @if !has_projects { td.pick { input type="checkbox" name="run" value=(id) aria-label={ "Compare " (id) }; } }
            th scope="row" {
                @if has_projects { span.soft { (show::text(show::id(show::parent(&run.name, 1)))) " / " } }
                (show::link(&run.name))
            }
            td { (show::state(run)) }
            td.number { (show::metric(show::best(run))) }
            td.number { @if let Some(epoch) = run.last_epoch { (epoch.saturating_add(1)) } }
            td { (show::text(show::monitor(run))) }
            td.number { (figures::grouped(run.event_count.max(0).cast_unsigned())) }
            td.number { (run.attempt) }
            td { (show::age(run.heard_time.as_ref(), now_us)) }
            td { (show::age(run.create_time.as_ref(), now_us)) }
        }
    }
}

fn artifact_table(artifacts: &[v1::Artifact], now_us: i64) -> Markup {
    html! {
        div.scroll #artifact-list tabindex="0" role="region" aria-label="Table of artifacts" {
            table {
                thead { tr {
                    th scope="col" { "Artifact" }
                    th scope="col" { "Type" }
                    th scope="col" { "Best goes by" }
                    th.number scope="col" { "Versions made" }
                    th scope="col" { "Began" }
                } }
                tbody {
                    @for artifact in artifacts {
                        tr {
                            th scope="row" { (show::link(&artifact.name)) }
                            td { (show::text(&artifact.r#type)) }
                            td { (show::text(&artifact.monitor)) span.soft { " " (show::direction(artifact.direction())) } }
                            td.number { (artifact.version_count) }
                            td { (show::age(artifact.create_time.as_ref(), now_us)) }
                        }
                    }
                }
            }
        }
    }
}
