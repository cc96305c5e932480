//! `keepbest admin set-member`, `members` and `remove-member`: who shows a certificate.

use keepbest_client::{Error, v1};
use serde_json::{Value, json};

use super::super::args;
use super::super::context::Context;
use super::super::failure::Failure;
use super::super::output::Column;
use super::super::{json as documents, listing, words};
use super::{granted, parent_of, scope_of};

/// What the server calls the holders of certificates.
const KIND: &str = "certificate:";

fn identity_of(typed: &str) -> String {
    if typed.starts_with(KIND) { typed.to_owned() } else { format!("{KIND}{typed}") }
}

fn member_json(member: &v1::Member) -> Value {
    let grant = member.grant.clone().unwrap_or_default();
    json!({
        "identity": member.identity,
        "role": grant.role,
        "scope": grant.scope,
        "creator": member.creator,
        "create_time": documents::time(member.create_time.as_ref()),
    })
}

pub(super) async fn set(context: &mut Context, arguments: args::SetMember) -> Result<(), Failure> {
    let request = v1::SetMemberRequest {
        scope: scope_of(&arguments.scope)?,
        identity: identity_of(&arguments.identity),
        role: arguments.role,
    };
    let member = context.connect().await?.set_member(request).await?;
    if context.output.is_json() {
        return Ok(context.output.document(&member_json(&member))?);
    }
    let may = member.grant.as_ref().map(granted).unwrap_or_default();
    Ok(context.output.line(&format!("{} is {may}", member.identity.trim_start_matches(KIND)))?)
}

pub(super) async fn list(context: &mut Context, arguments: args::Members) -> Result<(), Failure> {
    let parent = parent_of(context, arguments.team.as_deref(), false)?;
    let client = context.connect().await?;
    let listing = &arguments.list;
    let page = async |page_size: i32, page_token: String| {
        let request = v1::ListMembersRequest { parent: parent.clone(), page_size, page_token };
        let page = client.list_members(request).await?;
        Ok::<_, Error>((page.members, page.next_page_token))
    };
    if context.output.is_json() {
        let next = listing::document(context, listing, "members", member_json, &page).await?;
        return listing::end(context, &next, &[]);
    }
    let rows = listing::rows(context, listing, &page).await?;
    if rows.items.is_empty() {
        let line = format!("no certificate has a role in {}", words::short(&parent));
        return Ok(context.output.line(&line)?);
    }
    let columns = ["CERTIFICATE", "MAY", "BY"].map(|it| Column::Text(it.into()));
    let cells = |it: &v1::Member| {
        let may = it.grant.as_ref().map(granted).unwrap_or_default();
        vec![it.identity.trim_start_matches(KIND).to_owned(), may, words::short(&it.creator)]
    };
    context.output.table(&columns, rows.items.iter().map(cells).collect())?;
    listing::tell_rest(context, listing, &rows, "members", &page).await
}

pub(super) async fn remove(context: &mut Context, arguments: args::RemoveMember) -> Result<(), Failure> {
    let (scope, identity) = (scope_of(&arguments.scope)?, identity_of(&arguments.identity));
    let request = v1::DeleteMemberRequest { scope: scope.clone(), identity };
    context.connect().await?.delete_member(request).await?;
    if context.output.is_json() {
        return Ok(context.output.document(&json!({ "scope": scope, "identity": arguments.identity }))?);
    }
    let line = format!("{} has no role in {} any more", arguments.identity, words::short(&scope));
    Ok(context.output.line(&line)?)
}
