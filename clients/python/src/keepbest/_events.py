"""Events before they are sent: building them, buffering them, and counting to the next one that may be decided."""

from __future__ import annotations

import copy
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepbest._arguments import check_metrics, check_whole, message
from keepbest._proto.keepbest.v1.resources_pb2 import EVENT_KIND_BATCH_END, EVENT_KIND_EPOCH_END, EVENT_KIND_TRAIN_END
from keepbest._sender import DURABLE_SECONDS
from keepbest._tell import counted, tell
from keepbest._values import Intake
from keepbest.types import Event, EventKind, NextDue, Strategy

# A request holds at most 10,000 events and 4 MiB; these leave room, and keep one transaction short.
_GROUP_EVENTS = 1_000
_GROUP_BYTES = 1 << 20
# Events that no decision depends on are sent once this many wait, or the oldest has waited DURABLE_SECONDS.
_RIPE_EVENTS = 256
# What is buffered while the server is away. Counted in bytes on the wire: with many small metrics an event takes up to
# 13 times that in memory. Counted in events as well, because each takes 2 KB even if it is empty. 10,000 events of 10
# metrics are 2.2 MiB.
_CAPACITY_BYTES = 4 << 20
_CAPACITY = 10_000
# Why there is no model of a moment of which nobody knew that the server would decide at it.
UNFORESEEN = "the server was away, and it was not known that it would decide here"


