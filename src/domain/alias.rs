//! Aliases: which belong to the server, which to users, and what `vN` means.

use crate::domain::ids::Id;
use crate::domain::refusal::Refusal;

/// The newest committed version.
pub const LATEST: &str = "latest";
/// The version with the best value of the artifact's monitor.
pub const BEST: &str = "best";

/// What stands behind `versions/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionRef {
    /// `vN`.
    Number(i64),
    /// A name that points at a version.
    Alias(Id),
}

impl VersionRef {
    /// `v` and a decimal number without leading zeros is a version, everything else an alias.
    pub fn of(id: &Id) -> VersionRef {
        match number(id.as_str()) {
            Some(number) => VersionRef::Number(number),
            None => VersionRef::Alias(id.clone()),
        }
    }
}

fn number(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('v')?;
    let canonical = digits == "0" || (!digits.starts_with('0') && !digits.is_empty());
    if canonical && digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// Checks an alias that a user sets: ids, but not the server's names and nothing that reads as a version.
pub fn check(alias: &str) -> Result<Id, Refusal> {
    let id = Id::parse("alias", alias).map_err(|refusal| Refusal::invalid("BAD_ALIAS", refusal.message))?;
    let like_a_version = alias
        .strip_prefix('v')
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()));
    let servers = alias == LATEST || alias == BEST || alias.starts_with("epoch_");
    if servers || like_a_version {
        let message = format!(
            "alias `{alias}` belongs to the server, as `latest`, `best`, `epoch_*` and `vN` do: choose another name"
        );
        return Err(Refusal::invalid("BAD_ALIAS", message));
    }
    Ok(id)
}

/// Refuses to delete what has versions that these aliases of users point at.
pub fn in_the_way(what: &str, name: impl std::fmt::Display, aliases: String) -> Refusal {
    let message = format!(
        "{what} `{name}` has versions that aliases point at ({aliases}): move these, or say that they go with it (`force`)"
    );
    Refusal::precondition("VERSION_HAS_ALIASES", message).with("aliases", aliases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_aliases_are_told_apart() {
        let of = |text: &str| VersionRef::of(&Id::parse("version", text).unwrap());
        assert_eq!(of("v0"), VersionRef::Number(0));
        assert_eq!(of("v12"), VersionRef::Number(12));
        for alias in ["best", "v", "v01", "version", "v1x", "V1"] {
            assert!(matches!(of(alias), VersionRef::Alias(_)), "{alias}");
        }
    }

    #[test]
    fn the_servers_names_are_refused() {
        for alias in ["latest", "best", "epoch_3", "epoch_3_batch_9", "v0", "v007", "", "a/b"] {
            assert_eq!(check(alias).unwrap_err().reason, "BAD_ALIAS", "{alias}");
        }
        for alias in ["production", "v", "vx", "Best", "epoch"] {
            check(alias).unwrap();
        }
    }
}
