"""Sends a run's events: those that may be decided at once, the others beside the training."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable
from typing import Any

from keepbest._channel import Connection
from keepbest._events import Entry, EventBuffer, moment_text
from keepbest._proto.keepbest.v1.runs_pb2 import ReportEventsRequest, ReportEventsResponse
from keepbest._retry import Patience, Timeout, call
from keepbest._sender import Sender
from keepbest._tell import tell
from keepbest.errors import KeepbestError, SequenceConflict, StaleAttempt
from keepbest.types import Decision, Event

# How long a try in the background may take: a report that is due waits for it.
_BACKGROUND_SECONDS = 5.0

# How much of many events is gathered before it is sent: half of what the buffer holds.
_GATHERED_EVENTS = 5_000
_GATHERED_BYTES = 2 << 20

LateDecision = Callable[[Entry, Decision], None]


class Reports:
    """The events of one writer in one attempt, on their way to the server.

    Attributes:
        events: those that the server has not acknowledged.
        refused: why the server will take no event any more: another process reports in this attempt or in a newer one,
            so its decisions are about another model.
    """

    def __init__(
        self,
        connection: Connection,
        run: str,
        attempt: int,
        writer: str,
        next_sequence: int | None,
        events: EventBuffer,
    ) -> None:
        """Begin with the events that wait already.

        Args:
            next_sequence: of the next event; None: the server is asked before the first one.
        """
        self._connection = connection
        self._run, self._attempt, self._writer = run, attempt, writer
        self._next_sequence = next_sequence
        self.events = events
        self.refused: KeepbestError | None = None
        # Held while events are sent, so that only one thread does it. Buffering an event does not wait for it.
        self._sending = threading.RLock()
        self._sender = Sender(self._waits, self._send_undue)
        # The next sequence of each other writer.
        self._next_of: dict[str, int] = {}
        # Decisions that the answer to events in the background brought.
        self._late: list[tuple[Entry, Decision]] = []

    def add(self, event: Event) -> Entry:
        """Buffer an event.

        Raises:
            KeepbestError: `refused`.
        """
        if self.refused is not None:
            raise self.refused
        return self.events.add(event)

    def add_all(self, events: Iterable[Event], decisions: list[Decision], on_other: Callable[[Decision], None]) -> None:
        """Buffer events, and send them before the buffer is full, and if one of them is due; see `Run.report_many`.

        If the server is away, all of them are buffered before that is raised.

        Args:
            events: in their order.
            decisions: gets each decision about them as soon as it is known.
            on_other: is given each decision about an event that waited before.
        """
        mine: dict[int, Entry] = {}
        size_bytes = sum(entry.size_bytes for entry in self.events.entries())
        due, away = False, None

        def late(entry: Entry, decision: Decision) -> None:
            if id(entry) in mine:
                decisions.append(decision)
            else:
                on_other(decision)

        for event in events:
            if away is None and (len(self.events) >= _GATHERED_EVENTS or size_bytes >= _GATHERED_BYTES):
                try:
                    self.flush(late, None, more=True)
                    due, size_bytes = False, 0
                except KeepbestError as error:
                    if not error.retryable:
                        raise
                    away = error
            entry = self.add(event)
            mine[id(entry)] = entry
            due, size_bytes = due or entry.due, size_bytes + entry.size_bytes
        if not due:
            self.send_soon()
        elif away is not None:
            raise away
        elif (newest := self.flush(late, None)) is not None:
            decisions.append(newest)

    def send_soon(self) -> None:
        """Have what no decision depends on sent in the background. It returns at once."""
        self._sender.wake()

    def stop_sending(self) -> None:
        """Send nothing any more in the background."""
        self._sender.end()

    def flush(self, on_late: LateDecision, timeout: Timeout, more: bool = False) -> Decision | None:
        """Send all events that wait; see `Run.flush`.

        Args:
            on_late: see there.
            timeout: see there.
            more: whether newer events are to follow, so that none of these is the newest.
        """
        with self._sending:
            if self.refused is None:
                while self._late:
                    on_late(*self._late.pop(0))
            return self._flush(on_late, timeout, more=more)

    def record(self, events: list[Event], writer: str, timeout: Timeout) -> None:
        """Store events of another writer; see `Run.record`."""
        if writer not in self._next_of:
            self._next_of[writer] = self._report([], 0, timeout, writer).next_sequence
        self._next_of[writer] = self._report(events, self._next_of[writer], timeout, writer).next_sequence

    def ask(self, deadline_seconds: float) -> Any:
        """Begin an empty report, and return gRPC's future. The server answers it if it would accept events too."""
        request = ReportEventsRequest(run=self._run, attempt=self._attempt, writer=self._writer)
        return self._connection.stubs().runs.ReportEvents.future(request, timeout=deadline_seconds)

    def _flush(
        self, on_late: LateDecision, timeout: Timeout, undue: bool = False, more: bool = False
    ) -> Decision | None:
        if self.refused is not None:
            raise self.refused
        newest = None
        while group := self.events.group(undue):
            if self._next_sequence is None:
                self._next_sequence = self._report([], 0, timeout).next_sequence
            first = self._next_sequence
            response = self._send(group, first, timeout, undue or more)
            if response is None:
                continue
            # With many decisions the server may take only the first events.
            taken = min(response.next_sequence - first, len(group))
            if taken <= 0:
                raise KeepbestError(f"the server took no event of {self._run} from sequence {first} on")
            decided = {decision.sequence - first for decision in response.decisions}
            for at, entry in enumerate(group[:taken]):
                if at not in decided:
                    entry.why_undecided = "the server decided at other moments"
            self.events.confirm(taken, response.next_due)
            self._next_sequence = first + taken
            for decision in response.decisions:
                entry = group[decision.sequence - first]
                if entry is group[-1] and not len(self.events) and not undue and not more:
                    newest = decision
                else:
                    on_late(entry, decision)
        return newest

    def _send_undue(self) -> bool:
        """In the background: send what no decision depends on. What fails is met by the next report that is due."""
        with self._sending:
            before = self._next_sequence, self.events.refused
            with contextlib.suppress(KeepbestError):
                self._flush(lambda *late: self._late.append(late), Patience(0.0, _BACKGROUND_SECONDS), undue=True)
            return before != (self._next_sequence, self.events.refused)

    def _waits(self) -> float | None:
        return None if self.refused is not None else self.events.waits()

    def _send(
        self, group: list[Entry], first_sequence: int, timeout: Timeout, more: bool
    ) -> ReportEventsResponse | None:
        """Report a group. None: the server refuses one of its events, and what is left is to be tried again."""
        try:
            return self._report([entry.event for entry in group], first_sequence, timeout)
        except (SequenceConflict, StaleAttempt) as error:
            self.refused = error
            raise
        except KeepbestError as error:
            if error.retryable:
                raise
            # It was not stored and never will be, so later events must not wait behind it.
            for entry in self.events.refuse():
                if not more and not len(self.events):
                    raise
                _warn_refused(entry, error)
            return None

    def _report(
        self, events: list[Event], first_sequence: int, timeout: Timeout, writer: str | None = None
    ) -> ReportEventsResponse:
        """Send one report. Without events it stores nothing, and the answer says where this writer goes on."""
        request = ReportEventsRequest(
            run=self._run,
            attempt=self._attempt,
            writer=self._writer if writer is None else writer,
            first_sequence=first_sequence,
            events=events,
        )
        report: Callable[..., ReportEventsResponse] = self._connection.stubs().runs.ReportEvents
        return call(report, request, self._connection.patience(timeout))


def _warn_refused(entry: Entry, error: KeepbestError) -> None:
    tell(f"Keepbest: the server refuses what was reported of {moment_text(entry.event)}, which is left out: {error}")
