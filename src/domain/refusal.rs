//! Why the service says no: what the caller can do about it, a stable reason, and a sentence for people.
//!
//! One type for every floor: rules make refusals, `app` passes them on, `grpc/status.rs` maps them to codes.

use std::fmt;
use std::time::Duration;

/// What the caller can do about it. The gRPC codes follow from this alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Malformed whatever the state; send something else.
    Invalid,
    /// No such thing, or not for this caller.
    NotFound,
    /// Another body stands under this name.
    AlreadyExists,
    /// The state forbids it; fix the state first.
    Precondition,
    /// A race was lost; begin the whole operation anew.
    Aborted,
    /// Beyond the end.
    OutOfRange,
    Exhausted,
    /// It took too long.
    DeadlineExceeded,
    /// This server does not do such a thing at all.
    Unimplemented,
    /// Nobody knows who calls.
    Unauthenticated,
    /// It is known who calls, and that one may not.
    Denied,
}

/// A refusal with everything the caller needs to mend it.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// What the caller can do.
    pub kind: Kind,
    /// Stable, upper case, part of the API (`ErrorInfo.reason`).
    pub reason: &'static str,
    /// The thing, what was wrong, what would be right.
    pub message: String,
    /// Machine-readable parts (`ErrorInfo.metadata`).
    pub metadata: Vec<(&'static str, String)>,
    /// When trying the same again may help.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    fn new(kind: Kind, reason: &'static str, message: impl Into<String>) -> Self {
        Refusal { kind, reason, message: message.into(), metadata: Vec::new(), retry_after: None }
    }

    /// The request is malformed.
    pub fn invalid(reason: &'static str, message: impl Into<String>) -> Self {
        Refusal::new(Kind::Invalid, reason, message)
    }

    /// There is no such thing: `what` is a noun (`run`), `name` its full name.
    pub fn not_found(what: &str, name: impl fmt::Display) -> Self {
        Refusal::new(Kind::NotFound, "NOT_FOUND", format!("{what} `{name}` was not found"))
    }

    /// Another body stands under this name.
    pub fn already_exists(reason: &'static str, message: impl Into<String>) -> Self {
        Refusal::new(Kind::AlreadyExists, reason, message)
    }

    /// The state forbids it.
    pub fn precondition(reason: &'static str, message: impl Into<String>) -> Self {
        Refusal::new(Kind::Precondition, reason, message)
    }

    /// A race was lost.
    pub fn aborted(reason: &'static str, message: impl Into<String>) -> Self {
        Refusal::new(Kind::Aborted, reason, message)
    }

    /// Beyond the end.
    pub fn out_of_range(reason: &'static str, message: impl Into<String>) -> Self {
        Refusal::new(Kind::OutOfRange, reason, message)
    }

    /// A limit was reached.
    pub fn exhausted(reason: &'static str, message: impl Into<String>) -> Self {
        Refusal::new(Kind::Exhausted, reason, message)
    }

    /// It took too long.
    pub fn deadline(reason: &'static str, message: impl Into<String>) -> Self {
        Refusal::new(Kind::DeadlineExceeded, reason, message)
    }

    /// This server does not do such a thing.
    pub fn unimplemented(reason: &'static str, message: impl Into<String>) -> Self {
        Refusal::new(Kind::Unimplemented, reason, message)
    }

    /// Who calls has not shown who that is.
    pub fn unauthenticated(reason: &'static str, message: impl Into<String>) -> Self {
        Refusal::new(Kind::Unauthenticated, reason, message)
    }

    /// Who calls may not do this.
    pub fn denied(reason: &'static str, message: impl Into<String>) -> Self {
        Refusal::new(Kind::Denied, reason, message)
    }

    /// Adds a machine-readable part.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.metadata.push((key, value.to_string()));
        self
    }

    /// Says that the same call may succeed after `delay`.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}
