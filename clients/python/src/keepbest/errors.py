"""The client's exceptions, and how a gRPC status becomes one.

Every exception is a `KeepbestError`. Catch `Unavailable` for "the server is away", `StaleAttempt` for "a newer process
took this run over", and `KeepbestError` for the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import grpc
from google.rpc import error_details_pb2, status_pb2

_DETAILS_KEY = "grpc-status-details-bin"
# Another stream took over the file that a call was writing.
UPLOAD_SUPERSEDED = "UPLOAD_SUPERSEDED"
# The files of a committed checkpoint never change.
CHECKPOINT_COMMITTED = "CHECKPOINT_COMMITTED"
# The server's disk: somebody has to make room, so it names no time to come back.
STORE_FULL = "STORE_FULL"
# The call asks for more than any may.
LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
# Repeating the same call cannot help: somebody else did something on purpose, or it asks for too much.
_LOST_FOR_GOOD = frozenset({UPLOAD_SUPERSEDED, "ALIAS_MOVED", "QUERY_TIMEOUT"})

# Aborted, because a wait for other ranks ended before they came.
_STILL_WAITING = frozenset({"PARTS_MISSING", "EVENT_MISSING"})

# The server's events are not those of this process; and what to do about it, which the server cannot know.
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
        code: the gRPC status code, or None when the client itself found the fault.
        reason: `ErrorInfo.reason` of the server, for example `STALE_ATTEMPT`; empty if it gave none.
        metadata: `ErrorInfo.metadata` of the server.
        retry_seconds: how long the server asks to wait before the call is repeated; None if it did not ask.
        unanswered: whether the call waited for its whole deadline, so that a repeat may wait as long again.
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
        """Keep the text for people and the parts for programs."""
        super().__init__(text)
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.retry_seconds = retry_seconds
        self.unanswered = False

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed when it is repeated."""
        if self.reason in _LOST_FOR_GOOD:
            return False
        if self.code is grpc.StatusCode.ABORTED:
            return True
        if self.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return self.retry_seconds is not None
        return isinstance(self, Unavailable)


class InvalidArgument(KeepbestError, ValueError):
    """The request is wrong whatever the state: a name, a template, a strategy, an event."""


class NotFound(KeepbestError):
    """No such run, artifact, version, alias, file or metric."""


class AlreadyExists(KeepbestError):
    """It exists already: the run, with resume="never"; or the file, with another size."""


class FailedPrecondition(KeepbestError):
    """The state forbids it: see `reason`."""


class StaleAttempt(FailedPrecondition):
    """A newer attempt of the run was started; this process may change nothing any more."""


class SequenceConflict(FailedPrecondition):
    """The server's events of this run are not those that this process reported: it can report no more.

    Mostly two processes were started with one `request_id` or `launch` and share an attempt (`SEQUENCE_CONFLICT`,
    `metadata["sequence"]`).
    """


class Aborted(KeepbestError):
    """A race was lost: see `reason`."""


class StillWaiting(Aborted):
    """The other ranks are not there yet (`metadata["missing_parts"]`). The same call again waits on."""


class ResourceExhausted(KeepbestError):
    """A limit was met, the server is overloaded, or its disk is full: see `reason`."""


class Unavailable(KeepbestError):
    """The server, its database or its store is away, or did not answer in time."""


class OutOfRange(KeepbestError):
    """A read began beyond the end of the file."""


class DataLoss(KeepbestError):
    """Stored or received bytes do not match their digest."""


class Unauthenticated(KeepbestError):
    """No valid credential."""


class PermissionDenied(KeepbestError):
    """The credential does not allow this."""


class FileChanged(KeepbestError):
    """A local file was changed while it was uploaded, so what was sent may be a mix of two states."""


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
    """The exception for a failed call, with what the server said in `google.rpc.Status` details."""
    code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
    text = (error.details() if isinstance(error, grpc.Call) else None) or str(error)
    reason, metadata, retry_seconds = _details(error)
    kind = _BY_CODE.get(code, KeepbestError)
    if reason == "STALE_ATTEMPT":
        kind = StaleAttempt
    elif reason in _OTHER_EVENTS:
        kind = SequenceConflict
        text = f"{text}: {_OTHER_EVENTS[reason]}"
    elif reason in _STILL_WAITING:
        kind = StillWaiting
    elif kind is KeepbestError and _is_lost_connection(code, text):
        kind = Unavailable
    return kind(text, code=code, reason=reason, metadata=metadata, retry_seconds=retry_seconds)


def _is_lost_connection(code: grpc.StatusCode, text: str) -> bool:
    """Whether a code that is no `UNAVAILABLE` still means that the connection broke off under the call."""
    if code is grpc.StatusCode.CANCELLED:  # this client cancels nothing: the other side or a proxy did
        return True
    broken = (
        "RST_STREAM",
        "Stream removed",
        "GOAWAY",
        "Connection reset",
        "Socket closed",
        "HTTP status code 502",
    )
    return any(sign in text for sign in broken)


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
