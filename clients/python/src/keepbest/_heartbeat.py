"""A run's signs of life, while its training computes for long and reports nothing."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

from keepbest._channel import Connection
from keepbest._proto.keepbest.v1.runs_pb2 import HeartbeatRequest, HeartbeatResponse
from keepbest._retry import call_once
from keepbest.errors import KeepbestError

# How long to wait with the first one; each answer says how long to wait with the next.
_FIRST_SECONDS = 30.0
# No more often than this, whatever a server answers.
_SHORTEST_SECONDS = 1.0
_CALL_SECONDS = 10.0


class Heartbeat:
    """A thread that says now and then that a process lives. It ends with its owner, the program or the attempt.

    It is a daemon, since it has nothing that could be lost. A forked child has none: the training is its parent's.
    """

    def __init__(self, owner: object, connection: Connection, run: str, attempt: int) -> None:
        """Begin.

        Args:
            owner: who uses the run; the thread does not keep it alive.
            connection: to the server.
            run: the resource name.
            attempt: the number of this start.
        """
        self._over = threading.Event()
        self._end = weakref.finalize(owner, self._over.set)
        self._end.atexit = False
        arguments = (self._over, connection, HeartbeatRequest(run=run, attempt=attempt))
        threading.Thread(target=_beat, args=arguments, name="keepbest-heartbeat", daemon=True).start()

    def end(self) -> None:
        """Say nothing any more."""
        self._end()


def _beat(over: threading.Event, connection: Connection, request: HeartbeatRequest) -> None:
    seconds = _FIRST_SECONDS
    while not over.wait(seconds):
        if not threading.main_thread().is_alive():
            return
        method: Callable[..., HeartbeatResponse] = connection.stubs().runs.Heartbeat
        try:
            answer = call_once(method, request, _CALL_SECONDS)
        except KeepbestError as error:
            if not error.retryable:
                return  # another process took over, the run is ended or deleted: the next report tells
        else:
            seconds = max(_SHORTEST_SECONDS, answer.interval.seconds + answer.interval.nanos / 1e9)
