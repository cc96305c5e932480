//! Why a command failed: a sentence for people, and a code for scripts.

use std::fmt;
use std::io;
use std::process::ExitCode;

use keepbest_client::Error as ClientError;
use keepbest_client::Fault;
use serde_json::{Value, json};

use super::words;
use crate::config::ConfigError;
use crate::maintenance::causes;

/// Where a server listens that nobody told otherwise.
const HOME: &str = "127.0.0.1:7400";

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub(super) struct Failure {
    kind: Kind,
    text: String,
    /// The server's, as `ALIAS_MOVED`.
    reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Failed,
    /// No answer came from the server.
    Unreachable,
    Usage,
    NotFound,
    /// By a signal of this number.
    Interrupted(u8),
    /// The reader of the output has closed it, as `head` does.
    ClosedOutput,
}

impl Failure {
    fn new(kind: Kind, text: impl Into<String>) -> Failure {
        Failure { kind, text: text.into(), reason: None }
    }

    pub(super) fn failed(text: impl Into<String>) -> Failure {
        Failure::new(Kind::Failed, text)
    }

    /// A failure because of wrong arguments or settings.
    pub(super) fn usage(text: impl Into<String>) -> Failure {
        Failure::new(Kind::Usage, text)
    }

    pub(super) fn not_found(text: impl Into<String>) -> Failure {
        Failure::new(Kind::NotFound, text)
    }

    /// A failure because of a signal, by its number.
    pub(super) fn interrupted(signal: u8, text: impl Into<String>) -> Failure {
        Failure::new(Kind::Interrupted(signal), text)
    }

    /// Adds to the text what the user can do about it.
    pub(super) fn with_hint(mut self, hint: &str) -> Failure {
        self.text.push_str(hint);
        self
    }

    /// Adds to the text of a failure to find something what is there and has nearly its name.
    pub(super) fn with_meant(self, meant: Option<String>) -> Failure {
        match meant {
            Some(meant) if self.kind == Kind::NotFound => {
                self.with_hint(&format!(": did you mean `{meant}`?"))
            }
            _ => self,
        }
    }

    pub(super) fn is_not_found(&self) -> bool {
        self.kind == Kind::NotFound
    }

    /// Whether a signal ended the command.
    pub(super) fn is_interrupted(&self) -> bool {
        matches!(self.kind, Kind::Interrupted(_))
    }

    /// Whether no answer came from the server.
    pub(super) fn is_unreachable(&self) -> bool {
        self.kind == Kind::Unreachable
    }

    pub(super) fn is_closed_output(&self) -> bool {
        self.kind == Kind::ClosedOutput
    }

    fn code(&self) -> u8 {
        match self.kind {
            Kind::ClosedOutput => 0,
            Kind::Failed | Kind::Unreachable => 1,
            Kind::Usage => 2,
            Kind::NotFound => 3,
            // As a shell tells of a program that a signal ended.
            Kind::Interrupted(signal) => signal.saturating_add(128),
        }
    }

    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code())
    }

    /// The failure for a script that asked for JSON.
    pub(super) fn to_json(&self) -> Value {
        let kind = match self.kind {
            Kind::Failed | Kind::ClosedOutput => "failed",
            Kind::Unreachable => "unreachable",
            Kind::Usage => "wrong_arguments",
            Kind::NotFound => "not_found",
            Kind::Interrupted(_) => "interrupted",
        };
        json!({
            "error": {
                "kind": kind,
                "message": self.text,
                "reason": self.reason,
                "exit_code": self.code(),
            }
        })
    }
}

/// What was found, if it is there.
pub(super) fn found<T>(answer: Result<T, ClientError>) -> Result<Option<T>, Failure> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        let kind = match &error {
            ClientError::Unreachable { address, problem, fault } => {
                return Failure::new(Kind::Unreachable, unreachable(address, problem, *fault));
            }
            _ if error.is_invalid() => Kind::Usage,
            _ if error.is_not_found() => Kind::NotFound,
            _ => Kind::Failed,
        };
        let reason = Some(error.reason().to_owned()).filter(|reason| !reason.is_empty());
        Failure { kind, text: words::typed(&causes(&error)), reason }
    }
}

