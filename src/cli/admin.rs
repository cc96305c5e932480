//! `keepbest admin`: teams, API tokens and the audit log; and `keepbest whoami`.

mod members;

use keepbest_client::{Error, ProjectName, v1, well_known};
use serde_json::{Value, json};

use super::args;
use super::context::Context;
use super::failure::Failure;
use super::output::Column;
use super::{human, json, listing, local, names, serve, words};
use crate::maintenance;

/// `whoami`: prints who the server takes the caller for.
pub(super) async fn who_am_i(context: &mut Context) -> Result<(), Failure> {
    let answer = context.connect().await?.who_am_i().await?;
    if context.output.is_json() {
        let grants: Vec<Value> =
            answer.grants.iter().map(|it| json!({ "role": it.role, "scope": it.scope })).collect();
        let document =
            json!({ "principal": answer.principal, "grants": grants, "auth_required": answer.auth_required });
        return Ok(context.output.document(&document)?);
    }
    if !answer.auth_required {
        return Ok(context
            .output
            .line("anybody: this server does not ask who calls, and lets all do everything")?);
    }
    let grants: Vec<String> = answer.grants.iter().map(granted).collect();
    context.output.properties(&[("principal", answer.principal), ("may", grants.join(", "))])?;
    Ok(())
}

/// As `trainer in vision/mnist`.
fn granted(grant: &v1::Grant) -> String {
    if grant.scope.is_empty() {
        return format!("{} of the service", grant.role);
    }
    format!("{} in {}", grant.role, words::short(&grant.scope))
}

pub(super) async fn admin(context: &mut Context, arguments: args::Admin) -> Result<(), Failure> {
    use args::AdminAction;
    match arguments.action {
        AdminAction::Init(init) => self::init(context, init).await,
        AdminAction::CreateTeam(create) => create_team(context, create).await,
        AdminAction::Teams(teams) => self::teams(context, teams).await,
        AdminAction::CreateToken(create) => create_token(context, create).await,
        AdminAction::Tokens(tokens) => self::tokens(context, tokens).await,
        AdminAction::RevokeToken(revoke) => revoke_token(context, revoke).await,
        AdminAction::SetMember(set) => members::set(context, set).await,
        AdminAction::Members(listed) => members::list(context, listed).await,
        AdminAction::RemoveMember(remove) => members::remove(context, remove).await,
        AdminAction::Audit(audit) => self::audit(context, audit).await,
    }
}

async fn init(context: &mut Context, arguments: args::Init) -> Result<(), Failure> {
    let config = serve::load(&arguments.settings)?;
    local::log()?;
    maintenance::keep_private(&config)?;
    let (name, text) = maintenance::mint_admin_token(&config, arguments.lifetime).await?;
    if context.output.is_json() {
        return Ok(context.output.document(&json!({ "name": name, "text": text }))?);
    }
    context.output.note(&format!(
        "`{name}` holds for {}; nothing shows it again",
        humantime::format_duration(arguments.lifetime)
    ));
    if !config.auth.required {
        context.output.note("these settings do not ask who calls: the server needs `auth.required = true`");
    }
    Ok(context.output.line(&text)?)
}

async fn create_team(context: &mut Context, arguments: args::CreateTeam) -> Result<(), Failure> {
    let request = v1::CreateTeamRequest { team_id: arguments.team };
    let team = context.connect().await?.create_team(request).await?;
    if context.output.is_json() {
        return Ok(context.output.document(&team_json(&team))?);
    }
    Ok(context.output.line(&format!("team {} is made", words::short(&team.name)))?)
}

fn team_json(team: &v1::Team) -> Value {
    json!({ "name": team.name, "creator": team.creator, "create_time": json::time(team.create_time.as_ref()) })
}

