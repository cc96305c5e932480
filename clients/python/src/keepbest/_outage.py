"""While the server is away: find out that it is back, and hold the training up for a small share of its time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import grpc

from keepbest._retry import CALL_SECONDS
from keepbest.errors import KeepbestError, ResourceExhausted, Unavailable, from_rpc_error

# What a training survives with on_unavailable="warn": the server is away, overloaded or full.
TOLERATED = (Unavailable, ResourceExhausted)

# Probes begin at least so long after each other.
_PROBE_SECONDS = 5.0
# Of a training's time, behind the first wait of an outage.
_WAITING_SHARE = 0.05


class Outage:
    """What is known of the server: it is there until a step fails, and away until a probe and then a step succeed.

    A probe runs beside the training. One that a hanging server leaves without an answer costs nothing; and when probes
    are answered but steps fail, the next step is put off until what the last one cost is a small share.
    """

    def __init__(self, ask: Callable[[float], Any], clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with a server that is there.

        Args:
            ask: begins a call that helps only when the server takes events; it gets a deadline in seconds, and returns
                gRPC's future.
            clock: seconds that only grow.
        """
        self._ask = ask
        self._clock = clock
        self._probe: Any = None
        self._next_probe = self._next_step = 0.0
        self._waited_until = self._clock()
        # Why the server counts as away.
        self.error: KeepbestError | None = None

    def fails(self, error: KeepbestError, spent_seconds: float = 0.0) -> None:
        """Say that a step has failed, and how long it took."""
        now = self._clock()
        if self.error is not None:
            self._next_step = now + spent_seconds / _WAITING_SHARE
        self._next_probe = now + _PROBE_SECONDS
        self._waited_until = now
        self.error = error

    def ends(self) -> None:
        """Say that a step has succeeded, or that the next one shall be tried whatever is known."""
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None
        self._next_step = 0.0
        self.error = None

    def may_step(self) -> bool:
        """Whether to try the next step."""
        if self.error is None:
            return True
        now = self._clock()
        if now < self._next_step:
            return False
        if self._probe is None:
            if now < self._next_probe:
                return False
            self._probe = self._ask(CALL_SECONDS)
            # Where events are rare, this is long enough for the answer, and the event's decision comes in time.
            with contextlib.suppress(grpc.FutureTimeoutError):
                self._probe.exception(timeout=_WAITING_SHARE * (now - self._waited_until))
            self._waited_until = self._clock()
        return self._probe.done() and self._was_answered()

    def _was_answered(self) -> bool:
        probe, self._probe = self._probe, None
        self._next_probe = self._clock() + _PROBE_SECONDS
        error = probe.exception()
        return not (isinstance(error, grpc.RpcError) and isinstance(from_rpc_error(error), TOLERATED))
