"""Repeat what may be repeated: exponential backoff with full jitter inside a budget of time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

import grpc

from keepbest.errors import UPLOAD_SUPERSEDED, KeepbestError, StillWaiting, from_rpc_error

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 10.0
# A single call waits this long for its answer before it is repeated.
CALL_SECONDS = 30.0
# Even the last try of a spent budget gets this long, so that a busy server is not taken for a dead one.
_SHORTEST_CALL_SECONDS = 5.0
# How often an upload goes on after a stream took its file over, when that may be its own stream of before. Two
# processes that upload the same file by mistake would otherwise take it from each other for ever.
_MAX_TAKEOVERS = 3
# How long the server is asked to wait for other ranks within one call, well before that call's deadline.
WAIT_SECONDS = 20

T = TypeVar("T")


class Backoff:
    """The pauses between the tries of one operation.

    The budget is the time without progress, in seconds, after which the last error is raised. `progress` refills it.
    """

    def __init__(self, budget_seconds: float) -> None:
        """Start the clock."""
        self._budget_seconds = budget_seconds
        # Whether a call ended without the server's word: it may live on there for a while.
        self._broke_off = False
        self._takeovers = 0
        self.progress()

    def progress(self) -> None:
        """Say that something was achieved: the budget and the pauses begin anew."""
        self._end = time.monotonic() + self._budget_seconds
        self._ceiling = _FIRST_PAUSE_SECONDS

    def call_seconds(self) -> float:
        """The deadline for the next try."""
        return min(CALL_SECONDS, max(_SHORTEST_CALL_SECONDS, self._end - time.monotonic()))

    def pause(self, error: KeepbestError) -> None:
        """Wait before the next try, or raise `error` if there shall be none."""
        pause = random.uniform(0, self._ceiling)
        if error.retry_seconds is not None:
            pause += error.retry_seconds
        if not self._may_go_on(error) or time.monotonic() + pause >= self._end:
            raise error
        self._ceiling = min(2 * self._ceiling, _LONGEST_PAUSE_SECONDS)
        time.sleep(pause)

    def _may_go_on(self, error: KeepbestError) -> bool:
        if error.reason == UPLOAD_SUPERSEDED and self._broke_off and self._takeovers < _MAX_TAKEOVERS:
            self._takeovers += 1
            return True
        self._broke_off = self._broke_off or error.retryable
        return error.retryable


def call(method: Callable[..., T], request: object, budget_seconds: float) -> T:
    """Call a unary method until it answers, fails for good, or the budget is spent.

    Raises:
        KeepbestError: the last error.
    """
    backoff = Backoff(budget_seconds)
    while True:
        try:
            return call_once(method, request, backoff.call_seconds())
        except KeepbestError as error:
            backoff.pause(error)


def call_waiting(method: Callable[..., T], request: object, budget_seconds: float, wait_seconds: float | None) -> T:
    """Call a unary method that waits for other ranks, again and again for `wait_seconds`.

    None waits until the server ends it.

    Raises:
        StillWaiting: they did not come in that time.
        KeepbestError: the last error, as for `call`; the budget begins anew whenever the server answers.
    """
    backoff = Backoff(budget_seconds)
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
    """Call a unary or client-streaming method once, with its error as a `KeepbestError`."""
    try:
        return method(request, timeout=deadline_seconds)
    except grpc.RpcError as error:
        raise from_rpc_error(error) from None
