//! `keepbest gc`, `check` and `rebuild`: they open the database and the object store themselves and need no server.

use serde_json::to_value;

use super::args;
use super::context::Context;
use super::failure::Failure;
use super::{human, serve};
use crate::config;
use crate::maintenance;
use crate::telemetry;

/// Only warnings and errors are logged; the command's report says the rest.
const LOG_FILTER: &str = "warn";

/// `gc`: does what the server's collector does, once.
pub(super) async fn collect(context: &mut Context, arguments: args::Gc) -> Result<(), Failure> {
    let config = serve::load(&arguments.settings)?;
    log()?;
    maintenance::keep_private(&config)?;
    let report = maintenance::gc(&config, arguments.now).await?;
    if context.output.is_json() {
        context.output.document(&to_value(report).expect("a report is numbers"))?;
        return Ok(());
    }
    context.output.properties(&[
        ("expired checkpoints", report.expired_checkpoints.to_string()),
        ("removed checkpoints", report.removed_checkpoints.to_string()),
        ("removed chunks", report.removed_chunks.to_string()),
        ("removed objects", report.removed_objects.to_string()),
        ("freed", human::size(i64::try_from(report.freed_bytes).unwrap_or(i64::MAX))),
        ("left for the next pass", report.left.to_string()),
    ])?;
    Ok(())
}

/// `check`: prints each problem, and fails if there is any.
pub(super) async fn check(context: &mut Context, arguments: args::Check) -> Result<(), Failure> {
    let config = serve::load(&arguments.settings)?;
    log()?;
    maintenance::keep_private(&config)?;
    let report = maintenance::check(&config, arguments.read()).await?;
    if context.output.is_json() {
        context.output.document(&to_value(&report).expect("a report is numbers and texts"))?;
    } else {
        context.output.properties(&[
            ("versions", report.versions.to_string()),
            ("files", report.files.to_string()),
            ("chunks", report.chunks.to_string()),
            ("read", human::size(i64::try_from(report.bytes_read).unwrap_or(i64::MAX))),
            ("manifests", report.manifests.to_string()),
            ("manifests due", report.due_manifests.to_string()),
            ("audit entries", report.audit_entries.to_string()),
        ])?;
        for problem in &report.problems {
            context.output.line(&format!("problem: {problem}"))?;
        }
    }
    match report.problems.len() {
        0 if context.output.is_json() => Ok(()),
        0 => Ok(context.output.line("no problem was found")?),
        count => {
            let count = human::count(i64::try_from(count).unwrap_or(i64::MAX), "problem");
            Err(Failure::failed(format!("{} with {} has {count}", config.database(), config.objects())))
        }
    }
}

/// `rebuild`: prints what could not be brought back, and fails if anything could not.
pub(super) async fn rebuild(context: &mut Context, arguments: args::Rebuild) -> Result<(), Failure> {
    let config = serve::load(&arguments.settings)?;
    log()?;
    maintenance::keep_private(&config)?;
    let report = maintenance::rebuild(&config).await?;
    if context.output.is_json() {
        context.output.document(&to_value(&report).expect("a report is numbers and texts"))?;
    } else {
        context.output.properties(&[
            ("artifacts", report.artifacts.to_string()),
            ("runs", report.runs.to_string()),
            ("versions", report.versions.to_string()),
            ("deleted versions", report.deleted_versions.to_string()),
            ("files", report.files.to_string()),
            ("size", human::size(i64::try_from(report.size_bytes).unwrap_or(i64::MAX))),
        ])?;
        for skipped in &report.skipped {
            context.output.line(&format!("skipped: {skipped}"))?;
        }
        for lost in &report.lost {
            context.output.line(&format!("lost: {lost}"))?;
        }
    }
    let count = |of: &[String], what| human::count(i64::try_from(of.len()).unwrap_or(i64::MAX), what);
    let message = match (report.skipped.is_empty(), report.lost.is_empty()) {
        (true, true) => return Ok(()),
        (false, _) => format!("{} gave no version", count(&report.skipped, "manifest")),
        (true, false) => format!("versions of {} have no manifest", count(&report.lost, "artifact")),
    };
    Err(Failure::failed(format!("{message}; all others are in the database")))
}

/// Logs what a command that opens the database itself has to warn of.
pub(super) fn log() -> Result<(), Failure> {
    let format = telemetry::Format::Text { colours: !config::no_color() };
    telemetry::init(format, LOG_FILTER).map_err(|error| Failure::failed(error.to_string()))
}
