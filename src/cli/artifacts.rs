//! `keepbest artifacts`: the artifacts of a project or a team.

use keepbest_client::{Error, v1};

use super::args;
use super::context::Context;
use super::failure::Failure;
use super::output::Column;
use super::{human, json, listing, meant, names, words};

/// Lists artifacts by project and name, as a table or as JSON.
pub(super) async fn list(context: &mut Context, arguments: args::Artifacts) -> Result<(), Failure> {
    let parent = names::projects(arguments.parent.as_deref(), &context.project)?;
    let client = context.connect().await?;
    let listing = &arguments.list;
    let page = async |page_size: i32, page_token: String| {
        let request = v1::ListArtifactsRequest { parent: parent.clone(), page_size, page_token };
        let page = client.list_artifacts(request).await?;
        Ok::<_, Error>((page.artifacts, page.next_page_token))
    };
    if context.output.is_json() {
        let next = listing::document(context, listing, "artifacts", json::artifact_of_list, &page).await?;
        return listing::end(context, &next, &[]);
    }
    let rows = listing::rows(context, listing, &page).await?;
    if rows.items.is_empty() {
        return Ok(context
            .output
            .line(&meant::nothing_in(&client, &context.project, &parent, "artifacts").await?)?);
    }
    let now_us = context.now_us;
    let columns = [
        Column::Text("ARTIFACT".into()),
        Column::Text("TYPE".into()),
        Column::Text("MONITOR".into()),
        Column::Number("NUMBERS GIVEN".into()),
        Column::Text("CREATED".into()),
    ];
    let row = |artifact: &v1::Artifact| {
        vec![
            words::short(&artifact.name),
            artifact.r#type.clone(),
            human::monitor(&artifact.monitor, artifact.direction()),
            artifact.version_count.to_string(),
            human::age(artifact.create_time.as_ref(), now_us),
        ]
    };
    context.output.table(&columns, rows.items.iter().map(row).collect())?;
    listing::tell_rest(context, listing, &rows, "artifacts", &page).await
}