async fn teams(context: &mut Context, arguments: args::Teams) -> Result<(), Failure> {
    let client = context.connect().await?;
    let listing = &arguments.list;
    let page = async |page_size: i32, page_token: String| {
        let page = client.list_teams(v1::ListTeamsRequest { page_size, page_token }).await?;
        Ok::<_, Error>((page.teams, page.next_page_token))
    };
    if context.output.is_json() {
        let next = listing::document(context, listing, "teams", team_json, &page).await?;
        return listing::end(context, &next, &[]);
    }
    let rows = listing::rows(context, listing, &page).await?;
    if rows.items.is_empty() {
        return Ok(context.output.line("no teams: make one with `keepbest admin create-team TEAM`")?);
    }
    let columns = [Column::Text("TEAM".into()), Column::Text("MADE".into()), Column::Text("BY".into())];
    let now_us = context.now_us;
    let cells = |it: &v1::Team| {
        vec![words::short(&it.name), human::age(it.create_time.as_ref(), now_us), it.creator.clone()]
    };
    context.output.table(&columns, rows.items.iter().map(cells).collect())?;
    listing::tell_rest(context, listing, &rows, "teams", &page).await
}

/// A team, or a project, as it is typed.
fn scope_of(typed: &str) -> Result<String, Failure> {
    match typed.trim_start_matches("teams/").contains('/') {
        true => Ok(ProjectName::parse(&keepbest_client::short_name(typed))?.name()),
        false => names::team(typed),
    }
}

/// The team that is typed, or the usual one, or the service.
fn parent_of(context: &Context, team: Option<&str>, service: bool) -> Result<String, Failure> {
    if service { Ok(String::new()) } else { names::team(team.unwrap_or(&context.project.team)) }
}

async fn create_token(context: &mut Context, arguments: args::CreateToken) -> Result<(), Failure> {
    let seconds = i64::try_from(arguments.lifetime.as_secs()).unwrap_or(i64::MAX);
    let request = v1::CreateTokenRequest {
        scope: arguments.scope.as_deref().map(scope_of).transpose()?.unwrap_or_default(),
        role: arguments.role,
        description: arguments.description,
        lifetime: Some(well_known::Duration { seconds, nanos: 0 }),
    };
    let made = context.connect().await?.create_token(request).await?;
    let token = made.token.unwrap_or_default();
    if context.output.is_json() {
        let mut document = token_json(&token);
        document["text"] = json!(made.text);
        return Ok(context.output.document(&document)?);
    }
    let may = token.grant.as_ref().map(granted).unwrap_or_default();
    context.output.note(&format!(
        "`{}` is {may} for {}; nothing shows it again",
        words::short(&token.name),
        humantime::format_duration(arguments.lifetime)
    ));
    Ok(context.output.line(&made.text)?)
}

fn token_json(token: &v1::Token) -> Value {
    let grant = token.grant.clone().unwrap_or_default();
    json!({
        "name": token.name,
        "role": grant.role,
        "scope": grant.scope,
        "description": token.description,
        "creator": token.creator,
        "create_time": json::time(token.create_time.as_ref()),
        "expire_time": json::time(token.expire_time.as_ref()),
        "last_use_time": json::time(token.last_use_time.as_ref()),
        "revoke_time": json::time(token.revoke_time.as_ref()),
    })
}

async fn tokens(context: &mut Context, arguments: args::Tokens) -> Result<(), Failure> {
    let parent = parent_of(context, arguments.team.as_deref(), arguments.service)?;
    let client = context.connect().await?;
    let listing = &arguments.list;
    let page = async |page_size: i32, page_token: String| {
        let request = v1::ListTokensRequest { parent: parent.clone(), page_size, page_token };
        let page = client.list_tokens(request).await?;
        Ok::<_, Error>((page.tokens, page.next_page_token))
    };
    if context.output.is_json() {
        let next = listing::document(context, listing, "tokens", token_json, &page).await?;
        return listing::end(context, &next, &[]);
    }
    let rows = listing::rows(context, listing, &page).await?;
    if rows.items.is_empty() {
        let of = if parent.is_empty() {
            "of the service".to_owned()
        } else {
            format!("of {}", words::short(&parent))
        };
        return Ok(context.output.line(&format!("no tokens {of}"))?);
    }
    let columns = ["TOKEN", "MAY", "STATE", "LAST USED", "FOR"].map(|it| Column::Text(it.into()));
    let now_us = context.now_us;
    let cells = |it: &v1::Token| {
        let id = it.name.rsplit('/').next().unwrap_or_default();
        let may = it.grant.as_ref().map(granted).unwrap_or_default();
        let used = it
            .last_use_time
            .as_ref()
            .map_or_else(|| "never".to_owned(), |time| human::age(Some(time), now_us));
        vec![id.to_owned(), may, state(it, now_us), used, it.description.clone()]
    };
    context.output.table(&columns, rows.items.iter().map(cells).collect())?;
    listing::tell_rest(context, listing, &rows, "tokens", &page).await
}

