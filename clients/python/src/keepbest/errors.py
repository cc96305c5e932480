"""The client's exceptions, and the one for each gRPC status.

Every exception is a `KeepbestError`. Catch `Unavailable` for "the server is away", `StaleAttempt` for "a newer process
took this run over", and `KeepbestError` for the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import grpc
from google.rpc import error_details_pb2, status_pb2

from keepbest._passing import may_pass

_DETAILS_KEY = "grpc-status-details-bin"
# Another stream has begun to write the file that this one was writing.
UPLOAD_SUPERSEDED = "UPLOAD_SUPERSEDED"
# A committed checkpoint takes no more files.
CHECKPOINT_COMMITTED = "CHECKPOINT_COMMITTED"

# A wait for other ranks ended before they came.
_STILL_WAITING = frozenset({"PARTS_MISSING", "EVENT_MISSING"})

# The server has other events than this process has reported. What to do about it, which only a client can say.
_OTHER_EVENTS = {
    "SEQUENCE_CONFLICT": (
        "another process reports events in this attempt too, so both were started with one request_id or launch; this "
        "one cannot report any more. End one of them, and pass a launch that is new in each start "
        "(`keepbest.launch_from_environment`), or no request_id at all"
    ),
    "SEQUENCE_GAP": (
        "the server lacks events that it had acknowledged to this process, so its database was probably restored from "
        "a backup; this process cannot report any more. Start the run again: it goes on where the server stands"
    ),
}


class KeepbestError(Exception):
    """A call failed.

    Attributes:
        code: the gRPC status code; None if the client itself found the fault.
        reason: the server's `ErrorInfo.reason`, for example `STALE_ATTEMPT`; empty if it gave none.
        metadata: the server's `ErrorInfo.metadata`.
        retry_seconds: how long the server asks the caller to wait before a repeat; None if it does not.
        unanswered: whether the call lasted until its deadline, so that a repeat may take as long again.
        is_misaddressed: whether something answers at the address that is no Keepbest server, or speaks otherwise than
            the address says, http instead of https for example.
    """

    def __init__(
        self,
        text: str,
        *,
        code: grpc.StatusCode | None = None,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_seconds: float | None = None,
    ) -> None:
        """Take a text for people, and what programs need."""
        super().__init__(text)
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.retry_seconds = retry_seconds
        self.unanswered = False
        self.is_misaddressed = False

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed if it is repeated; `_passing` has the table."""
        return not self.is_misaddressed and may_pass(self.code, self.reason, self.retry_seconds, str(self))


class InvalidArgument(KeepbestError, ValueError):
    """The request itself is wrong: a name, a template, a strategy, an event."""


class NotFound(KeepbestError):
    """There is no such run, artifact, version, alias, file or metric."""


class AlreadyExists(KeepbestError):
    """The run exists already, with resume="never"; or the file does, with another size or SHA-256."""


class FailedPrecondition(KeepbestError):
    """The state of the run or checkpoint does not allow it: see `reason`."""


class StaleAttempt(FailedPrecondition):
    """A newer attempt of the run was started, so this process can change nothing any more."""


class SequenceConflict(FailedPrecondition):
    """The server has other events than this process has reported, so it accepts no more from it.

    The usual cause: two processes were started with the same `request_id` or `launch`, and share an attempt
    (`SEQUENCE_CONFLICT`, with `metadata["sequence"]`).
    """


class Aborted(KeepbestError):
    """Another call came first: see `reason`."""


class StillWaiting(Aborted):
    """The other ranks have not come yet (`metadata["missing_parts"]`). Repeat the call to wait longer."""


class ResourceExhausted(KeepbestError):
    """A limit was exceeded, the server is overloaded, or its disk is full: see `reason`."""


class Unavailable(KeepbestError):
    """The server, its database or its store is away, did not answer in time, or the connection broke."""


class OutOfRange(KeepbestError):
    """A read began beyond the end of the file."""


class DataLoss(KeepbestError):
    """Stored or received bytes do not match their digest."""


class Unauthenticated(KeepbestError):
    """The call had no valid credential."""


class PermissionDenied(KeepbestError):
    """The call's credential does not allow it."""


class FileChanged(KeepbestError):
    """A local file changed during its upload, so what was sent may be a mix of two states; or between two uploads."""


# The path holds other bytes than came now, or these are not the ones that were declared.
_OTHER_BYTES = frozenset({"FILE_EXISTS", "DIGEST_MISMATCH"})

_BY_CODE: dict[grpc.StatusCode, type[KeepbestError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.ABORTED: Aborted,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unavailable,
    grpc.StatusCode.OUT_OF_RANGE: OutOfRange,
    grpc.StatusCode.DATA_LOSS: DataLoss,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
}


def from_rpc_error(error: grpc.RpcError) -> KeepbestError:
    """The exception for a failed call, with the details that the server sent as `google.rpc.Status`."""
    code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
    text = (error.details() if isinstance(error, grpc.Call) else None) or str(error)
    reason, metadata, retry_seconds = _details(error)
    kind = _BY_CODE.get(code, KeepbestError)
    if reason == "STALE_ATTEMPT":
        kind = StaleAttempt
    elif reason in _OTHER_BYTES:
        kind = FileChanged
    elif reason in _OTHER_EVENTS:
        kind = SequenceConflict
        text = f"{text}: {_OTHER_EVENTS[reason]}"
    elif reason in _STILL_WAITING:
        kind = StillWaiting
    elif not reason and may_pass(code, reason, retry_seconds, text):
        kind = Unavailable
    return kind(text, code=code, reason=reason, metadata=metadata, retry_seconds=retry_seconds)


def _details(error: grpc.RpcError) -> tuple[str, dict[str, str], float | None]:
    status = status_pb2.Status()
    trailers: Iterable[tuple[str, str | bytes]] = (isinstance(error, grpc.Call) and error.trailing_metadata()) or ()
    for key, value in trailers:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            status.ParseFromString(value)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    retry_seconds = None
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            detail.Unpack(retry)
            retry_seconds = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    return info.reason, dict(info.metadata), retry_seconds
