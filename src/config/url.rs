//! The database's address, which may hold a password: it is never printed.

use std::fmt;
use std::path::Path;

/// The scheme and what follows it.
pub(super) fn split(text: &str) -> Result<(&str, &str), String> {
    match text.split_once(':') {
        // Whatever else stands before a colon may be part of a secret.
        Some((scheme, rest)) if !scheme.is_empty() && scheme.chars().all(|it| it.is_ascii_alphanumeric()) => {
            Ok((scheme, rest))
        }
        _ => Err("without a scheme".to_owned()),
    }
}

/// `sqlite:PATH` or `postgres://…`. `Debug` and `Display` put `***` in the place of the password.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// # Errors
    /// What was found instead, without anything that may be a secret.
    pub fn parse(text: &str) -> Result<DatabaseUrl, String> {
        let (scheme, rest) = split(text)?;
        match scheme {
            "sqlite" if rest.trim_start_matches('/').is_empty() => Err("`sqlite:` without a path".to_owned()),
            "postgres" | "postgresql" if rest.strip_prefix("//").is_none_or(str::is_empty) => {
                Err(format!("`{scheme}:` without `//` and a host"))
            }
            "sqlite" | "postgres" | "postgresql" => Ok(DatabaseUrl(text.to_owned())),
            other => Err(format!("of the scheme `{other}`")),
        }
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
        // A password that was not encoded may hold anything: then nothing behind the scheme is printed.
        if self.0.split_once(['?', '#']).is_some_and(|(_, rest)| rest.contains('@')) {
            return write!(formatter, "{}://***", self.0.split(':').next().unwrap_or_default());
        }
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
