//! API tokens: what is kept of one, and whether it holds now.

use keepbest_rules::token as rules;

use crate::domain::access::Grant;
use crate::domain::access::Principal;
use crate::domain::access::Role;
use crate::domain::access::Scope;
use crate::domain::digest::Digest;
use crate::domain::refusal::Refusal;
use crate::domain::time::date_of;

pub use keepbest_rules::token::SECRET_BYTES;
pub use keepbest_rules::token::masked;

/// A token of which nobody says for how long: a quarter, so that forgotten ones end by themselves.
pub const DEFAULT_LIFETIME_US: i64 = 90 * DAY_US;
/// The longest: a year, after which whoever holds it should be asked.
pub const MAX_LIFETIME_US: i64 = 366 * DAY_US;
/// That of an attempt: longer than any training. What it acts for ends it before: a newer attempt, or the end of its run.
pub const ATTEMPT_LIFETIME_US: i64 = 60 * DAY_US;
const DAY_US: i64 = 86_400_000_000;
/// Bytes of a description.
const MAX_DESCRIPTION_BYTES: usize = 256;

/// What is kept of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its public part.
    pub id: String,
    /// BLAKE3 of its text.
    pub digest: Digest,
    pub grant: Grant,
    /// What it is for, in its maker's words.
    pub description: String,
    /// Who made it.
    pub creator: String,
    pub create_time_us: i64,
    pub expire_time_us: i64,
    /// To about a minute.
    pub last_use_time_us: Option<i64>,
    pub revoke_time_us: Option<i64>,
}

/// The id in the text of a token.
pub fn id_of(text: &str) -> Result<&str, Refusal> {
    rules::id_of(text).map_err(|why| {
        Refusal::unauthenticated("TOKEN_MALFORMED", format!("the token cannot be read: {why}"))
    })
}

/// A new token's id, text and digest, made of random bytes.
pub fn mint(id: [u8; 9], secret: [u8; SECRET_BYTES]) -> (String, String, Digest) {
    let (id, text) = rules::mint(id, secret);
    let digest = Digest(rules::digest(&text));
    (id, text, digest)
}

/// The refusal of a token that nobody made, or whose secret is another one.
pub fn unknown() -> Refusal {
    Refusal::unauthenticated(
        "TOKEN_UNKNOWN",
        "the token is not known here: it belongs to another service, or was never made",
    )
}

impl Token {
    /// As it is called in logs and in the audit log.
    pub fn name(&self) -> String {
        match &self.grant.scope {
            Scope::Service => format!("tokens/{}", self.id),
            Scope::Team(team) => format!("teams/{team}/tokens/{}", self.id),
            Scope::Project(project) => format!("teams/{}/tokens/{}", project.team, self.id),
            Scope::Attempt(run, _) => format!("teams/{}/tokens/{}", run.project.team, self.id),
        }
    }

    /// Who calls with this text, at this time.
    pub fn principal(&self, text: &str, now_us: i64) -> Result<Principal, Refusal> {
        if !rules::matches(text, &self.digest.0) {
            return Err(unknown());
        }
        if self.revoke_time_us.is_some_and(|revoked| revoked <= now_us) {
            let message = format!("token `{}` was revoked: ask for another one", self.name());
            return Err(Refusal::unauthenticated("TOKEN_REVOKED", message));
        }
        if self.expire_time_us <= now_us {
            let (year, month, day) = date_of(self.expire_time_us);
            let name = self.name();
            let message =
                format!("token `{name}` expired on {year}-{month:02}-{day:02} (UTC): ask for another one");
            return Err(Refusal::unauthenticated("TOKEN_EXPIRED", message));
        }
        Ok(Principal::new(self.name(), vec![self.grant.clone()]))
    }
}

