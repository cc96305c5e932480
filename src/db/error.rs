//! Why the database did not do what it was asked to, and what the codes of both databases mean for a caller.

use std::sync::Arc;

use crate::domain::refusal::Refusal;

/// Why the database did not do it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A rule says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The address is malformed, so there was no attempt to connect.
    #[error("the address of the database is not right: {0}")]
    Address(String),
    /// The database is away or too busy; the same call may succeed later.
    #[error("the database is not available")]
    Unavailable(#[source] Arc<sqlx::Error>),
    /// Others have the rows that it needs for too long; the same call may succeed later.
    #[error("rows were locked for too long")]
    Busy(#[source] Arc<sqlx::Error>),
    /// A statement took longer than we let it.
    #[error("a statement was stopped, since it took too long")]
    Late(#[source] Arc<sqlx::Error>),
    /// No room on the disk.
    #[error("the database's disk is full")]
    Full(#[source] Arc<sqlx::Error>),
    /// The schema is not what this version needs.
    #[error("the database {0}")]
    Schema(String),
    /// A sync failed. Whether the disk has what was written before cannot be known any more, and a second sync would not tell.
    #[error("the database could not be synced")]
    Unsynced(#[source] Arc<sqlx::Error>),
    /// A bug, or a broken database.
    #[error("the database refused a statement")]
    Broken(#[source] Arc<sqlx::Error>),
    /// What was stored cannot be read back.
    #[error("stored {what} cannot be read: {why}")]
    Unreadable {
        /// Column or row.
        what: &'static str,
        /// What the reader said.
        why: String,
    },
}

impl Error {
    #[expect(non_snake_case, reason = "reads as the variant it makes")]
    pub(super) fn Internal(error: sqlx::Error) -> Error {
        Error::Broken(Arc::new(error))
    }

    pub(super) fn stopped() -> Error {
        Error::Unavailable(Arc::new(sqlx::Error::PoolClosed))
    }

    pub(super) fn unreadable(what: &'static str, why: impl std::fmt::Display) -> Error {
        Error::Unreadable { what, why: why.to_string() }
    }
}

#[cfg(debug_assertions)]
impl From<crate::failpoint::Injected> for Error {
    fn from(injected: crate::failpoint::Injected) -> Error {
        Error::from(sqlx::Error::Io(std::io::Error::other(injected)))
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Error {
        let trouble = match &error {
            sqlx::Error::Database(said) => said.code().and_then(|code| trouble(&code)),
            sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::Io(_)
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::Tls(_) => Some(Trouble::Away),
            _ => None,
        };
        let error = Arc::new(error);
        match trouble {
            Some(Trouble::Full) => Error::Full(error),
            Some(Trouble::Unsynced) => Error::Unsynced(error),
            Some(Trouble::Away) => Error::Unavailable(error),
            Some(Trouble::Busy) => Error::Busy(error),
            Some(Trouble::Late) => Error::Late(error),
            None => Error::Broken(error),
        }
    }
}

/// What is no fault of the statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Full,
    Unsynced,
    /// The same call may succeed later.
    Away,
    /// The same, when others have ended.
    Busy,
    /// The same call would take as long again.
    Late,
}

/// What a database's code means; `None`: the statement is wrong, or the database. SQLite's codes are numbers, Postgres' have five
/// letters, of which the first two are the class.
fn trouble(code: &str) -> Option<Trouble> {
    /// `SQLITE_FULL`, `SQLITE_IOERR_SHMSIZE` (the index of the log finds no room), and Postgres' `disk_full`.
    const FULL: [&str; 3] = ["13", "4874", "53100"];
    /// `SQLITE_IOERR_FSYNC` and `SQLITE_IOERR_DIR_FSYNC`. Postgres ends itself.
    const UNSYNCED: [&str; 2] = ["1034", "1290"];
    /// The connection broke, a race was lost, no connection or memory is left, an operator stepped in.
    const AWAY_CLASSES: [&str; 4] = ["08", "40", "53", "57"];
    /// `SQLITE_BUSY`, its SNAPSHOT and RECOVERY kin, LOCKED. Of Postgres: a session or transaction that was idle or took too long,
    /// a lock that did, a primary that became a standby, a disk that failed; and what shuts us out while an operator changes a
    /// password or restores the database: trainers wait for that, as for a restart.
    const AWAY: [&str; 12] =
        ["5", "6", "261", "517", "25P03", "25P04", "55P03", "25006", "58030", "28000", "28P01", "3D000"];
    let class = code.get(..2).filter(|_| code.len() == 5);
    /// `lock_not_available`.
    const BUSY: &str = "55P03";
    /// `query_canceled`, as by the time-out of our sessions, and `SQLITE_INTERRUPT`.
    const LATE: [&str; 2] = ["57014", "9"];
    if FULL.contains(&code) {
        Some(Trouble::Full)
    } else if code == BUSY {
        Some(Trouble::Busy)
    } else if LATE.contains(&code) {
        Some(Trouble::Late)
    } else if UNSYNCED.contains(&code) {
        Some(Trouble::Unsynced)
    } else if AWAY.contains(&code)
        || class.is_some_and(|it| AWAY_CLASSES.contains(&it))
        || is_disk_error(code)
    {
        Some(Trouble::Away)
    } else {
        None
    }
}

/// Of SQLite's codes those of a disk that fails: the last byte is READONLY, IOERR or CANTOPEN.
fn is_disk_error(code: &str) -> bool {
    code.len() < 5 && code.parse::<u32>().is_ok_and(|code| [8, 10, 14].contains(&(code & 0xff)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_no_fault_of_a_statement_is_worth_another_try() {
        for (codes, expected) in [
            (["13", "4874", "53100"].as_slice(), Some(Trouble::Full)),
            (&["1034", "1290"], Some(Trouble::Unsynced)),
            (&["5", "261", "8", "10", "266", "778", "14"], Some(Trouble::Away)),
            (&["40001", "40P01", "57P01", "57P05", "53300", "53200"], Some(Trouble::Away)),
            (&["25P03", "25P04", "25006", "08006", "08P01", "28P01", "3D000", "58030"], Some(Trouble::Away)),
            (&["55P03"], Some(Trouble::Busy)),
            (&["57014", "9"], Some(Trouble::Late)),
            // A broken rule, a wrong statement, a damaged database.
            (&["19", "2067", "1", "11", "23505", "42P01", "42501", "22P02", "XX001", "25P02", ""], None),
        ] {
            for code in codes {
                assert_eq!(trouble(code), expected, "{code}");
            }
        }
    }
}
