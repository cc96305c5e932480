//! `keepbest runs`: the runs of a project or a team.

use keepbest_client::{ProjectName, short_name, v1};
use serde_json::json;

use super::args;
use super::context::{Context, pages};
use super::failure::Failure;
use super::output::Column;
use super::{human, json};

/// Lists runs, newest first, as a table or as JSON.
pub(super) async fn list(context: &mut Context, arguments: args::Runs) -> Result<(), Failure> {
    let parent = match &arguments.parent {
        Some(text) => ProjectName::parse(&short_name(text))?.name(),
        None => context.project.name(),
    };
    let client = context.connect().await?;
    let runs = pages(arguments.limit, async |page_size, page_token| {
        let request = v1::ListRunsRequest { parent: parent.clone(), page_size, page_token };
        let page = client.list_runs(request).await?;
        Ok((page.runs, page.next_page_token))
    })
    .await?;
    if context.output.is_json() {
        let runs: Vec<_> = runs.iter().map(json::run).collect();
        context.output.document(&json!({ "runs": runs }))?;
        return Ok(());
    }
    if runs.is_empty() {
        context.output.line(&format!("no runs in {}", short_name(&parent)))?;
        return Ok(());
    }
    let columns = [
        Column::Text("RUN".into()),
        Column::Text("STATE".into()),
        Column::Text("MONITOR".into()),
        Column::Number("BEST".into()),
        Column::Number("EPOCH".into()),
        Column::Number("EVENTS".into()),
        Column::Text("UPDATED".into()),
    ];
    let rows = runs.iter().map(|run| row(run, context.now_us)).collect();
    context.output.table(&columns, rows)?;
    Ok(())
}

fn row(run: &v1::Run, now_us: i64) -> Vec<String> {
    vec![
        short_name(&run.name),
        human::enum_name(run.state().as_str_name(), "RUN_STATE_"),
        monitor(run),
        human::optional_metric(best(run)),
        human::optional_from_one(run.last_epoch),
        run.event_count.to_string(),
        human::age(run.update_time.as_ref(), now_us),
    ]
}

/// The monitor of a run with its direction, as `val_loss (min)`.
pub(super) fn monitor(run: &v1::Run) -> String {
    let monitor = run.strategy.as_ref().map_or("", |strategy| strategy.monitor.as_str());
    // The contract's default for an empty monitor.
    human::monitor(if monitor.is_empty() { "val_loss" } else { monitor }, run.direction())
}

/// The value that the next one must beat; none if there is none yet.
pub(super) fn best(run: &v1::Run) -> Option<f64> {
    run.monitor_state.as_ref().and_then(|state| state.best)
}
