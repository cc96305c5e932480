//! Teams that admins made, and API tokens.

use crate::db::Db;
use crate::db::Error;
use crate::db::connection::Row;
use crate::db::connection::args;
use crate::db::files::digest_of;
use crate::db::runs::stored_id;
use crate::domain::access::Grant;
use crate::domain::access::Role;
use crate::domain::access::Scope;
use crate::domain::ids::Id;
use crate::domain::ids::ProjectName;
use crate::domain::ids::RunName;
use crate::domain::refusal::Refusal;
use crate::domain::token::Token;

/// A team that somebody made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Team {
    pub id: Id,
    pub creator: String,
    pub create_time_us: i64,
}

const TEAM: &str = "SELECT id, creator, create_time_us FROM teams";

fn team_of(row: &Row) -> Result<Team, Error> {
    Ok(Team { id: stored_id(&row.text(0)?)?, creator: row.text(1)?, create_time_us: row.int(2)? })
}

const TOKEN: &str = "SELECT t.id, t.digest, t.role, t.team, t.project, r.id, t.attempt, t.description, t.creator, t.create_time_us, \
    t.expire_time_us, t.last_use_time_us, t.revoke_time_us FROM tokens t LEFT JOIN runs r ON r.uid = t.run_uid";

fn token_of(row: &Row) -> Result<Token, Error> {
    let role = row.text(2)?;
    Ok(Token {
        id: row.text(0)?,
        digest: digest_of(&row.bytes(1)?)?,
        grant: Grant {
            role: Role::parse(&role).ok_or_else(|| Error::unreadable("role", role))?,
            scope: scope_of(row)?,
        },
        description: row.text(7)?,
        creator: row.text(8)?,
        create_time_us: row.int(9)?,
        expire_time_us: row.int(10)?,
        last_use_time_us: row.int_or_null(11)?,
        revoke_time_us: row.int_or_null(12)?,
    })
}

fn scope_of(row: &Row) -> Result<Scope, Error> {
    let team = row.text(3)?;
    if team.is_empty() {
        return Ok(Scope::Service);
    }
    let team = stored_id(&team)?;
    let Some(project) = row.text_or_null(4)? else { return Ok(Scope::Team(team)) };
    let project = ProjectName { team, project: stored_id(&project)? };
    let Some(attempt) = row.int_or_null(6)? else { return Ok(Scope::Project(project)) };
    // The run may be gone, or be called otherwise because it was deleted: then nobody can name it.
    let run = row.text_or_null(5)?.map_or_else(|| Ok(Id::of_gone("run")), |run| stored_id(&run))?;
    Ok(Scope::Attempt(RunName { project, run }, attempt))
}

/// The team's text in its column; the service has none.
fn team_text(scope: &Scope) -> &str {
    match scope {
        Scope::Service => "",
        Scope::Team(team) => team.as_str(),
        Scope::Project(project) => project.team.as_str(),
        Scope::Attempt(run, _) => run.project.team.as_str(),
    }
}

impl Db {
    /// Makes a team. Data that lies under its name already becomes its own.
    pub async fn create_team(&self, team: Team) -> Result<(), Error> {
        self.write(move |connection| {
            Box::pin(async move {
                let sql = "INSERT INTO teams (id, creator, create_time_us) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING";
                let made =
                    connection.execute(sql, args![team.id.as_str(), team.creator, team.create_time_us]).await?;
                if made == 1 {
                    return Ok(());
                }
                let message = format!("team `teams/{}` exists already", team.id);
                Err(Refusal::already_exists("TEAM_EXISTS", message).into())
            })
        })
        .await
    }

    pub async fn team(&self, id: &Id) -> Result<Option<Team>, Error> {
        let sql = format!("{TEAM} WHERE id = $1");
        self.row(&sql, args![id.as_str()]).await?.as_ref().map(team_of).transpose()
    }

    /// Teams by id, behind one.
    pub async fn list_teams(&self, after: &str, limit: i64) -> Result<Vec<Team>, Error> {
        let sql = format!("{TEAM} WHERE id > $1 ORDER BY id LIMIT $2");
        self.page(&sql, args![after, limit]).await?.iter().map(team_of).collect()
    }

