//! `keepbest watch`: versions as they become visible, and a command for each.

use std::fs;
use std::io;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use keepbest_client::{Client, PullOptions, v1};
use serde_json::json;
use tokio::process::Command;

use super::args;
use super::context::Context;
use super::failure::Failure;
use super::output::where_errors_go;
use super::push::signals::Signals;
use super::show::{looked_in, settle};
use super::{human, json, words};

/// The longest cursor that is read from a file: the server's have at most 64 bytes.
const MAX_CURSOR_BYTES: usize = 256;
/// What stands for the folder with the version's files, and for its name, in the command.
const PATH: &str = "{path}";
const VERSION: &str = "{version}";

/// Watches until the count is reached, or for ever.
pub(super) async fn watch(context: &mut Context, arguments: args::Watch) -> Result<(), Failure> {
    let place = looked_in(context, arguments.parent.as_deref(), arguments.run.as_deref())?;
    let client = context.connect().await?;
    let parent = settle(&client, place).await?;
    let kept = arguments.cursor_file.as_deref().map(read_cursor).transpose()?.flatten();
    let request = v1::WatchVersionsRequest {
        parent: parent.clone(),
        best_only: arguments.best,
        cursor: kept.or_else(|| arguments.cursor.clone()).unwrap_or_default(),
        from_start: arguments.from_start,
    };
    // From here on a signal ends what runs, too.
    let mut signals = Signals::listen()?;
    signals.or(follow(context, &client, &arguments, request)).await?
}

async fn follow(
    context: &mut Context,
    client: &Client,
    arguments: &args::Watch,
    request: v1::WatchVersionsRequest,
) -> Result<(), Failure> {
    let parent = request.parent.clone();
    let mut watch = client.watch_versions(request);
    let mut left = arguments.count.unwrap_or(u64::MAX);
    let mut is_begun = false;
    while left > 0 {
        let seen = watch.next().await?;
        if let Some(version) = &seen.version {
            show(context, version, &seen)?;
            if !arguments.exec.is_empty() {
                run(context, client, arguments, &parent, version).await?;
            }
            left -= 1;
        } else if !std::mem::replace(&mut is_begun, true) {
            context.output.note(&format!("watching {}", words::short(&parent)));
        }
        // Only now: a command that failed has its version again.
        if let Some(file) = &arguments.cursor_file {
            write_cursor(file, &seen.cursor)?;
        }
    }
    Ok(())
}

fn show(
    context: &mut Context,
    version: &v1::Version,
    seen: &v1::WatchVersionsResponse,
) -> Result<(), Failure> {
    if context.output.is_json() {
        let document = json!({
            "version": json::version(version),
            "is_best": seen.is_best,
            "cursor": seen.cursor,
        });
        return Ok(context.output.document_line(&document)?);
    }
    let metrics = version.metrics.iter().map(|(name, value)| format!("{name} {}", human::metric(*value)));
    let best = if seen.is_best { Some("best".to_owned()) } else { None };
    let parts = [words::short(&version.name), format!("epoch {}", human::from_one(version.epoch))];
    let parts: Vec<String> = parts.into_iter().chain(metrics).chain(best).collect();
    Ok(context.output.line(&parts.join("  "))?)
}

/// Pulls the version and runs the command. What that prints goes where ours goes.
async fn run(
    context: &Context,
    client: &Client,
    arguments: &args::Watch,
    parent: &str,
    version: &v1::Version,
) -> Result<(), Failure> {
    let name = words::short(&version.name);
    // Where several artifacts are watched, one of the same name in another project has a folder of its own.
    let is_one = parent.contains("/artifacts/") || parent.contains("/runs/");
    let folder = if is_one { name.rsplit('/').next().unwrap_or_default() } else { name.as_str() };
    let directory = match &arguments.directory {
        Some(directory) => directory.clone(),
        None => PathBuf::from(folder.replace(['/', ':'], "-")),
    };
    keepbest_client::pull(client, &version.name, &directory, &PullOptions::default()).await?;
    let fill = |part: &String| part.replace(VERSION, &name).replace(PATH, &directory.to_string_lossy());
    let words: Vec<String> = arguments.exec.iter().map(fill).collect();
    let (program, rest) = words.split_first().expect("a command has a word");
    let mut command = Command::new(program);
    command.args(rest).kill_on_drop(true);
    if context.output.is_json() {
        // What reads our lines reads nothing else.
        command.stdout(where_errors_go());
    }
    let status = command.status().await;
    let status =
        status.map_err(|error| Failure::failed(format!("`{program}` cannot be started: {error}")))?;
    if !status.success() {
        let failure =
            Failure::failed(format!("`{program}` failed for {}: {status}", words::short(&version.name)));
        return Err(match (&arguments.cursor_file, context.output.is_json()) {
            (Some(_), _) => failure.with_hint("the next watch with this --cursor-file begins with it"),
            (None, _) => failure,
        });
    }
    Ok(())
}

/// Where an earlier watch stood; none: there was none.
fn read_cursor(file: &Path) -> Result<Option<String>, Failure> {
    match fs::read_to_string(file) {
        Ok(text) if text.len() > MAX_CURSOR_BYTES => {
            Err(Failure::usage(format!("{} holds no cursor of a watch", file.display())))
        }
        Ok(text) if text.trim().is_empty() => {
            let message =
                format!("{} is empty: remove it to begin anew, or give it a cursor", file.display());
            Err(Failure::usage(message))
        }
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::failed(format!("{} cannot be read: {error}", file.display()))),
    }
}

/// Whole or not at all: a watch that dies leaves the cursor before or this one.
fn write_cursor(file: &Path, cursor: &str) -> Result<(), Failure> {
    let mut new = file.as_os_str().to_owned();
    new.push(format!(".{}.new", std::process::id()));
    let new = PathBuf::from(new);
    let written = fs::File::create(&new).and_then(|mut it| {
        it.write_all(format!("{cursor}\n").as_bytes())?;
        it.sync_all()?;
        fs::rename(&new, file)
    });
    written.map_err(|error| Failure::failed(format!("{} cannot be written: {error}", file.display())))
}
