//! `keepbest versions`: lists the versions of an artifact with their metrics.

use std::collections::BTreeSet;

use keepbest_client::{short_name, v1};
use serde_json::json;

use super::args;
use super::context::{Context, pages};
use super::failure::Failure;
use super::names;
use super::output::Column;
use super::{human, json};

/// More columns of metrics would not fit beside the others. `--json` prints all metrics.
const MAX_METRICS: usize = 4;

/// Lists the versions that match the filter, in the order that was asked for.
pub(super) async fn list(context: &mut Context, arguments: args::Versions) -> Result<(), Failure> {
    let artifact = names::artifact(&arguments.artifact, &context.project)?;
    let parent = artifact.project.artifact(&artifact.id);
    let client = context.connect().await?;
    let versions = pages(arguments.limit, async |page_size, page_token| {
        let request = v1::ListVersionsRequest {
            parent: parent.clone(),
            page_size,
            page_token,
            filter: arguments.filter.clone(),
            order_by: arguments.order_by.clone(),
        };
        let page = client.list_versions(request).await?;
        Ok((page.versions, page.next_page_token))
    })
    .await?;
    if context.output.is_json() {
        let versions: Vec<_> = versions.iter().map(json::version).collect();
        context.output.document(&json!({ "versions": versions }))?;
        return Ok(());
    }
    if versions.is_empty() {
        let metric = arguments.order_by.split_whitespace().next().and_then(|by| by.strip_prefix("metrics."));
        let which = match (metric, arguments.filter.is_empty()) {
            (Some(metric), true) => format!("no versions with a metric `{metric}`"),
            (Some(metric), false) => format!("no versions with a metric `{metric}` that match the filter"),
            (None, true) => "no versions".to_owned(),
            (None, false) => "no versions that match the filter".to_owned(),
        };
        context.output.line(&format!("{which} in {}", short_name(&parent)))?;
        return Ok(());
    }
    let monitor = client.get_artifact(&parent, false).await?.monitor;
    print(context, &versions, &metrics_to_show(&versions, &monitor))
}

/// The names of the metrics that get a column: the monitor first, then others by name.
fn metrics_to_show(versions: &[v1::Version], monitor: &str) -> Vec<String> {
    let mut names: BTreeSet<&str> =
        versions.iter().flat_map(|version| version.metrics.keys()).map(String::as_str).collect();
    let first = names.take(monitor);
    first.into_iter().chain(names).take(MAX_METRICS).map(str::to_owned).collect()
}

fn print(context: &mut Context, versions: &[v1::Version], metrics: &[String]) -> Result<(), Failure> {
    let now_us = context.now_us;
    let mut columns = vec![Column::Text("VERSION".into()), Column::Number("EPOCH".into())];
    let has_batches = versions.iter().any(|version| version.batch.is_some());
    if has_batches {
        columns.push(Column::Number("BATCH".into()));
    }
    columns.extend(metrics.iter().map(|name| Column::Number(name.clone())));
    columns.extend([
        Column::Number("SIZE".into()),
        Column::Text("CREATED".into()),
        Column::Text("ALIASES".into()),
    ]);
    let row = |version: &v1::Version| {
        let mut row = vec![format!("v{}", version.number), human::from_one(version.epoch)];
        if has_batches {
            row.push(human::optional_from_one(version.batch));
        }
        row.extend(metrics.iter().map(|name| human::optional_metric(version.metrics.get(name).copied())));
        row.extend([
            human::size(version.size_bytes),
            human::age(version.create_time.as_ref(), now_us),
            human::aliases(version),
        ]);
        row
    };
    context.output.table(&columns, versions.iter().map(row).collect())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use keepbest_client::v1;

    use super::metrics_to_show;

    #[test]
    fn the_monitor_is_the_first_metric() {
        let metrics = ["acc", "loss", "val_acc", "val_loss", "x"].map(|name| (name.to_owned(), 0.0));
        let versions = [v1::Version { metrics: metrics.into(), ..Default::default() }];
        assert_eq!(metrics_to_show(&versions, "val_loss"), ["val_loss", "acc", "loss", "val_acc"]);
        assert_eq!(metrics_to_show(&versions, "f1"), ["acc", "loss", "val_acc", "val_loss"]);
    }
}
