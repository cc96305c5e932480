//! `keepbest decisions`: why a model was saved or not.

use keepbest_client::{short_name, v1};
use serde_json::json;

use super::args;
use super::context::{Context, pages};
use super::failure::Failure;
use super::names;
use super::output::Column;
use super::{human, json};

/// Lists the decisions of a run, oldest first.
pub(super) async fn list(context: &mut Context, arguments: args::Decisions) -> Result<(), Failure> {
    let parent = names::run(&arguments.run, &context.project)?;
    let client = context.connect().await?;
    let decisions = pages(arguments.limit, async |page_size, page_token| {
        let request = v1::ListDecisionsRequest {
            parent: parent.clone(),
            page_size,
            page_token,
            epoch: arguments.epoch.map(|epoch| epoch - 1),
            action: wire_action(arguments.action).into(),
        };
        let page = client.list_decisions(request).await?;
        Ok((page.decisions, page.next_page_token))
    })
    .await?;
    if context.output.is_json() {
        let decisions: Vec<_> = decisions.iter().map(json::decision).collect();
        context.output.document(&json!({ "decisions": decisions }))?;
    } else if decisions.is_empty() {
        context.output.line(&format!("no such decisions in {}", short_name(&parent)))?;
    } else {
        print(context, &decisions)?;
    }
    Ok(())
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
        Column::Text("ACTION".into()),
        Column::Number("VALUE".into()),
        Column::Number("TO BEAT".into()),
        Column::Text("WHEN".into()),
        Column::Text("WHY".into()),
    ];
    let row = |decision: &v1::Decision| {
        let mut why = vec![decision.reason_text.clone()];
        why.extend(decision.warnings.iter().map(|warning| format!("warning: {warning}")));
        vec![
            human::from_one(decision.epoch),
            human::optional_from_one(decision.batch),
            human::enum_name(decision.action().as_str_name(), "ACTION_"),
            human::optional_metric(decision.value),
            human::optional_metric(decision.best_before),
            human::age(decision.decide_time.as_ref(), now_us),
            why.join("; "),
        ]
    };
    context.output.table(&columns, decisions.iter().map(row).collect())?;
    Ok(())
}
