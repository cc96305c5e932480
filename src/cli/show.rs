//! `keepbest show` and `keepbest best`: print everything about one run, artifact or version.

use keepbest_client::{Client, hex, v1};
use serde_json::{Value, json};

use super::args;
use super::context::Context;
use super::failure::{Failure, found};
use super::names::{self, InProject, Named, Place};
use super::output::Column;
use super::{epochs, human, json, meant, runs, words};

/// `show`: finds what the name stands for and prints it.
pub(super) async fn show(context: &mut Context, arguments: args::Show) -> Result<(), Failure> {
    let named = names::any(&arguments.name, &context.project)?;
    let client = context.connect().await?;
    match named {
        Named::Run(run) => match client.get_run(&run.run()).await {
            Ok(run) => show_run(context, &client, &run).await,
            Err(error) => Err(meant::run(&client, &run, error.into()).await),
        },
        Named::Artifact(artifact) => match client.get_artifact(&artifact.artifact(), true).await {
            Ok(artifact) => show_artifact(context, &artifact),
            Err(error) => Err(meant::artifact(&client, &artifact, error.into()).await),
        },
        Named::Version(target) => match client.get_version(&target.name(), true).await {
            Ok(version) => show_version(context, &version, None),
            Err(error) => Err(meant::version(&client, &target, error.into()).await),
        },
        Named::ArtifactOrRun(named) => {
            if let Some(artifact) = found(client.get_artifact(&named.artifact(), true).await)? {
                return show_artifact(context, &artifact);
            }
            match found(client.get_run(&named.run()).await)? {
                Some(run) => show_run(context, &client, &run).await,
                None => Err(neither(&client, &named).await),
            }
        }
    }
}

/// `best`: finds the best version in a team, a project, an artifact or a run and prints it.
pub(super) async fn best(context: &mut Context, arguments: args::Best) -> Result<(), Failure> {
    let place = looked_in(context, arguments.parent.as_deref(), arguments.run.as_deref())?;
    let client = context.connect().await?;
    let parent = settle(&client, place).await?;
    let request = v1::GetBestVersionRequest {
        parent: parent.clone(),
        metric: arguments.metric.unwrap_or_default(),
        mode: wire_mode(arguments.mode).into(),
        include_files: true,
    };
    let version = client.get_best_version(request).await?;
    show_version(context, &version, Some(&parent))
}

/// Where a command looks: in what is named, in a run, or in the project.
pub(super) fn looked_in(
    context: &Context,
    parent: Option<&str>,
    run: Option<&str>,
) -> Result<Place, Failure> {
    Ok(match (parent, run) {
        (Some(parent), _) => names::place(parent, &context.project)?,
        (None, Some(run)) => Place::Told(names::run(run, &context.project)?.run()),
        (None, None) => Place::Told(context.project.name()),
    })
}

/// Finds out which of the things that have the name there is.
pub(super) async fn settle(client: &Client, place: Place) -> Result<String, Failure> {
    let (named, may_be_team) = match place {
        Place::Told(name) => return Ok(name),
        Place::ArtifactOrRun(named) => (named, false),
        Place::Name(named) => (named, true),
    };
    if found(client.get_artifact(&named.artifact(), false).await)?.is_some() {
        return Ok(named.artifact());
    }
    if found(client.get_run(&named.run()).await)?.is_some() {
        return Ok(named.run());
    }
    if !may_be_team {
        return Err(neither(client, &named).await);
    }
    let parent = names::team(&named.id)?;
    let request = v1::ListProjectsRequest { parent: parent.clone(), page_size: 1, ..Default::default() };
    if client.list_projects(request).await?.projects.is_empty() {
        let InProject { project, id } = &named;
        let failure = Failure::not_found(format!(
            "there is no artifact and no run `{id}` in {project}, and no team `{id}`"
        ));
        return Err(meant::artifact_or_run(client, &named, failure).await);
    }
    Ok(parent)
}

async fn neither(client: &Client, named: &InProject) -> Failure {
    let InProject { project, id } = named;
    let failure = Failure::not_found(format!("there is no artifact and no run `{project}/{id}`"));
    meant::artifact_or_run(client, named, failure).await
}

/// The mode for a request. Without one the server decides by the monitor.
pub(super) fn wire_mode(mode: Option<args::Mode>) -> v1::Mode {
    match mode {
        None => v1::Mode::Unspecified,
        Some(args::Mode::Min) => v1::Mode::Min,
        Some(args::Mode::Max) => v1::Mode::Max,
    }
}

async fn show_run(context: &mut Context, client: &Client, run: &v1::Run) -> Result<(), Failure> {
    let best_version = best_version(client, run).await?;
    if context.output.is_json() {
        let mut document = json::run(run);
        document["best_version"] = json!(best_version);
        return Ok(context.output.document(&document)?);
    }
    let now_us = context.now_us;
    let strategy = run.strategy.clone().unwrap_or_default();
    let in_flight = run.monitor_state.as_ref().map_or(0, |state| state.in_flight.len());
    let best = [
        human::optional_metric(runs::best(run)),
        best_version.as_deref().map(words::short).unwrap_or_default(),
    ];
    context.output.properties(&[
        ("run", words::short(&run.name)),
        ("state", runs::state(run, now_us)),
        ("failure", run.failure.clone()),
        ("artifact", words::short(&run.artifact)),
        ("attempt", run.attempt.to_string()),
        ("monitor", runs::monitor(run)),
        ("best", best.join(" ").trim().to_owned()),
        ("saves in flight", if in_flight == 0 { String::new() } else { in_flight.to_string() }),
        ("saves", if strategy.save_best_only { "only improvements" } else { "whenever due" }.to_owned()),
        ("due", due(&strategy)),
        ("filepath", strategy.filepath),
        ("last epoch", run.last_epoch.map(human::both_counts).unwrap_or_default()),
        ("events", run.event_count.to_string()),
        ("started", human::age(run.create_time.as_ref(), now_us)),
        ("updated", human::age(run.update_time.as_ref(), now_us)),
        ("finished", human::age(run.finish_time.as_ref(), now_us)),
    ])?;
    show_config(context, run)
}

