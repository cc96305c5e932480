//! Members: who shows another thing than a token, and what it may do.

use std::fmt;

use crate::domain::access::Grant;
use crate::domain::access::Role;
use crate::domain::access::Scope;
use crate::domain::ids::shown;
use crate::domain::refusal::Refusal;

/// Bytes of an identity: a URI of SPIFFE has at most 2,048.
const MAX_IDENTITY_BYTES: usize = 2_048;

/// What a certificate's subject alternative names may say. The common name is none of them: what may stand in it is nobody's rule.
const KINDS: [&str; 3] = ["uri", "dns", "email"];
const CERTIFICATE: &str = "certificate";

/// Who somebody is, as its certificate says: `certificate:uri:spiffe://example/trainer`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(String);

impl Identity {
    pub fn parse(text: &str) -> Result<Identity, Refusal> {
        let mut parts = text.splitn(3, ':');
        let is_known =
            parts.next() == Some(CERTIFICATE) && parts.next().is_some_and(|kind| KINDS.contains(&kind));
        let is_plain =
            parts.next().is_some_and(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic()));
        if is_known && is_plain && text.len() <= MAX_IDENTITY_BYTES {
            return Ok(Identity(text.to_owned()));
        }
        let message = format!(
            "identity `{}` is not of the form `certificate:uri:URI`, `certificate:dns:NAME` or `certificate:email:ADDRESS`",
            shown(text)
        );
        Err(Refusal::invalid("BAD_IDENTITY", message))
    }

    /// What a certificate says; none: nothing that could be an identity.
    pub fn of_certificate(kind: &str, name: &str) -> Option<Identity> {
        Identity::parse(&format!("{CERTIFICATE}:{kind}:{name}")).ok()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A member of a team.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub identity: Identity,
    pub grant: Grant,
    pub creator: String,
    pub create_time_us: i64,
}

/// Whether there may be such a member.
pub fn check(grant: &Grant) -> Result<(), Refusal> {
    let fits = match &grant.scope {
        Scope::Team(_) => grant.role <= Role::TeamAdmin,
        Scope::Project(_) => grant.role <= Role::Maintainer,
        Scope::Service | Scope::Attempt(..) => false,
    };
    if fits {
        return Ok(());
    }
    let message = format!(
        "a member of {} cannot be {}: reader, trainer, maintainer or, of a whole team, team-admin would be right",
        grant.scope, grant.role
    );
    Err(Refusal::invalid("BAD_ROLE", message))
}

/// The refusal of whoever shows a certificate that is of no member.
pub fn unknown(identities: &[Identity]) -> Refusal {
    let named: Vec<String> = identities.iter().map(|it| format!("`{it}`")).collect();
    let message = match named.is_empty() {
        true => "the certificate names nobody: its subject alternative names have no URI, DNS name or e-mail"
            .to_owned(),
        false => format!(
            "no team has a member {}: a team-admin adds one, or send an API token",
            named.join(" or ")
        ),
    };
    Refusal::unauthenticated("MEMBER_UNKNOWN", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_says_what_it_was_read_from() {
        for text in
            ["certificate:uri:spiffe://example/trainer", "certificate:dns:a.example", "certificate:email:a@b"]
        {
            assert_eq!(Identity::parse(text).unwrap().as_str(), text);
        }
        for text in [
            "",
            "a",
            "certificate:cn:a",
            "certificate:uri:",
            "token:uri:a",
            "certificate:dns:a b",
            "certificate",
        ] {
            assert_eq!(Identity::parse(text).unwrap_err().reason, "BAD_IDENTITY", "{text}");
        }
        assert_eq!(Identity::of_certificate("dns", "a\n"), None);
    }
}