/// Whether a token may be made so.
pub fn check(grant: &Grant, description: &str, lifetime_us: i64) -> Result<(), Refusal> {
    let fits = match (&grant.scope, grant.role) {
        (Scope::Service, role) => role == Role::ServiceAdmin,
        (Scope::Team(_), role) => role != Role::ServiceAdmin,
        (Scope::Project(_), role) => role <= Role::Maintainer,
        (Scope::Attempt(..), role) => role == Role::Trainer,
    };
    if !fits {
        let right = match &grant.scope {
            Scope::Service => "the role service-admin",
            Scope::Team(_) => "reader, trainer, maintainer or team-admin",
            Scope::Project(_) => "reader, trainer or maintainer",
            Scope::Attempt(..) => "the role trainer",
        };
        let message =
            format!("role {} does not exist in {}: {right} would be right", grant.role, grant.scope);
        return Err(Refusal::invalid("BAD_ROLE", message));
    }
    if description.len() > MAX_DESCRIPTION_BYTES || description.chars().any(char::is_control) {
        let message =
            format!("description must be at most {MAX_DESCRIPTION_BYTES} bytes without control characters");
        return Err(Refusal::invalid("BAD_LABEL", message));
    }
    if !(1..=MAX_LIFETIME_US).contains(&lifetime_us) {
        let message = format!("lifetime must be more than 0 and at most {} days", MAX_LIFETIME_US / DAY_US);
        return Err(Refusal::invalid("BAD_LIFETIME", message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::Id;

    fn token() -> (Token, String) {
        let (id, text, digest) = mint([1; 9], [2; 32]);
        let scope = Scope::Team(Id::parse("team", "vision").unwrap());
        let token = Token {
            id,
            digest,
            grant: Grant { role: Role::Trainer, scope },
            description: String::new(),
            creator: "tokens/a".to_owned(),
            create_time_us: 0,
            expire_time_us: 1_000,
            last_use_time_us: None,
            revoke_time_us: None,
        };
        (token, text)
    }

    #[test]
    fn a_token_holds_until_it_expires_or_is_revoked() {
        let (mut token, text) = token();
        assert_eq!(token.principal(&text, 999).unwrap().name, token.name());
        assert_eq!(token.principal(&text, 1_000).unwrap_err().reason, "TOKEN_EXPIRED");
        token.revoke_time_us = Some(500);
        assert!(token.principal(&text, 499).is_ok());
        assert_eq!(token.principal(&text, 500).unwrap_err().reason, "TOKEN_REVOKED");
    }

    #[test]
    fn who_knows_the_id_alone_learns_nothing() {
        let (mut token, text) = token();
        let (_, other, _) = mint([1; 9], [3; 32]);
        assert_eq!(id_of(&other), id_of(&text));
        token.revoke_time_us = Some(0);
        assert_eq!(token.principal(&other, 2_000).unwrap_err(), unknown());
    }

    #[test]
    fn what_shows_a_token_does_not_show_its_text() {
        let (token, text) = token();
        assert!(!format!("{token:?}").contains(&text[text.len() - 20..]));
    }

    #[test]
    fn each_scope_has_its_roles() {
        let team = Id::parse("team", "a").unwrap();
        let within = |role, scope| check(&Grant { role, scope }, "", 1).map_err(|it| it.reason);
        assert_eq!(within(Role::ServiceAdmin, Scope::Service), Ok(()));
        assert_eq!(within(Role::Reader, Scope::Service), Err("BAD_ROLE"));
        assert_eq!(within(Role::TeamAdmin, Scope::Team(team.clone())), Ok(()));
        assert_eq!(within(Role::ServiceAdmin, Scope::Team(team.clone())), Err("BAD_ROLE"));
        let grant = Grant { role: Role::Reader, scope: Scope::Team(team) };
        assert_eq!(check(&grant, "x\n", 1).unwrap_err().reason, "BAD_LABEL");
        assert_eq!(check(&grant, "", 0).unwrap_err().reason, "BAD_LIFETIME");
        assert_eq!(check(&grant, "", MAX_LIFETIME_US + 1).unwrap_err().reason, "BAD_LIFETIME");
    }
}
