//! A run: its curve with what was kept of it, and why; where it stands, its settings, and its last decisions.

use std::collections::BTreeSet;
use std::collections::HashMap;

use axum::extract::Path;
use keepbest_proto::v1;
use maud::Markup;
use maud::html;

use crate::figures;
use crate::page::chart::Chart;
use crate::page::curve;
use crate::page::curve::Look;
use crate::page::decisions;
use crate::page::layout::Frame;
use crate::page::layout::LIVE_SECONDS;
use crate::page::layout::LONG_LIVE_SECONDS;
use crate::page::layout::more;
use crate::page::layout::nothing;
use crate::page::marks;
use crate::page::points::History;
use crate::page::show;
use crate::page::trouble::Trouble;
use crate::page::visit::Visit;

/// Events of one call, which is as many as the API gives.
const EVENTS_A_CALL: i32 = 10_000;
/// Calls for events: with the run, its decisions and its versions a page has five.
const EVENT_CALLS: usize = 2;
/// A run with so few events is asked for all its metrics; of a longer one only those that are shown, by the names that its versions and
/// its first events have.
const FEW_EVENTS: i64 = 2_000;
/// First events that tell what metrics are called: some epochs, or some batches of the first one.
const NAMED_BY: i32 = 200;
/// Decisions and versions that are marks on the curve: as many as one call gives.
const MOST_MARKS: i32 = 1_000;
/// Rows of the tables below the curve; the rest has a page of its own.
const LAST_ROWS: usize = 25;

/// What the API told of a run.
struct Told {
    run: v1::Run,
    /// Of a long history, whole.
    first: Vec<v1::RecordedEvent>,
    events: Vec<v1::RecordedEvent>,
    /// Where the events go on that were not read.
    rest: String,
    /// The newest first.
    decisions: Vec<v1::Decision>,
    has_older_decisions: bool,
    versions: Vec<v1::Version>,
    /// Of the newest save that has not ended.
    uploading: Option<v1::Checkpoint>,
}

pub(super) async fn run(
    visit: Visit,
    Path((team, project, run)): Path<(String, String, String)>,
) -> Result<Markup, Trouble> {
    let name = format!("teams/{team}/projects/{project}/runs/{run}");
    let told = load(&visit, name).await?;
    let frame = Frame::of(&visit, &run, show::parent(&told.run.name, 1));
    let is_live = told.run.state() == v1::RunState::Active;
    let seconds = if told.run.event_count <= FEW_EVENTS { LIVE_SECONDS } else { LONG_LIVE_SECONDS };
    let frame = Frame { live_seconds: is_live.then_some(seconds), ..frame };
    Ok(frame.page(&content(&visit, &told)))
}

async fn load(visit: &Visit, name: String) -> Result<Told, Trouble> {
    let run = visit.runs().get_run(visit.ask(v1::GetRunRequest { name })).await?.into_inner();
    let (versions, decisions) = tokio::try_join!(versions(visit, &run), newest_decisions(visit, &run))?;
    let first = first_events(visit, &run).await?;
    let metrics = wanted(visit, &run, &versions, &first);
    let mut events = Vec::new();
    let mut page_token = visit.query.first("events").to_owned();
    let mut calls = usize::from(!first.is_empty());
    while calls < EVENT_CALLS {
        let request = v1::ListEventsRequest {
            parent: run.name.clone(),
            page_size: EVENTS_A_CALL,
            page_token,
            metrics: metrics.clone(),
        };
        let page = visit.runs().list_events(visit.ask(request)).await?.into_inner();
        events.extend(page.events);
        page_token = page.next_page_token;
        calls += 1;
        if page_token.is_empty() {
            break;
        }
    }
    let mut told = Told {
        first,
        events,
        rest: page_token,
        has_older_decisions: !decisions.next_page_token.is_empty(),
        decisions: decisions.decisions,
        versions,
        uploading: None,
        run,
    };
    let in_flight = told.run.monitor_state.as_ref().and_then(|it| it.in_flight.last().cloned());
    if let Some(name) = in_flight.filter(|_| calls < EVENT_CALLS) {
        let request = visit.ask(v1::GetCheckpointRequest { name });
        // It may have gone since; then nothing is uploading.
        told.uploading =
            visit.checkpoints().get_checkpoint(request).await.ok().map(tonic::Response::into_inner);
    }
    Ok(told)
}

