//! What can go wrong, by what the caller can do about it.

use std::collections::HashMap;
use std::error::Error as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::passing::may_pass;

/// The result of every call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument is wrong; nothing was sent. The text says what would be right.
    #[error("{0}")]
    Invalid(String),
    /// The server answered with an error. [`Refusal::reason`] says which.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// No answer came: nothing listens at the address, the connection broke, or the server hangs; and all retries ended so.
    #[error("the server at `{address}` cannot be reached ({problem})")]
    Unreachable {
        /// As it was given to [`Client::builder`](crate::Client::builder).
        address: String,
        /// The innermost cause, as `connection refused`.
        problem: String,
        /// Why, as far as it is known.
        fault: Fault,
    },
    /// A local file or folder could not be read or written.
    #[error("`{}` cannot be {step}", path.display())]
    Io {
        /// What could not be done with it, as a participle: `read`, `written`, `made`, `locked`.
        step: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Bytes do not match their digest, or a file changed while it was uploaded. Nothing of it is acknowledged or left behind.
    #[error("{0}")]
    Corrupt(String),
    /// The server's answer breaks the contract: the client is too old for the server, or the server has a bug.
    #[error("{0}")]
    Protocol(String),
}

/// Why no answer came, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The connection failed or broke, or nothing was said on it: as of a server that restarts.
    Passing,
    /// The host is there, and nothing listens at the port.
    NotListening,
    /// The name of the host does not resolve.
    UnknownHost,
    /// Something listens there and says nothing: another program, a busy server, or a proxy whose server is away.
    Silent,
    /// What listens there is no server of gRPC.
    OtherProtocol,
    /// It speaks TLS, and the address begins with `http`.
    WantsTls,
    /// It does not speak TLS, and the address begins with `https`.
    NoTls,
    /// Its certificate is of an authority that is not trusted here.
    UnknownAuthority,
    /// Its certificate is not good: it has expired, or is another host's.
    Certificate,
    /// It wants a certificate of this side, or does not take the one that was shown.
    ClientCertificate,
}

impl Fault {
    /// Whether the same address may answer in a moment.
    pub(crate) fn may_pass(self) -> bool {
        matches!(self, Fault::Passing | Fault::Silent)
    }

    /// Whether no wait helps: somebody must change a setting or a certificate. What only is not there may be started.
    fn stays(self) -> bool {
        matches!(
            self,
            Fault::WantsTls
                | Fault::NoTls
                | Fault::UnknownAuthority
                | Fault::Certificate
                | Fault::ClientCertificate
        )
    }
}

/// An error that the server answered with.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The name of the RPC, as `CommitCheckpoint`.
    pub rpc: &'static str,
    /// The code of gRPC.
    pub code: Code,
    /// `ErrorInfo.reason`, as `STALE_ATTEMPT`; empty when the answer carries none.
    pub reason: String,
    /// A sentence for people: what was wrong, and what would be right.
    pub message: String,
    /// `ErrorInfo.metadata`, as `next_sequence`.
    pub metadata: HashMap<String, String>,
    /// `RetryInfo.retry_delay`: how long to wait before a retry makes sense.
    pub retry_after: Option<Duration>,
    /// Whether this side made the error because the connection failed, rather than the server.
    pub transport: bool,
}

/// The reason of a stream whose file another stream has taken over.
pub(crate) const UPLOAD_SUPERSEDED: &str = "UPLOAD_SUPERSEDED";
/// The reasons of a call whose own wait for other processes is over. [`Run`](crate::Run) waits on, without a budget.
pub(crate) const WAITED_OUT: [&str; 2] = ["PARTS_MISSING", "EVENT_MISSING"];

impl Error {
    pub(crate) fn from_status(rpc: &'static str, status: &Status) -> Error {
        Error::Refused(Box::new(Refusal::from_status(rpc, status)))
    }

    pub(crate) fn io(step: &'static str, path: &Path, source: io::Error) -> Error {
        Error::Io { step, path: path.to_owned(), source }
    }

    /// The error about a blocking task that did not run to its end: it panicked, or the runtime is stopping.
    pub(crate) fn aborted(problem: impl std::fmt::Display) -> Error {
        Error::Protocol(format!("a task of the client ended early: {problem}"))
    }

