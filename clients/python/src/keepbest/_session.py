"""A callback's link with the server: starts the run late, and keeps a training alive while the server is away."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keepbest._background import Background
from keepbest._events import DueCounter, Entry, EventBuffer
from keepbest._files import Fingerprint, collect
from keepbest._held import HeldFiles
from keepbest._local import Saver, move, parts_of, remove, snapshot
from keepbest._outage import TOLERATED, Outage
from keepbest._retry import Patience
from keepbest.errors import KeepbestError, SequenceConflict, StaleAttempt
from keepbest.run import Run
from keepbest.types import Action, Decision, Event, Strategy

# A server that takes calls and answers none counts as away after this time, however long one that refuses is retried.
_SILENCE_SECONDS = 10.0

Start = Callable[[EventBuffer, Patience], Run]


@dataclass
class SaveJob:
    """An upload that is to be done: the decision, and where the model lies."""

    decision: Decision
    path: Path
    # What to upload: path in the checkpoint to file.
    files: dict[str, Path]
    fingerprints: dict[str, Fingerprint]
    # Removed after the upload: a snapshot's directory.
    snapshot: Path | None = None

    @classmethod
    def of(cls, decision: Decision, path: Path, snapshot: Path | None = None) -> SaveJob:
        """The upload of a file, a directory, or the files that share a prefix (TensorFlow's weights format)."""
        name = decision.path.rpartition("/")[2] or path.name
        parts = {name + part.name.removeprefix(path.name): part for part in parts_of(path)}
        found = collect(path if path.is_dir() else parts)
        return cls(
            decision,
            path,
            {file.name: file.path for file in found},
            {file.name: file.fingerprint for file in found},
            snapshot,
        )

    def forget(self) -> None:
        """Remove the snapshot."""
        if self.snapshot is not None:
            remove(self.snapshot)

    def unchanged(self) -> bool:
        """Whether the files are still those of the decision."""
        try:
            return all(
                Fingerprint.of(self.files[name].stat()) == fingerprint
                for name, fingerprint in self.fingerprints.items()
            )
        except FileNotFoundError:
            return False


@dataclass
class Session:
    """One training's conversation with the server.

    Attributes:
        start: starts the run with that patience, and with the events that wait already.
        ask: begins to ask the server for the run before it is started here, with a deadline in seconds; gRPC's future.
        retry_seconds: how long a call is retried before the server counts as away.
        survive: keep the training alive while the server is away.
        asynchronous: upload in a background thread.
        final_path: where a decision's model lies locally.
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
    run: Run | None = None
    # What could not be reported or saved, for the end.
    losses: list[str] = field(default_factory=list)
    _unfinished: list[SaveJob] = field(default_factory=list)
    # Held models that gave way.
    _removed: list[Path] = field(default_factory=list)
    _background: Background = field(default_factory=Background)
    # Another process reports in this attempt too: no event of this one is decided upon any more.
    _refused: SequenceConflict | None = None
    # Warned of once for each outage.
    _told_away: bool = False
    # The training is over: nothing is held up by waiting.
    _closing: bool = False

    def __post_init__(self) -> None:
        """Begin with no events."""
        self._events = EventBuffer(DueCounter.of(self.strategy))
        self._outage = Outage(self._probe)

    def open(self) -> None:
        """Start the run, if it is not."""
        self._tolerate(self._connect)

    def report(self, event: Event, save: Saver) -> Decision | None:
        """Report an event; the decision about it, if a save was due and the server could be asked.

        If it could not, the model is kept aside with `save`.
        """
        self._background.raise_error()
        entry = self._events.add(event)
        if not entry.due and not self._events.ripe():
            return None
        decisions: list[Decision | None] = []
        if not self._tolerate(lambda: decisions.append(self._flush())) and entry.due:
            self._hold(entry, save)
        return decisions[0] if decisions else None

    def save(self, decision: Decision, path: Path) -> None:
        """Upload what was saved at `path` and commit it; in the background if so told."""
        if not self.asynchronous:
            self._save_or_keep(SaveJob.of(decision, path))
            return
        copy = snapshot(path, path.parent / f".keepbest-{decision.checkpoint.rpartition('/')[2]}")
        job = SaveJob.of(decision, copy, snapshot=copy.parent.parent)
        self._background.submit(lambda: self._save_or_keep(job))

    def abandon(self, decision: Decision) -> None:
        """The model of a SAVE could not be written locally."""
        if self.run is not None:
            self.run.abandon(decision)

    def close(self, event: Event, finish: bool) -> list[str]:
        """Report the last event, send and upload all that waits, and finish the run if told so.

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
        return self.run.flush(self._decided_late, timeout=self._patience())

    def _probe(self, deadline_seconds: float) -> Any:
        return self.ask(deadline_seconds) if self.run is None else self.run.ask(deadline_seconds)

    def _patience(self) -> Patience:
        if self._closing:
            return Patience(self.retry_seconds)
        return Patience(self.retry_seconds if self._outage.error is None else 0.0, _SILENCE_SECONDS)

    def _tolerate(self, step: Callable[[], object]) -> bool:
        """Do what needs the server; False if it is away, or refuses the events, and the training shall live on."""
        if self._refused is not None:
            return False
        if not self._outage.may_step():
            return False
        begin = time.monotonic()
        try:
            step()
        except SequenceConflict as error:
            self._refused = error
            warnings.warn(
                f"Keepbest: no model is saved any more, the training goes on without the server: {error}", stacklevel=2
            )
            return False
        except TOLERATED as error:
            if not self.survive:
                raise
            self._note_away(error, time.monotonic() - begin)
            return False
        self._outage.ends()
        self._told_away = False
        return True

    def _note_away(self, error: KeepbestError, spent_seconds: float = 0.0) -> None:
        if not self._told_away:
            self._told_away = True
            warnings.warn(f"Keepbest: the server is away, the training goes on without it: {error}", stacklevel=2)
        self._outage.fails(error, spent_seconds)

    def _save_or_keep(self, job: SaveJob) -> None:
        """Upload now; if the server is away and the training shall live on, later."""
        try:
            self._upload(job)
        except TOLERATED as error:
            if not self.survive:
                raise
            self._unfinished.append(job)
            self._note_away(error)

    def _upload(self, job: SaveJob) -> None:
        assert self.run is not None, "a decision comes from a run"
        try:
            self.run.save(job.decision, job.files, self.metadata, timeout=self._patience())
        except TOLERATED:
            raise  # it may be tried again
        except BaseException:
            job.forget()
            raise
        job.forget()

    def _retry_unfinished(self, run: Run) -> None:
        """Upload what could not be uploaded before, unless its files were overwritten meanwhile."""
        while self._unfinished:
            job = self._unfinished[0]
            if job.unchanged():
                try:
                    self._upload(job)
                except (*TOLERATED, StaleAttempt):
                    raise
                except (KeepbestError, OSError, ValueError) as error:
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
        """The decision about an event that could not be asked about in time."""
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
