//! `keepbest rm`: says what a deletion takes along, and carries it out when it is told to.

use keepbest_client::{Client, Error, ProjectName, short_name, v1};
use serde_json::json;

use super::args::remove::{Kind, Rm};
use super::context::Context;
use super::failure::{Failure, found};
use super::names::{self, Named};
use super::{epochs, human, json as wire, meant};

/// What is to be deleted; the strings are resource names.
enum What {
    Run(String),
    Artifact(String),
    Project(String),
    Versions(String),
}

/// Deletes one version at once, and everything else with `--yes`.
pub(super) async fn remove(context: &mut Context, arguments: Rm) -> Result<(), Failure> {
    let is_selection = arguments.filter.is_some() || arguments.keep_newest.is_some();
    if arguments.kind.is_none() && !is_selection && short_name(&arguments.name).contains(':') {
        return remove_version(context, &arguments).await;
    }
    let client = context.connect().await?;
    let what = what(context, &client, &arguments, is_selection).await?;
    let told = delete(&client, &what, &arguments, true).await.map_err(refused)?;
    if !arguments.yes {
        return print(context, &told, false);
    }
    let artifact = match &what {
        What::Run(run) => found(client.get_run(run).await)?.map(|run| run.artifact),
        What::Artifact(_) | What::Project(_) | What::Versions(_) => None,
    };
    let deleted = delete(&client, &what, &arguments, false).await.map_err(refused)?;
    print(context, &deleted, true)?;
    if let Some(name) = artifact.filter(|name| !name.is_empty()) {
        note_empty(context, &client, &name).await;
    }
    Ok(())
}

/// Says that the artifact of a deleted run stays without a version: it keeps its name and its monitor.
async fn note_empty(context: &Context, client: &Client, name: &str) {
    // The run is deleted, whatever is found of its artifact.
    let request = v1::ListVersionsRequest { parent: name.to_owned(), page_size: 1, ..Default::default() };
    if client.list_versions(request).await.is_ok_and(|page| page.versions.is_empty()) {
        let short = short_name(name);
        context.output.note(&format!(
            "its artifact `{short}` stays, without a version, and keeps its monitor: `keepbest rm {short} --yes` removes it"
        ));
    }
}

async fn what(
    context: &Context,
    client: &Client,
    arguments: &Rm,
    is_selection: bool,
) -> Result<What, Failure> {
    let name = arguments.name.as_str();
    let artifact = || names::artifact(name, &context.project).map(|it| it.artifact());
    match (arguments.kind, is_selection) {
        (None | Some(Kind::Artifact), true) => Ok(What::Versions(artifact()?)),
        (Some(_), true) => Err(Failure::usage(
            "--filter and --keep-newest delete versions of an artifact: leave --kind out".to_owned(),
        )),
        (Some(Kind::Run), false) => Ok(What::Run(names::run(name, &context.project)?.run())),
        (Some(Kind::Artifact), false) => Ok(What::Artifact(artifact()?)),
        (Some(Kind::Project), false) => Ok(What::Project(ProjectName::parse(&short_name(name))?.name())),
        (None, false) => match names::any(name, &context.project)? {
            Named::Run(run) => Ok(What::Run(run.run())),
            Named::Artifact(artifact) => Ok(What::Artifact(artifact.artifact())),
            Named::Version(version) => {
                Err(Failure::usage(format!("`{version}` names a version: leave --kind out")))
            }
            Named::ArtifactOrRun(named) => either(client, named.artifact(), named.run()).await,
        },
    }
}

/// The one of both that exists.
async fn either(client: &Client, artifact: String, run: String) -> Result<What, Failure> {
    let exists = |found: Result<(), Error>| match found {
        Ok(()) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(Failure::from(error)),
    };
    let has_artifact = exists(client.get_artifact(&artifact, false).await.map(drop))?;
    let has_run = exists(client.get_run(&run).await.map(drop))?;
    let short = short_name(&run);
    match (has_artifact, has_run) {
        (true, false) => Ok(What::Artifact(artifact)),
        (false, true) => Ok(What::Run(run)),
        (true, true) => Err(Failure::usage(format!(
            "`{short}` is a run and an artifact: say which one with --kind run or --kind artifact"
        ))),
        (false, false) => Err(Failure::not_found(format!(
            "there is no artifact and no run `{short}`; a version is named with its number, as `{short}:v3`"
        ))),
    }
}

