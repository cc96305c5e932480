//! `app::Error` to `tonic::Status`: the only map. Internal causes are logged here and hidden from the caller.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use tonic::Code;
use tonic::Status;
use tonic_types::ErrorDetails;
use tonic_types::StatusExt;

use crate::app::Error;
use crate::app::causes;
use crate::domain::refusal::Kind;
use crate::domain::refusal::Refusal;

/// The domain of all reasons (`ErrorInfo.domain`).
const DOMAIN: &str = "keepbest";
/// The most of a message, as it stands in the header `grpc-message`. A client takes 8 KiB of headers; in the details the message
/// stands again, as base64: 2.4 KB and 3.2 KB, and 2 KB of metadata.
const MESSAGE_BYTES: usize = 2_400;
/// The most of a value in the metadata.
const DETAIL_BYTES: usize = 1_400;
/// What tells a caller how its messages may be compressed; here: not at all.
const ACCEPT_ENCODING: &str = "grpc-accept-encoding";
/// When a caller should come back if the database or the store is away.
const AWAY_RETRY: Duration = Duration::from_secs(1);
/// When a caller should come back if the store is full: somebody has to free space first, or the collector's next pass does.
const FULL_RETRY: Duration = Duration::from_secs(60);

fn code(kind: Kind) -> Code {
    match kind {
        Kind::Invalid => Code::InvalidArgument,
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::Precondition => Code::FailedPrecondition,
        Kind::Aborted => Code::Aborted,
        Kind::OutOfRange => Code::OutOfRange,
        Kind::Exhausted => Code::ResourceExhausted,
        Kind::DeadlineExceeded => Code::DeadlineExceeded,
        Kind::Unimplemented => Code::Unimplemented,
        Kind::Unauthenticated => Code::Unauthenticated,
        Kind::Denied => Code::PermissionDenied,
    }
}

/// The status of a refusal, with its reason and metadata as details.
pub(crate) fn refused(refusal: &Refusal) -> Status {
    let mut details = ErrorDetails::new();
    let metadata =
        refusal.metadata.iter().map(|(key, value)| ((*key).to_owned(), shortened(value, DETAIL_BYTES)));
    details.set_error_info(refusal.reason, DOMAIN, metadata.collect::<std::collections::HashMap<_, _>>());
    if let Some(delay) = refusal.retry_after {
        details.set_retry_info(Some(delay));
    }
    Status::with_error_details(code(refusal.kind), shortened(&refusal.message, MESSAGE_BYTES), details)
}

/// The text, or as much of its beginning as fits a header of so many bytes.
fn shortened(text: &str, most: usize) -> String {
    /// A header takes these as they are, and three characters for each byte of others, a space among them.
    fn bytes_of(character: char) -> usize {
        let is_plain = character.is_ascii_alphanumeric() || "-_./".contains(character);
        if is_plain { 1 } else { 3 * character.len_utf8() }
    }
    let mut bytes = 0;
    let end = text.char_indices().find(|(_, character)| {
        bytes += bytes_of(*character);
        bytes > most
    });
    match end {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

fn with_reason(code: Code, reason: &str, message: impl Into<String>, retry: Option<Duration>) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, DOMAIN, std::collections::HashMap::<String, String>::new());
    if retry.is_some() {
        details.set_retry_info(retry);
    }
    Status::with_error_details(code, shortened(&message.into(), MESSAGE_BYTES), details)
}

