//! `keepbest projects`: the projects of a team.

use keepbest_client::{Error, v1};
use serde_json::json;

use super::args;
use super::context::Context;
use super::failure::Failure;
use super::output::Column;
use super::{listing, names, words};

/// Lists projects by name, as a table or as JSON.
pub(super) async fn list(context: &mut Context, arguments: args::Projects) -> Result<(), Failure> {
    let parent = names::team(arguments.team.as_deref().unwrap_or(&context.project.team))?;
    let client = context.connect().await?;
    let listing = &arguments.list;
    let page = async |page_size: i32, page_token: String| {
        let request = v1::ListProjectsRequest { parent: parent.clone(), page_size, page_token };
        let page = client.list_projects(request).await?;
        Ok::<_, Error>((page.projects, page.next_page_token))
    };
    if context.output.is_json() {
        let item = |project: &v1::Project| json!({ "name": project.name });
        let next = listing::document(context, listing, "projects", item, &page).await?;
        return listing::end(context, &next, &[]);
    }
    let rows = listing::rows(context, listing, &page).await?;
    if rows.items.is_empty() {
        let team = words::short(&parent);
        if team == "default" {
            return Ok(context.output.line("no projects in the team default")?);
        }
        return Err(Failure::not_found(format!("there is no team `{team}`: nothing was ever stored in it")));
    }
    let columns = [Column::Text("PROJECT".into())];
    context.output.table(&columns, rows.items.iter().map(|it| vec![words::short(&it.name)]).collect())?;
    listing::tell_rest(context, listing, &rows, "projects", &page).await
}
