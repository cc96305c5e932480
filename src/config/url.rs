//! The database's address, which may hold a password: it is never printed.

use std::fmt;
use std::path::Path;

/// `sqlite:PATH` or `postgres://…`. `Debug` and `Display` put `***` in the place of the password.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// `None` when the scheme is neither `sqlite` nor `postgres`.
    pub fn parse(text: &str) -> Option<DatabaseUrl> {
        let (scheme, rest) = text.split_once(':')?;
        let known = match scheme {
            "sqlite" => !rest.trim_start_matches('/').is_empty(),
            "postgres" | "postgresql" => rest.strip_prefix("//").is_some_and(|rest| !rest.is_empty()),
            _ => false,
        };
        known.then(|| DatabaseUrl(text.to_owned()))
    }

    /// The whole address with its password, for the driver only.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The file of a `SQLite` database: `sqlite:PATH`, and `sqlite://PATH` as other tools write it.
    pub fn sqlite_path(&self) -> Option<&Path> {
        let rest = self.0.strip_prefix("sqlite:")?;
        Some(Path::new(rest.strip_prefix("//").unwrap_or(rest)))
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A parameter may be a password too.
        let (address, parameters) = match self.0.split_once('?') {
            Some((address, _)) => (address, "?***"),
            None => (self.0.as_str(), ""),
        };
        // The last `@`: a password may hold one.
        let Some((head, host)) = address.rsplit_once('@') else {
            return write!(formatter, "{address}{parameters}");
        };
        let (scheme, user_info) = head.split_once("//").unwrap_or(("", head));
        let (user, password) = match user_info.split_once(':') {
            Some((user, _)) => (user, ":***"),
            None => (user_info, ""),
        };
        write!(formatter, "{scheme}//{user}{password}@{host}{parameters}")
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")
    }
}
