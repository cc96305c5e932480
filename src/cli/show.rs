//! `keepbest show` and `keepbest best`: print everything about one run, artifact or version.

use keepbest_client::{Client, Error, hex, short_name, v1};

use super::args;
use super::context::Context;
use super::failure::Failure;
use super::names::{self, Named};
use super::output::Column;
use super::{human, json, runs};

/// `show`: finds what the name stands for and prints it.
pub(super) async fn show(context: &mut Context, arguments: args::Show) -> Result<(), Failure> {
    let named = names::any(&arguments.name, &context.project)?;
    let client = context.connect().await?;
    match named {
        Named::Run(name) => show_run(context, &client.get_run(&name).await?),
        Named::Artifact(name) => show_artifact(context, &client.get_artifact(&name, true).await?),
        Named::Version(name) => show_version(context, &client.get_version(&name, true).await?),
        Named::ArtifactOrRun { artifact, run } => match client.get_artifact(&artifact, true).await {
            Ok(artifact) => show_artifact(context, &artifact),
            Err(error) if error.is_not_found() => show_run(context, &run_or_neither(&client, &run).await?),
            Err(error) => Err(error.into()),
        },
    }
}

/// `best`: finds the best version in a team, a project, an artifact or a run and prints it.
pub(super) async fn best(context: &mut Context, arguments: args::Best) -> Result<(), Failure> {
    let parent = match (&arguments.parent, &arguments.run) {
        (Some(parent), _) => names::parent(parent)?,
        (None, Some(run)) => names::run(run, &context.project)?,
        (None, None) => context.project.name(),
    };
    let request = v1::GetBestVersionRequest {
        parent,
        metric: arguments.metric.unwrap_or_default(),
        mode: wire_mode(arguments.mode).into(),
        include_files: true,
    };
    let version = context.connect().await?.get_best_version(request).await?;
    show_version(context, &version)
}

/// The mode for a request. Without one the server decides by the monitor.
pub(super) fn wire_mode(mode: Option<args::Mode>) -> v1::Mode {
    match mode {
        None => v1::Mode::Unspecified,
        Some(args::Mode::Min) => v1::Mode::Min,
        Some(args::Mode::Max) => v1::Mode::Max,
    }
}

async fn run_or_neither(client: &Client, name: &str) -> Result<v1::Run, Failure> {
    match client.get_run(name).await {
        Err(error @ Error::Refused(_)) if error.is_not_found() => {
            Err(Failure::not_found(format!("there is no artifact and no run `{}`", short_name(name))))
        }
        result => Ok(result?),
    }
}

fn show_run(context: &mut Context, run: &v1::Run) -> Result<(), Failure> {
    if context.output.is_json() {
        return Ok(context.output.document(&json::run(run))?);
    }
    let now_us = context.now_us;
    let strategy = run.strategy.clone().unwrap_or_default();
    let best_checkpoint =
        run.monitor_state.as_ref().map(|state| state.best_checkpoint.clone()).unwrap_or_default();
    let in_flight = run.monitor_state.as_ref().map_or(0, |state| state.in_flight.len());
    context.output.properties(&[
        ("run", short_name(&run.name)),
        ("state", human::enum_name(run.state().as_str_name(), "RUN_STATE_")),
        ("artifact", short_name(&run.artifact)),
        ("attempt", run.attempt.to_string()),
        ("monitor", runs::monitor(run)),
        ("best", human::optional_metric(runs::best(run))),
        ("best checkpoint", best_checkpoint),
        ("saves in flight", if in_flight == 0 { String::new() } else { in_flight.to_string() }),
        ("saves", if strategy.save_best_only { "only improvements" } else { "whenever due" }.to_owned()),
        ("due", due(&strategy)),
        ("filepath", strategy.filepath),
        ("last epoch", human::optional_from_one(run.last_epoch)),
        ("events", run.event_count.to_string()),
        ("started", human::age(run.create_time.as_ref(), now_us)),
        ("updated", human::age(run.update_time.as_ref(), now_us)),
        ("finished", human::age(run.finish_time.as_ref(), now_us)),
    ])?;
    Ok(())
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
        ("artifact", short_name(&artifact.name)),
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
                alias.alias.clone(),
                short_name(&alias.version),
                human::age(alias.update_time.as_ref(), now_us),
            ]
        });
        context.output.table(&columns, rows.collect())?;
    }
    Ok(())
}

fn show_version(context: &mut Context, version: &v1::Version) -> Result<(), Failure> {
    if context.output.is_json() {
        return Ok(context.output.document(&json::version(version))?);
    }
    let metrics: Vec<_> =
        version.metrics.iter().map(|(name, value)| format!("{name}={}", human::metric(*value))).collect();
    context.output.properties(&[
        ("version", short_name(&version.name)),
        ("aliases", human::aliases(version)),
        ("epoch", human::from_one(version.epoch)),
        ("batch", human::optional_from_one(version.batch)),
        ("step", version.step.map(|step| step.to_string()).unwrap_or_default()),
        ("metrics", metrics.join(" ")),
        ("why", version.reason_text.clone()),
        ("run", short_name(&version.run)),
        ("path", version.path.clone()),
        (
            "size",
            format!("{} in {}", human::size(version.size_bytes), human::count(version.file_count, "file")),
        ),
        ("created", human::age(version.create_time.as_ref(), context.now_us)),
        ("digest", hex(&version.digest)),
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
