//! Runs side by side: one metric of each on the same axes, and their settings.

use std::collections::BTreeSet;

use axum::extract::Path;
use keepbest_proto::v1;
use maud::Markup;
use maud::html;

use crate::figures;
use crate::page::chart::Chart;
use crate::page::chart::Drawn;
use crate::page::compare_versions::config;
use crate::page::compare_versions::config_rows;
use crate::page::compare_versions::runs;
use crate::page::compare_versions::side_by_side;
use crate::page::curve;
use crate::page::curve::Look;
use crate::page::layout::Frame;
use crate::page::layout::LONG_LIVE_SECONDS;
use crate::page::points::History;
use crate::page::show;
use crate::page::trouble::Trouble;
use crate::page::visit::Visit;

/// A call each, and one for all: five.
const MOST: usize = 4;
const EVENTS_A_CALL: i32 = 10_000;
/// How their lines are told apart: by colour and by dashes.
const CLASSES: [&str; MOST] = ["c0", "c1", "c2", "c3"];

pub(super) async fn compare(
    visit: Visit,
    Path((team, project)): Path<(String, String)>,
) -> Result<Markup, Trouble> {
    let parent = format!("teams/{team}/projects/{project}");
    let ids: BTreeSet<_> = visit.query.all("run").collect();
    if !(2..=MOST).contains(&ids.len()) {
        return Err(Trouble::bad(format!("choose 2 to {MOST} runs to compare")));
    }
    let mut found = runs(&visit, parent.clone(), ids.into_iter()).await?;
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found.truncate(MOST);
    let asked = visit.query.first("metric");
    let metric = match found.first() {
        Some(first) if asked.is_empty() => show::monitor(first).to_owned(),
        _ => asked.to_owned(),
    };
    let look = Look::of(&visit.query);
    let (mut lines, mut are_cut) = (Vec::new(), false);
    for (run, class) in found.iter().zip(CLASSES) {
        let request = v1::ListEventsRequest {
            parent: run.name.clone(),
            page_size: EVENTS_A_CALL,
            metrics: vec![metric.clone()],
            ..Default::default()
        };
        let page = visit.runs().list_events(visit.ask(request)).await?.into_inner();
        are_cut |= !page.next_page_token.is_empty();
        let history = History::of(&page.events);
        lines.extend(curve::of_lines(history.lines(&metric), show::id(&run.name), class, look));
    }
    let frame = Frame::of(&visit, "Runs side by side", &parent);
    let is_live = found.iter().any(|it| it.state() == v1::RunState::Active);
    let frame = Frame { live_seconds: is_live.then_some(LONG_LIVE_SECONDS), ..frame };
    Ok(frame.page(&html! {
        div.title { h1 { "Side by side" } }
        section aria-labelledby="curve" {
            div data-part="curve" { (figure(&metric, &found, lines, look)) }
            (controls(&visit, &metric))
            @if are_cut { p.note { "Of each run the first " (figures::grouped(EVENTS_A_CALL.unsigned_abs().into())) " events or fewer are shown." } }
        }
        section aria-labelledby="runs" { h2 #runs { "Runs and settings" } div data-part="runs" { (table(&found)) } }
    }))
}

fn figure(metric: &str, runs: &[v1::Run], lines: Vec<Drawn>, look: Look) -> Markup {
    let label = format!("{metric} of {} runs over epochs", runs.len());
    let is_empty = lines.is_empty();
    let chart = Chart { label, width: 960.0, height: 400.0, is_log: look.is_log, lines, ..Chart::default() };
    html! {
        figure.curve {
            figcaption {
                h2 #curve { (show::text(metric)) }
                span.keys {
                    @for (run, class) in runs.iter().zip(CLASSES) {
                        span.key {
                            svg.marks viewBox="0 0 28 12" width="28" height="12" aria-hidden="true" { path class={ "line " (class) } d="M1 6H27" {} }
                            (show::link(&run.name))
                        }
                    }
                }
            }
            @if is_empty { p.nothing { "None of them has reported this metric." } }
            @else { div.plot.scroll #plot tabindex="0" role="region" aria-label="The curves" { (chart.draw()) } }
        }
    }
}

fn controls(visit: &Visit, metric: &str) -> Markup {
    let (scale, smooth) = (visit.query.first("scale"), visit.query.first("smooth"));
    html! {
        form.controls method="get" data-submits {
            @for run in visit.query.all("run") { input type="hidden" name="run" value=(run); }
            label { "Metric " input name="metric" value=(metric) spellcheck="false" autocomplete="off"; }
            (curve::smoothing(smooth))
            (curve::scaling(scale))
            button type="submit" { "Show" }
        }
    }
}

fn table(runs: &[v1::Run]) -> Markup {
    let each = |value: &dyn Fn(&v1::Run) -> String| runs.iter().map(value).collect::<Vec<_>>();
    let best = |it: &v1::Run| show::best(it).map(figures::metric).unwrap_or_default();
    let epoch = |it: &v1::Run| it.last_epoch.map(|it| it.saturating_add(1).to_string()).unwrap_or_default();
    let mut rows = vec![
        ("monitor".to_owned(), each(&|it| show::monitor(it).to_owned())),
        ("best".to_owned(), each(&best)),
        ("last epoch".to_owned(), each(&epoch)),
        ("attempts".to_owned(), each(&|it| it.attempt.to_string())),
    ];
    rows.extend(config_rows(&runs.iter().map(|it| config(Some(it))).collect::<Vec<_>>()));
    let heads: Vec<_> =
        runs.iter().map(|it| maud::html! { (show::link(&it.name)) " " (show::state(it)) }).collect();
    side_by_side("runs", &heads, &rows)
}
