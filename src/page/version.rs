//! A version: its files, where it comes from, and how to get it.

use axum::extract::Path;
use http::HeaderMap;
use keepbest_proto::v1;
use maud::Markup;
use maud::html;

use crate::figures;
use crate::page::layout::Frame;
use crate::page::session;
use crate::page::show;
use crate::page::trouble::Trouble;
use crate::page::visit::Visit;

pub(super) async fn version(
    visit: Visit,
    headers: HeaderMap,
    Path((team, project, artifact, version)): Path<(String, String, String, String)>,
) -> Result<Markup, Trouble> {
    let parent = format!("teams/{team}/projects/{project}/artifacts/{artifact}");
    let request = v1::GetVersionRequest { name: format!("{parent}/versions/{version}"), include_files: true };
    let version = visit.artifacts().get_version(visit.ask(request)).await?.into_inner();
    let id = show::id(&version.name);
    let title = format!("{artifact}:{id}");
    let host = visit.host.as_deref().unwrap_or("SERVER");
    let scheme = if session::is_secure(&visit.extensions, &headers) { "https" } else { "http" };
    let (server, short) = (format!("{scheme}://{host}"), format!("{team}/{project}/{artifact}:{id}"));
    Ok(Frame::of(&visit, &title, &parent).page(&html! {
        div.title { h1 { (show::text(id)) } (show::aliases(&version)) }
        dl.figures {
            div.main { dt { "Size" } dd { (figures::size(version.size_bytes)) } }
            div { dt { "Files" } dd { (version.file_count) } }
            div { dt { "Epoch" } dd { (show::epoch(version.epoch, version.batch)) } }
            @if let Some(step) = version.step { div { dt { "Step" } dd { (step) } } }
            div { dt { "Attempt" } dd { (version.attempt) } }
            div { dt { "When" } dd { (show::age(version.create_time.as_ref(), visit.now_us)) } }
            div { dt { "Run" } dd { (show::link(&version.run)) } }
        }
        div.columns {
            div.stack {
                section aria-labelledby="files" { h2 #files { "Files" } (files(&version)) }
                section aria-labelledby="get" { h2 #get { "Get it" } (snippets(&version, &server, &short, visit.token.is_some())) }
            }
            section aria-labelledby="origin" { h2 #origin { "Where it comes from" } (origin(&version)) }
        }
        section aria-labelledby="change" { h2 #change { "Change" } (changes(&version, &parent)) }
    }))
}

fn files(version: &v1::Version) -> Markup {
    html! {
        div.scroll #file-list tabindex="0" role="region" aria-label="Table of files" {
            table {
                thead { tr { th scope="col" { "Path" } th.number scope="col" { "Size" } th scope="col" { "Digest (BLAKE3)" } } }
                tbody {
                    @for file in &version.files {
                        tr {
                            th.path scope="row" { (show::text(&file.path)) }
                            td.number { (figures::size(file.size_bytes)) }
                            td { (show::digest(&file.digest)) }
                        }
                    }
                }
            }
        }
        @if !version.files_next_page_token.is_empty() {
            p.note { "These are the first " (version.files.len()) " of " (version.file_count) " files." }
        }
    }
}

fn origin(version: &v1::Version) -> Markup {
    html! {
        dl.facts {
            div { dt { "Why" } dd { (show::text(&version.reason_text)) } }
            @for (name, value) in &version.metrics { div { dt { (show::short_text(name)) } dd { (show::metric(Some(*value))) } } }
            div { dt { "Checkpoint" } dd { code.breaks { (show::id(&version.checkpoint)) } } }
            div { dt { "Digest" } dd { code.breaks { (show::hex(&version.digest)) } } }
            @if version.weights_only { div { dt { "Holds" } dd { "weights only" } } }
            @if let Some(metadata) = &version.metadata {
                @for (name, value) in &metadata.fields { div { dt { (show::short_text(name)) } dd { (show::short_text(&show::value(value))) } } }
            }
        }
    }
}

/// How it is fetched; the same for whoever the page is sent to.
fn snippets(version: &v1::Version, server: &str, short: &str, has_session: bool) -> Markup {
    let token = if has_session { "  -H \"authorization: Bearer $KEEPBEST_TOKEN\" \\\n" } else { "" };
    let command = format!("keepbest --server {server} pull \\\n  {short} ./model");
    let python = format!(
        "import keepbest\n\nclient = keepbest.Client(\"{server}\")\npulled = client.pull(\"{short}\", \"here\")\nprint(f\"here/{{pulled.path}}\")"
    );
    let curl = format!(
        "curl {server}/keepbest.v1.Artifacts/GetVersion \\\n  -H 'content-type: application/json' \\\n{token}  -d '{{\"name\": \"{}\"}}'",
        version.name
    );
    html! {
        div.snippets {
            @for (label, code) in [("Command line", &command), ("Python", &python), ("HTTP", &curl)] {
                figure { figcaption { (label) } pre tabindex="0" role="region" aria-label={ "How to get it: " (label) } { code { (show::visible(code)) } } }
            }
        }
    }
}

fn changes(version: &v1::Version, artifact: &str) -> Markup {
    html! {
        div.bar {
            form.inline method="post" action={ "/" (artifact) "/alias" } {
                label for="alias" { "New name" }
                input #alias name="alias" required pattern="[A-Za-z0-9._\\-]{1,128}" autocomplete="off" spellcheck="false";
                input type="hidden" name="version" value=(show::id(&version.name));
                input type="hidden" name="expected" value="none";
                button type="submit" { "Give it" }
            }
            a.danger href={ "/" (version.name) "/delete" } { "Delete this version …" }
        }
        p.note { "A name that exists already is moved on the artifact's page, where it is shown where it points." }
    }
}
