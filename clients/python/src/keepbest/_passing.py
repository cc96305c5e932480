"""What may pass and what may not: the one table of this client. `clients/rust/src/passing.rs` is the same one.

| the error | may it pass? |
|---|---|
| made on this side, before anything was sent: the message is too large, or cannot be written | no |
| without ErrorInfo, UNIMPLEMENTED, UNAUTHENTICATED or PERMISSION_DENIED: somebody else answers there | no |
| without ErrorInfo, any other code: made by the transport, a proxy or the deadline | yes |
| with ErrorInfo and RetryInfo, whatever the code | yes |
| with ErrorInfo: UNAVAILABLE, ABORTED, DEADLINE_EXCEEDED | yes |
| with ErrorInfo: everything else | no |

Whatever waits, repeats, keeps or gives up in this package asks here, by `KeepbestError.retryable`.
"""

from __future__ import annotations

import grpc

_PASSES = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED, grpc.StatusCode.DEADLINE_EXCEEDED})
_SOMEBODY_ELSE = frozenset({
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
})  # fmt: skip
# What gRPC's library says of a message that it does not send, or cannot read.
_MADE_HERE = ("larger than max", "Exception serializing request", "Exception deserializing response")


def may_pass(code: grpc.StatusCode | None, reason: str, retry_seconds: float | None, text: str) -> bool:
    """Whether the same call may succeed later although nobody changes it.

    Args:
        code: the status; None for an error that this client found, which never passes.
        reason: `ErrorInfo.reason`; empty without ErrorInfo.
        retry_seconds: `RetryInfo.retry_delay`; None without RetryInfo.
        text: the status' text.
    """
    if code is None:
        return False
    if reason:
        return retry_seconds is not None or code in _PASSES
    return code not in _SOMEBODY_ELSE and not any(sign in text for sign in _MADE_HERE)
