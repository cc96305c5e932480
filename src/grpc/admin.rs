//! Service `Admin`.

use keepbest_proto::v1;
use keepbest_proto::v1::admin_server::Admin;

use crate::app::Error;
use crate::app::Team;
use crate::app::admin::NewToken;
use crate::domain::access;
use crate::domain::access::Role;
use crate::domain::access::Scope;
use crate::domain::audit::Entry;
use crate::domain::ids::Id;
use crate::domain::ids::ProjectName;
use crate::domain::ids::TeamName;
use crate::domain::ids::shown;
use crate::domain::member::Identity;
use crate::domain::member::Member;
use crate::domain::refusal::Refusal;
use crate::domain::token::Token;
use crate::grpc::Face;
use crate::grpc::convert::timestamp_to;
use crate::grpc::pages::Found;
use crate::grpc::pages::Query;
use crate::grpc::pages::SMALL_ROWS_AT_ONCE;
use crate::grpc::pages::bad_token;
use crate::grpc::pages::fill;
use crate::grpc::pages::page_size;
use crate::grpc::record;

/// Where tokens and the log of a team lie, or, with no name, those of the service; of a new token also a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) team: Option<Id>,
    project: Option<Id>,
}

impl Parent {
    pub(super) fn parse(name: &str) -> Result<Parent, Refusal> {
        if name.is_empty() {
            return Ok(Parent { team: None, project: None });
        }
        if name.split('/').count() > 2 {
            let ProjectName { team, project } = ProjectName::parse(name)?;
            return Ok(Parent { team: Some(team), project: Some(project) });
        }
        Ok(Parent { team: Some(TeamName::parse(name)?.team), project: None })
    }

    /// Of a method for which a project is no parent.
    fn parse_team(name: &str) -> Result<Option<Id>, Refusal> {
        let parent = Parent::parse(name)?;
        match parent.project {
            None => Ok(parent.team),
            Some(_) => Err(TeamName::parse(name).err().unwrap_or_else(|| {
                Refusal::invalid("BAD_NAME", format!("name `{}` is not the name of a team", shown(name)))
            })),
        }
    }

    fn scope(self) -> Scope {
        match (self.team, self.project) {
            (None, _) => Scope::Service,
            (Some(team), None) => Scope::Team(team),
            (Some(team), Some(project)) => Scope::Project(ProjectName { team, project }),
        }
    }
}

/// `teams/{team}/tokens/{token}` or `tokens/{token}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TokenName {
    pub(super) team: Option<Id>,
    token: Id,
}

impl TokenName {
    pub(super) fn parse(name: &str) -> Result<TokenName, Refusal> {
        let (team, token) = match *name.split('/').collect::<Vec<_>>() {
            ["tokens", token] => (None, token),
            ["teams", team, "tokens", token] => (Some(Id::parse("team", team)?), token),
            _ => {
                let message = format!(
                    "name `{}` is not of the form `teams/{{team}}/tokens/{{token}}` or `tokens/{{token}}`",
                    shown(name)
                );
                return Err(Refusal::invalid("BAD_NAME", message));
            }
        };
        // A whole token would stand in logs, and still be good.
        if token.contains('_') {
            let message =
                "a token is named by its id, the part between `kb_` and the next `_`, and not by its text";
            return Err(Refusal::invalid("BAD_NAME", message));
        }
        Ok(TokenName { team, token: Id::parse("token", token)? })
    }
}

fn role_of(text: &str) -> Result<Role, Refusal> {
    Role::parse(text).ok_or_else(|| {
        let known: Vec<&str> = Role::ALL.into_iter().map(Role::as_str).collect();
        let message = format!("role `{}` is not known: {} are", shown(text), known.join(", "));
        Refusal::invalid("BAD_ROLE", message)
    })
}

fn lifetime_of(lifetime: prost_types::Duration) -> Result<i64, Refusal> {
    let bad = || Refusal::invalid("BAD_LIFETIME", "lifetime must be more than 0 and at most 366 days");
    let micros = lifetime.seconds.checked_mul(1_000_000).ok_or_else(bad)?;
    micros.checked_add(i64::from(lifetime.nanos) / 1_000).ok_or_else(bad)
}

fn grant_to(grant: &access::Grant) -> v1::Grant {
    let scope = match &grant.scope {
        Scope::Service => String::new(),
        Scope::Attempt(run, _) => run.to_string(),
        scope @ (Scope::Team(_) | Scope::Project(_)) => scope.to_string(),
    };
    v1::Grant { role: grant.role.to_string(), scope }
}

