//! `keepbest push`: stores a file or a directory as a version, through a run of its own that reports one epoch.

use std::path::Path;

use keepbest_client::{Client, Run, UploadOptions, v1};

use super::args;
use super::context::Context;
use super::failure::Failure;
use super::names::{self, InProject};
use super::{human, json, pull, show, words};

/// Starts the run, saves, and finishes the run.
pub(super) async fn push(context: &mut Context, arguments: args::Push) -> Result<(), Failure> {
    let artifact = names::artifact(&arguments.artifact, &context.project)?;
    let filepath = template(&arguments.path)?;
    let client = context.connect().await?;
    let request = v1::StartRunRequest {
        parent: artifact.project.name(),
        run_id: format!("push-{}", uuid::Uuid::new_v4()),
        strategy: Some(strategy(&client, &artifact, &arguments, filepath).await?),
        artifact_id: artifact.id,
        ..Default::default()
    };
    let mut run = Run::start(&client, request).await?;
    let bar = pull::bar(context);
    let options = UploadOptions { sha256: true, on_progress: pull::on_progress(&bar), ..Default::default() };
    let saved = save(&mut run, &arguments, &options).await;
    bar.finish_and_clear();
    let version = match saved {
        Ok(version) => version,
        Err(failure) => {
            // What the user must hear is why the push failed, not whether its run could be ended.
            let _ = run.finish(v1::RunState::Failed).await;
            return Err(failure);
        }
    };
    run.finish(v1::RunState::Finished).await?;
    if context.output.is_json() {
        context.output.document(&json::version(&version))?;
        return Ok(());
    }
    context.output.line(&format!(
        "pushed {}: {}, {}",
        words::short(&version.name),
        human::count(version.file_count, "file"),
        human::size(version.size_bytes),
    ))?;
    if !version.aliases.is_empty() {
        context.output.line(&format!("aliases: {}", human::aliases(&version)))?;
    }
    Ok(())
}

/// The file's name, escaped so that as a template it gives the name itself.
fn template(path: &Path) -> Result<String, Failure> {
    let absolute = path
        .canonicalize()
        .map_err(|error| Failure::usage(format!("`{}` cannot be read: {error}", path.display())))?;
    // `.` and `..` have no name, but what they stand for has. A link goes by its own name.
    let name = path.file_name().or(absolute.file_name()).and_then(|name| name.to_str());
    let name =
        name.ok_or_else(|| Failure::usage(format!("`{}` has no name that is Unicode", path.display())))?;
    Ok(name.replace('{', "{{").replace('}', "}}"))
}

/// A strategy that saves in any case. It watches the monitor that the artifact has, so that `best` keeps its meaning; the
/// monitor of a new artifact comes from the arguments.
async fn strategy(
    client: &Client,
    artifact: &InProject,
    arguments: &args::Push,
    filepath: String,
) -> Result<v1::Strategy, Failure> {
    let existing = match client.get_artifact(&artifact.project.artifact(&artifact.id), false).await {
        Ok(artifact) => Some(artifact),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error.into()),
    };
    let first_metric = || arguments.metrics.first().map(|(name, _)| name.clone());
    let (monitor, direction) = match existing {
        Some(artifact) => {
            let direction = artifact.direction();
            (artifact.monitor, direction)
        }
        None => (first_metric().unwrap_or_default(), v1::Mode::Unspecified),
    };
    let mode = match arguments.mode {
        None => direction,
        mode => show::wire_mode(mode),
    };
    Ok(v1::Strategy {
        filepath,
        monitor: arguments.monitor.clone().unwrap_or(monitor),
        mode: mode.into(),
        save_frequency: Some(v1::strategy::SaveFrequency::EveryEpoch(true)),
        ..Default::default()
    })
}

async fn save(
    run: &mut Run,
    arguments: &args::Push,
    options: &UploadOptions,
) -> Result<v1::Version, Failure> {
    let event = v1::Event {
        kind: v1::EventKind::EpochEnd.into(),
        epoch: arguments.epoch - 1,
        metrics: arguments.metrics.iter().cloned().collect(),
        ..Default::default()
    };
    let decisions = run.report(vec![event]).await?;
    let decision =
        decisions.first().filter(|decision| decision.action() == v1::Action::Save).ok_or_else(|| {
            Failure::failed("the server decided not to save, though asked to save whatever comes")
        })?;
    let uploaded = match run.upload(&decision.checkpoint, &arguments.path, options).await {
        Ok(uploaded) => uploaded,
        Err(error) => {
            // So its bytes are freed now, and not only when the checkpoint expires.
            let _ = run.abandon(&decision.checkpoint).await;
            return Err(error.into());
        }
    };
    Ok(run.commit(&decision.checkpoint, uploaded.file_count).await?)
}

#[cfg(test)]
mod tests {
    use super::template;

    #[test]
    fn braces_in_a_name_are_not_fields() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model-{epoch}.h5");
        std::fs::write(&path, "").unwrap();
        assert_eq!(template(&path).unwrap(), "model-{{epoch}}.h5");
        assert!(template(&folder.path().join("missing")).is_err());
        assert!(template(".".as_ref()).is_ok());
    }
}
