"""Repeat calls that may succeed when repeated: exponential backoff with jitter, within a budget of time."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc

from keepbest._contact import Contact
from keepbest.errors import UPLOAD_SUPERSEDED, KeepbestError, StillWaiting, Unavailable, from_rpc_error

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 10.0
# How long a try waits for its answer: the first one, and at most, after others got none. A server that is slow still
# ends its transactions within 15 s, so the second try is answered; one that hangs is soon left for another replica.
_FIRST_CALL_SECONDS = 10.0
CALL_SECONDS = 30.0
# A try gets at least this long, even if the budget is spent: a busy server must not be mistaken for a dead one.
_SHORTEST_CALL_SECONDS = 5.0
# A stream on which nothing moves for this long is cut. The server itself waits a minute for its store; and at 14 KiB/s
# a message of 1 MiB takes this long.
_STREAM_IDLE_SECONDS = 75.0
# A stream is cut after this time and continued on a new one, so that no connection is kept for ever.
_STREAM_SECONDS = 600.0
# How often an upload takes its file back from another stream, which may be an earlier one of its own that was cancelled
# and that the server reads late. Without a limit, two processes that upload the same file by mistake would take it from
# each other for ever.
_MAX_TAKEOVERS = 3
# How long the server is asked to wait for other ranks in one call: well below the call's deadline.
WAIT_SECONDS = 20

T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """How long an operation is repeated.

    Attributes:
        budget_seconds: after this time without progress, the last error is raised.
        silence_seconds: how much of that may be spent waiting for answers that do not come. A server that refuses calls
            fails each try at once; one that accepts them and hangs takes the whole deadline of each.
    """

    budget_seconds: float
    silence_seconds: float = float("inf")
    # By the monotonic clock, when even a try that is under way ends: of several calls that have one time together.
    until: float = float("inf")
    # Of the connection that is used, filled in by it: what it knows of the server, and how to sleep while it is away.
    contact: Contact | None = field(default=None, compare=False)
    rest: Callable[[float], None] | None = field(default=None, compare=False)
    # The budget as long as no server ever answered at the address, if that is less.
    unreached_seconds: float = field(default=float("inf"), compare=False)
    # What comes after the budget, for the line that says how long it is.
    then: str = field(default="", compare=False)


# What callers pass as `timeout`: seconds without progress, or None for the client's setting.
Timeout = float | Patience | None


class Backoff:
    """The deadlines of the tries of one operation, and the pauses between them."""

    def __init__(self, patience: Patience) -> None:
        """Start the clock."""
        self._patience = patience
        self._silence_seconds = patience.silence_seconds
        self._takeovers = 0
        self._call_seconds = 0.0
        self.progress()

    def progress(self) -> None:
        """Take note of progress: budget, pauses and deadlines start over."""
        self._end = min(time.monotonic() + self._patience.budget_seconds, self._patience.until)
        self._pause_ceiling = _FIRST_PAUSE_SECONDS
        self._call_ceiling = _FIRST_CALL_SECONDS

    def answered(self) -> None:
        """Take note that a try succeeded."""
        if self._patience.contact is not None:
            self._patience.contact.answered()

    def call_seconds(self) -> float:
        """The deadline for the next try."""
        now = time.monotonic()
        left = max(_SHORTEST_CALL_SECONDS, self._end - now)
        at_most = max(self._patience.until - now, 0.0)
        self._call_seconds = min(self._call_ceiling, left, self._silence_seconds, at_most)
        return self._call_seconds

    def pause(self, error: KeepbestError) -> None:
        """Sleep before the next try, or raise `error` if there is to be none.

        If no server ever answered at the address, the error says what is there instead.
        """
        contact, for_good = self._patience.contact, False
        if contact is not None:
            error, for_good = contact.explain(error)
        pause = pause_seconds(error.retry_seconds, self._pause_ceiling)
        if for_good or not self._may_go_on(error) or time.monotonic() + pause >= self._end:
            raise error
        if contact is not None:
            contact.tell(error, self._end - time.monotonic(), self._patience.then)
        self._pause_ceiling = min(2 * self._pause_ceiling, _LONGEST_PAUSE_SECONDS)
        (time.sleep if self._patience.rest is None or error.reason else self._patience.rest)(pause)

    def _may_go_on(self, error: KeepbestError) -> bool:
        if error.unanswered:
            self._call_ceiling = min(2 * self._call_ceiling, CALL_SECONDS)
            self._silence_seconds -= self._call_seconds
            if self._silence_seconds <= 0:
                return False
        if error.reason == UPLOAD_SUPERSEDED:
            self._takeovers += 1
            return self._takeovers <= _MAX_TAKEOVERS
        return error.retryable


def pause_seconds(told_seconds: float | None, ceiling_seconds: float) -> float:
    """A random pause in seconds, below the ceiling; or if the server named one, between that and twice that.

    An overloaded server names the same pause to all whom it turns away, and they should not come back all at once.
    """
    if told_seconds is None:
        return random.uniform(0, ceiling_seconds)
    return told_seconds + random.uniform(0, max(ceiling_seconds, told_seconds))


def call(method: Callable[..., T], request: object, patience: Patience) -> T:
    """Call a unary method until it answers, fails for good, or patience runs out.

    Raises:
        KeepbestError: the last error.
    """
    backoff = Backoff(patience)
    while True:
        try:
            answer = call_once(method, request, backoff.call_seconds())
        except KeepbestError as error:
            backoff.pause(error)
        else:
            backoff.answered()
            return answer


def call_waiting(method: Callable[..., T], request: object, patience: Patience, wait_seconds: float | None) -> T:
    """Call a unary method that waits for other ranks, again and again.

    Args:
        method: raises `StillWaiting` when a call's wait is over.
        request: names how long each call waits.
        patience: as for `call`; whenever the server answers, the budget starts over.
        wait_seconds: how long to wait in all; None: until the server ends it.

    Raises:
        StillWaiting: the other ranks did not come in time.
        KeepbestError: the last error.
    """
    backoff = Backoff(patience)
    begin = time.monotonic()
    while True:
        try:
            return call_once(method, request, CALL_SECONDS)
        except StillWaiting:
            if wait_seconds is not None and time.monotonic() - begin >= wait_seconds:
                raise
            backoff.progress()
        except KeepbestError as error:
            backoff.pause(error)


def call_once(method: Callable[..., T], request: object, deadline_seconds: float) -> T:
    """Call a unary method once, and raise its error as a `KeepbestError`."""
    begin = time.monotonic()
    try:
        return method(request, timeout=deadline_seconds)
    except grpc.RpcError as error:
        failed = from_rpc_error(error)
        # By the clock, because at its deadline a call may end with the server's CANCELLED or our DEADLINE_EXCEEDED.
        failed.unanswered = failed.retryable and time.monotonic() - begin >= deadline_seconds
        raise failed from None


class Repeated:
    """A unary method that takes note of tries which may have done their work although no answer came."""

    def __init__(self, method: Callable[..., Any], before_next: Callable[[Any], object] = lambda request: None) -> None:
        """Take note of none so far.

        Args:
            method: of a stub.
            before_next: is given the request after such a try.
        """
        self.lost = False
        self._method = method
        self._before_next = before_next

    def __call__(self, request: Any, timeout: float) -> Any:
        """One try."""
        try:
            return self._method(request, timeout=timeout)
        except grpc.RpcError as error:
            if from_rpc_error(error).retryable:
                self.lost = True
                self._before_next(request)
            raise


class Stream:
    """A stream to or from the server that is cancelled when nothing moves on it; a context manager."""

    def __init__(self, start: Callable[[float], Any], moved: Callable[[], int], patience: Patience) -> None:
        """Begin the call.

        Args:
            start: begins the call with a deadline in seconds, and returns it.
            moved: a number that changes whenever bytes have moved.
            patience: of the operation. Its silence counts threefold here, because the server may need time to store a
                chunk.
        """
        self.call = start(_STREAM_SECONDS)
        self._moved = moved
        self._idle_seconds = min(_STREAM_IDLE_SECONDS, 3 * patience.silence_seconds)
        self._ended = threading.Event()
        self._was_idle = False
        self._watch = threading.Thread(target=self._cancel_when_idle, name="keepbest-stream", daemon=True)

    def __enter__(self) -> Stream:
        """Begin to watch the stream."""
        self._watch.start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Cancel the call if it has not ended. An error of gRPC is raised as a `KeepbestError`."""
        self._ended.set()
        self.call.cancel()
        if self._was_idle and isinstance(error, (grpc.RpcError, grpc.FutureCancelledError)):
            text = f"nothing moved on a stream for {self._idle_seconds:g} s"
            idle = Unavailable(text, code=grpc.StatusCode.DEADLINE_EXCEEDED)
            idle.unanswered = True
            raise idle from None
        if isinstance(error, grpc.RpcError):
            raise from_rpc_error(error) from None

    def _cancel_when_idle(self) -> None:
        moved, since = self._moved(), time.monotonic()
        while not self._ended.wait(self._idle_seconds / 4):
            if moved != self._moved():
                moved, since = self._moved(), time.monotonic()
            elif time.monotonic() - since >= self._idle_seconds:
                self._was_idle = True
                self.call.cancel()
                return