fn token_to(token: &Token) -> v1::Token {
    v1::Token {
        name: token.name(),
        grant: Some(grant_to(&token.grant)),
        description: token.description.clone(),
        creator: token.creator.clone(),
        create_time: Some(timestamp_to(token.create_time_us)),
        expire_time: Some(timestamp_to(token.expire_time_us)),
        last_use_time: token.last_use_time_us.map(timestamp_to),
        revoke_time: token.revoke_time_us.map(timestamp_to),
    }
}

fn member_to(member: &Member) -> v1::Member {
    v1::Member {
        identity: member.identity.to_string(),
        grant: Some(grant_to(&member.grant)),
        creator: member.creator.clone(),
        create_time: Some(timestamp_to(member.create_time_us)),
    }
}

fn team_to(team: &Team) -> v1::Team {
    v1::Team {
        name: format!("teams/{}", team.id),
        creator: team.creator.clone(),
        create_time: Some(timestamp_to(team.create_time_us)),
    }
}

fn entry_to(entry: Entry) -> v1::AuditEntry {
    v1::AuditEntry {
        position: entry.position.unwrap_or_default(),
        time: Some(timestamp_to(entry.time_us)),
        principal: entry.act.principal,
        method: entry.act.method,
        resource: entry.act.resource,
        request_id: entry.act.request_id,
        address: entry.act.address,
        digest: entry.digest.map(|it| it.as_bytes().to_vec().into()).unwrap_or_default(),
    }
}

impl Face {
    async fn who_am_i(&self, _: v1::WhoAmIRequest) -> Result<v1::WhoAmIResponse, Error> {
        let principal = self.principal();
        Ok(v1::WhoAmIResponse {
            principal: principal.name.clone(),
            grants: principal.grants.iter().map(grant_to).collect(),
            auth_required: self.app.asks_who_calls(),
        })
    }

    async fn create_team(&self, request: v1::CreateTeamRequest) -> Result<v1::Team, Error> {
        record(&format!("teams/{}", request.team_id));
        let team = self.app.create_team(Id::parse("team", &request.team_id)?, &self.principal()).await?;
        Ok(team_to(&team))
    }

    async fn list_teams(&self, request: v1::ListTeamsRequest) -> Result<v1::ListTeamsResponse, Error> {
        let limit = page_size(request.page_size)?;
        let query = Query::of(&["teams"]);
        let after = query.position(&request.page_token)?.unwrap_or_default().to_owned();
        let look = |after: String, rows| async move {
            let teams = self.app.list_teams(&after, rows).await?;
            Ok(Found::of(teams.iter().map(|team| (team_to(team), team.id.to_string())).collect(), rows))
        };
        let (teams, next) = fill(SMALL_ROWS_AT_ONCE, limit, after, look).await?;
        let next_page_token = next.map(|it| query.token(&it)).unwrap_or_default();
        Ok(v1::ListTeamsResponse { teams, next_page_token })
    }

    async fn create_token(&self, request: v1::CreateTokenRequest) -> Result<v1::CreateTokenResponse, Error> {
        record(&request.scope);
        let grant =
            access::Grant { role: role_of(&request.role)?, scope: Parent::parse(&request.scope)?.scope() };
        let lifetime_us = request.lifetime.map(lifetime_of).transpose()?;
        let new = NewToken { grant, description: request.description, lifetime_us };
        let (token, text) = self.app.create_token(new, &self.principal()).await?;
        Ok(v1::CreateTokenResponse { token: Some(token_to(&token)), text })
    }

    async fn list_tokens(&self, request: v1::ListTokensRequest) -> Result<v1::ListTokensResponse, Error> {
        record(&request.parent);
        let team = Parent::parse_team(&request.parent)?;
        let limit = page_size(request.page_size)?;
        let query = Query::of(&["tokens", &request.parent]);
        let after = query.position(&request.page_token)?.unwrap_or_default().to_owned();
        let team = team.as_ref();
        let look = |after: String, rows| async move {
            let tokens = self.app.list_tokens(team, &after, rows).await?;
            Ok(Found::of(tokens.iter().map(|token| (token_to(token), token.id.clone())).collect(), rows))
        };
        let (tokens, next) = fill(SMALL_ROWS_AT_ONCE, limit, after, look).await?;
        let next_page_token = next.map(|it| query.token(&it)).unwrap_or_default();
        Ok(v1::ListTokensResponse { tokens, next_page_token })
    }