def make_event(
    kind: EventKind,
    epoch: int,
    metrics: Mapping[Any, Any],
    batch: int | None = None,
    step: int | None = None,
    intake: Intake | None = None,
) -> Event:
    """Build an event that happens now.

    Args:
        kind: epoch end, batch end or train end.
        epoch: 0-based.
        metrics: name to value, see `Run.report_batch`. None of them makes this raise.
        batch: 0-based within the epoch; for batch events.
        step: optimizer steps since the run began, if they are counted.
        intake: of the run, so that what the strategy needs is never left out, and each warning is given once.

    Raises:
        TypeError: epoch, batch or step is no whole number, or metrics is no mapping.
    """
    intake = intake or Intake()
    if epoch is None:  # which protobuf takes for 0
        check_whole("epoch", epoch)
    check_metrics(metrics, intake.monitor)
    event = message(Event, kind=kind, epoch=epoch, batch=batch, step=step)
    # `GetCurrentTime` takes five times as long.
    seconds, microseconds = divmod(time.time_ns() // 1_000, 1_000_000)
    event.wall_time.seconds, event.wall_time.nanos = seconds, microseconds * 1_000
    intake.fill(event, metrics)
    return event


class DueCounter:
    """Knows which event is the next at which the server may decide, so that no other waits for its answer."""

    def __init__(self, period: int | None, seen: int = 0) -> None:
        """Begin a count.

        Args:
            period: number of batches between saves; None: saves are due at the ends of epochs.
            seen: batches since a save was last due.
        """
        self._period = None if period is None else max(period, 1)
        self._remaining = None if self._period is None else max(self._period - seen, 1)
        self._last_batch: int | None = None
        self._unknown = False

    @classmethod
    def of(cls, strategy: Strategy, seen: int = 0) -> DueCounter:
        """A count for a strategy, so many batches after a save was last due."""
        by_batches = strategy.WhichOneof("save_frequency") == "every_batches"
        return cls(strategy.every_batches if by_batches else None, seen)

    @property
    def seen(self) -> int:
        """Batches since a save was last due."""
        return 0 if self._remaining is None or self._period is None else self._period - self._remaining

    def correct(self, next_due: NextDue) -> None:
        """Adopt what the server answered. If that is nothing, every event counts as due from now on."""
        when = next_due.WhichOneof("when")
        self._unknown = when is None
        if when == "batches":
            self._remaining = next_due.batches

    def step(self, event: Event) -> bool:
        """Count an event, and return whether the server may decide at it."""
        if event.kind == EVENT_KIND_TRAIN_END:
            return False
        if self._unknown:
            return True
        if self._remaining is None or self._period is None:
            return event.kind == EVENT_KIND_EPOCH_END
        if event.kind != EVENT_KIND_BATCH_END:
            return False
        # One event may stand for several batches (steps_per_execution), and numbers start again in each epoch.
        last, self._last_batch = self._last_batch, event.batch
        self._remaining -= event.batch + 1 if last is None or event.batch <= last else event.batch - last
        if self._remaining > 0:
            return False
        self._remaining = self._period
        return True


@dataclass
class Entry:
    """An event that the server has not acknowledged yet.

    Attributes:
        event: the message. It must not change: it may have been sent before, and is sent again as it was.
        due: whether the server may decide at it.
        size_bytes: its size on the wire.
        seen: batches since a save was last due, once it is counted.
        held: where the model of this moment is kept, because the server could not be asked about it. `HeldFiles` alone
            sets it.
        is_kept: whether the spool has it.
        why_not_held: if no model is kept, the reason, for a warning; empty: none was to be.
        why_undecided: why the server will never decide about it; empty as long as it may.
    """

    event: Event
    due: bool
    size_bytes: int
    seen: int = 0
    held: Path | None = None
    is_kept: bool = False
    why_not_held: str = ""
    why_undecided: str = ""


class EventBuffer:
    """Keeps events in order until the server acknowledges them. One thread may add while another sends."""

    def __init__(self, counter: DueCounter) -> None:
        """Begin empty."""
        self._lock = threading.RLock()
        self._waiting: deque[Entry] = deque()
        self._waiting_bytes = 0
        self._group: list[Entry] = []  # may have reached the server, so it is sent again unchanged
        self._most = _GROUP_EVENTS  # events in the next group
        self._confirmed = counter
        self._newest = copy.copy(counter)
        self._since = time.monotonic()
        # How many events were dropped for lack of room, but for those that the spool has; how many of the latter; and
        # how many the server refused.
        self.dropped = self.on_disk = self.refused = 0

    def __len__(self) -> int:
        """How many events the server has not acknowledged."""
        return len(self._waiting) + len(self._group)

    def entries(self) -> list[Entry]:
        """What the server has not acknowledged, oldest first."""
        return [*self._group, *self._waiting]

    @property
    def seen(self) -> int:
        """Batches since a save was last due, all events counted."""
        return self._newest.seen

    def losses(self) -> list[str]:
        """What the server has not got of them, as sentences for the end of the training."""
        losses = []
        if self.dropped:
            losses.append(f"{counted(self.dropped, 'event')}: dropped, because too many waited for the server")
        if self.refused:
            losses.append(f"{counted(self.refused, 'event')}: refused by the server")
        return losses

    def add(self, event: Event) -> Entry:
        """Buffer an event. If there is no room, the oldest that were never sent are dropped, with one warning."""
        with self._lock:
            if not self._waiting and not self._group:
                self._since = time.monotonic()
            due = self._newest.step(event)
            entry = Entry(event, due, event.ByteSize(), self._newest.seen)
            while self._waiting and not self._has_room_for(entry):
                self._drop(self._waiting.popleft())
            self._waiting.append(entry)
            self._waiting_bytes += entry.size_bytes
            return entry

    def waits(self) -> float | None:
        """In how many seconds what no decision depends on is to be sent; None: there is no such event.

        Zero if much waits or an epoch has ended.
        """
        with self._lock:
            if not self._group and not (self._waiting and not self._waiting[0].due):
                return None
            if self._group and self._group[-1].due:
                return None
            newest = self._waiting[-1] if self._waiting else self._group[-1]
            ended = newest.event.kind == EVENT_KIND_EPOCH_END
            if ended or self._waiting_bytes >= _GROUP_BYTES or len(self) >= _RIPE_EVENTS:
                return 0.0
            return max(0.0, self._since + DURABLE_SECONDS - time.monotonic())

    def group(self, undue: bool = False) -> list[Entry]:
        """The events to send in the next request: all up to the first at which the server may decide, within limits.

        Args:
            undue: only those before it.
        """
        with self._lock:
            if self._group:
                return [] if undue and self._group[-1].due else self._group
            counter, size_bytes = copy.copy(self._confirmed), 0
            while self._waiting and len(self._group) < self._most:
                size_bytes += self._waiting[0].size_bytes
                if self._group and size_bytes > _GROUP_BYTES:
                    break
                due = counter.step(self._waiting[0].event)
                if undue and (due or self._waiting[0].due):
                    break
                entry = self._waiting.popleft()
                self._waiting_bytes -= entry.size_bytes
                self._group.append(entry)
                if due:
                    break
            return self._group

    def confirm(self, taken: int, next_due: NextDue) -> None:
        """Forget the first so many of the group, which the server has taken. The rest of it is the next group."""
        with self._lock:
            for entry in self._group[:taken]:
                self._confirmed.step(entry.event)
            self._group = self._group[taken:]
            self._most = min(2 * self._most, _GROUP_EVENTS)
            self._since = time.monotonic()
            self._confirmed.correct(next_due)
            if not len(self):
                self._newest = copy.copy(self._confirmed)

    def refuse(self) -> list[Entry]:
        """Take note that the server will never accept the group.

        Of several events one is at fault, so the next groups are half as large until it stands alone. No other is lost
        with it.

        Returns:
            The one event that was given up; nothing as long as several are left to be tried.
        """
        with self._lock:
            group, self._group = self._group, []
            if len(group) > 1:
                self._most = len(group) // 2
                self._waiting.extendleft(reversed(group))
                self._waiting_bytes += sum(entry.size_bytes for entry in group)
                return []
            self.refused += len(group)
            for entry in group:
                entry.why_undecided = "the server refused what was reported of it"
            return group

    def correct(self, next_due: NextDue) -> None:
        """Adopt what the server says, when the run starts, about the next decision: also for what waits already."""
        with self._lock:
            self._confirmed.correct(next_due)
            self._newest = copy.copy(self._confirmed)
            for entry in self.entries():
                self._newest.step(entry.event)

    def _has_room_for(self, entry: Entry) -> bool:
        return len(self._waiting) < _CAPACITY and self._waiting_bytes + entry.size_bytes <= _CAPACITY_BYTES

    def _drop(self, entry: Entry) -> None:
        self._waiting_bytes -= entry.size_bytes
        if entry.is_kept:  # with its model
            self.on_disk += 1
            return
        if not self.dropped:
            tell(
                f"Keepbest: {len(self) + 1} events wait for the server, and there is room for no more: the oldest are "
                "dropped from now on",
            )
        self.dropped += 1
        entry.why_undecided = "its event was dropped, because too many waited for the server"


def moment_text(event: Event) -> str:
    """The moment of an event, as people count."""
    batch = f", batch {event.batch + 1}" if event.HasField("batch") else ""
    return f"epoch {event.epoch + 1}{batch}"
