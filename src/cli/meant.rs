//! What was perhaps meant by a name that the server does not know: another one of the same place.

use keepbest_client::{Client, Error, ProjectName, Target, short_name, v1};

use super::context::Context;
use super::epochs;
use super::failure::{Failure, found};
use super::names::{self, InProject};
use crate::near::nearest;

/// The names that are looked through: the first page, as large as one can be.
const LOOKS: i32 = 1_000;
/// Aliases that are named where none is meant: the first ones, on a line.
const SOME: usize = 8;

/// The failure to find an artifact, with the one that was perhaps meant: that of the run of this name, or one that is called nearly so.
pub(super) async fn artifact(client: &Client, named: &InProject, failure: Failure) -> Failure {
    if !failure.is_not_found() {
        return failure;
    }
    match run_of(client, named).await {
        Some(run) => failure.with_hint(&format!(": {}", artifact_of(&run))),
        None => near_artifact(client, named, failure).await,
    }
}

/// The failure to read the name of a version, of which an alias is missing, with the artifact of the run of this name if there is one.
pub(super) async fn version_of_run(context: &Context, text: &str, failure: Failure) -> Failure {
    let Ok(named) = names::run(text, &context.project) else { return failure };
    let Ok(client) = context.connect().await else { return failure };
    match run_of(&client, &named).await {
        Some(run)
            if found(client.get_artifact(&named.artifact(), false).await).is_ok_and(|it| it.is_none()) =>
        {
            Failure::usage(format!("`{text}` names no version: {}", artifact_of(&run)))
        }
        _ => failure,
    }
}

/// The run of this name. What went wrong before matters, not that it could not be looked up.
async fn run_of(client: &Client, named: &InProject) -> Option<v1::Run> {
    client.get_run(&named.run()).await.ok()
}

fn artifact_of(run: &v1::Run) -> String {
    let (name, artifact) = (short_name(&run.name), short_name(&run.artifact));
    match artifact.as_str() {
        "" => format!("`{name}` is a run, whose artifact was deleted"),
        artifact => {
            format!(
                "`{name}` is a run; its artifact is `{artifact}`, where `{artifact}:best` is the best version"
            )
        }
    }
}

async fn near_artifact(client: &Client, named: &InProject, failure: Failure) -> Failure {
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
    let failure = near_artifact(client, named, failure).await;
    if failure.to_string() == text { run(client, named, failure).await } else { failure }
}

/// The failure to find a version: its artifact may be meant to be another one, or its alias.
pub(super) async fn version(client: &Client, target: &Target, failure: Failure) -> Failure {
    if !failure.is_not_found() {
        return failure;
    }
    let named = InProject { project: target.project.clone(), id: target.artifact.clone() };
    if !matches!(found(client.get_artifact(&named.artifact(), false).await), Ok(Some(_))) {
        return artifact(client, &named, failure).await;
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
    match near(alias, shown.iter().map(|it| it.as_ref())) {
        None if !shown.is_empty() && !is_number(alias) => {
            let some: Vec<_> = shown.iter().take(SOME).map(|it| format!("`{it}`")).collect();
            let more = if shown.len() > SOME { ", ..." } else { "" };
            failure.with_hint(&format!("; its aliases are {}{more}", some.join(", ")))
        }
        meant => failure.with_meant(meant),
    }
}

/// Whether it is `v` with a number: such a version was never there or is deleted, and no alias was meant.
fn is_number(version: &str) -> bool {
    version.strip_prefix('v').is_some_and(|digits| digits.bytes().all(|it| it.is_ascii_digit()))
}

/// That a project has no `what`, as an answer or, where there is no such project, as a failure. A project exists as long as it holds
/// something; `default/default` is there from the start, so that a new server has no unknown place.
pub(super) async fn nothing_in(
    client: &Client,
    default: &ProjectName,
    parent: &str,
    what: &str,
) -> Result<String, Failure> {
    let place = ProjectName::parse(&short_name(parent))?;
    let none = format!("no {what} in {place}");
    if place.team == "default" && ["default", "-"].contains(&place.project.as_str()) {
        return Ok(none);
    }
    let page = projects_of(client, &place.team).await?;
    let names = || page.projects.iter().map(|it| it.name.as_str());
    let is_there =
        if place.project == "-" { names().next().is_some() } else { names().any(|it| it == parent) };
    // Behind the first page it may be there all the same.
    if is_there || !page.next_page_token.is_empty() {
        return Ok(none);
    }
    let failure = match names().next() {
        None => {
            let failure = Failure::not_found(format!(
                "there is no team `{}`: nothing was ever stored in it",
                place.team
            ));
            // A name alone is a team. It may have been meant as a project of one's own team.
            let own = ProjectName { team: default.team.clone(), project: place.team.clone() }.name();
            let is_there = projects_of(client, &default.team).await?.projects.iter().any(|it| it.name == own);
            let meant = (place.project == "-" && is_there).then(|| short_name(&own));
            return Err(failure.with_meant(meant));
        }
        Some(_) => Failure::not_found(format!("there is no project `{place}`")),
    };
    Err(failure.with_meant(near(&place.project, names())))
}

async fn projects_of(client: &Client, team: &str) -> Result<v1::ListProjectsResponse, Error> {
    let parent = format!("teams/{team}");
    client.list_projects(v1::ListProjectsRequest { parent, page_size: LOOKS, ..Default::default() }).await
}

/// The name that is near to `id`, as it would be typed.
fn near<'n>(id: &str, names: impl Iterator<Item = &'n str>) -> Option<String> {
    let ids: Vec<(&str, &str)> = names.map(|name| (name.rsplit('/').next().unwrap_or(name), name)).collect();
    let nearest = nearest(id, ids.iter().map(|(id, _)| *id))?;
    let (_, name) = ids.iter().find(|(id, _)| *id == nearest)?;
    Some(if nearest == *name { nearest.to_owned() } else { short_name(name) })
}