/// The status of an error.
pub(crate) fn status(error: Error) -> Status {
    match error {
        Error::Refused(refusal) => refused(&refusal),
        Error::Unavailable { what, source } => {
            tracing::warn!(error = %causes(&*source), "Answered UNAVAILABLE: {what} is away");
            let message = format!("{what} is not available: try the same call again");
            with_reason(Code::Unavailable, "UNAVAILABLE", message, Some(AWAY_RETRY))
        }
        Error::Busy(source) => {
            tracing::warn!(error = %causes(&*source), "Answered UNAVAILABLE: rows are locked by other calls");
            let message = "other calls of this run or artifact have not ended: try the same call again";
            with_reason(Code::Unavailable, "BUSY", message, Some(AWAY_RETRY))
        }
        Error::Stopping => {
            let message = "the server is stopping: try the same call again";
            with_reason(Code::Unavailable, "STOPPING", message, Some(AWAY_RETRY))
        }
        Error::Full { what, source } => {
            tracing::error!(error = %causes(&*source), "Answered RESOURCE_EXHAUSTED: {what} is full");
            let message =
                format!("{what} is full: free space or delete versions, then try the same call again");
            with_reason(Code::ResourceExhausted, "STORE_FULL", message, Some(FULL_RETRY))
        }
        Error::DataLoss(why) => {
            tracing::error!(error = %why, "Answered DATA_LOSS");
            with_reason(Code::DataLoss, "DATA_LOSS", why, None)
        }
        Error::Internal(source) => internal(&causes(&*source)),
    }
}

/// What tonic says of bytes that are no request, in our words: a message over the limit is a limit, not `OUT_OF_RANGE`, and
/// one that cannot be read is the caller's fault, not INTERNAL; and a reason, without which a client takes it for a fault of
/// the transport, that may pass. Not of our own errors, which have details, nor of a
/// connection that broke, which has a source. A layer that refused the body said why.
pub(crate) fn unreadable(status: &Status) -> Option<Refusal> {
    let mut causes = std::iter::successors(status.source(), |it| (*it).source());
    if let Some(refusal) = causes.find_map(|it| it.downcast_ref::<Refusal>()) {
        return Some(refusal.clone());
    }
    if !status.details().is_empty() || status.source().is_some() {
        return None;
    }
    match status.code() {
        Code::OutOfRange => Some(Refusal::exhausted("LIMIT_EXCEEDED", status.message())),
        Code::Internal => Some(Refusal::invalid("BAD_MESSAGE", status.message())),
        Code::Unimplemented if status.metadata().contains_key(ACCEPT_ENCODING) => {
            let message =
                "compressed messages are not taken: send them as they are (grpc-encoding `identity`)";
            Some(Refusal::unimplemented("COMPRESSED", message))
        }
        Code::Unimplemented => {
            let message =
                "this server has no such method: it may be older or newer than the stubs of the caller";
            Some(Refusal::unimplemented("UNKNOWN_METHOD", message))
        }
        _ => None,
    }
}

/// The same as a status.
pub(crate) fn of_transport(status: &Status) -> Option<Status> {
    let mut refused = refused(&unreadable(status)?);
    if let Some(taken) = status.metadata().get(ACCEPT_ENCODING) {
        refused.metadata_mut().insert(ACCEPT_ENCODING, taken.clone());
    }
    Some(refused)
}

/// The status of a body that is refused while it arrives: it says its refusal to a method that reads a stream, too.
pub(crate) fn refused_body(refusal: Refusal) -> Status {
    let mut status = refused(&refusal);
    status.set_source(Arc::new(refusal));
    status
}

/// A fixed text and an id that finds the cause in the log.
pub(crate) fn internal(cause: &str) -> Status {
    let id = uuid::Uuid::new_v4().simple().to_string();
    tracing::error!(error.id = %id, error = %cause, "Answered INTERNAL");
    with_reason(
        Code::Internal,
        "INTERNAL",
        format!("internal error {id}: the server's log has its cause"),
        None,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_fits_the_headers_that_a_client_takes() {
        for text in ["x", "%", "\n", "ü", "模"] {
            for metadata in [&[][..], &["ALIASES"]] {
                let mut refusal = Refusal::precondition("TOO_LONG", text.repeat(100_000));
                for key in metadata {
                    refusal = refusal.with(key, text.repeat(100_000));
                }
                let headers = refused(&refusal).into_http::<()>();
                let bytes: usize = headers
                    .headers()
                    .iter()
                    .map(|(name, value)| name.as_str().len() + value.len() + 32)
                    .sum();
                assert!((1_000..8 << 10).contains(&bytes), "{bytes} of {text:?}");
            }
        }
        assert_eq!(
            (shortened("as-it-is", 8), shortened("as-it-is", 7)),
            ("as-it-is".to_owned(), "as-it-i...".to_owned())
        );
    }
}