async fn versions(visit: &Visit, run: &v1::Run) -> Result<Vec<v1::Version>, Trouble> {
    let request = v1::ListVersionsRequest {
        parent: run.artifact.clone(),
        page_size: MOST_MARKS,
        filter: format!("run = \"{}\"", show::id(&run.name)),
        ..Default::default()
    };
    match visit.artifacts().list_versions(visit.ask(request)).await.map_err(Trouble::from) {
        Ok(page) => Ok(page.into_inner().versions),
        // Before the first commit, and when it was deleted, there is no artifact.
        Err(trouble) if trouble.is_not_found() => Ok(Vec::new()),
        Err(trouble) => Err(trouble),
    }
}

async fn newest_decisions(visit: &Visit, run: &v1::Run) -> Result<v1::ListDecisionsResponse, Trouble> {
    let request = v1::ListDecisionsRequest {
        parent: run.name.clone(),
        page_size: MOST_MARKS,
        newest_first: true,
        ..Default::default()
    };
    Ok(visit.runs().list_decisions(visit.ask(request)).await?.into_inner())
}

/// The first events of a long history, whole: what its metrics are called.
async fn first_events(visit: &Visit, run: &v1::Run) -> Result<Vec<v1::RecordedEvent>, Trouble> {
    if run.event_count <= FEW_EVENTS {
        return Ok(Vec::new());
    }
    let request =
        v1::ListEventsRequest { parent: run.name.clone(), page_size: NAMED_BY, ..Default::default() };
    Ok(visit.runs().list_events(visit.ask(request)).await?.into_inner().events)
}

/// The metrics that events are asked for; none means all of them.
fn wanted(
    visit: &Visit,
    run: &v1::Run,
    versions: &[v1::Version],
    first: &[v1::RecordedEvent],
) -> Vec<String> {
    if run.event_count <= FEW_EVENTS {
        return Vec::new();
    }
    let metrics = versions.iter().flat_map(|it| it.metrics.keys()).chain(of_events(first));
    let known = names(metrics, show::monitor(run));
    let chosen = curve::chosen(&visit.query, show::monitor(run), &known);
    chosen.into_iter().flat_map(|it| [format!("val_{it}"), it]).collect()
}

/// Names of metrics in events.
fn of_events(events: &[v1::RecordedEvent]) -> impl Iterator<Item = &String> {
    events.iter().filter_map(|it| it.event.as_ref()).flat_map(|it| it.metrics.keys())
}

/// What pictures there may be: the names of metrics without `val_`.
fn names<'a>(metrics: impl Iterator<Item = &'a String>, monitor: &'a str) -> BTreeSet<String> {
    let names = metrics.map(String::as_str).chain([monitor]);
    names.map(|it| curve::base(it).to_owned()).collect()
}