/// Whether a token holds.
fn state(token: &v1::Token, now_us: i64) -> String {
    let expires = token.expire_time.as_ref().map_or(i64::MAX, human::time_us);
    if token.revoke_time.is_some() {
        "revoked".to_owned()
    } else if expires <= now_us {
        "expired".to_owned()
    } else {
        format!("{} days left", (expires - now_us) / 86_400_000_000)
    }
}

/// The id of a token that is named by it, by its whole name, or by its text, which must not be sent.
fn id_of(typed: &str) -> &str {
    let last = typed.trim().rsplit('/').next().unwrap_or_default();
    last.strip_prefix("kb_").and_then(|rest| rest.split('_').next()).unwrap_or(last)
}

async fn revoke_token(context: &mut Context, arguments: args::RevokeToken) -> Result<(), Failure> {
    let name = match (arguments.service, arguments.team, arguments.token) {
        (Some(token), _, _) => format!("tokens/{}", id_of(&token)),
        (None, Some(team), Some(token)) => format!("{}/tokens/{}", names::team(&team)?, id_of(&token)),
        _ => {
            return Err(Failure::usage(
                "name the team and the token, or the token of the service with --service",
            ));
        }
    };
    let token = context.connect().await?.revoke_token(v1::RevokeTokenRequest { name }).await?;
    if context.output.is_json() {
        return Ok(context.output.document(&token_json(&token))?);
    }
    Ok(context.output.line(&format!("token {} is revoked", words::short(&token.name)))?)
}

async fn audit(context: &mut Context, arguments: args::Audit) -> Result<(), Failure> {
    let parent = parent_of(context, arguments.team.as_deref(), arguments.service)?;
    let client = context.connect().await?;
    let listing = &arguments.list;
    let page = async |page_size: i32, page_token: String| {
        let request = v1::ListAuditEntriesRequest { parent: parent.clone(), page_size, page_token };
        let page = client.list_audit_entries(request).await?;
        Ok::<_, Error>((page.entries, page.next_page_token))
    };
    if context.output.is_json() {
        let next = listing::document(context, listing, "entries", entry_json, &page).await?;
        return listing::end(context, &next, &[]);
    }
    let rows = listing::rows(context, listing, &page).await?;
    if rows.items.is_empty() {
        return Ok(context.output.line("nothing was done yet")?);
    }
    let columns = ["WHEN", "WHO", "WHAT", "TO", "FROM"].map(|it| Column::Text(it.into()));
    let now_us = context.now_us;
    let cells = |it: &v1::AuditEntry| {
        vec![
            human::age(it.time.as_ref(), now_us),
            words::short(&it.principal),
            it.method.clone(),
            words::short(&it.resource),
            it.address.clone(),
        ]
    };
    context.output.table(&columns, rows.items.iter().map(cells).collect())?;
    listing::tell_rest(context, listing, &rows, "entries", &page).await
}

fn entry_json(entry: &v1::AuditEntry) -> Value {
    json!({
        "position": entry.position,
        "time": json::time(entry.time.as_ref()),
        "principal": entry.principal,
        "method": entry.method,
        "resource": entry.resource,
        "request_id": entry.request_id,
        "address": entry.address,
        "digest": keepbest_client::hex(&entry.digest),
    })
}
