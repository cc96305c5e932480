//! Why a command failed: a sentence for people, and an exit code for scripts.

use std::fmt;
use std::io;
use std::process::ExitCode;

use keepbest_client::Error as ClientError;

use crate::config::ConfigError;
use crate::maintenance::causes;

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub(super) struct Failure {
    kind: Kind,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Failed,
    Usage,
    NotFound,
    /// The reader of the output has closed it, as `head` does.
    ClosedOutput,
}

impl Failure {
    pub(super) fn failed(text: impl Into<String>) -> Failure {
        Failure { kind: Kind::Failed, text: text.into() }
    }

    /// A failure because of wrong arguments or settings.
    pub(super) fn usage(text: impl Into<String>) -> Failure {
        Failure { kind: Kind::Usage, text: text.into() }
    }

    pub(super) fn not_found(text: impl Into<String>) -> Failure {
        Failure { kind: Kind::NotFound, text: text.into() }
    }

    /// Adds to the text what the user can do about it.
    pub(super) fn with_hint(mut self, hint: &str) -> Failure {
        self.text.push_str(hint);
        self
    }

    pub(super) fn is_closed_output(&self) -> bool {
        self.kind == Kind::ClosedOutput
    }

    pub(super) fn exit_code(&self) -> ExitCode {
        match self.kind {
            Kind::ClosedOutput => ExitCode::SUCCESS,
            Kind::Failed => ExitCode::from(1),
            Kind::Usage => ExitCode::from(2),
            Kind::NotFound => ExitCode::from(3),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        match &error {
            ClientError::Unreachable { address, problem } => Failure::failed(format!(
                "no server answers at `{address}` ({problem}): start one with `keepbest serve`, or name another with \
                 `--server`"
            )),
            ClientError::Invalid(_) => Failure::usage(causes(&error)),
            _ if error.is_not_found() => Failure::not_found(causes(&error)),
            _ => Failure::failed(causes(&error)),
        }
    }
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
        Failure { kind, text: format!("the output cannot be written: {error}") }
    }
}