fn content(visit: &Visit, told: &Told) -> Markup {
    let run = &told.run;
    let history = History::of(&told.events);
    let monitor = show::monitor(run);
    let metrics = history.names().chain(told.versions.iter().flat_map(|it| it.metrics.keys()));
    let metrics = metrics.chain(of_events(&told.first));
    let known = names(metrics, monitor);
    let chosen = curve::chosen(&visit.query, monitor, &known);
    let look = Look::of(&visit.query);
    let versions: HashMap<_, _> = told.versions.iter().map(|it| (it.name.as_str(), it)).collect();
    html! {
        div.title { h1 { (show::text(show::id(&run.name))) } span data-part="state" { (show::state(run)) } }
        div #facts data-part="facts" { (facts(run, visit.now_us)) (uploads(told)) }
        section aria-labelledby="curve" {
            div data-part="curve" { (main_figure(told, &history, &chosen[0], look, &versions)) }
            (curve::controls(&visit.query, &known, &chosen))
            p.note data-part="rest" { (rest(visit, told, &history)) }
        }
        section.smalls data-part="smalls" aria-label="Other metrics" {
            @for base in chosen.iter().skip(1) { @if let Some(figure) = curve::small(&history, base, look) { (figure) } }
        }
        div.columns {
            section aria-labelledby="kept" {
                h2 #kept { "Checkpoints" }
                div data-part="checkpoints" { (checkpoints(told, &versions, visit.now_us)) }
            }
            section aria-labelledby="settings" {
                h2 #settings { "Settings" }
                (settings(run))
            }
        }
        section aria-labelledby="decisions" {
            h2 #decisions { "Decisions" }
            div data-part="decisions" {
                @if told.decisions.is_empty() { (nothing(&html! { "Nothing was due yet." })) }
                @else { (decisions::table(told.decisions.iter().take(LAST_ROWS), monitor, visit.now_us)) }
            }
            @if told.decisions.len() > LAST_ROWS {
                (more(&format!("/{}/decisions", run.name), "All decisions, with their reasons"))
            }
        }
    }
}

fn facts(run: &v1::Run, now_us: i64) -> Markup {
    html! {
        @if !run.failure.is_empty() { p.failure role="note" { strong { "It failed: " } (show::text(&run.failure)) } }
        dl.figures {
            div.main {
                dt { "Best " (show::text(show::monitor(run))) }
                dd { (show::metric(show::best(run))) }
            }
            div { dt { "Last epoch" } dd { @match run.last_epoch { Some(it) => (it.saturating_add(1)), None => span.soft { "–" } } } }
            div { dt { "Events" } dd { (figures::grouped(run.event_count.max(0).cast_unsigned())) } }
            div { dt { "Attempt" } dd { (run.attempt) } }
            div { dt { "Last sign of life" } dd { (show::age(run.heard_time.as_ref(), now_us)) } }
            div { dt { "Began" } dd { (show::age(run.create_time.as_ref(), now_us)) } }
            @if run.finish_time.is_some() { div { dt { "Ended" } dd { (show::age(run.finish_time.as_ref(), now_us)) } } }
            div { dt { "Artifact" } dd { (show::link(&run.artifact)) } }
        }
    }
}

/// What is on its way to the store.
fn uploads(told: &Told) -> Markup {
    let Some(checkpoint) = told.uploading.as_ref().filter(|it| it.state() == v1::CheckpointState::Pending)
    else {
        return html! {};
    };
    let (durable, size) = checkpoint
        .files
        .iter()
        .fold((0, 0), |(durable, size), file| (durable + file.durable_bytes, size + file.size_bytes));
    let others = told.run.monitor_state.as_ref().map_or(0, |it| it.in_flight.len()).saturating_sub(1);
    html! {
        p.uploading {
            span aria-hidden="true" { "◔ " }
            "Uploading " (show::text(&checkpoint.path)) " of epoch " (show::epoch(checkpoint.epoch, checkpoint.batch))
            @if size > 0 { ": " (figures::size(durable)) " of " (figures::size(size)) " are safe" }
            @if others > 0 { ", and " (others) " more" }
            "."
        }
    }
}

fn main_figure(
    told: &Told,
    history: &History,
    base: &str,
    look: Look,
    versions: &HashMap<&str, &v1::Version>,
) -> Markup {
    let monitor = show::monitor(&told.run);
    let lines = curve::lines(history, base, look);
    let marks = marks::marks(&told.decisions, versions, history);
    let keys = curve::keys(&lines);
    let legend = marks::legend(&marks);
    let is_empty = lines.is_empty() && marks.is_empty();
    let label = format!("{monitor} over epochs, with the checkpoints on it");
    let bands = history.bands.clone();
    let chart = Chart { label, width: 960.0, height: 400.0, is_log: look.is_log, lines, bands, marks };
    html! {
        figure.curve {
            figcaption {
                h2 #curve { (show::text(monitor)) }
                span.soft { (show::direction(told.run.direction())) }
                span.keys { (keys) (legend) }
            }
            @if is_empty {
                (nothing(&html! { "No epoch was reported yet." }))
            } @else {
                div.plot.scroll #plot tabindex="0" role="region" aria-label="The curve" { (chart.draw()) }
            }
        }
    }
}

