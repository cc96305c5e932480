"""While the server is away: notice that it is back, and let the training wait for a small share of its time only."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import grpc

from keepbest._retry import CALL_SECONDS
from keepbest.errors import KeepbestError, from_rpc_error

# From the end of one probe, or from a failure, to the next probe.
_PROBE_SECONDS = 5.0
# How much of a training's time may be spent waiting for the server, after the first wait of an outage.
_WAITING_SHARE = 0.05


class Outage:
    """Decides whether it is worth trying the server now.

    The server counts as away from a step that fails to one that succeeds. In between, a step is only tried once a probe
    was answered. Probes run beside the training, so one that a hanging server never answers costs nothing. If probes
    are answered but steps still fail, steps are tried so rarely that they cost a small share of the time.
    """

    def __init__(self, ask: Callable[[float], Any], clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with a server that counts as there.

        Args:
            ask: begins a probe with a deadline in seconds, and returns gRPC's future. The server should answer it only
                if it would accept events too.
            clock: a monotonic clock, in seconds.
        """
        self._ask = ask
        self._clock = clock
        self._probe: Any = None
        self._next_probe = self._next_step = 0.0
        self._waited_until = self._clock()
        # Why the server counts as away.
        self.error: KeepbestError | None = None

    def fails(self, error: KeepbestError, spent_seconds: float = 0.0) -> None:
        """Take note of a step that failed, and how long it took."""
        now = self._clock()
        if self.error is not None:
            self._next_step = now + spent_seconds / _WAITING_SHARE
        self._next_probe = now + _PROBE_SECONDS
        self._waited_until = now
        self.error = error

    def ends(self) -> None:
        """Take note of a step that succeeded; or have the next one tried in any case."""
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None
        self._next_step = 0.0
        self.error = None

    def may_step(self) -> bool:
        """Whether to try the next step now."""
        if self.error is None:
            return True
        now = self._clock()
        if now < self._next_step:
            return False
        if self._probe is None:
            if now < self._next_probe:
                return False
            self._probe = self._ask(CALL_SECONDS)
            # Where events are rare this is long enough for an answer, so that this event is decided in time.
            with contextlib.suppress(grpc.FutureTimeoutError):
                self._probe.exception(timeout=_WAITING_SHARE * (now - self._waited_until))
            self._waited_until = self._clock()
        return self._probe.done() and self._was_answered()

    def _was_answered(self) -> bool:
        probe, self._probe = self._probe, None
        self._next_probe = self._clock() + _PROBE_SECONDS
        error = probe.exception()
        return not (isinstance(error, grpc.RpcError) and from_rpc_error(error).retryable)