/// Why no server answers, and what to do.
fn unreachable(address: &str, problem: &str, fault: Fault) -> String {
    const ANOTHER: &str = "name another address with `--server` or `KEEPBEST_ADDRESS`";
    let target = address.split_once("://").map_or(address, |(_, target)| target).trim_end_matches('/');
    match fault {
        Fault::UnknownHost => format!("the host of `{address}` is not known ({problem}): {ANOTHER}"),
        Fault::OtherProtocol => {
            format!("what answers at `{address}` is no Keepbest server: {problem}; {ANOTHER}")
        }
        Fault::UnknownAuthority => format!(
            "the server at `{address}` is not trusted: {problem}; name the file of its authority with `--ca` or `KEEPBEST_CA`"
        ),
        Fault::Certificate => format!("the server at `{address}` is not trusted: {problem}"),
        Fault::WantsTls | Fault::NoTls => format!("the server at `{address}` cannot be spoken to: {problem}"),
        Fault::ClientCertificate => format!(
            "the server at `{address}` does not let this command in: {problem}; name one of its authority with \
             `--client-cert` and `--client-key` (`KEEPBEST_CLIENT_CERT`, `KEEPBEST_CLIENT_KEY`)"
        ),
        Fault::Silent => {
            format!(
                "no server answers at `{address}` ({problem}): it is busy, or another program listens there; {ANOTHER}"
            )
        }
        _ if !is_this_machine(target) => {
            format!(
                "no server answers at `{address}` ({problem}): start one there with `keepbest serve`, or {ANOTHER}"
            )
        }
        _ if target == HOME => {
            format!(
                "no server answers at `{address}` ({problem}): start one with `keepbest serve`, or {ANOTHER}"
            )
        }
        _ => format!(
            "no server answers at `{address}` ({problem}): start one with `keepbest serve --listen {target}`, or {ANOTHER}"
        ),
    }
}

/// Whether a server that is started here can be reached at the address.
fn is_this_machine(target: &str) -> bool {
    ["127.", "localhost:", "[::1]:"].iter().any(|begin| target.starts_with(begin))
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::usage(causes(&error))
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::failed(causes(error.as_ref()))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        let kind = if error.kind() == io::ErrorKind::BrokenPipe { Kind::ClosedOutput } else { Kind::Failed };
        Failure::new(kind, format!("the output cannot be written: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use keepbest_client::Fault;

    use super::{Failure, unreachable};

    #[test]
    fn scripts_learn_the_kind_and_the_exit_code() {
        for (failure, kind, code) in [
            (Failure::failed("x"), "failed", 1),
            (Failure::usage("x"), "wrong_arguments", 2),
            (Failure::not_found("x"), "not_found", 3),
            (Failure::interrupted(2, "x"), "interrupted", 130),
        ] {
            let error = &failure.to_json()["error"];
            assert_eq!((&error["kind"], &error["exit_code"]), (&kind.into(), &code.into()));
        }
    }

    #[test]
    fn an_address_without_a_server_is_told_with_what_helps_there() {
        for (address, fault, says) in [
            ("http://127.0.0.1:7400", Fault::NotListening, "start one with `keepbest serve`, or"),
            ("localhost:7401", Fault::NotListening, "`keepbest serve --listen localhost:7401`"),
            ("http://gpu7:7400/", Fault::Passing, "start one there with `keepbest serve`, or"),
            ("http://gpu77:7400", Fault::UnknownHost, "not known (x): name another address with `--server`"),
            (
                "https://gpu7:7400",
                Fault::UnknownAuthority,
                "is not trusted: x; name the file of its authority with `--ca`",
            ),
            ("https://gpu7:7400", Fault::ClientCertificate, "with `--client-cert` and `--client-key`"),
            ("127.0.0.1:5432", Fault::OtherProtocol, "no Keepbest server: x; name another address"),
            (
                "127.0.0.1:5432",
                Fault::Silent,
                "(x): it is busy, or another program listens there; name another address",
            ),
        ] {
            let text = unreachable(address, "x", fault);
            assert!(text.contains(says) && text.contains(&format!("`{address}`")), "{text}");
        }
    }

    #[test]
    fn only_what_is_not_there_has_a_near_miss() {
        let meant = Some("cnn".to_owned());
        assert_eq!(
            Failure::not_found("no `cnm`").with_meant(meant.clone()).to_string(),
            "no `cnm`: did you mean `cnn`?"
        );
        assert_eq!(Failure::failed("no").with_meant(meant).to_string(), "no");
    }
}