/// What the picture leaves out, and the way to it.
fn rest(visit: &Visit, told: &Told, history: &History) -> Markup {
    let count = |number: usize| figures::grouped(number as u64);
    html! {
        @if history.gaps > 0 {
            (count(history.gaps)) " values are NaN or infinite and leave gaps. "
        }
        @if told.has_older_decisions { "Marks are of the newest " (count(told.decisions.len())) " decisions. " }
        @if !told.rest.is_empty() {
            "Shown are " (count(told.events.len())) " of "
            (figures::grouped(told.run.event_count.max(0).cast_unsigned())) " events. "
            a href=(visit.query.with("events", &told.rest).link()) { "The next ones" }
        }
        @if !visit.query.first("events").is_empty() {
            " " a href=(visit.query.with("events", "").link()) { "From the beginning" }
        }
    }
}

fn checkpoints(told: &Told, versions: &HashMap<&str, &v1::Version>, now_us: i64) -> Markup {
    let saves: Vec<_> = told.decisions.iter().filter(|it| it.action() == v1::Action::Save).collect();
    if saves.is_empty() {
        return nothing(&html! { "Nothing was worth a checkpoint yet." });
    }
    html! {
        div.scroll #saves tabindex="0" role="region" aria-label="Table of checkpoints" {
            table {
                thead { tr {
                    th scope="col" { "Version" }
                    th scope="col" { "Became" }
                    th.number scope="col" { "Epoch" }
                    th.number scope="col" { (show::text(show::monitor(&told.run))) }
                    th.number scope="col" { "Size" }
                    th scope="col" { "Names" }
                    th scope="col" { "When" }
                } }
                tbody {
                    @for decision in saves.iter().take(LAST_ROWS) {
                        @let version = versions.get(decision.version.as_str());
                        tr {
                            th scope="row" { @if decision.version.is_empty() { span.soft { "–" } } @else { (show::link(&decision.version)) } }
                            td title=(show::visible(&decision.reason_text)) { (show::outcome(decision)) }
                            td.number { (show::epoch(decision.epoch, decision.batch)) }
                            td.number { (show::metric(decision.value)) }
                            td.number { @if let Some(version) = version { (figures::size(version.size_bytes)) } }
                            td { @if let Some(version) = version { (show::aliases(version)) } }
                            td { (show::age(decision.decide_time.as_ref(), now_us)) }
                        }
                    }
                }
            }
        }
        @if saves.len() > LAST_ROWS {
            (more(&format!("/{}/decisions?action=save", told.run.name), "All that was worth a checkpoint"))
        }
    }
}

fn settings(run: &v1::Run) -> Markup {
    let strategy = run.strategy.clone().unwrap_or_default();
    let due = match strategy.save_frequency {
        Some(v1::strategy::SaveFrequency::EveryBatches(batches)) if batches > 1 => {
            format!("every {batches} batches")
        }
        Some(v1::strategy::SaveFrequency::EveryBatches(_)) => "every batch".to_owned(),
        _ => "every epoch".to_owned(),
    };
    html! {
        dl.facts {
            div { dt { "Saves" } dd { @if strategy.save_best_only { "only improvements" } @else { "whenever due" } ", " (due) } }
            div { dt { "File" } dd { code { (show::text(&strategy.filepath)) } } }
            @if let Some(config) = &run.config {
                @for (name, value) in &config.fields {
                    div { dt { (show::short_text(name)) } dd { (show::short_text(&show::value(value))) } }
                }
            }
        }
    }
}
