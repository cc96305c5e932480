"""One training job: report its events, get decisions, and save what was decided."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

from keepbest._arguments import check_text, check_whole, wrong
from keepbest._channel import Connection
from keepbest._curve import Curve
from keepbest._events import DueCounter, EventBuffer, make_event
from keepbest._heartbeat import Heartbeat
from keepbest._monitor import MonitorWatch
from keepbest._notebook import live_run_html, never_raises
from keepbest._proto.keepbest.v1.resources_pb2 import EVENT_KIND_BATCH_END, EVENT_KIND_EPOCH_END, EVENT_KIND_TRAIN_END
from keepbest._proto.keepbest.v1.runs_pb2 import (
    AwaitDecisionRequest,
    AwaitDecisionResponse,
    FinishRunRequest,
    StartRunResponse,
)
from keepbest._reports import LateDecision, Reports
from keepbest._retry import WAIT_SECONDS, Timeout, call, call_waiting
from keepbest._run_saves import ABANDON_SECONDS, RunSaves
from keepbest._values import Intake
from keepbest._versions import epoch_after
from keepbest.errors import KeepbestError
from keepbest.types import Decision, Event, RunResource, RunState, Version

# How long another rank waits for rank 0's report, which may have a long validation to do first.
_DECISION_SECONDS = 3600.0
# The metric of the last event of a run that failed, which says why.
FAILURE = "failure"


class Run(RunSaves):
    """A started run; `Client.start_run` makes it. Use it from one thread; `save` may run in another.

    As long as it lives and is not ended, a thread of its own tells the server every 30 s that this process lives
    (`resource.contact`), so that a training which computes for long is told from one that died.

    Attributes:
        name: the resource name, `teams/{team}/projects/{project}/runs/{run}`.
        attempt: the number of this start. After a later start all calls of this one fail with `StaleAttempt`.
        resumed: whether the run existed before.
        resume_from: the newest committed version of the run, from which to go on; None if there is none.
        next_epoch: the epoch to go on with after `resume_from`, 0-based: the next one, or its own if it was saved in
            the middle of it; 0 if there is none. What was reported behind it was not saved: it is to be trained again.
        rank: of the processes that save together, which this is, from 0.
        ranks: how many such processes there are; 1: this one saves alone.
        resource: the run as it was when it started, or ended.
        is_ended: whether this object has ended it.
        warnings: what the server accepted, but suspects to be a mistake.
    """

    def __init__(
        self,
        connection: Connection,
        response: StartRunResponse,
        writer: str = "",
        events: EventBuffer | None = None,
        rank_of_ranks: tuple[int, int] = (0, 1),
    ) -> None:
        """Take the server's answer to StartRun; `Client.start_run` calls this."""
        super().__init__()
        self._connection = connection
        # Of what this object reports; a notebook draws it.
        self._curve = Curve(response.run.strategy)
        self._intake = Intake(response.run.strategy)
        # Of a named writer and of other ranks nothing is decided.
        is_decided = not writer and rank_of_ranks[0] == 0
        self._monitor_watch = MonitorWatch(response.run.strategy) if is_decided else None
        self._epoch = response.run.last_epoch
        self._is_reported = False
        self.is_ended = False
        self._due_at_rank_0 = DueCounter.of(response.run.strategy)
        self._due_at_rank_0.correct(response.next_due)
        self.rank, self.ranks = rank_of_ranks
        self.resource: RunResource = response.run
        self.name: str = response.run.name
        self.attempt: int = response.attempt
        self.resumed: bool = response.resumed
        self.resume_from: Version | None = response.resume_from if response.HasField("resume_from") else None
        self.next_epoch: int = 0 if self.resume_from is None else epoch_after(self.resume_from)
        self.warnings: list[str] = list(response.warnings)
        events = EventBuffer(DueCounter.of(response.run.strategy)) if events is None else events
        events.correct(response.next_due)
        # The answer is about the default writer. A named one asks for its own before its first event.
        sequence = response.next_sequence if not writer else None
        self._reports = Reports(connection, self.name, self.attempt, writer, sequence, events)
        # Of several ranks the first is enough: without it the others do nothing.
        self._heartbeat = Heartbeat(self, connection, self.name, self.attempt) if self.rank == 0 else None

    def __repr__(self) -> str:
        """Its name, its attempt, and where it goes on."""
        return f"Run(name={self.name!r}, attempt={self.attempt}, next_epoch={self.next_epoch})"

    @never_raises
    def _repr_html_(self) -> str:
        return live_run_html(self.resource, self.attempt, self._last_epoch(), self._curve)

    def _last_epoch(self) -> int | None:
        """The newest epoch that was reported, here or before; None: there is none."""
        return self._epoch if self._is_reported or self.resource.HasField("last_epoch") else None

    def report_epoch(self, epoch: int, metrics: Mapping[str, Any], step: int | None = None) -> Decision | None:
        """Report the end of an epoch; see `report`.

        Args:
            epoch: 0-based.
            metrics: name to value; see `report_batch`.
            step: optimizer steps since the run began, if they are counted.
        """
        return self.report(make_event(EVENT_KIND_EPOCH_END, epoch, metrics, step=step, intake=self._intake))

    def report_batch(
        self, epoch: int, batch: int, metrics: Mapping[str, Any], step: int | None = None
    ) -> Decision | None:
        """Report the end of a batch; see `report`. Most batches are only buffered.

        Args:
            epoch: 0-based.
            batch: 0-based within the epoch.
            metrics: name to value. Numbers, scalars and 0-d arrays of any framework are numbers. Other arrays, texts,
                booleans and None keep their kind; anything else is sent as text. Names that are no texts are made
                ones. What an event cannot hold (more than 1,000 metrics, texts of more than 1 KiB, names of more than
                256 bytes, empty names) is cut or left out, with one warning.
            step: optimizer steps since the run began, if they are counted.
        """
        check_whole("batch", batch)
        return self.report(
            make_event(EVENT_KIND_BATCH_END, epoch, metrics, batch=batch, step=step, intake=self._intake)
        )

    def event(self, epoch: int, metrics: Mapping[str, Any], batch: int | None = None, step: int | None = None) -> Event:
        """An event that happens now, for `report_many`: the end of an epoch, or of a batch if one is named."""
        kind = EVENT_KIND_EPOCH_END if batch is None else EVENT_KIND_BATCH_END
        return make_event(kind, epoch, metrics, batch=batch, step=step, intake=self._intake)

    def report(self, event: Event) -> Decision | None:
        """Report an event. If the server may decide at it, it is sent at once; else in the background, and this returns
        at once. There it is durable after 5 s, or before the next decision.

        On ranks above 0 nothing is sent. They wait, at most an hour, until rank 0 has reported the same moment, and
        return the decision about that.

        Returns:
            The decision about this event; None if no save was due. After SAVE, call `save`.

        Raises:
            StillWaiting: rank 0 did not report this moment within an hour.
            Unavailable: the server is away. The event is kept, and sent with the next report or `flush`. If it leads to
                a SAVE when newer events wait behind it, that is abandoned: its model is gone.
            InvalidArgument, ResourceExhausted: the server will never accept this event; it is dropped. Of an earlier
                one that waited, a warning tells.
            SequenceConflict: another process reports in this attempt too. The server refuses this event and all later
                ones, and this method raises the error from now on.
            StaleAttempt: a newer attempt of the run was started.
        """
        _check_event(event)
        self._note(event)
        if self.rank > 0:
            return self._decision_of_rank_0(event) if self._due_at_rank_0.step(event) else None
        if self._reports.add(event).due:
            if self._monitor_watch is not None:
                self._monitor_watch.look(event)
            return self.flush()
        self._reports.send_soon()
        return None

    def report_many(self, events: Iterable[Event]) -> list[Decision]:
        """Report several events in their order, in as few requests as they take; see `report`.

        Args:
            events: made by `event`.

        Returns:
            All decisions about them. To save a SAVE, its model must still be there.

        Raises:
            KeepbestError: as `report` does. Each SAVE that was decided before is abandoned.
        """
        decisions: list[Decision] = []
        try:
            if self.rank == 0:
                self._reports.add_all(map(self._looked_at, events), decisions, self.abandon)
            else:
                for event in events:
                    if (decision := self.report(event)) is not None:
                        decisions.append(decision)
        except BaseException:
            until = time.monotonic() + ABANDON_SECONDS  # if the server is away, the checkpoints will expire
            for kept_back in decisions:
                if time.monotonic() < until:
                    self.abandon(kept_back)
            raise
        return decisions

    def send_soon(self) -> None:
        """Send what waits, and no decision depends on, in the background."""
        self._reports.send_soon()

    def stop_sending(self) -> None:
        """Send nothing any more in the background, no sign of life either: what waits is somebody else's to tell."""
        self._reports.stop_sending()
        if self._heartbeat is not None:
            self._heartbeat.end()

    def flush(self, on_late: LateDecision | None = None, timeout: Timeout = None) -> Decision | None:
        """Send all events that wait.

        Args:
            on_late: is given each decision about an event that is not the newest. None: a SAVE among them is abandoned.
            timeout: how long to repeat, in seconds; None: as for the client.

        Returns:
            The decision about the newest event; None if no save was due at it.
        """
        return self._reports.flush(on_late or (lambda entry, decision: self.abandon(decision)), timeout)

    def record(self, events: list[Event], writer: str, *, timeout: Timeout = None) -> None:
        """Store events of another writer of this run, about which nothing is decided; at most 1,000 of them.

        Args:
            events: in their order.
            writer: its name.
            timeout: how long to repeat, in seconds; None: as for the client.
        """
        self._reports.record(events, writer, timeout)

    def ask(self, deadline_seconds: float) -> Any:
        """Begin an empty report, and return gRPC's future. The server answers it if it would accept events too."""
        return self._reports.ask(deadline_seconds)

    def finish(self, failed: bool = False, timeout: Timeout = None) -> RunResource:
        """Send all events that wait, and end the run. A later start opens it again.

        If one of these events leads to a SAVE, that is abandoned. On ranks above 0 this does nothing: rank 0 ends the
        run.
        """
        if self.rank > 0:
            return self.resource
        unsaved = self.flush(timeout=timeout)
        if unsaved is not None:
            self.abandon(unsaved)
        return self._finish(RunState.RUN_STATE_FAILED if failed else RunState.RUN_STATE_FINISHED, timeout)

    def _finish(self, state: RunState, timeout: Timeout) -> RunResource:
        request = FinishRunRequest(name=self.name, attempt=self.attempt, state=state)
        patience = self._connection.patience(timeout)
        self.resource = call(self._connection.stubs().runs.FinishRun, request, patience)
        self.is_ended = True
        if self._heartbeat is not None:
            self._heartbeat.end()
        self._snapshots.clear()
        return self.resource

    def fail(
        self, reason: str, *, epoch: int | None = None, flush: bool = True, timeout: Timeout = None
    ) -> RunResource:
        """End the run as failed. The reason is kept as the text `failure` of a last event. A later start goes on.

        Args:
            reason: for people, as `KeyError: 'x'`.
            epoch: in which it failed; None: in the newest one that was reported by this object.
            flush: whether to send that event, and those that wait, if the server takes them.
            timeout: how long to repeat each call, in seconds; None: as for the client.
        """
        check_text("reason", reason)
        if epoch is not None:
            check_whole("epoch", epoch)
        if self.rank > 0:
            return self.resource
        if flush:
            epoch = self._epoch if epoch is None else epoch
            with contextlib.suppress(KeepbestError):
                self._reports.add(make_event(EVENT_KIND_TRAIN_END, epoch, {FAILURE: reason}))
            with contextlib.suppress(KeepbestError):
                unsaved = self.flush(timeout=timeout)
                if unsaved is not None:
                    self.abandon(unsaved)
        return self._finish(RunState.RUN_STATE_FAILED, timeout)

    def __enter__(self) -> Run:
        """The run itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the run, unless it is ended. After an exception it ends as failed, and no error hides that."""
        if self.is_ended:
            return
        if error is None:
            self.finish()
            return
        with contextlib.suppress(KeepbestError):
            self.fail(f"{type(error).__name__}: {error}".rstrip(": "), timeout=5.0)

    def _note(self, event: Event) -> None:
        self._epoch = event.epoch
        self._is_reported = True
        self._curve.add(event)

    def _looked_at(self, event: Event) -> Event:
        _check_event(event)
        self._note(event)
        if self._monitor_watch is not None and event.kind == EVENT_KIND_EPOCH_END:
            self._monitor_watch.look(event)
        return event

    def _decision_of_rank_0(self, event: Event) -> Decision | None:
        request = AwaitDecisionRequest(run=self.name, attempt=self.attempt, epoch=event.epoch)
        if event.kind == EVENT_KIND_BATCH_END:
            request.batch = event.batch
        request.wait.seconds = WAIT_SECONDS
        method: Callable[..., AwaitDecisionResponse] = self._connection.stubs().runs.AwaitDecision
        answer = call_waiting(method, request, self._connection.patience(), _DECISION_SECONDS)
        return answer.decision if answer.HasField("decision") else None


def _check_event(event: Event) -> Event:
    if not isinstance(event, Event):
        raise TypeError(wrong("event", event, "an event, as `run.event(epoch, metrics)` makes them"))
    return event