async fn delete(
    client: &Client,
    what: &What,
    arguments: &Rm,
    validate_only: bool,
) -> Result<v1::Deletion, Error> {
    // It was there when it was looked at: a try whose answer was lost may have deleted it since.
    let (force, allow_missing) = (arguments.force, !validate_only);
    match what {
        What::Run(name) => {
            let name = name.clone();
            client.delete_run(v1::DeleteRunRequest { name, validate_only, force, allow_missing }).await
        }
        What::Artifact(name) => {
            let name = name.clone();
            let request = v1::DeleteArtifactRequest { name, validate_only, force, allow_missing };
            client.delete_artifact(request).await
        }
        What::Project(name) => {
            let name = name.clone();
            let request = v1::DeleteProjectRequest { name, validate_only, force, allow_missing };
            client.delete_project(request).await
        }
        What::Versions(parent) => {
            let request = v1::DeleteVersionsRequest {
                parent: parent.clone(),
                filter: epochs::typed_filter(arguments.filter.as_deref().unwrap_or_default()),
                keep_newest: arguments.keep_newest.unwrap_or_default(),
                delete_aliases: force,
                delete_best: arguments.delete_best,
                validate_only,
            };
            client.delete_versions(request).await
        }
    }
}

fn print(context: &mut Context, deletion: &v1::Deletion, is_done: bool) -> Result<(), Failure> {
    if context.output.is_json() {
        let document = json!({
            "name": deletion.name,
            "deleted": is_done,
            "run_count": deletion.run_count,
            "artifact_count": deletion.artifact_count,
            "version_count": deletion.version_count,
            "event_count": deletion.event_count,
            "kept_count": deletion.kept_count,
            "size_bytes": deletion.size_bytes,
            "freed_bytes": deletion.freed_bytes,
            "purge_time": wire::time(deletion.purge_time.as_ref()),
            "sample": deletion.sample,
        });
        return Ok(context.output.document(&document)?);
    }
    let counts = [
        (deletion.run_count, "run"),
        (deletion.artifact_count, "artifact"),
        (deletion.version_count, "version"),
        (deletion.event_count, "event"),
    ];
    let counts: Vec<String> = counts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, noun)| human::count(count, noun))
        .collect();
    let counts = if counts.is_empty() { "nothing".to_owned() } else { counts.join(", ") };
    let freed = match deletion.freed_bytes {
        Some(bytes) => format!("frees {} of {}", human::size(bytes), human::size(deletion.size_bytes)),
        None => format!("frees at most {}", human::size(deletion.size_bytes)),
    };
    let verb = if is_done { "deleted" } else { "would delete" };
    context.output.line(&format!("{}: {verb} {counts}, which {freed}", short_name(&deletion.name)))?;
    if deletion.kept_count > 0 {
        let kept = human::count(deletion.kept_count, "version");
        context
            .output
            .line(&format!("{kept} that match stay: `best` or an alias of yours points at them"))?;
    }
    if !is_done {
        context.output.line("nothing was deleted: --yes does it")?;
    }
    Ok(())
}

/// A version, by its number only.
async fn remove_version(context: &mut Context, arguments: &Rm) -> Result<(), Failure> {
    let version = names::version(&arguments.name, &context.project)?;
    let number = version.version.strip_prefix('v').and_then(|number| number.parse::<u64>().ok());
    if number.is_none() {
        return Err(Failure::usage(format!(
            "`{version}` names an alias, which may move: give the number of the version to delete, as `v3` (`keepbest show \
             {version}` tells it)"
        )));
    }
    let request = v1::DeleteVersionRequest {
        name: version.name(),
        delete_aliases: arguments.force,
        validate_only: arguments.dry_run,
    };
    let client = context.connect().await?;
    let deleted = match client.delete_version(request).await {
        Ok(deleted) => deleted,
        Err(error) => return Err(meant::version(&client, &version, refused(error)).await),
    };
    if context.output.is_json() {
        let document = json!({
            "name": version.name(),
            "deleted": !arguments.dry_run,
            "size_bytes": deleted.size_bytes,
            "freed_bytes": deleted.freed_bytes,
            "purge_time": wire::time(deleted.purge_time.as_ref()),
        });
        return Ok(context.output.document(&document)?);
    }
    let size = human::size(deleted.size_bytes);
    let line = match arguments.dry_run {
        true => format!("{version} would be deleted ({size})"),
        false => format!("{version} is deleted ({size})"),
    };
    Ok(context.output.line(&line)?)
}

fn refused(error: Error) -> Failure {
    let is_in_the_way = ["VERSION_HAS_ALIASES", "RUN_ALIVE"].contains(&error.reason());
    let failure = Failure::from(error);
    if is_in_the_way { failure.with_hint(": `--force` deletes them too") } else { failure }
}
