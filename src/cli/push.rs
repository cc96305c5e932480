//! `keepbest push`: stores a file or a directory as a version, through a run of its own that reports one epoch.
//!
//! A push leaves a version or nothing: what it began is undone when it fails or is interrupted. One whose process or connection was
//! cut off cannot undo anything; the same push again finds its run by the name and goes on there.

mod plan;
pub(super) mod signals;

use std::time::Duration;

use keepbest_client::{Client, Error, OnProgress, Run, UploadOptions, v1};

use self::plan::Plan;
use self::signals::Signals;
use super::args;
use super::context::Context;
use super::failure::{Failure, found};
use super::{human, json, pull, words};

/// An interrupted push waits so long for the answer to a call that may have changed something, to know what to undo.
const LAST_ANSWER: Duration = Duration::from_secs(5);
/// Of equal pushes, one after the other, so many can each be resumed; the name of a further one is random.
const MOST_RESUMABLE: u32 = 10;

/// A push on its way.
struct Begun {
    run: Run,
    /// Whether this push made the artifact.
    made_artifact: bool,
    /// What the decision SAVE led to.
    checkpoint: Option<String>,
    /// Whether this push began the run, rather than an equal one before it.
    is_ours: bool,
}

/// Starts the run, saves, names the version, and finishes the run.
pub(super) async fn push(context: &mut Context, arguments: args::Push) -> Result<(), Failure> {
    let plan = Plan::of(arguments, context).await?;
    for note in plan.notes() {
        context.output.note(&note);
    }
    let mut signals = Signals::listen()?;
    let client = signals.or(context.connect()).await??;
    let mut begun = begin_or_undo(context, &client, &plan, &mut signals).await?;
    if begun.run.started().resumed {
        context.output.note(&format!("going on with the push that {} began", words::short(begun.run.name())));
    }
    let bar = pull::bar(context);
    let saved = signals.or(save(&client, &plan, &mut begun, pull::on_progress(&bar))).await;
    bar.finish_and_clear();
    let version = match saved.flatten() {
        Ok(version) => version,
        Err(failure) => {
            return Err(undo_unless_told_again(&client, &plan, begun, failure, &mut signals).await);
        }
    };
    let named = name(&client, &plan, &version).await;
    begun.run.finish(v1::RunState::Finished).await?;
    let version = named?;
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

/// Begins a push. If it is interrupted meanwhile, what it has begun is undone.
async fn begin_or_undo(
    context: &Context,
    client: &Client,
    plan: &Plan,
    signals: &mut Signals,
) -> Result<Begun, Failure> {
    let mut beginning = std::pin::pin!(begin(context, client, plan));
    let interrupted = match signals.or(&mut beginning).await {
        Ok(begun) => return begun,
        Err(interrupted) => interrupted,
    };
    match tokio::time::timeout(LAST_ANSWER, beginning).await {
        Ok(Ok(begun)) => Err(undo_unless_told_again(client, plan, begun, interrupted, signals).await),
        _ => Err(interrupted),
    }
}

/// Goes on with a push that was cut off, or begins one.
async fn begin(context: &Context, client: &Client, plan: &Plan) -> Result<Begun, Failure> {
    let artifact = found(client.get_artifact(&plan.artifact.artifact(), false).await)?;
    let artifact = artifact.as_ref();
    for note in plan.note_about_monitor(artifact).into_iter().chain(plan.note_about_first(artifact)) {
        context.output.note(&note);
    }
    let mut run_id = None;
    for number in 0..MOST_RESUMABLE {
        let id = plan.run_id(number);
        match found(client.get_run(&plan.artifact.project.run(&id)).await)? {
            None => run_id = Some(id),
            Some(run) if matches!(run.state(), v1::RunState::Finished | v1::RunState::Failed) => continue,
            Some(run) => {
                let run = Run::take_up(client, run);
                let made_artifact = artifact.is_none_or(|it| it.version_count == 0);
                return Ok(Begun { run, made_artifact, checkpoint: None, is_ours: false });
            }
        }
        break;
    }
    let request = v1::StartRunRequest {
        parent: plan.artifact.project.name(),
        run_id: run_id.unwrap_or_else(|| format!("push-{}", uuid::Uuid::new_v4())),
        strategy: Some(plan.strategy(artifact)),
        artifact_id: plan.artifact.id.clone(),
        resume: v1::Resume::Never.into(),
        ..Default::default()
    };
    let run = Run::start(client, request).await.map_err(|error| match error.reason() {
        "MONITOR_CONFLICT" => Failure::from(error).with_hint(&plan.hint_about_conflict(artifact)),
        _ => error.into(),
    })?;
    Ok(Begun { run, made_artifact: artifact.is_none(), checkpoint: None, is_ours: true })
}

async fn save(
    client: &Client,
    plan: &Plan,
    begun: &mut Begun,
    on_progress: OnProgress,
) -> Result<v1::Version, Failure> {
    let decisions = begun.run.report(vec![plan.event()]).await?;
    let decision =
        decisions.first().filter(|decision| decision.action() == v1::Action::Save).ok_or_else(|| {
            Failure::failed("the server decided not to save, though asked to save whatever comes")
        })?;
    begun.checkpoint = Some(decision.checkpoint.clone());
    let options = UploadOptions { sha256: plan.sha256, follow_links: plan.follow_links, on_progress };
    let uploaded = begun.run.upload(&decision.checkpoint, &plan.path, &options).await?;
    let request = v1::CommitCheckpointRequest {
        checkpoint: decision.checkpoint.clone(),
        attempt: begun.run.attempt(),
        file_count: i64::try_from(uploaded.file_count).unwrap_or(i64::MAX),
        metadata: plan.metadata.clone(),
        ..Default::default()
    };
    Ok(client.commit_checkpoint(request).await?)
}

/// Gives the version the aliases that were asked for.
async fn name(client: &Client, plan: &Plan, version: &v1::Version) -> Result<v1::Version, Failure> {
    let mut named = version.clone();
    for alias in &plan.aliases {
        let request = v1::SetAliasRequest {
            artifact: plan.artifact.artifact(),
            alias: alias.clone(),
            version: format!("v{}", version.number),
            ..Default::default()
        };
        named = client.set_alias(request).await.map_err(|error| {
            let stored = format!("; {} is stored all the same", words::short(&version.name));
            Failure::from(error).with_hint(&stored)
        })?;
    }
    Ok(named)
}

/// Undoes a push, unless the user interrupts that too; says what the user must hear.
async fn undo_unless_told_again(
    client: &Client,
    plan: &Plan,
    begun: Begun,
    failure: Failure,
    signals: &mut Signals,
) -> Failure {
    // Nothing can be undone there, and the bytes that are there need not be sent again.
    if failure.is_unreachable() {
        return failure.with_hint("; the same push again goes on where it broke off");
    }
    match signals.or(undo(client, plan, begun)).await {
        Ok(Ok(Undone::Nothing)) => failure,
        Ok(Ok(Undone::Stored)) => {
            failure.with_hint("; but it was stored by then: `keepbest versions` lists it")
        }
        Ok(Ok(Undone::Left)) => failure.with_hint("; the same push again goes on where it broke off"),
        Ok(Err(_)) | Err(_) => failure
            .with_hint("; what it had begun could not be taken back: the same push again goes on with it"),
    }
}

/// What is left of a push.
enum Undone {
    Nothing,
    /// The version: it was committed already.
    Stored,
    /// The run: an equal push had begun it, and may be going on with it.
    Left,
}

async fn undo(client: &Client, plan: &Plan, begun: Begun) -> Result<Undone, Error> {
    let Begun { run, made_artifact, checkpoint, is_ours } = begun;
    if !is_ours {
        // The equal push that began it may be going on beside us: neither the run nor its checkpoint is ours to give up.
        let state = match &checkpoint {
            Some(name) => match client.get_checkpoint(name, false).await {
                Ok(checkpoint) => checkpoint.state(),
                // The equal one was interrupted, too, and took it back.
                Err(error) if error.is_not_found() => return Ok(Undone::Nothing),
                Err(error) => return Err(error),
            },
            None => v1::CheckpointState::Unspecified,
        };
        if state == v1::CheckpointState::Committed {
            run.finish(v1::RunState::Finished).await?;
            return Ok(Undone::Stored);
        }
        return Ok(Undone::Left);
    }
    // What cannot be abandoned goes with the run, unless it was committed: by us, or by an equal push that went on with it.
    if let Some(checkpoint) = &checkpoint
        && let Err(error) = run.abandon(checkpoint).await
        && error.reason() == "CHECKPOINT_COMMITTED"
    {
        run.finish(v1::RunState::Finished).await?;
        return Ok(Undone::Stored);
    }
    let request = v1::DeleteRunRequest {
        name: run.name().to_owned(),
        force: true,
        allow_missing: true,
        ..Default::default()
    };
    client.delete_run(request).await?;
    let name = plan.artifact.artifact();
    // Another run may have saved into it by now, or be about to, and then it is not ours to delete.
    if made_artifact && client.get_artifact(&name, false).await?.version_count == 0 {
        let request = v1::DeleteArtifactRequest { name, allow_missing: true, ..Default::default() };
        if let Err(error) = client.delete_artifact(request).await
            && error.reason() != "RUN_ALIVE"
        {
            return Err(error);
        }
    }
    Ok(Undone::Nothing)
}
