//! `keepbest decisions`: why a model was saved or not.

use keepbest_client::{Client, Error, v1};

use super::args;
use super::context::Context;
use super::failure::Failure;
use super::output::Column;
use super::{human, json, listing, meant, names, words};

/// Lists the newest decisions of a run, of these the oldest first; or all of them.
pub(super) async fn list(context: &mut Context, arguments: args::Decisions) -> Result<(), Failure> {
    let run = names::run(&arguments.run, &context.project)?;
    let client = context.connect().await?;
    let listed = print_list(context, &client, &run.run(), &arguments).await;
    match listed {
        Err(failure) => Err(meant::run(&client, &run, failure).await),
        done => done,
    }
}

async fn print_list(
    context: &mut Context,
    client: &Client,
    parent: &str,
    arguments: &args::Decisions,
) -> Result<(), Failure> {
    let listing = &arguments.list;
    // All of them come in the order in which they are printed; the newest few are turned round.
    let newest_first = !listing::is_whole(context, listing);
    let page = async |page_size: i32, page_token: String| {
        let request = v1::ListDecisionsRequest {
            parent: parent.to_owned(),
            page_size,
            page_token,
            epoch: arguments.epoch.map(|epoch| epoch - 1),
            action: wire_action(arguments.action).into(),
            newest_first,
        };
        let page = client.list_decisions(request).await?;
        Ok::<_, Error>((page.decisions, page.next_page_token))
    };
    if context.output.is_json() && !newest_first {
        let next = listing::document(context, listing, "decisions", json::decision, &page).await?;
        return listing::end(context, &next, &[]);
    }
    let mut rows = listing::rows(context, listing, &page).await?;
    if newest_first {
        rows.items.reverse();
    }
    if context.output.is_json() {
        context.output.begin_list("decisions")?;
        for decision in &rows.items {
            context.output.item(&json::decision(decision))?;
        }
        return listing::end(context, rows.next_page_token(), &[]);
    }
    if rows.items.is_empty() {
        return Ok(context.output.line(&format!("no such decisions in {}", words::short(parent)))?);
    }
    print(context, &rows.items)?;
    listing::tell_rest(context, listing, &rows, "decisions, the newest", &page).await
}

fn wire_action(action: Option<args::Action>) -> v1::Action {
    match action {
        None => v1::Action::Unspecified,
        Some(args::Action::Save) => v1::Action::Save,
        Some(args::Action::Skip) => v1::Action::Skip,
        Some(args::Action::Fail) => v1::Action::Fail,
    }
}

fn print(context: &mut Context, decisions: &[v1::Decision]) -> Result<(), Failure> {
    let now_us = context.now_us;
    let columns = [
        Column::Number("EPOCH".into()),
        Column::Number("BATCH".into()),
        Column::Number("ATTEMPT".into()),
        Column::Text("ACTION".into()),
        Column::Text("BECAME".into()),
        Column::Number("VALUE".into()),
        Column::Number("TO BEAT".into()),
        Column::Text("WHEN".into()),
        Column::Text("WHY".into()),
    ];
    let row = |decision: &v1::Decision| {
        let mut why = vec![decision.reason_text.clone()];
        why.extend(decision.warnings.iter().map(|warning| format!("Warning: {warning}")));
        vec![
            human::from_one(decision.epoch),
            human::optional_from_one(decision.batch),
            decision.attempt.to_string(),
            human::enum_name(decision.action().as_str_name(), "ACTION_"),
            became(decision),
            human::optional_metric(decision.value),
            human::optional_metric(decision.best_before),
            human::age(decision.decide_time.as_ref(), now_us),
            why.join(" "),
        ]
    };
    context.output.table(&columns, decisions.iter().map(row).collect())?;
    Ok(())
}

/// What a save led to, as `v4`, `v4, deleted` or `given up`.
fn became(decision: &v1::Decision) -> String {
    let short = words::short(&decision.version);
    let number = short.rsplit(':').next().unwrap_or_default();
    match decision.outcome() {
        v1::Outcome::Unspecified => String::new(),
        v1::Outcome::Open => "open".to_owned(),
        v1::Outcome::Committed => number.to_owned(),
        v1::Outcome::GivenUp => "given up".to_owned(),
        v1::Outcome::Deleted if number.is_empty() => "deleted".to_owned(),
        v1::Outcome::Deleted => format!("{number}, deleted"),
    }
}