    /// Keeps a new token; of an attempt with the uid of its run. One of a team needs the team.
    pub async fn create_token(&self, token: Token, run_uid: Option<String>) -> Result<(), Error> {
        self.write(move |connection| {
            Box::pin(async move {
                let team = team_text(&token.grant.scope);
                if !team.is_empty()
                    && connection.row("SELECT id FROM teams WHERE id = $1", args![team]).await?.is_none()
                {
                    return Err(Refusal::not_found("team", format!("teams/{team}")).into());
                }
                let (project, attempt) = match &token.grant.scope {
                    Scope::Service | Scope::Team(_) => (None, None),
                    Scope::Project(project) => (Some(&project.project), None),
                    Scope::Attempt(run, attempt) => (Some(&run.project.project), Some(*attempt)),
                };
                let project = project.map(|it| it.as_str().to_owned());
                let sql = "INSERT INTO tokens (id, digest, role, team, project, run_uid, attempt, description, creator, \
                    create_time_us, expire_time_us) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
                let values = args![
                    &token.id,
                    token.digest,
                    token.grant.role.as_str(),
                    team,
                    project,
                    run_uid,
                    attempt,
                    &token.description,
                    &token.creator,
                    token.create_time_us,
                    token.expire_time_us,
                ];
                connection.execute(sql, values).await.map(drop)
            })
        })
        .await
    }

    pub async fn token(&self, id: &str) -> Result<Option<Token>, Error> {
        let sql = format!("{TOKEN} WHERE t.id = $1");
        self.row(&sql, args![id]).await?.as_ref().map(token_of).transpose()
    }

    /// Tokens of a team (none: of the service) by id, behind one; not those of attempts.
    pub async fn list_tokens(&self, team: Option<&Id>, after: &str, limit: i64) -> Result<Vec<Token>, Error> {
        let sql = format!(
            "{TOKEN} WHERE t.team = $1 AND t.id > $2 AND t.run_uid IS NULL ORDER BY t.team, t.id LIMIT $3"
        );
        let team = team.map_or("", Id::as_str);
        self.page(&sql, args![team, after, limit]).await?.iter().map(token_of).collect()
    }

    /// Revokes a token of a team (none: of the service), if it holds still; answers it as it is then.
    pub async fn revoke_token(&self, team: Option<Id>, id: String, now_us: i64) -> Result<Token, Error> {
        self.write(move |connection| {
            Box::pin(async move {
                let team = team.as_ref().map_or("", Id::as_str);
                let sql = "UPDATE tokens SET revoke_time_us = COALESCE(revoke_time_us, $1) WHERE id = $2 AND team = $3";
                let revoked = connection.execute(sql, args![now_us, &id, team]).await?;
                // What it made for workers ends with it.
                let name = if team.is_empty() { format!("tokens/{id}") } else { format!("teams/{team}/tokens/{id}") };
                if revoked == 1 {
                    let sql = "UPDATE tokens SET revoke_time_us = $1 WHERE team = $2 AND creator = $3 \
                        AND run_uid IS NOT NULL AND revoke_time_us IS NULL";
                    connection.execute(sql, args![now_us, team, &name]).await?;
                }
                let sql = format!("{TOKEN} WHERE t.id = $1");
                let row = connection.row(&sql, args![&id]).await?;
                match row.filter(|_| revoked == 1) {
                    Some(row) => token_of(&row),
                    None => Err(Refusal::not_found("token", name).into()),
                }
            })
        })
        .await
    }

    /// Forgets tokens of attempts that expired before.
    pub async fn drop_attempt_tokens(&self, before_us: i64) -> Result<u64, Error> {
        self.write(move |connection| {
            Box::pin(async move {
                let sql = "DELETE FROM tokens WHERE run_uid IS NOT NULL AND expire_time_us < $1";
                connection.execute(sql, args![before_us]).await
            })
        })
        .await
    }

    /// Notes that tokens were used.
    pub async fn use_tokens(&self, ids: Vec<String>, now_us: i64) -> Result<(), Error> {
        self.write(move |connection| {
            Box::pin(async move {
                for id in ids {
                    let sql = "UPDATE tokens SET last_use_time_us = $1 WHERE id = $2";
                    connection.execute(sql, args![now_us, &id]).await?;
                }
                Ok(())
            })
        })
        .await
    }
}
