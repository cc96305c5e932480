//! Teams, API tokens and the audit log: what an admin does.

use crate::app::App;
use crate::app::Error;
use crate::app::causes;
use crate::app::micros;
use crate::db::Team;
use crate::domain::access::Grant;
use crate::domain::access::Principal;
use crate::domain::access::Role;
use crate::domain::access::Scope;
use crate::domain::audit::Act;
use crate::domain::audit::Caller;
use crate::domain::audit::Entry;
use crate::domain::ids::Id;
use crate::domain::member;
use crate::domain::member::Identity;
use crate::domain::member::Member;
use crate::domain::refusal::Refusal;
use crate::domain::run::Run;
use crate::domain::token;
use crate::domain::token::ATTEMPT_LIFETIME_US;
use crate::domain::token::DEFAULT_LIFETIME_US;
use crate::domain::token::SECRET_BYTES;
use crate::domain::token::Token;

/// A token that somebody wants.
#[derive(Clone, Debug)]
pub struct NewToken {
    pub grant: Grant,
    pub description: String,
    /// Microseconds; none: as long as tokens hold of which nobody says for how long.
    pub lifetime_us: Option<i64>,
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::Internal(Box::new(std::io::Error::other(error.to_string()))))?;
    Ok(bytes)
}

impl App {
    /// What is administered means nothing to a server that lets anybody do anything.
    fn expect_auth(&self) -> Result<(), Error> {
        if self.asks_who_calls() {
            return Ok(());
        }
        let message = "this server does not ask who calls, so it has no teams to make and no tokens: set `auth.required = true` first";
        Err(Refusal::precondition("AUTH_NOT_REQUIRED", message).into())
    }

    /// One that nobody made has nothing to list: else a typo would look like an empty team.
    async fn expect_team(&self, team: Option<&Id>) -> Result<(), Error> {
        self.expect_auth()?;
        match team {
            Some(team) if self.db.team(team).await?.is_none() => {
                Err(Refusal::not_found("team", format!("teams/{team}")).into())
            }
            _ => Ok(()),
        }
    }

    pub async fn create_team(&self, id: Id, creator: &Principal) -> Result<Team, Error> {
        self.expect_auth()?;
        let team = Team { id, creator: creator.name.clone(), create_time_us: self.clock.now_us() };
        self.db.create_team(team.clone()).await?;
        Ok(team)
    }

    /// Teams by id, behind one.
    pub async fn list_teams(&self, after: &str, limit: i64) -> Result<Vec<Team>, Error> {
        self.expect_auth()?;
        Ok(self.db.list_teams(after, limit).await?)
    }

    /// Makes a token; answers it with its text, which is kept nowhere.
    pub async fn create_token(&self, new: NewToken, creator: &Principal) -> Result<(Token, String), Error> {
        self.expect_auth()?;
        self.mint_token(new, &creator.name, None).await
    }

    /// Makes a token of the service for whoever holds the database, and so needs nobody's leave.
    pub async fn mint_first_token(&self, lifetime_us: i64) -> Result<(Token, String), Error> {
        let principal = Principal::new("the server's machine".to_owned(), Vec::new());
        let act = Act {
            principal: principal.name.clone(),
            method: "Admin/CreateToken".to_owned(),
            resource: String::new(),
            ..Act::default()
        };
        let caller = Caller { time_us: self.clock.now_us(), team: None, act };
        let new = NewToken {
            grant: Grant { role: Role::ServiceAdmin, scope: Scope::Service },
            description: "made on the server's machine".to_owned(),
            lifetime_us: Some(lifetime_us),
        };
        self.by(Some(&caller), &principal)?.mint_token(new, &principal.name, None).await
    }

    /// Makes a token with which a worker of one attempt reports, uploads and commits, and does nothing else. None: the server does
    /// not ask who calls.
    pub async fn mint_attempt_token(&self, run: &Run, attempt: i64) -> Result<Option<String>, Error> {
        let Some(principal) = self.caller.as_ref().filter(|_| self.asks_who_calls()) else { return Ok(None) };
        let new = NewToken {
            grant: Grant { role: Role::Trainer, scope: Scope::Attempt(run.name.clone(), attempt) },
            description: String::new(),
            lifetime_us: Some(ATTEMPT_LIFETIME_US),
        };
        let (_, text) = self.mint_token(new, &principal.name, Some(run.uid.clone())).await?;
        Ok(Some(text))
    }