    /// `ErrorInfo.reason` of the server's answer, as `STALE_ATTEMPT`; empty for every other error.
    pub fn reason(&self) -> &str {
        match self {
            Error::Refused(refusal) => &refusal.reason,
            _ => "",
        }
    }

    /// The gRPC code of the server's answer; `Unavailable` if none came, and none for an error of this side.
    pub fn code(&self) -> Option<Code> {
        match self {
            Error::Refused(refusal) => Some(refusal.code),
            Error::Unreachable { .. } => Some(Code::Unavailable),
            _ => None,
        }
    }

    /// Whether what was asked for is wrong whatever there is: the same call will never work.
    pub fn is_invalid(&self) -> bool {
        matches!(self, Error::Invalid(_)) || self.code() == Some(Code::InvalidArgument)
    }

    /// Whether the server says that what was asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(Code::NotFound)
    }

    /// Whether the same call may succeed later, without any change.
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::Refused(refusal) => refusal.is_retryable(),
            Error::Unreachable { fault, .. } => !fault.stays(),
            _ => false,
        }
    }

    /// How long the server asks to wait before a retry.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Refused(refusal) => refusal.retry_after,
            _ => None,
        }
    }
}

impl Refusal {
    fn from_status(rpc: &'static str, status: &Status) -> Refusal {
        let details = status.get_error_details();
        let (reason, metadata) =
            details.error_info().map(|info| (info.reason.clone(), info.metadata.clone())).unwrap_or_default();
        // Only a status that was made on this side has a source. An answer without trailers, or with half a message, was cut on
        // its way by a proxy that ended the stream as if it were complete.
        let cut = |code, text| status.code() == code && status.message().contains(text);
        let transport = status.source().is_some()
            || (reason.is_empty()
                && (cut(Code::Unknown, "grpc-status") || cut(Code::Internal, "Unexpected EOF decoding")));
        Refusal {
            rpc,
            code: status.code(),
            message: if transport { transport_problem(status) } else { message(rpc, status) },
            reason,
            metadata,
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
            transport,
        }
    }

    pub(crate) fn is_retryable(&self) -> bool {
        may_pass(self.code, &self.reason, self.retry_after.is_some(), &self.message)
    }
}

fn message(rpc: &'static str, status: &Status) -> String {
    match status.message() {
        "" => format!("{rpc} was answered with the code {:?} and no text", status.code()),
        text => text.to_owned(),
    }
}

/// The innermost cause. The outer ones only say "transport error".
fn transport_problem(status: &Status) -> String {
    let mut problem = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        problem = error.to_string();
        cause = error.source();
    }
    problem
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use tonic::{Code, Status};
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::Error;

    fn refused(code: Code, reason: &str, retry_after: Option<Duration>) -> Error {
        let mut details =
            ErrorDetails::with_error_info(reason, "keepbest", [("attempt".to_owned(), "2".to_owned())]);
        if retry_after.is_some() {
            details.set_retry_info(retry_after);
        }
        Error::from_status("WriteFile", &Status::with_error_details(code, "text", details))
    }

    #[test]
    fn the_reason_and_its_metadata_are_decoded() {
        let error = refused(Code::FailedPrecondition, "STALE_ATTEMPT", None);
        assert_eq!(error.reason(), "STALE_ATTEMPT");
        let Error::Refused(refusal) = error else { panic!("{error}") };
        assert_eq!(refusal.metadata["attempt"], "2");
    }

    #[test]
    fn an_answer_that_was_cut_is_retryable() {
        let cut = [
            Status::unknown("missing grpc-status trailer"),
            Status::internal("Unexpected EOF decoding stream."),
        ];
        for status in cut {
            assert!(Error::from_status("GetRun", &status).is_retryable(), "{status:?}");
        }
    }

    #[test]
    fn a_broken_connection_is_retryable_and_names_its_cause() {
        let cause = io::Error::new(io::ErrorKind::ConnectionReset, "connection reset by peer");
        let error = Error::from_status("GetRun", &Status::from_error(Box::new(cause)));
        assert!(error.is_retryable());
        assert_eq!(error.to_string(), "connection reset by peer");
    }
}
