//! Members of teams: who shows a certificate.

use crate::db::Db;
use crate::db::Error;
use crate::db::connection::Row;
use crate::db::connection::args;
use crate::db::runs::stored_id;
use crate::domain::access::Grant;
use crate::domain::access::Role;
use crate::domain::access::Scope;
use crate::domain::ids::Id;
use crate::domain::ids::ProjectName;
use crate::domain::member::Identity;
use crate::domain::member::Member;
use crate::domain::refusal::Refusal;

/// Roles of one identity in the projects of one team: all of an identity's are read at once.
const MOST_ROLES: i64 = 100;

const MEMBER: &str =
    "SELECT m.identity, m.team, m.project, m.role, m.creator, m.create_time_us FROM members m";

fn member_of(row: &Row) -> Result<Member, Error> {
    let (team, project, role) = (stored_id(&row.text(1)?)?, row.text(2)?, row.text(3)?);
    let scope = match project.as_str() {
        "" => Scope::Team(team),
        project => Scope::Project(ProjectName { team, project: stored_id(project)? }),
    };
    Ok(Member {
        identity: Identity::parse(&row.text(0)?).map_err(|refusal| Error::unreadable("identity", refusal))?,
        grant: Grant { role: Role::parse(&role).ok_or_else(|| Error::unreadable("role", role))?, scope },
        creator: row.text(4)?,
        create_time_us: row.int(5)?,
    })
}

/// Team and project as their columns have them.
fn place_of(scope: &Scope) -> (String, String) {
    match scope {
        Scope::Project(project) => (project.team.as_str().to_owned(), project.project.as_str().to_owned()),
        Scope::Team(team) => (team.as_str().to_owned(), String::new()),
        Scope::Attempt(run, _) => (run.project.team.as_str().to_owned(), String::new()),
        Scope::Service => Default::default(),
    }
}

impl Db {
    /// Gives somebody a role, or another one, in a team that was made.
    pub async fn set_member(&self, member: Member) -> Result<(), Error> {
        self.write(move |connection| {
            Box::pin(async move {
                let (team, project) = place_of(&member.grant.scope);
                if connection.row("SELECT id FROM teams WHERE id = $1", args![&team]).await?.is_none() {
                    return Err(Refusal::not_found("team", format!("teams/{team}")).into());
                }
                let count = "SELECT COUNT(*) FROM members WHERE identity = $1 AND team = $2 AND project <> $3";
                let values = args![member.identity.as_str(), &team, &project];
                let count = connection.row(count, values).await?.map(|row| row.int(0)).transpose()?;
                if count.unwrap_or(0) >= MOST_ROLES {
                    let message = format!(
                        "`{}` has {MOST_ROLES} roles in `teams/{team}`: give it one in the whole team instead",
                        member.identity
                    );
                    return Err(Refusal::exhausted("LIMIT_EXCEEDED", message).into());
                }
                let sql = "INSERT INTO members (identity, team, project, role, creator, create_time_us) \
                    VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (identity, team, project) \
                    DO UPDATE SET role = excluded.role, creator = excluded.creator, create_time_us = excluded.create_time_us";
                let Member { identity, grant, creator, create_time_us } = member;
                let values =
                    args![identity.as_str(), &team, &project, grant.role.as_str(), creator, create_time_us];
                connection.execute(sql, values).await.map(drop)
            })
        })
        .await
    }

    /// Takes somebody's role away; answers whether there was one.
    pub async fn delete_member(&self, scope: Scope, identity: Identity) -> Result<bool, Error> {
        self.write(move |connection| {
            Box::pin(async move {
                let (team, project) = place_of(&scope);
                let sql = "DELETE FROM members WHERE identity = $1 AND team = $2 AND project = $3";
                Ok(connection.execute(sql, args![identity.as_str(), &team, &project]).await? == 1)
            })
        })
        .await
    }

    /// Members of a team by identity and project, behind a place.
    pub async fn list_members(
        &self,
        team: &Id,
        after: (&str, &str),
        limit: i64,
    ) -> Result<Vec<Member>, Error> {
        let sql = format!(
            "{MEMBER} WHERE m.team = $1 AND (m.identity, m.project) > ($2, $3) \
             ORDER BY m.team, m.identity, m.project LIMIT $4"
        );
        let rows = self.page(&sql, args![team.as_str(), after.0, after.1, limit]).await?;
        rows.iter().map(member_of).collect()
    }

    /// What those with one of these identities may do, in all teams.
    pub async fn members_of(&self, identities: &[Identity]) -> Result<Vec<Member>, Error> {
        let sql = "WITH {v: identity text} SELECT m.identity, m.team, m.project, m.role, m.creator, m.create_time_us \
            FROM v CROSS JOIN members m WHERE m.identity = v.identity";
        let set = identities.iter().map(|it| args![it.as_str()]).collect();
        let rows = self.rows_of(sql, set).await?;
        rows.iter().map(member_of).collect()
    }
}
