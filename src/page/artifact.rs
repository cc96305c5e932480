//! An artifact: its versions, and the names that point at them.

use axum::extract::Path;
use keepbest_proto::v1;
use maud::Markup;
use maud::html;

use crate::page::layout::Frame;
use crate::page::layout::more;
use crate::page::layout::nothing;
use crate::page::show;
use crate::page::trouble::Trouble;
use crate::page::versions;
use crate::page::visit::Visit;

const VERSIONS_A_PAGE: i32 = 50;

pub(super) async fn artifact(
    visit: Visit,
    Path((team, project, artifact)): Path<(String, String, String)>,
) -> Result<Markup, Trouble> {
    let name = format!("teams/{team}/projects/{project}/artifacts/{artifact}");
    let request = v1::ListVersionsRequest {
        parent: name.clone(),
        page_size: VERSIONS_A_PAGE,
        page_token: visit.query.first("page").to_owned(),
        filter: visit.query.first("filter").to_owned(),
        order_by: visit.query.first("order").to_owned(),
    };
    let versions =
        async { Ok::<_, Trouble>(visit.artifacts().list_versions(visit.ask(request)).await?.into_inner()) };
    let found = async {
        let request = v1::GetArtifactRequest { name: name.clone() };
        Ok::<_, Trouble>(visit.artifacts().get_artifact(visit.ask(request)).await?.into_inner())
    };
    let (found, versions) = tokio::try_join!(found, versions)?;
    let frame = Frame::of(&visit, &artifact, show::parent(&name, 1));
    Ok(frame.page(&html! {
        div.title { h1 { (show::text(&artifact)) } @if !found.r#type.is_empty() { span.chip { (show::text(&found.r#type)) } } }
        dl.figures {
            (best(&found, &versions.versions))
            div { dt { "Best goes by" } dd { (show::text(&found.monitor)) } }
            div { dt { "Where" } dd { (show::direction(found.direction())) } }
            div { dt { "Versions made" } dd { (found.version_count) } }
            div { dt { "Began" } dd { (show::age(found.create_time.as_ref(), visit.now_us)) } }
        }
        (list(&visit, &found, &versions))
        section aria-labelledby="aliases" {
            h2 #aliases { "Names" }
            (aliases(&found, visit.now_us))
        }
    }))
}

/// The best version, with its value if it is on this page.
fn best(artifact: &v1::Artifact, versions: &[v1::Version]) -> Markup {
    let Some(best) = artifact.aliases.iter().find(|it| it.alias == "best") else { return html! {} };
    let version = versions.iter().find(|it| it.name == best.version);
    let value = version.and_then(|it| it.metrics.get(&artifact.monitor)).copied();
    html! {
        @if value.is_some() { div.main { dt { "Best" } dd { (show::metric(value)) } } }
        div { dt { "Best version" } dd { (show::link(&best.version)) } }
    }
}

fn list(visit: &Visit, artifact: &v1::Artifact, page: &v1::ListVersionsResponse) -> Markup {
    let filter = visit.query.first("filter");
    html! {
        section aria-labelledby="versions" {
            h2 #versions { "Versions" }
            div.bar {
                form.inline method="get" role="search" {
                    label for="filter" { "Filter" }
                    input #filter type="search" name="filter" value=(filter) spellcheck="false" autocomplete="off"
                        placeholder={ (show::visible(&versions::field(&artifact.monitor))) " < 0.2" } aria-describedby="fields";
                    @if !visit.query.first("order").is_empty() { input type="hidden" name="order" value=(visit.query.first("order")); }
                    button type="submit" { "Search" }
                }
            }
            p.note #fields { "Fields: number, epoch and batch (from 0), step, size_bytes, create_time, run, config, metrics.NAME." }
            @for hint in &page.hints { p.note.hint { (show::text(hint)) } }
            @if page.versions.is_empty() {
                (nothing(&html! { @if filter.is_empty() { "There are no versions here." } @else { "No version on this page matches." } }))
            } @else {
                form method="get" action={ "/" (artifact.name) "/compare" } {
                    (versions::table(&page.versions, artifact, &visit.query, visit.now_us))
                    @if page.versions.len() > 1 { button type="submit" { "Compare the chosen versions" } }
                }
            }
            @if !page.next_page_token.is_empty() {
                (more(&visit.query.with("page", &page.next_page_token).link(), "More versions"))
            }
        }
    }
}

/// The names, those of people with a form that moves or removes them: from where they are shown to be, and from nowhere else.
fn aliases(artifact: &v1::Artifact, now_us: i64) -> Markup {
    let is_servers = |alias: &str| matches!(alias, "latest" | "best");
    let shown: Vec<_> = artifact.aliases.iter().filter(|it| !it.alias.starts_with("epoch_")).collect();
    if shown.is_empty() {
        return nothing(&html! { "No name points at a version. Give one on the version's page." });
    }
    html! {
        div.scroll #alias-list tabindex="0" role="region" aria-label="Table of names" {
            table {
                thead { tr {
                    th scope="col" { "Name" } th scope="col" { "Version" } th scope="col" { "Moved" } th scope="col" { "Change" }
                } }
                tbody {
                    @for alias in shown {
                        @let version = show::id(&alias.version);
                        tr {
                            th scope="row" { (show::alias_chip(&alias.alias)) }
                            td { (show::link(&alias.version)) }
                            td { (show::age(alias.update_time.as_ref(), now_us)) }
                            td {
                                @if is_servers(&alias.alias) { span.soft { "moves by itself" } }
                                @else {
                                    form.inline method="post" action={ "/" (artifact.name) "/alias" } {
                                        input type="hidden" name="alias" value=(alias.alias);
                                        input type="hidden" name="expected" value=(version);
                                        input.tiny name="version" required placeholder=(version) aria-label={ "Move " (alias.alias) " to version" }
                                            autocomplete="off" spellcheck="false";
                                        button type="submit" name="do" value="move" { "Move" }
                                        button.quiet type="submit" name="do" value="remove" formnovalidate aria-label={ "Remove " (alias.alias) } { "Remove" }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
        @if !artifact.aliases_next_page_token.is_empty() { p.note { "These are the first names; there are more." } }
    }
}
