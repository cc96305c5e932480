"""A callback's dealings with the server: start the run late, and let the training go on while the server is away."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keepbest._background import Background
from keepbest._events import DueCounter, Entry, EventBuffer
from keepbest._files import Fingerprint, collect
from keepbest._held import HeldFiles
from keepbest._local import Saver, move, parts_of, remove, snapshot
from keepbest._outage import Outage
from keepbest._retry import Patience
from keepbest.errors import KeepbestError, SequenceConflict, StaleAttempt
from keepbest.run import Run
from keepbest.types import Action, Decision, Event, Strategy

# A server that accepts calls but does not answer counts as away after this time, even if `retry_seconds` is longer.
_SILENCE_SECONDS = 10.0
# The writer of epochs between those at which a save may be due: no decision is made about its events.
_BETWEEN = "between-saves"
# How many of them wait; of more the oldest are dropped, while the server is away.
_BETWEEN_EVENTS = 1_000
# How long a dying training tries to tell so. It must not keep its process from ending.
_FAIL_SECONDS = 5.0

Start = Callable[[EventBuffer, Patience], Run]


@dataclass
class SaveJob:
    """A model to upload: the decision, and where the model lies."""

    decision: Decision
    path: Path
    # Path in the checkpoint to local file.
    files: dict[str, Path]
    fingerprints: dict[str, Fingerprint]
    # The directory of a snapshot, to be removed after the upload.
    snapshot: Path | None = None

    @classmethod
    def of(cls, decision: Decision, path: Path, snapshot: Path | None = None) -> SaveJob:
        """A job for a file, a directory, or the files that share a prefix (TensorFlow's weights format)."""
        name = decision.path or path.name
        parts = {name + part.name.removeprefix(path.name): part for part in parts_of(path)}
        found = collect(path if path.is_dir() else parts)
        above = f"{name}/" if path.is_dir() else ""
        return cls(
            decision,
            path,
            {above + file.name: file.path for file in found},
            {above + file.name: file.fingerprint for file in found},
            snapshot,
        )

    def forget(self) -> None:
        """Remove the snapshot, if there is one."""
        if self.snapshot is not None:
            remove(self.snapshot)

    def unchanged(self) -> bool:
        """Whether the files are still the ones that were saved for the decision."""
        try:
            return all(
                Fingerprint.of(self.files[name].stat()) == fingerprint
                for name, fingerprint in self.fingerprints.items()
            )
        except FileNotFoundError:
            return False


@dataclass
class Session:
    """What one training has told the server, and what it has yet to tell it.

    Attributes:
        start: starts the run; it gets the events that wait already, and the patience for the call.
        ask: probes the server before the run is started; it gets a deadline in seconds, and returns gRPC's future.
        retry_seconds: how long a call is repeated before the server counts as away.
        survive: whether the training goes on while the server is away.
        asynchronous: whether to upload in a background thread.
        final_path: the local path for a decision's model.
    """

    start: Start
    ask: Callable[[float], Any]
    strategy: Strategy
    held: HeldFiles
    retry_seconds: float
    survive: bool
    asynchronous: bool
    metadata: dict[str, Any] | None
    final_path: Callable[[Decision], Path]
    # Is given the local path of each model that is committed.
    on_saved: Callable[[Path], None] = lambda path: None
    run: Run | None = None
    # What could not be reported or saved, as sentences for the warning at the end.
    losses: list[str] = field(default_factory=list)
    _unfinished: list[SaveJob] = field(default_factory=list)
    # Held models that were removed for newer ones.
    _removed: list[Path] = field(default_factory=list)
    _background: Background = field(default_factory=Background)
    # Set once another process was found to report in this attempt, or in a newer one: nothing more is sent.
    _refused: KeepbestError | None = None
    # Whether the warning of the current outage was given.
    _told_away: bool = False
    # Epochs between those at which a save may be due.
    _between: deque[Event] = field(default_factory=lambda: deque(maxlen=_BETWEEN_EVENTS))
    # The training is over, so waiting for the server delays nothing.
    _closing: bool = False

    def __post_init__(self) -> None:
        """Begin with no events."""
        self._events = EventBuffer(DueCounter.of(self.strategy))
        self._outage = Outage(self._probe)

    def open(self) -> None:
        """Start the run, unless it is started."""
        self._tolerate(self._connect)

    def report(self, event: Event, save: Saver) -> Decision | None:
        """Report an event. If the server is away at an event that it would have decided, set the model aside.

        Args:
            event: what to report.
            save: writes the model to a path.

        Returns:
            The decision about this event; None if no save was due, or the server was away.
        """
        self._background.raise_error()
        entry = self._events.add(event)
        if not entry.due and not self._events.ripe():
            return None
        decisions: list[Decision | None] = []
        if not self._tolerate(lambda: decisions.append(self._flush())) and entry.due:
            self._hold(entry, save)
        return decisions[0] if decisions else None

    def record(self, event: Event) -> None:
        """Keep an event about which the server shall not decide; it is sent with the next one that is reported."""
        self._between.append(event)

    def save(self, decision: Decision, path: Path) -> None:
        """Upload the model at `path` and commit it, in the background if the session is asynchronous."""
        if not self.asynchronous:
            self._save_or_keep(SaveJob.of(decision, path))
            return
        copy = snapshot(path, path.parent / f".keepbest-{decision.checkpoint.rpartition('/')[2]}")
        job = SaveJob.of(decision, copy, snapshot=copy.parent.parent)
        self._background.submit(lambda: self._save_or_keep(job))

    def abandon(self, decision: Decision) -> None:
        """Give up a SAVE, because the model could not be written locally."""
        if self.run is not None:
            self.run.abandon(decision)

    def close(self, event: Event, finish: bool) -> list[str]:
        """Report the last event, send and upload all that waits, and end the run if `finish` says so.

        Returns:
            What could not be reported or saved, as sentences.
        """
        self._events.add(event)
        self._background.wait()
        self._closing = True
        self._outage.ends()
        self._tolerate(lambda: self._end(finish))
        self._background.raise_error()
        losses = self.losses + [
            f"epoch {job.decision.epoch + 1}: not uploaded, its model is at {job.path}" for job in self._unfinished
        ]
        if len(self._events):
            losses.append(f"{len(self._events)} events: not reported")
        if self._removed:
            losses.append(f"models removed to make room for newer ones: {', '.join(map(str, self._removed))}")
        if kept := self._events.held():
            losses.append(f"models kept aside, of which the server did not decide: {', '.join(map(str, kept))}")
        if self._events.dropped:
            losses.append(f"{self._events.dropped} events: dropped, because too many waited for the server")
        if self._events.refused:
            losses.append(f"{self._events.refused} events: refused by the server")
        if self._refused is not None:
            losses.append(f"the server refused all events: {self._refused}")
        elif self._outage.error is not None:
            losses.append(f"the server is away: {self._outage.error}")
        return losses

    def fail(self, reason: str, epoch: int, seconds: float, in_a_save: bool) -> list[str]:
        """The training died: finish uploads, send what waits and end the run as failed, within so many seconds.

        Args:
            reason: why it died.
            epoch: in which it died.
            seconds: how long the uploads in the background may take, and then as long again the rest, at most 5 s.
            in_a_save: whether this interrupts `report` or `save`, so that events must stay as they are.

        Returns:
            What could not be saved, as sentences.
        """
        losses = list(self.losses)
        if not self._background.wait(seconds):
            losses.append(f"an upload did not end within {seconds:g} s")
        try:
            self._background.raise_error()
        except Exception as error:
            losses.append(f"an upload failed: {error}")
        if self.run is not None and self._refused is None:
            try:
                patience = Patience(min(seconds, _FAIL_SECONDS))
                self.run.fail(reason, epoch=epoch, flush=not in_a_save, timeout=patience)
            except KeepbestError as error:
                losses.append(f"that the training ended ({reason}) could not be told: {error}")
        return losses

    def _end(self, finish: bool) -> None:
        self._flush()
        if finish and self.run is not None:
            self.run.finish(timeout=self._patience())

    def _connect(self) -> None:
        if self.run is None:
            self.run = self.start(self._events, self._patience())
            self.held.direction = self.run.resource.direction

    def _flush(self) -> Decision | None:
        self._connect()
        assert self.run is not None
        self._retry_unfinished(self.run)
        while self._between:
            sent = list(self._between)
            self.run.record(sent, _BETWEEN, timeout=self._patience())
            for _ in sent:
                self._between.popleft()
        return self.run.flush(self._decided_late, timeout=self._patience())

    def _probe(self, deadline_seconds: float) -> Any:
        return self.ask(deadline_seconds) if self.run is None else self.run.ask(deadline_seconds)

    def _patience(self) -> Patience:
        if self._closing:
            return Patience(self.retry_seconds)
        return Patience(self.retry_seconds if self._outage.error is None else 0.0, _SILENCE_SECONDS)

    def _tolerate(self, step: Callable[[], object]) -> bool:
        """Do a step that needs the server. False: it was away, or refuses all events, and the training goes on."""
        if self._refused is not None:
            return False
        if not self._outage.may_step():
            return False
        begin = time.monotonic()
        try:
            step()
        except (SequenceConflict, StaleAttempt) as error:
            self._refused = error
            warnings.warn(
                f"Keepbest: no model is saved any more, the training goes on without the server: {error}", stacklevel=2
            )
            return False
        except KeepbestError as error:
            if not self.survive or (self.run is None and not error.retryable):
                raise
            self._fails(error, time.monotonic() - begin)
            return False
        self._outage.ends()
        self._told_away = False
        return True

    def _fails(self, error: KeepbestError, spent_seconds: float) -> None:
        """Take note of an error: one that passes is an outage, any other only tells what the server refused."""
        if error.retryable:
            self._note_away(error, spent_seconds)
        else:
            warnings.warn(f"Keepbest: the server refuses, and the training goes on: {error}", stacklevel=2)

    def _note_away(self, error: KeepbestError, spent_seconds: float = 0.0) -> None:
        if not self._told_away:
            self._told_away = True
            warnings.warn(f"Keepbest: the server is away, the training goes on without it: {error}", stacklevel=2)
        self._outage.fails(error, spent_seconds)

    def _save_or_keep(self, job: SaveJob) -> None:
        """Upload now; or later, if the server is away and the training goes on without it."""
        try:
            self._upload(job)
        except KeepbestError as error:
            if not self.survive or not error.retryable:
                raise
            self._unfinished.append(job)
            self._note_away(error)

    def _upload(self, job: SaveJob) -> None:
        assert self.run is not None, "a decision comes from a run"
        try:
            self.run.save(job.decision, job.files, self.metadata, timeout=self._patience())
        except BaseException as error:
            if not (isinstance(error, KeepbestError) and error.retryable):  # else the job is kept, and tried again
                job.forget()
            raise
        if job.unchanged():
            self.on_saved(self.final_path(job.decision))
        job.forget()

    def _retry_unfinished(self, run: Run) -> None:
        """Upload what could not be uploaded before, unless its files have been overwritten since."""
        while self._unfinished:
            job = self._unfinished[0]
            if job.unchanged():
                try:
                    self._upload(job)
                except (KeepbestError, OSError, ValueError) as error:
                    if isinstance(error, StaleAttempt) or (isinstance(error, KeepbestError) and error.retryable):
                        raise
                    self.losses.append(f"epoch {job.decision.epoch + 1}: not saved: {error}")
            else:
                run.abandon(job.decision)
                job.forget()
                self.losses.append(f"epoch {job.decision.epoch + 1}: not saved: {job.path} was overwritten meanwhile")
            self._unfinished.remove(job)

    def _hold(self, entry: Entry, save: Saver) -> None:
        try:
            removed = self.held.keep(entry, save)
        except OSError as error:
            self.losses.append(
                f"epoch {entry.event.epoch + 1}: the server was away, and no file could be kept: {error}"
            )
            return
        if removed:
            self._removed += removed
            warnings.warn(
                f"Keepbest: the server is away, and the models that are held for it take more than `held_bytes` "
                f"({self.held.limit_bytes}): the oldest gave way to the newest: {', '.join(map(str, removed))}",
                stacklevel=2,
            )

    def _decided_late(self, entry: Entry, decision: Decision) -> None:
        """Carry out a decision that came after its event, because the server was away at that time."""
        epoch = decision.epoch + 1
        if decision.action == Action.ACTION_FAIL:
            self.losses.append(f"epoch {epoch}: not saved: {decision.reason_text}")
        elif decision.action == Action.ACTION_SAVE and entry.held is None:
            self.abandon(decision)
            self.losses.append(f"epoch {epoch}: not saved: {entry.why_not_held}")
        elif decision.action == Action.ACTION_SAVE and entry.held is not None:
            path = self.final_path(decision)
            move(entry.held, path)
            self._save_or_keep(SaveJob.of(decision, path))
        elif entry.held is not None:
            remove(entry.held)
        entry.held = None
