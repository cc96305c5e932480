"""Bring in what trainings kept while the server was away: report their events, and save what it decides.

A sync may be repeated at any time, and nothing comes twice: events that the server has are recognised by their moment,
and a version that is committed is answered again.
"""

from __future__ import annotations

import contextlib
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from keepbest._between import WRITER, record
from keepbest._channel import Connection
from keepbest._events import moment_text
from keepbest._files import local_files
from keepbest._local import move, parts_of, remove
from keepbest._proto.keepbest.v1.runs_pb2 import (
    GetRunRequest,
    ListEventsRequest,
    ListEventsResponse,
    ReportEventsRequest,
    ReportEventsResponse,
    StartRunRequest,
    StartRunResponse,
)
from keepbest._retry import Patience, call
from keepbest._spool import Kept, SpooledEvent, moment, spools_in
from keepbest._tell import tell
from keepbest.errors import CHECKPOINT_COMMITTED, FailedPrecondition, KeepbestError, NotFound, StaleAttempt
from keepbest.run import Run
from keepbest.types import Action, Decision, Event, RunResource, RunState, Version

# A request holds at most 10,000 events and 4 MiB.
_GROUP_EVENTS = 1_000
_GROUP_BYTES = 1 << 20
_PAGE_EVENTS = 10_000


@dataclass
class Synced:
    """What came of one spool.

    Attributes:
        run: the run's resource name.
        events: how many events it held, all of which the server has now but for those among `losses`.
        versions: what was saved.
        losses: what the server did not take, as sentences.
    """

    run: str
    events: int
    versions: list[Version] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)


def sync(connection: Connection, folder: Path, patience: Patience, take_over: bool) -> Iterator[Synced]:
    """Sync all spools in a folder and below it, or one spool, one after the other; see `Client.sync`."""
    for path in spools_in(folder):
        yield sync_spool(connection, path, patience, take_over)


def take_up(connection: Connection, folder: Path, run: str, patience: Patience) -> list[Synced]:
    """Sync the spools of one run, which is about to be started again. Those that are in use are left alone."""
    done = []
    for path in spools_in(folder) if folder.is_dir() else []:
        try:
            kept = Kept.open(path)
            kept.close()
            if kept.run == run:
                done.append(sync_spool(connection, path, patience, take_over=True))
        except KeepbestError as error:
            if error.retryable or error.is_misaddressed:
                raise
            tell(f"Keepbest: `{path}` stays, because the server refuses it: {error}")
        except (OSError, ValueError):  # in use, brought in by another process, or no spool
            continue
    return done


def sync_spool(connection: Connection, path: Path, patience: Patience, take_over: bool) -> Synced:
    """Sync one spool, and remove it with its models."""
    kept = Kept.open(path)
    try:
        run = _start(connection, kept, patience, take_over)
        synced = Synced(run.name, len(kept.events) + len(kept.between))
        _Sync(connection, kept, run, patience, synced).do()
    except BaseException:
        kept.close()
        raise
    kept.remove()
    return synced


def _start(connection: Connection, kept: Kept, patience: Patience, take_over: bool) -> Run:
    """Begin the attempt of the spool, or go on in it if it had begun; a new one if it was fenced, or has ended."""
    name = kept.run
    get: Callable[..., RunResource] = connection.stubs().runs.GetRun
    newest, state = 0, RunState.RUN_STATE_ACTIVE
    with contextlib.suppress(NotFound):
        before = call(get, GetRunRequest(name=name), patience)
        newest, state = before.attempt, before.state
        if before.state == RunState.RUN_STATE_ACTIVE and before.attempt != kept.attempt and not take_over:
            raise FailedPrecondition(
                f"run `{name}` is active in attempt {before.attempt}, which a sync would end: sync `{kept.path}` when "
                "it has ended, or take it over if its process is dead"
            )
    # Both before an attempt begins, which makes the run active: a sync that is cut off is repeated, and goes on in it.
    if state != RunState.RUN_STATE_ACTIVE and kept.ended is None:
        kept.note_end(RunState.Name(state))  # as it shall stand afterwards, too
    if kept.attempt is None:
        kept.note_attempt(newest + 1)
    started = _begin(connection, kept.start, patience)
    # A run that has ended takes no event any more: its training could tell that it died, and not what it had reported.
    if started.attempt < started.run.attempt or started.run.state != RunState.RUN_STATE_ACTIVE:
        kept.note_start(str(uuid.uuid4()), started.run.attempt + 1)
        started = _begin(connection, kept.start, patience)
    kept.note_attempt(started.attempt)
    return Run(connection, started)


