//! `keepbest pull`: download a version.

use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};
use keepbest_client::{OnProgress, Progress, PullOptions, hex};
use serde_json::json;

use super::args;
use super::context::Context;
use super::failure::Failure;
use super::{human, json, meant, names, words};

/// Downloads all files of a version, into a folder named after it unless another one is given.
pub(super) async fn pull(context: &mut Context, arguments: args::Pull) -> Result<(), Failure> {
    let target = match names::version(&arguments.version, &context.project) {
        Ok(target) => target,
        Err(failure) => return Err(meant::version_of_run(context, &arguments.version, failure).await),
    };
    let client = context.connect().await?;
    // An alias could move while the files are downloaded. A number stays.
    let version = match client.get_version(&target.name(), false).await {
        Ok(version) => version,
        Err(error) => return Err(meant::version(&client, &target, error.into()).await),
    };
    let directory = arguments
        .directory
        .unwrap_or_else(|| PathBuf::from(format!("{}-v{}", target.artifact, version.number)));
    let bar = bar(context);
    let options = PullOptions { on_progress: on_progress(&bar), ..PullOptions::default() };
    let pulled = keepbest_client::pull(&client, &version.name, &directory, &options).await;
    bar.finish_and_clear();
    let pulled = pulled?;
    let version = &pulled.version;
    if context.output.is_json() {
        context.output.document(&json!({
            "version": json::version(version),
            "directory": directory.to_string_lossy(),
            "received_bytes": pulled.received_bytes,
            "skipped_files": pulled.skipped_files,
            "removed_files": pulled.removed_files,
            "other_files": pulled.other_files.count,
        }))?;
        return Ok(());
    }
    let received = human::size(i64::try_from(pulled.received_bytes).unwrap_or(i64::MAX));
    context.output.line(&format!(
        "pulled {} to {}: {}, {} ({received} received)",
        words::short(&version.name),
        directory.display(),
        human::count(version.file_count, "file"),
        human::size(version.size_bytes),
    ))?;
    context.output.line(&format!("verified: BLAKE3 {}", hex(&version.digest)))?;
    if pulled.removed_files > 0 {
        let removed = human::count(i64::try_from(pulled.removed_files).unwrap_or(i64::MAX), "file");
        context.output.line(&format!("removed {removed} of an earlier pull"))?;
    }
    let others = &pulled.other_files;
    if others.count > 0 {
        let names: Vec<_> = others.some.iter().map(|it| it.display().to_string()).collect();
        let more = match others.count - names.len() as u64 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        context.output.note(&format!("not of this version, and left there: {}{more}", names.join(", ")));
    }
    Ok(())
}

/// A progress bar on stderr, if that is a terminal. It prints numbers only.
pub(super) fn bar(context: &Context) -> ProgressBar {
    if context.output.is_json() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {msg}")
        .expect("the template is well formed");
    ProgressBar::new(0).with_style(style)
}

/// Moves the bar as bytes are transferred.
pub(super) fn on_progress(bar: &ProgressBar) -> OnProgress {
    let bar = bar.clone();
    OnProgress::new(move |progress: Progress| {
        bar.set_length(progress.bytes_total);
        bar.set_position(progress.bytes_done);
        if progress.files_total > 1 {
            bar.set_message(format!("{}/{} files", progress.files_done, progress.files_total));
        }
    })
}
