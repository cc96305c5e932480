"""Repeat what may be repeated: exponential backoff with jitter, inside a budget of time."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

from keepbest.errors import UPLOAD_SUPERSEDED, KeepbestError, StillWaiting, Unavailable, from_rpc_error

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 10.0
# How long a try waits for its answer: at first, and at most after tries that got none. The server ends a transaction
# after 15 s, so a slow one answers in time, and one that hangs is left for another replica soon.
_FIRST_CALL_SECONDS = 10.0
CALL_SECONDS = 30.0
# Even the last try of a spent budget gets this long, so that a busy server is not taken for a dead one.
_SHORTEST_CALL_SECONDS = 5.0
# How long a stream lives on which nothing moves: longer than the minute after which the server gives up on its store.
# A message of 1 MiB passes in that time at 14 KiB/s.
_STREAM_IDLE_SECONDS = 75.0
# A stream that runs longer is cut and continued where it was, so that no connection is used for ever.
_STREAM_SECONDS = 600.0
# How often an upload goes on after a stream took its file over, when that may be its own stream of before. Two
# processes that upload the same file by mistake would otherwise take it from each other for ever.
_MAX_TAKEOVERS = 3
# How long the server is asked to wait for other ranks within one call, well before that call's deadline.
WAIT_SECONDS = 20

T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """How long an operation is tried.

    Attributes:
        budget_seconds: the last error is raised after this time without progress.
        silence_seconds: so long at most is waited for answers that do not come. A server that refuses costs nothing
            while it is tried again; one that accepts and hangs costs each try's whole deadline.
    """

    budget_seconds: float
    silence_seconds: float = float("inf")


# What callers pass: seconds without progress, or None for the client's.
Timeout = float | Patience | None


class Backoff:
    """The deadlines of the tries of one operation, and the pauses between them."""

    def __init__(self, patience: Patience) -> None:
        """Start the clock."""
        self._patience = patience
        self._silence_seconds = patience.silence_seconds
        # Whether a call ended without the server's word: it may live on there for a while.
        self._broke_off = False
        self._takeovers = 0
        self._call_seconds = 0.0
        self.progress()

    def progress(self) -> None:
        """Say that something was achieved: the budget, the pauses and the deadlines begin anew."""
        self._end = time.monotonic() + self._patience.budget_seconds
        self._pause_ceiling = _FIRST_PAUSE_SECONDS
        self._call_ceiling = _FIRST_CALL_SECONDS

    def call_seconds(self) -> float:
        """The deadline for the next try."""
        left = max(_SHORTEST_CALL_SECONDS, self._end - time.monotonic())
        self._call_seconds = min(self._call_ceiling, left, self._silence_seconds)
        return self._call_seconds

    def pause(self, error: KeepbestError) -> None:
        """Wait before the next try, or raise `error` if there shall be none."""
        pause = pause_seconds(error.retry_seconds, self._pause_ceiling)
        if not self._may_go_on(error) or time.monotonic() + pause >= self._end:
            raise error
        self._pause_ceiling = min(2 * self._pause_ceiling, _LONGEST_PAUSE_SECONDS)
        time.sleep(pause)

    def _may_go_on(self, error: KeepbestError) -> bool:
        if error.unanswered:
            self._call_ceiling = min(2 * self._call_ceiling, CALL_SECONDS)
            self._silence_seconds -= self._call_seconds
            if self._silence_seconds <= 0:
                return False
        if error.reason == UPLOAD_SUPERSEDED and self._broke_off and self._takeovers < _MAX_TAKEOVERS:
            self._takeovers += 1
            return True
        self._broke_off = self._broke_off or error.retryable
        return error.retryable


def pause_seconds(told_seconds: float | None, ceiling_seconds: float) -> float:
    """A random pause below a ceiling; or above what the server told, up to twice that.

    A server tells all whom it turns away the same, and they must not come back together.
    """
    if told_seconds is None:
        return random.uniform(0, ceiling_seconds)
    return told_seconds + random.uniform(0, max(ceiling_seconds, told_seconds))


def call(method: Callable[..., T], request: object, patience: Patience) -> T:
    """Call a unary method until it answers, fails for good, or patience is at its end.

    Raises:
        KeepbestError: the last error.
    """
    backoff = Backoff(patience)
    while True:
        try:
            return call_once(method, request, backoff.call_seconds())
        except KeepbestError as error:
            backoff.pause(error)


def call_waiting(method: Callable[..., T], request: object, patience: Patience, wait_seconds: float | None) -> T:
    """Call a unary method that waits for other ranks, again and again for `wait_seconds`.

    None waits until the server ends it.

    Raises:
        StillWaiting: they did not come in that time.
        KeepbestError: the last error, as for `call`; the budget begins anew whenever the server answers.
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
    """Call a unary method once, with its error as a `KeepbestError`."""
    begin = time.monotonic()
    try:
        return method(request, timeout=deadline_seconds)
    except grpc.RpcError as error:
        failed = from_rpc_error(error)
        # By the clock: at a deadline the server may answer CANCELLED before the client does DEADLINE_EXCEEDED.
        failed.unanswered = failed.retryable and time.monotonic() - begin >= deadline_seconds
        raise failed from None


class Stream:
    """A stream to or from the server, which is cancelled when nothing moves on it. Use it in a `with` statement."""

    def __init__(self, start: Callable[[float], Any], moved: Callable[[], int], patience: Patience) -> None:
        """Begin the call.

        Args:
            start: begins it with a deadline in seconds, and returns it.
            moved: a number that changes whenever something has moved.
            patience: of the operation. Where silence is cheap it is three times as long on a stream, because a store
                may need its time for a chunk.
        """
        self.call = start(_STREAM_SECONDS)
        self._moved = moved
        self._idle_seconds = min(_STREAM_IDLE_SECONDS, 3 * patience.silence_seconds)
        self._ended = threading.Event()
        self._was_idle = False
        self._watch = threading.Thread(target=self._cancel_when_idle, name="keepbest-stream", daemon=True)

    def __enter__(self) -> Stream:
        """Watch it."""
        self._watch.start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """End it, whether it was read to its end or not. An error of gRPC goes on as a `KeepbestError`."""
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
