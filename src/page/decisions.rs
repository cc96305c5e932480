//! The log of decisions: why was my model saved, or not?

use axum::extract::Path;
use keepbest_proto::v1;
use maud::Markup;
use maud::html;

use crate::page::layout::Frame;
use crate::page::layout::more;
use crate::page::layout::nothing;
use crate::page::show;
use crate::page::trouble::Trouble;
use crate::page::visit::Visit;

const A_PAGE: i32 = 100;

pub(super) async fn all(
    visit: Visit,
    Path((team, project, run)): Path<(String, String, String)>,
) -> Result<Markup, Trouble> {
    let name = format!("teams/{team}/projects/{project}/runs/{run}");
    let only = visit.query.first("action");
    let action = match only {
        "save" => v1::Action::Save,
        "skip" => v1::Action::Skip,
        "fail" => v1::Action::Fail,
        _ => v1::Action::Unspecified,
    };
    let request = v1::ListDecisionsRequest {
        parent: name.clone(),
        page_size: A_PAGE,
        page_token: visit.query.first("page").to_owned(),
        action: action.into(),
        newest_first: true,
        ..Default::default()
    };
    let page = visit.runs().list_decisions(visit.ask(request)).await?.into_inner();
    let title = format!("Decisions of {run}");
    Ok(Frame::of(&visit, &title, &name).page(&html! {
        div.title { h1 { "Decisions" } }
        nav.tabs aria-label="Which decisions" {
            @for (value, label) in [("", "all"), ("save", "saves"), ("skip", "skips"), ("fail", "failures")] {
                a href=(visit.query.with("page", "").with("action", value).link()) aria-current=[(value == only).then_some("page")] { (label) }
            }
        }
        @if page.decisions.is_empty() { (nothing(&html! { "There are none." })) }
        @else { (table(page.decisions.iter(), "Value", visit.now_us)) }
        @if !page.next_page_token.is_empty() {
            (more(&visit.query.with("page", &page.next_page_token).link(), "Older ones"))
        }
    }))
}

/// Decisions as a table, in the order in which they come.
pub(super) fn table<'a>(
    decisions: impl Iterator<Item = &'a v1::Decision>,
    monitor: &str,
    now_us: i64,
) -> Markup {
    html! {
        div.scroll #log tabindex="0" role="region" aria-label="Table of decisions" {
            table {
                thead { tr {
                    th.number scope="col" { "Epoch" }
                    th scope="col" { "Became" }
                    th.number scope="col" { (show::text(monitor)) }
                    th.number scope="col" { "To beat" }
                    th.wide scope="col" { "Reason" }
                    th scope="col" { "Version" }
                    th.number scope="col" { "Attempt" }
                    th scope="col" { "When" }
                } }
                tbody {
                    @for decision in decisions {
                        tr.quiet[decision.action() == v1::Action::Skip] {
                            th.number scope="row" { (show::epoch(decision.epoch, decision.batch)) }
                            td { (show::outcome(decision)) }
                            td.number { (show::metric(decision.value)) }
                            td.number { (show::metric(decision.best_before)) }
                            td.wide {
                                (show::short_text(&decision.reason_text))
                                @for warning in &decision.warnings { " " span.warning { (show::short_text(warning)) } }
                            }
                            td { @if !decision.version.is_empty() { (show::link(&decision.version)) } }
                            td.number { (decision.attempt) }
                            td { (show::age(decision.decide_time.as_ref(), now_us)) }
                        }
                    }
                }
            }
        }
    }
}
