//! What may pass and what may not: the one table of this client. `clients/python/src/keepbest/_passing.py` is the same one.
//!
//! | the error | may it pass? |
//! |---|---|
//! | made on this side, before anything was sent: the message is too large | no |
//! | without ErrorInfo, UNIMPLEMENTED, UNAUTHENTICATED or PERMISSION_DENIED: somebody else answers there | no |
//! | without ErrorInfo, any other code: made by the transport, a proxy or the deadline | yes |
//! | with ErrorInfo and RetryInfo, whatever the code | yes |
//! | with ErrorInfo: UNAVAILABLE, ABORTED, DEADLINE_EXCEEDED | yes |
//! | with ErrorInfo: everything else | no |

use tonic::Code;

/// What tonic says of a message that it does not send or take.
const MADE_HERE: [&str; 2] = ["message length too large", "body with more than 4GB"];

/// Whether the same call may succeed later although nobody changes it. `reason`: `ErrorInfo.reason`, empty without one;
/// `told`: whether there is a `RetryInfo`.
pub(crate) fn may_pass(code: Code, reason: &str, told: bool, message: &str) -> bool {
    if reason.is_empty() {
        return !matches!(code, Code::Unimplemented | Code::Unauthenticated | Code::PermissionDenied)
            && !MADE_HERE.iter().any(|sign| message.contains(sign));
    }
    told || matches!(code, Code::Unavailable | Code::Aborted | Code::DeadlineExceeded)
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::may_pass;

    /// The rows of the table in `runs.proto`, as `clients/python/tests/test_passing.py` has them too.
    #[test]
    fn what_may_pass_is_what_the_contract_says() {
        for (code, reason, told, message, expected) in [
            (Code::Unavailable, "", false, "connection refused", true),
            (Code::DeadlineExceeded, "", false, "", true),
            (Code::Cancelled, "", false, "Timeout expired", true),
            (Code::Unknown, "", false, "missing grpc-status trailer", true),
            (Code::Internal, "", false, "Unexpected EOF decoding stream.", true),
            (Code::ResourceExhausted, "", false, "a proxy's limit", true),
            (Code::Unimplemented, "", false, "", false),
            (Code::Unauthenticated, "", false, "", false),
            (Code::PermissionDenied, "", false, "", false),
            (
                Code::OutOfRange,
                "",
                false,
                "Error, encoded message length too large: found 5 bytes, the limit is: 4 bytes",
                false,
            ),
            (Code::Unavailable, "BUSY", true, "", true),
            (Code::Unavailable, "STOPPING", false, "", true),
            (Code::DeadlineExceeded, "IDLE_TIMEOUT", false, "", true),
            (Code::Aborted, "UPLOAD_SUPERSEDED", false, "", true),
            (Code::Aborted, "PARTS_MISSING", true, "", true),
            (Code::ResourceExhausted, "OVERLOADED", true, "", true),
            (Code::ResourceExhausted, "STORE_FULL", true, "", true),
            (Code::ResourceExhausted, "LIMIT_EXCEEDED", false, "", false),
            (Code::ResourceExhausted, "QUERY_TIMEOUT", false, "", false),
            (Code::FailedPrecondition, "ALIAS_MOVED", false, "", false),
            (Code::FailedPrecondition, "STALE_ATTEMPT", false, "", false),
            (Code::InvalidArgument, "BAD_EVENT", false, "", false),
            (Code::NotFound, "NOT_FOUND", false, "", false),
            (Code::Internal, "INTERNAL", false, "", false),
            (Code::DataLoss, "DATA_LOSS", false, "", false),
        ] {
            assert_eq!(may_pass(code, reason, told, message), expected, "{code:?} {reason} {message}");
        }
    }
}