    async fn mint_token(
        &self,
        new: NewToken,
        creator: &str,
        run_uid: Option<String>,
    ) -> Result<(Token, String), Error> {
        let lifetime_us = new.lifetime_us.unwrap_or(DEFAULT_LIFETIME_US);
        token::check(&new.grant, &new.description, lifetime_us)?;
        let (id, text, digest) = token::mint(random()?, random::<SECRET_BYTES>()?);
        let create_time_us = self.clock.now_us();
        let token = Token {
            id,
            digest,
            grant: new.grant,
            description: new.description,
            creator: creator.to_owned(),
            create_time_us,
            expire_time_us: create_time_us.saturating_add(lifetime_us),
            last_use_time_us: None,
            revoke_time_us: None,
        };
        self.db.create_token(token.clone(), run_uid).await?;
        Ok((token, text))
    }

    /// Tokens of a team (none: of the service) by id, behind one.
    pub async fn list_tokens(&self, team: Option<&Id>, after: &str, limit: i64) -> Result<Vec<Token>, Error> {
        self.expect_team(team).await?;
        Ok(self.db.list_tokens(team, after, limit).await?)
    }

    /// Ends a token of a team (none: of the service).
    pub async fn revoke_token(&self, team: Option<Id>, id: String) -> Result<Token, Error> {
        self.expect_auth()?;
        let token = self.db.revoke_token(team, id, self.clock.now_us()).await?;
        self.forget_tokens();
        Ok(token)
    }

    /// Gives somebody a role in a team or a project.
    pub async fn set_member(
        &self,
        identity: Identity,
        grant: Grant,
        creator: &Principal,
    ) -> Result<Member, Error> {
        self.expect_auth()?;
        member::check(&grant)?;
        let create_time_us = self.clock.now_us();
        let member = Member { identity, grant, creator: creator.name.clone(), create_time_us };
        self.db.set_member(member.clone()).await?;
        self.forget_members();
        Ok(member)
    }

    /// Takes somebody's role away; what is gone already is no error.
    pub async fn delete_member(&self, scope: Scope, identity: Identity) -> Result<(), Error> {
        self.expect_auth()?;
        self.db.delete_member(scope, identity).await?;
        self.forget_members();
        Ok(())
    }

    /// Members of a team by identity and project, behind a place.
    pub async fn list_members(
        &self,
        team: &Id,
        after: (&str, &str),
        limit: i64,
    ) -> Result<Vec<Member>, Error> {
        self.expect_team(Some(team)).await?;
        Ok(self.db.list_members(team, after, limit).await?)
    }

    /// What was done in a team (none: to the service) before a position, the newest first.
    pub async fn audit_entries(
        &self,
        team: Option<&Id>,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<Entry>, Error> {
        self.expect_team(team).await?;
        Ok(self.db.audit_entries(team, before, limit).await?)
    }

    /// Gives entries of the audit log their places, as long as there are some without.
    pub async fn chain_audit_entries(&self) -> Result<(), Error> {
        while self.db.chain_entries().await? > 0 {}
        Ok(())
    }

    /// Forgets tokens of attempts that have expired, and drops entries of the audit log that are older than they are kept.
    pub async fn drop_old_access(&self) -> Result<(), Error> {
        let now_us = self.clock.now_us();
        self.db.drop_attempt_tokens(now_us).await?;
        if let Some(kept) = self.limits.audit.kept {
            let dropped = self.db.drop_audit_entries(now_us.saturating_sub(micros(kept))).await?;
            if dropped > 0 {
                tracing::info!(
                    dropped,
                    "Dropped entries of the audit log that were older than `audit.retention_days`"
                );
            }
        }
        Ok(())
    }

    /// Notes that somebody reads weights: of so many reads one. What cannot be noted is read all the same, since a full disk must not
    /// keep a model from whoever may have it; the log of the server tells of it.
    pub fn note_read(&self, caller: &Caller) {
        let sample = self.limits.audit.reads_one_in;
        if sample == 0 || !self.access.count_read().is_multiple_of(sample) {
            return;
        }
        let (Ok(db), Some(place)) = (self.db.by(caller), self.access.place_for_note()) else {
            tracing::warn!("Too many reads wait to be noted in the audit log: this one is not");
            return;
        };
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = db.note().await {
                tracing::warn!(error = %causes(&error), "Could not note a read in the audit log");
            }
        });
    }
}