    async fn revoke_token(&self, request: v1::RevokeTokenRequest) -> Result<v1::Token, Error> {
        record(&request.name);
        let name = TokenName::parse(&request.name)?;
        let token = self.app.revoke_token(name.team, name.token.to_string()).await?;
        Ok(token_to(&token))
    }

    async fn set_member(&self, request: v1::SetMemberRequest) -> Result<v1::Member, Error> {
        record(&request.scope);
        let scope = Parent::parse(&request.scope)?.scope();
        let grant = access::Grant { role: role_of(&request.role)?, scope };
        let identity = Identity::parse(&request.identity)?;
        let member = self.app.set_member(identity, grant, &self.principal()).await?;
        Ok(member_to(&member))
    }

    async fn delete_member(
        &self,
        request: v1::DeleteMemberRequest,
    ) -> Result<v1::DeleteMemberResponse, Error> {
        record(&request.scope);
        let scope = Parent::parse(&request.scope)?.scope();
        self.app.delete_member(scope, Identity::parse(&request.identity)?).await?;
        Ok(v1::DeleteMemberResponse {})
    }

    async fn list_members(&self, request: v1::ListMembersRequest) -> Result<v1::ListMembersResponse, Error> {
        record(&request.parent);
        let team = TeamName::parse(&request.parent)?.team;
        let limit = page_size(request.page_size)?;
        let query = Query::of(&["members", &request.parent]);
        let position = |it: &str| {
            it.split_once(' ').map(|(identity, project)| (identity.to_owned(), project.to_owned()))
        };
        let after =
            query.position(&request.page_token)?.map(|it| position(it).ok_or_else(bad_token)).transpose()?;
        let team = &team;
        let look = |after: (String, String), rows| async move {
            let members = self.app.list_members(team, (&after.0, &after.1), rows).await?;
            let place = |it: &Member| match &it.grant.scope {
                Scope::Project(project) => (it.identity.to_string(), project.project.to_string()),
                _ => (it.identity.to_string(), String::new()),
            };
            Ok(Found::of(members.iter().map(|it| (member_to(it), place(it))).collect(), rows))
        };
        let (members, next) = fill(SMALL_ROWS_AT_ONCE, limit, after.unwrap_or_default(), look).await?;
        let token = |(identity, project): (String, String)| query.token(&format!("{identity} {project}"));
        Ok(v1::ListMembersResponse { members, next_page_token: next.map(token).unwrap_or_default() })
    }

    async fn list_audit_entries(
        &self,
        request: v1::ListAuditEntriesRequest,
    ) -> Result<v1::ListAuditEntriesResponse, Error> {
        record(&request.parent);
        let team = Parent::parse_team(&request.parent)?;
        let limit = page_size(request.page_size)?;
        let query = Query::of(&["audit", &request.parent]);
        let position = |it: &str| it.parse::<i64>().map_err(|_| bad_token());
        let before = query.position(&request.page_token)?.map(position).transpose()?;
        let team = team.as_ref();
        let look = |before: Option<i64>, rows| async move {
            let entries = self.app.audit_entries(team, before, rows).await?;
            let items = entries.into_iter().map(|entry| {
                let position = entry.position;
                (entry_to(entry), position)
            });
            Ok(Found::of(items.collect(), rows))
        };
        let (entries, next) = fill(SMALL_ROWS_AT_ONCE, limit, before, look).await?;
        let next_page_token = next.flatten().map(|it| query.token(&it.to_string())).unwrap_or_default();
        Ok(v1::ListAuditEntriesResponse { entries, next_page_token })
    }
}

service! {
    Admin {
        who_am_i: v1::WhoAmIRequest => v1::WhoAmIResponse,
        create_team: v1::CreateTeamRequest => v1::Team,
        list_teams: v1::ListTeamsRequest => v1::ListTeamsResponse,
        create_token: v1::CreateTokenRequest => v1::CreateTokenResponse,
        list_tokens: v1::ListTokensRequest => v1::ListTokensResponse,
        revoke_token: v1::RevokeTokenRequest => v1::Token,
        set_member: v1::SetMemberRequest => v1::Member,
        list_members: v1::ListMembersRequest => v1::ListMembersResponse,
        delete_member: v1::DeleteMemberRequest => v1::DeleteMemberResponse,
        list_audit_entries: v1::ListAuditEntriesRequest => v1::ListAuditEntriesResponse,
    }
}
