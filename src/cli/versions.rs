//! `keepbest versions`: lists the versions of an artifact with their metrics.

use std::cell::RefCell;
use std::collections::BTreeSet;

use keepbest_client::{Client, Error, v1};
use serde_json::json;

use super::args;
use super::context::Context;
use super::failure::Failure;
use super::listing::{self, Count};
use super::names::{self, InProject};
use super::output::Column;
use super::{epochs, human, json, meant, words};

/// More columns of metrics would not fit beside the others. `--json` prints all metrics.
const MAX_METRICS: usize = 4;

/// Lists the versions that match the filter, in the order that was asked for.
pub(super) async fn list(context: &mut Context, arguments: args::Versions) -> Result<(), Failure> {
    let artifact = names::artifact(&arguments.artifact, &context.project)?;
    let client = context.connect().await?;
    let listed = print_list(context, &client, &artifact, &arguments).await;
    match listed {
        Err(failure) => Err(meant::artifact(&client, &artifact, failure).await),
        done => done,
    }
}

async fn print_list(
    context: &mut Context,
    client: &Client,
    artifact: &InProject,
    arguments: &args::Versions,
) -> Result<(), Failure> {
    let parent = artifact.artifact();
    let filter = epochs::typed_filter(&arguments.filter);
    let listing = &arguments.list;
    let hints = RefCell::new(Vec::new());
    let page_of = async |order_by: &str, page_size: i32, page_token: String| {
        let request = v1::ListVersionsRequest {
            parent: parent.clone(),
            page_size,
            page_token,
            filter: filter.clone(),
            order_by: order_by.to_owned(),
        };
        let page = client.list_versions(request).await?;
        hints.borrow_mut().extend(page.hints);
        Ok::<_, Error>((page.versions, page.next_page_token))
    };
    let page = async |size: i32, token: String| page_of(&arguments.order_by, size, token).await;
    let in_any_order = async |size: i32, token: String| page_of("", size, token).await;
    let metric = ordering_metric(&arguments.order_by);
    if context.output.is_json() {
        let next = listing::document(context, listing, "versions", json::version, &page).await?;
        let told = hints.take();
        let left_out = match metric {
            Some(_) => {
                Some(left_out(listing::count_from(0, String::new(), &page).await?, &in_any_order).await?)
            }
            None => None,
        };
        let left_out = left_out.map(|left_out| ("left_out", json!(left_out.exactly())));
        let mut more = vec![("hints", json!(told))];
        more.extend(left_out);
        return listing::end(context, &next, &more);
    }
    let rows = listing::rows(context, listing, &page).await?;
    if rows.items.is_empty() {
        let which = match (metric, arguments.filter.is_empty()) {
            (Some(metric), true) => format!("no versions with a number as `{metric}`"),
            (Some(metric), false) => format!("no versions with a number as `{metric}` that match the filter"),
            (None, true) => "no versions".to_owned(),
            (None, false) => "no versions that match the filter".to_owned(),
        };
        context.output.line(&format!("{which} in {}", words::short(&parent)))?;
        for hint in hints.take() {
            context.output.line(&words::typed(&hint))?;
        }
    } else {
        let monitor = client.get_artifact(&parent, false).await?.monitor;
        print(context, &rows.items, &metrics_to_show(&rows.items, &monitor))?;
    }
    listing::tell_rest(context, listing, &rows, "versions", &page).await?;
    if let Some(metric) = metric {
        let left_out = left_out(listing::count_from(0, String::new(), &page).await?, &in_any_order).await?;
        tell_left_out(context, metric, left_out);
    }
    Ok(())
}

/// The metric that the list is ordered by, as it was typed.
fn ordering_metric(order_by: &str) -> Option<&str> {
    let field = order_by.trim();
    let field = field.strip_suffix(" asc").or(field.strip_suffix(" desc")).unwrap_or(field).trim_end();
    field.strip_prefix("metrics.")
}

/// How many of the versions that match the filter an order by a metric leaves out.
async fn left_out(
    listed: Count,
    in_any_order: impl AsyncFnMut(i32, String) -> Result<listing::Page<v1::Version>, Error>,
) -> Result<Count, Failure> {
    let all = listing::count_from(0, String::new(), in_any_order).await?;
    Ok(match (all, listed) {
        (Count::Exactly(all), Count::Exactly(listed)) => Count::Exactly(all.saturating_sub(listed)),
        (Count::MoreThan(all), Count::Exactly(listed)) => Count::MoreThan(all.saturating_sub(listed)),
        (_, Count::MoreThan(_)) => Count::MoreThan(0),
    })
}

fn tell_left_out(context: &Context, metric: &str, left_out: Count) {
    let which = format!("no number as `{metric}` and are not listed");
    match left_out {
        Count::Exactly(0) => {}
        Count::Exactly(1) => {
            context.output.note(&format!("1 version has no number as `{metric}` and is not listed"))
        }
        // Too many to count both.
        Count::MoreThan(0) => context.output.note(&format!("versions that have {which}")),
        count => context.output.note(&format!("{} versions have {which}", count.to_text())),
    }
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

    use super::{metrics_to_show, ordering_metric};

    #[test]
    fn the_monitor_is_the_first_metric() {
        let metrics = ["acc", "loss", "val_acc", "val_loss", "x"].map(|name| (name.to_owned(), 0.0));
        let versions = [v1::Version { metrics: metrics.into(), ..Default::default() }];
        assert_eq!(metrics_to_show(&versions, "val_loss"), ["val_loss", "acc", "loss", "val_acc"]);
        assert_eq!(metrics_to_show(&versions, "f1"), ["acc", "loss", "val_acc", "val_loss"]);
    }

    #[test]
    fn an_order_by_a_metric_names_it() {
        for (order, metric) in [
            ("metrics.val_loss", Some("val_loss")),
            (" metrics.val_loss  desc", Some("val_loss")),
            (r#"metrics."val loss" asc"#, Some(r#""val loss""#)),
            ("epoch desc", None),
            ("", None),
        ] {
            assert_eq!(ordering_metric(order), metric, "{order}");
        }
    }
}