def _begin(connection: Connection, request: StartRunRequest, patience: Patience) -> StartRunResponse:
    start: Callable[..., StartRunResponse] = connection.stubs().runs.StartRun
    return call(start, request, patience)


class _Sync:
    """One spool on its way to the server."""

    def __init__(self, connection: Connection, kept: Kept, run: Run, patience: Patience, synced: Synced) -> None:
        self._connection = connection
        self._kept = kept
        self._run = run
        self._patience = patience
        self._synced = synced
        # Events that were stored in an earlier attempt, which alone could save what was decided: the training died
        # before it heard of that, and another one came since. They are reported anew.
        self._again: list[SpooledEvent] = []

    def do(self) -> None:
        """Report all events, save what is decided, end the run as the training had, and remove the models."""
        stored = _stored(self._connection, self._run.name, self._patience)
        self._record_between(stored.get(WRITER, {}))
        stored_here = stored.get("", {})
        next_sequence = self._next_sequence()
        for group in self._groups(stored_here):
            first = stored_here.get(moment(group[0].event), next_sequence)
            taken = self._report(group, first)
            if first == next_sequence:
                next_sequence += taken
        again, self._again = self._again, []
        for spooled in again:
            next_sequence += self._report([spooled], next_sequence)
        if self._kept.ended is not None:
            self._run.finish(self._kept.ended == RunState.Name(RunState.RUN_STATE_FAILED), timeout=self._patience)
        for spooled in self._kept.events:
            if spooled.model is None or spooled.is_lost:
                continue
            if spooled.is_decided:
                remove(spooled.model)
            else:
                self._lose(spooled, "not saved: the server decided at other moments")

    def _record_between(self, stored: dict[tuple[int, ...], int]) -> None:
        """Report the epochs between saves, but for those that were stored before."""
        waiting = deque(event for event in self._kept.between if moment(event) not in stored)
        record(
            self._run,
            waiting,
            lambda: self._patience,
            lambda event, error: self._synced.losses.append(f"{moment_text(event)}: not reported: {error}"),
        )

    def _next_sequence(self) -> int:
        return self._send([], 0).next_sequence

    def _groups(self, stored: dict[tuple[int, ...], int]) -> Iterator[list[SpooledEvent]]:
        """The events in groups that are reported together: up to one that is due, and stored ones by themselves."""
        group: list[SpooledEvent] = []
        size_bytes = 0
        for spooled in self._kept.events:
            sequence = stored.get(moment(spooled.event))
            previous = stored.get(moment(group[-1].event)) if group else None
            follows = sequence is None if previous is None else sequence == previous + 1
            size_bytes += spooled.event.ByteSize()
            if group and (group[-1].due or not follows or len(group) == _GROUP_EVENTS or size_bytes > _GROUP_BYTES):
                yield group
                group, size_bytes = [], spooled.event.ByteSize()
            group.append(spooled)
        if group:
            yield group

    def _report(self, group: list[SpooledEvent], first_sequence: int) -> int:
        """Report a group, and carry out its decisions. One by one if the server refuses some of it.

        Returns:
            How many of them the server took.
        """
        try:
            response = self._send([spooled.event for spooled in group], first_sequence)
        except StaleAttempt:
            raise
        except KeepbestError as error:
            if error.retryable:
                raise
            if len(group) == 1:
                self._lose(group[0], f"not reported: {error}")
                return 0
            taken = 0
            for spooled in group:
                taken += self._report([spooled], first_sequence + taken)
            return taken
        taken = response.next_sequence - first_sequence if response.duplicate_count == 0 else len(group)
        taken = min(taken, len(group))
        for decision in response.decisions:
            self._carry_out(group[decision.sequence - first_sequence], decision)
        if 0 < taken < len(group):
            return taken + self._report(group[taken:], first_sequence + taken)
        return taken

    def _send(self, events: list[Event], first_sequence: int) -> ReportEventsResponse:
        request = ReportEventsRequest(
            run=self._run.name, attempt=self._run.attempt, first_sequence=first_sequence, events=events
        )
        report: Callable[..., ReportEventsResponse] = self._connection.stubs().runs.ReportEvents
        return call(report, request, self._patience)

    def _lose(self, spooled: SpooledEvent, why: str) -> None:
        """Tell of what the server did not take. Its model stays: it may be the only one."""
        spooled.is_lost = True
        where = "" if spooled.model is None else f"; its model stays at {spooled.model}"
        self._synced.losses.append(f"{moment_text(spooled.event)}: {why}{where}")

    def _carry_out(self, spooled: SpooledEvent, decision: Decision) -> None:
        spooled.is_decided = True
        if decision.action == Action.ACTION_FAIL:
            self._lose(spooled, f"not saved: {decision.reason_text}")
        if decision.action != Action.ACTION_SAVE:
            return
        if spooled.model is None:
            self._abandon(spooled, decision)
            return
        files = _files_of(spooled.model, decision.path)
        try:
            version = self._run.save(decision, files, self._kept.metadata, timeout=self._patience)
        except StaleAttempt as error:
            if error.metadata.get("attempt") != str(self._run.attempt):
                raise  # a newer one began meanwhile
            self._again.append(spooled)
            return
        except KeepbestError as error:
            if error.retryable:
                raise
            self._lose(spooled, f"not saved: {error}")
            return
        self._synced.versions.append(version)
        if self._kept.directory:
            with contextlib.suppress(OSError):  # the server has it; the local copy is a convenience
                move(spooled.model, Path(self._kept.directory + decision.path))

    def _abandon(self, spooled: SpooledEvent, decision: Decision) -> None:
        """Give up a save of which there is no model; tell why, unless another model took its place."""
        try:
            self._run.abandon(decision, timeout=self._patience)
        except KeepbestError as error:
            if error.retryable:
                raise
            if error.reason == CHECKPOINT_COMMITTED:  # an earlier sync has saved it, or the training itself
                return
        if spooled.why_not_held:
            self._synced.losses.append(f"{moment_text(spooled.event)}: not saved: {spooled.why_not_held}")


def _files_of(model: Path, path: str) -> dict[str, Path]:
    """A model's files, by their paths in a checkpoint in which it lies at `path`."""
    if model.is_dir():
        return {f"{path}/{file.name}": file.path for file in local_files(model)}
    return {path + part.name.removeprefix(model.name): part for part in parts_of(model)}


def _stored(connection: Connection, run: str, patience: Patience) -> dict[str, dict[tuple[int, ...], int]]:
    """The sequence of each event, by its writer and its moment. Decisions are about those of the unnamed writer."""
    request = ListEventsRequest(parent=run, page_size=_PAGE_EVENTS, metrics=["-"])
    method: Callable[..., ListEventsResponse] = connection.stubs().runs.ListEvents
    stored: dict[str, dict[tuple[int, ...], int]] = {}
    while True:
        page = call(method, request, patience)
        for it in page.events:
            stored.setdefault(it.writer, {})[moment(it.event)] = it.sequence
        if not page.next_page_token:
            return stored
        request.page_token = page.next_page_token
