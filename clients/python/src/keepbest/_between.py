"""Epochs between those at which a save may be due: kept until the next one that is, then sent by their own writer."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable

from keepbest._retry import Patience
from keepbest._tell import counted
from keepbest.errors import KeepbestError, SequenceConflict, StaleAttempt
from keepbest.run import Run
from keepbest.types import Event

# No decision is made about the events of this writer.
WRITER = "between-saves"
# How many of them wait, and how many a request holds; of more the oldest are dropped, while the server is away.
_EVENTS = 1_000
# How large a request of them is; the server takes 4 MiB.
_BYTES = 1 << 20

Lose = Callable[[Event, KeepbestError], None]


class Between:
    """The epochs that wait.

    Attributes:
        dropped: how many gave way to newer ones, and are lost.
        on_disk: how many gave way that the spool has, and nothing else.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self._waiting: deque[Event] = deque()
        self.dropped = self.on_disk = 0
        # How many of the oldest that wait are in the spool.
        self._kept = 0

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def add(self, event: Event) -> None:
        """Keep an epoch."""
        if len(self._waiting) == _EVENTS:
            self._waiting.popleft()
            if self._kept:
                self._kept -= 1
                self.on_disk += 1
            else:
                self.dropped += 1
        self._waiting.append(event)

    def are_kept(self) -> None:
        """Take note that the spool has all that wait."""
        self._kept = len(self._waiting)

    def events(self) -> list[Event]:
        """Those that wait, oldest first."""
        return list(self._waiting)

    def losses(self) -> list[str]:
        """What is lost of them, as sentences."""
        if not self.dropped:
            return []
        return [f"{counted(self.dropped, 'epoch')} between saves: dropped, because too many waited"]

    def send(self, run: Run, patience: Callable[[], Patience], lose: Lose) -> None:
        """Report all of them; see `record`."""
        before = len(self._waiting)
        try:
            record(run, self._waiting, patience, lose)
        finally:
            self._kept = max(self._kept - (before - len(self._waiting)), 0)


def record(run: Run, waiting: deque[Event], patience: Callable[[], Patience], lose: Lose) -> None:
    """Report such epochs, oldest first.

    Args:
        run: that they are of.
        waiting: is emptied.
        patience: for each call.
        lose: is told of each one that the server refuses, which holds up no other.

    Raises:
        KeepbestError: the server is away, or another process took over. What was not sent waits on.
    """
    most = _EVENTS
    while waiting:
        group = [waiting[0]]
        size_bytes = group[0].ByteSize()
        for event in itertools.islice(waiting, 1, most):
            size_bytes += event.ByteSize()
            if size_bytes > _BYTES:
                break
            group.append(event)
        try:
            run.record(group, WRITER, timeout=patience())
        except KeepbestError as error:
            if error.retryable or isinstance(error, (SequenceConflict, StaleAttempt)):
                raise
            if len(group) > 1:
                most = len(group) // 2
                continue
            lose(group[0], error)
        for _ in group:
            waiting.popleft()
