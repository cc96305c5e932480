//! Versions side by side: metrics, the settings of their runs, and which files differ.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use axum::extract::Path;
use keepbest_proto::v1;
use maud::Markup;
use maud::html;

use crate::figures;
use crate::page::layout::Frame;
use crate::page::show;
use crate::page::trouble::Trouble;
use crate::page::visit::Visit;

/// A call each, and one for their runs: five.
const MOST: usize = 4;

pub(super) async fn compare(
    visit: Visit,
    Path((team, project, artifact)): Path<(String, String, String)>,
) -> Result<Markup, Trouble> {
    let in_project = format!("teams/{team}/projects/{project}");
    let parent = format!("{in_project}/artifacts/{artifact}");
    let ids: BTreeSet<_> = visit.query.all("v").collect();
    if !(2..=MOST).contains(&ids.len()) {
        return Err(Trouble::bad(format!("choose 2 to {MOST} versions to compare")));
    }
    let mut versions = Vec::new();
    for id in ids {
        let request = v1::GetVersionRequest { name: format!("{parent}/versions/{id}"), include_files: true };
        versions.push(visit.artifacts().get_version(visit.ask(request)).await?.into_inner());
    }
    versions.sort_by_key(|it| it.number);
    let names: BTreeSet<_> = versions.iter().map(|it| it.run.as_str()).collect();
    let runs = runs(&visit, in_project, names.into_iter()).await?;
    let title = format!("Versions of {artifact}");
    Ok(Frame::of(&visit, &title, &parent).page(&html! {
        div.title { h1 { "Side by side" } }
        (head_and_metrics(&versions, visit.now_us))
        section aria-labelledby="settings" { h2 #settings { "Settings" } (settings(&versions, &runs)) }
        section aria-labelledby="files" { h2 #files { "Files" } (files(&versions)) }
    }))
}

/// Runs of a project, in one call.
pub(super) async fn runs<'a>(
    visit: &Visit,
    parent: String,
    names: impl Iterator<Item = &'a str>,
) -> Result<Vec<v1::Run>, Trouble> {
    let quoted: Vec<_> = names.map(|it| format!("\"{}\"", show::id(it).replace(['"', '\\'], ""))).collect();
    let filter = format!("run IN ({})", quoted.join(", "));
    let request = v1::ListRunsRequest { parent, filter, page_size: 50, ..Default::default() };
    Ok(visit.runs().list_runs(visit.ask(request)).await?.into_inner().runs)
}

/// A table with a column for each thing; a row in which they differ says so.
pub(super) fn side_by_side(label: &str, heads: &[Markup], rows: &[(String, Vec<String>)]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label={ "Table of " (label) } {
            table.compare {
                thead { tr { th scope="col" { span.hidden { "What" } } @for head in heads { th scope="col" { (head) } } } }
                tbody {
                    @for (name, values) in rows {
                        @let differs = values.iter().any(|it| *it != values[0]);
                        tr.differs[differs] {
                            th scope="row" {
                                (show::short_text(name))
                                @if differs { span.hidden { " (differs)" } }
                            }
                            @for value in values { td { @if value.is_empty() { span.soft { "–" } } @else { (show::short_text(value)) } } }
                        }
                    }
                }
            }
        }
    }
}

fn heads(versions: &[v1::Version]) -> Vec<Markup> {
    versions.iter().map(|it| show::link(&it.name)).collect()
}

fn head_and_metrics(versions: &[v1::Version], now_us: i64) -> Markup {
    let each = |value: &dyn Fn(&v1::Version) -> String| versions.iter().map(value).collect::<Vec<_>>();
    let mut rows = vec![
        ("run".to_owned(), each(&|it| show::id(&it.run).to_owned())),
        ("epoch".to_owned(), each(&|it| it.epoch.saturating_add(1).to_string())),
        ("size".to_owned(), each(&|it| figures::size(it.size_bytes))),
        ("digest".to_owned(), each(&|it| show::short_digest(&it.digest))),
        (
            "when".to_owned(),
            each(&|it| {
                let age = it.create_time.as_ref().map(|time| (now_us - show::time_us(time)) / 1_000_000);
                age.map(figures::age).unwrap_or_default()
            }),
        ),
    ];
    let metrics: BTreeSet<_> = versions.iter().flat_map(|it| it.metrics.keys()).collect();
    for name in metrics {
        let value =
            |it: &v1::Version| it.metrics.get(name).map(|it| figures::metric(*it)).unwrap_or_default();
        rows.push((name.clone(), each(&value)));
    }
    html! {
        section aria-labelledby="metrics" {
            h2 #metrics { "Versions" }
            (side_by_side("versions", &heads(versions), &rows))
        }
    }
}

/// The settings of runs as texts.
pub(super) fn config(run: Option<&v1::Run>) -> BTreeMap<&str, String> {
    let fields = run.and_then(|it| it.config.as_ref()).into_iter().flat_map(|it| &it.fields);
    fields.map(|(name, value)| (name.as_str(), show::value(value))).collect()
}

pub(super) fn config_rows(configs: &[BTreeMap<&str, String>]) -> Vec<(String, Vec<String>)> {
    let names: BTreeSet<_> = configs.iter().flat_map(BTreeMap::keys).collect();
    let row = |name: &&str| configs.iter().map(|it| it.get(name).cloned().unwrap_or_default()).collect();
    names.into_iter().map(|name| ((*name).to_owned(), row(name))).collect()
}

fn settings(versions: &[v1::Version], runs: &[v1::Run]) -> Markup {
    let of = |version: &v1::Version| config(runs.iter().find(|it| it.name == version.run));
    let rows = config_rows(&versions.iter().map(of).collect::<Vec<_>>());
    html! {
        @if rows.is_empty() { p.nothing { "Their runs told no settings, or were deleted." } }
        @else { (side_by_side("settings", &heads(versions), &rows)) }
    }
}

fn files(versions: &[v1::Version]) -> Markup {
    let paths: BTreeSet<_> =
        versions.iter().flat_map(|it| it.files.iter().map(|file| file.path.as_str())).collect();
    let text = |version: &v1::Version, path: &str| {
        let file = version.files.iter().find(|it| it.path == path);
        file.map(|it| format!("{} · {}", show::short_digest(&it.digest), figures::size(it.size_bytes)))
            .unwrap_or_default()
    };
    let rows: Vec<_> = paths
        .iter()
        .map(|path| ((*path).to_owned(), versions.iter().map(|it| text(it, path)).collect()))
        .collect();
    html! {
        (side_by_side("files", &heads(versions), &rows))
        @if versions.iter().any(|it| !it.files_next_page_token.is_empty()) { p.note { "Only the first files of each are compared." } }
    }
}
