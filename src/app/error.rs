//! What can go wrong, by what the caller can do about it. Everything below ends in one of these.

use crate::db;
use crate::domain::refusal::Refusal;
use crate::store;

/// Why a use case was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A rule says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The database or the object store is away; the same call may succeed later.
    #[error("{what} is not available")]
    Unavailable {
        /// `the database` or `the object store`.
        what: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Other calls have what this one needs for too long; the same call may succeed later.
    #[error("other calls are in the way")]
    Busy(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The server is told to stop; another one, or this one again, takes the same call.
    #[error("the server is stopping")]
    Stopping,
    /// No room on the disk.
    #[error("{what} is full")]
    Full {
        /// `the database` or `the object store`.
        what: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Stored bytes are not what was committed.
    #[error("{0}")]
    DataLoss(String),
    /// A bug, or a broken database.
    #[error("internal error")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// An error with its causes, for a log or a person; what libraries tell of a cause in their own words is not told twice.
pub fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

impl From<db::Error> for Error {
    fn from(error: db::Error) -> Error {
        match error {
            db::Error::Refused(refusal) => Error::Refused(refusal),
            db::Error::Unavailable(_) | db::Error::Unsynced(_) => {
                Error::Unavailable { what: "the database", source: Box::new(error) }
            }
            db::Error::Busy(_) => Error::Busy(Box::new(error)),
            db::Error::Late(_) => late().into(),
            db::Error::Full(_) => Error::Full { what: "the database", source: Box::new(error) },
            db::Error::Address(_)
            | db::Error::Broken(_)
            | db::Error::Unreadable { .. }
            | db::Error::Schema(_) => Error::Internal(Box::new(error)),
        }
    }
}

/// A limit, which does not pass: the same read would take as long again.
fn late() -> Refusal {
    let message = "the database took too long for this read and was stopped: ask for less, with a smaller page or a narrower filter";
    Refusal::exhausted("QUERY_TIMEOUT", message)
}

#[cfg(debug_assertions)]
impl From<crate::failpoint::Injected> for Error {
    fn from(injected: crate::failpoint::Injected) -> Error {
        Error::Unavailable { what: "the object store", source: Box::new(injected) }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Error {
        match error {
            store::Error::Missing(_) => Error::DataLoss(error.to_string()),
            store::Error::Full(_) => Error::Full { what: "the object store", source: Box::new(error) },
            store::Error::Unavailable(_) => {
                Error::Unavailable { what: "the object store", source: Box::new(error) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_log_names_each_cause_once() {
        let inner = telling("rows", io::Error::other("refused"));
        let error = Error::Unavailable { what: "the database", source: Box::new(inner) };
        assert_eq!(causes(&error), "the database is not available: rows: refused");
    }

    /// An error that tells its cause itself, as those of libraries do.
    fn telling(text: &str, source: io::Error) -> Telling {
        Telling { text: format!("{text}: {source}"), source }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Telling {
        text: String,
        source: io::Error,
    }
}