/// The trainer's settings, one a line.
fn show_config(context: &mut Context, run: &v1::Run) -> Result<(), Failure> {
    let Some(config) = run.config.as_ref().filter(|config| !config.fields.is_empty()) else { return Ok(()) };
    let Value::Object(settings) = json::object(config) else { return Ok(()) };
    context.output.line("")?;
    let columns = [Column::Text("CONFIG".into()), Column::Text("VALUE".into())];
    let row = |(name, value): (String, Value)| match value {
        Value::String(text) => vec![name, text],
        value => vec![name, value.to_string()],
    };
    Ok(context.output.table(&columns, settings.into_iter().map(row).collect())?)
}

/// The name of the version that has the run's best value; none if there is none, or it was deleted.
async fn best_version(client: &Client, run: &v1::Run) -> Result<Option<String>, Failure> {
    let state = run.monitor_state.as_ref();
    let Some(name) = state.map(|state| &state.best_checkpoint).filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let checkpoint = found(client.get_checkpoint(name, false).await)?;
    Ok(checkpoint.map(|checkpoint| checkpoint.version).filter(|version| !version.is_empty()))
}

fn due(strategy: &v1::Strategy) -> String {
    match strategy.save_frequency {
        Some(v1::strategy::SaveFrequency::EveryBatches(batches)) if batches > 1 => {
            format!("every {batches} batches")
        }
        Some(v1::strategy::SaveFrequency::EveryBatches(_)) => "every batch".to_owned(),
        _ => "every epoch".to_owned(),
    }
}

fn show_artifact(context: &mut Context, artifact: &v1::Artifact) -> Result<(), Failure> {
    if context.output.is_json() {
        return Ok(context.output.document(&json::artifact(artifact))?);
    }
    let now_us = context.now_us;
    context.output.properties(&[
        ("artifact", words::short(&artifact.name)),
        ("type", artifact.r#type.clone()),
        ("monitor", human::monitor(&artifact.monitor, artifact.direction())),
        ("numbers given", artifact.version_count.to_string()),
        ("created", human::age(artifact.create_time.as_ref(), now_us)),
    ])?;
    if !artifact.aliases.is_empty() {
        context.output.line("")?;
        let columns =
            [Column::Text("ALIAS".into()), Column::Text("VERSION".into()), Column::Text("MOVED".into())];
        let rows = artifact.aliases.iter().map(|alias| {
            vec![
                epochs::shown_alias(&alias.alias).into_owned(),
                words::short(&alias.version),
                human::age(alias.update_time.as_ref(), now_us),
            ]
        });
        context.output.table(&columns, rows.collect())?;
    }
    Ok(())
}

/// Prints a version; with the place of which it is the best, if it was found as such.
fn show_version(context: &mut Context, version: &v1::Version, best_in: Option<&str>) -> Result<(), Failure> {
    if context.output.is_json() {
        let mut document = json::version(version);
        if let Some(place) = best_in {
            document["best_in"] = json!(place);
        }
        return Ok(context.output.document(&document)?);
    }
    let metrics: Vec<_> =
        version.metrics.iter().map(|(name, value)| format!("{name}={}", human::metric(*value))).collect();
    context.output.properties(&[
        ("best in", best_in.map(place_text).unwrap_or_default()),
        ("version", words::short(&version.name)),
        ("aliases", human::both_aliases(version)),
        ("epoch", human::both_counts(version.epoch)),
        ("batch", version.batch.map(human::both_counts).unwrap_or_default()),
        ("step", version.step.map(|step| step.to_string()).unwrap_or_default()),
        ("metrics", metrics.join(" ")),
        ("why", version.reason_text.clone()),
        ("run", words::short(&version.run)),
        ("path", version.path.clone()),
        (
            "size",
            format!("{} in {}", human::size(version.size_bytes), human::count(version.file_count, "file")),
        ),
        ("created", human::age(version.create_time.as_ref(), context.now_us)),
        ("digest", hex(&version.digest)),
        ("metadata", version.metadata.as_ref().map(|it| json::object(it).to_string()).unwrap_or_default()),
    ])?;
    if !version.files.is_empty() {
        context.output.line("")?;
        let columns =
            [Column::Text("FILE".into()), Column::Number("SIZE".into()), Column::Text("DIGEST".into())];
        let row = |file: &v1::File| vec![file.path.clone(), human::size(file.size_bytes), hex(&file.digest)];
        context.output.table(&columns, version.files.iter().map(row).collect())?;
    }
    Ok(())
}

/// A place with what it is, as `artifact default/default/cnn`.
fn place_text(name: &str) -> String {
    let kind = match name.split('/').collect::<Vec<_>>().as_slice() {
        [_, _] => "team",
        [_, _, _, _] => "project",
        [_, _, _, _, "runs", _] => "run",
        _ => "artifact",
    };
    format!("{kind} {}", words::short(name))
}
