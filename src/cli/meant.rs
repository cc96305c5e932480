//! What was perhaps meant by a name that the server does not know: another one of the same place.

use keepbest_client::{Client, ProjectName, Target, short_name, v1};

use super::epochs;
use super::failure::Failure;
use super::names::InProject;
use crate::near::nearest;

/// The names that are looked through: the first page, as large as one can be.
const LOOKS: i32 = 1_000;

/// The failure to find an artifact, with the one that was perhaps meant.
pub(super) async fn artifact(client: &Client, named: &InProject, failure: Failure) -> Failure {
    if !failure.is_not_found() {
        return failure;
    }
    let request =
        v1::ListArtifactsRequest { parent: named.project.name(), page_size: LOOKS, ..Default::default() };
    // What went wrong before matters, not that no near miss could be looked up.
    let page = client.list_artifacts(request).await.unwrap_or_default();
    failure.with_meant(near(&named.id, page.artifacts.iter().map(|it| it.name.as_str())))
}

/// The failure to find a run, with the one that was perhaps meant.
pub(super) async fn run(client: &Client, named: &InProject, failure: Failure) -> Failure {
    if !failure.is_not_found() {
        return failure;
    }
    let request =
        v1::ListRunsRequest { parent: named.project.name(), page_size: LOOKS, ..Default::default() };
    let page = client.list_runs(request).await.unwrap_or_default();
    failure.with_meant(near(&named.id, page.runs.iter().map(|it| it.name.as_str())))
}

/// The failure to find an artifact or a run.
pub(super) async fn artifact_or_run(client: &Client, named: &InProject, failure: Failure) -> Failure {
    let text = failure.to_string();
    let failure = artifact(client, named, failure).await;
    if failure.to_string() == text { run(client, named, failure).await } else { failure }
}

/// The failure to find a version: its artifact may be meant to be another one, or its alias.
pub(super) async fn version(client: &Client, target: &Target, failure: Failure) -> Failure {
    if !failure.is_not_found() {
        return failure;
    }
    let named = InProject { project: target.project.clone(), id: target.artifact.clone() };
    let text = failure.to_string();
    let failure = artifact(client, &named, failure).await;
    if failure.to_string() != text {
        return failure;
    }
    alias(client, &named.artifact(), &epochs::shown_alias(&target.version), failure).await
}

/// The failure to find an alias of an artifact.
pub(super) async fn alias(client: &Client, artifact: &str, alias: &str, failure: Failure) -> Failure {
    if !failure.is_not_found() {
        return failure;
    }
    let request =
        v1::ListAliasesRequest { parent: artifact.to_owned(), page_size: LOOKS, ..Default::default() };
    let page = client.list_aliases(request).await.unwrap_or_default();
    let shown: Vec<_> = page.aliases.iter().map(|it| epochs::shown_alias(&it.alias)).collect();
    failure.with_meant(near(alias, shown.iter().map(|it| it.as_ref())))
}

/// That a project has no `what`, as an answer or, where there is no such project, as a failure. A project exists as long as it holds
/// something; `default/default` is there from the start, so that a new server has no unknown place.
pub(super) async fn nothing_in(client: &Client, parent: &str, what: &str) -> Result<String, Failure> {
    let place = ProjectName::parse(&short_name(parent))?;
    let none = format!("no {what} in {place}");
    if (place.team.as_str(), place.project.as_str()) == ("default", "default") {
        return Ok(none);
    }
    let request = v1::ListProjectsRequest {
        parent: format!("teams/{}", place.team),
        page_size: LOOKS,
        ..Default::default()
    };
    let page = client.list_projects(request).await?;
    let names = || page.projects.iter().map(|it| it.name.as_str());
    let is_there =
        if place.project == "-" { names().next().is_some() } else { names().any(|it| it == parent) };
    // Behind the first page it may be there all the same.
    if is_there || !page.next_page_token.is_empty() {
        return Ok(none);
    }
    let failure = match names().next() {
        None => {
            Failure::not_found(format!("there is no team `{}`: nothing was ever stored in it", place.team))
        }
        Some(_) => Failure::not_found(format!("there is no project `{place}`")),
    };
    Err(failure.with_meant(near(&place.project, names())))
}

/// The name that is near to `id`, as it would be typed.
fn near<'n>(id: &str, names: impl Iterator<Item = &'n str>) -> Option<String> {
    let ids: Vec<(&str, &str)> = names.map(|name| (name.rsplit('/').next().unwrap_or(name), name)).collect();
    let nearest = nearest(id, ids.iter().map(|(id, _)| *id))?;
    let (_, name) = ids.iter().find(|(id, _)| *id == nearest)?;
    Some(if nearest == *name { nearest.to_owned() } else { short_name(name) })
}
