"""A callback's dealings with the server: start the run late, and let the training go on whatever the server says."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keepbest._background import Background
from keepbest._between import Between
from keepbest._channel import FIRST_SECONDS
from keepbest._events import DueCounter, Entry, EventBuffer, make_event
from keepbest._held import HeldFiles
from keepbest._local import Saver, remove
from keepbest._outage import Outage
from keepbest._progress import unseen
from keepbest._retry import Patience
from keepbest._saves import SaveJob, SaveQueue, job_of
from keepbest._spool import Spool
from keepbest._state import SENDING, TRANSITIONS, Happening, State
from keepbest._tell import counted, tell
from keepbest._tensors import TensorFile
from keepbest.errors import KeepbestError, SequenceConflict, StaleAttempt
from keepbest.run import FAILURE, Run
from keepbest.types import Decision, Event, EventKind, RunState, Strategy

# A server that accepts calls but does not answer counts as away after this time, even if `retry_seconds` is longer.
_SILENCE_SECONDS = 10.0
# How long the end of a training looks once more for a server that never answered.
_LAST_SECONDS = 1.0
# How long a dying training tries to tell so. It must not keep its process from ending.
_FAIL_SECONDS = 5.0
# It sends epochs between saves, then events, then the end.
_FAIL_CALLS = 3
# Another process took over: nothing that this one sends is accepted any more.
_OVERTAKEN = (SequenceConflict, StaleAttempt)

Start = Callable[[EventBuffer, Patience], Run]


@dataclass(eq=False)
class Session:
    """What one training has told the server, and what it has yet to tell it.

    With `survive` none of its methods raises for what a server refuses or does not answer once the run is started: what
    may pass is waited for beside the training, and the rest becomes a warning. `_state` has the states and what leads
    from one to another.

    Attributes:
        start: starts the run; it gets the events that wait already, and the patience for the call.
        ask: probes the server before the run is started; it gets a deadline in seconds, and returns gRPC's future.
        retry_seconds: how long a call is repeated before the server counts as away.
        survive: whether the training goes on while the server is away.
        asynchronous: whether to upload in a background thread.
        final_path: the local path for a decision's model.
        seen_before: batches since a save was last due, as far as that is known without the server.
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
    # Whether a local model stays once it is committed.
    keep_local: bool = True
    # Where events are kept while the server is away, for the time after this process; None: nowhere.
    spool: Spool | None = None
    seen_before: int = 0
    run: Run | None = None
    state: State = State.CONNECTED
    # What could not be reported or saved, as sentences for the warning at the end.
    losses: list[str] = field(default_factory=list)
    # Whether it was told that the spool cannot be written.
    _spool_fault_is_told: bool = False
    # Why the session is fenced.
    _overtaken: KeepbestError | None = None
    # Without `survive`: the first error of a save in the background, to be raised in the training's thread.
    _error: BaseException | None = None
    # Saves that gave way, perhaps while the server is away. It is told before it decides again: else their values would
    # stand as the ones to beat until their checkpoints expire.
    _given_up: deque[Decision] = field(default_factory=deque)
    # Saves whose local files may go. The training's thread removes them: it alone knows that it writes none meanwhile.
    _safe: deque[SaveJob] = field(default_factory=deque)
    # Epochs between those at which a save may be due.
    _between: Between = field(default_factory=Between)
    # The training is over, so waiting for the server delays nothing.
    _closing: bool = False

    def __post_init__(self) -> None:
        """Begin with no events."""
        self._events = EventBuffer(DueCounter.of(self.strategy, self.seen_before))
        self._outage = Outage(self._probe)
        self._saves = SaveQueue(self.held.limit_bytes)
        self._background = Background(self._work_off)
        # Guards the state and the outage: saves in the background meet errors too.
        self._lock = threading.RLock()

    @property
    def seen(self) -> int:
        """Batches since a save was last due."""
        return self._events.seen

    def open(self) -> None:
        """Start the run, unless it is started."""
        self._tolerate(self._connect)

    def report(self, event: Event, save: Saver) -> Decision | None:
        """Report an event. If the server does not decide about it although it is due, set the model aside.

        Args:
            event: what to report.
            save: writes the model to a path.

        Returns:
            The decision about this event; None if no save was due, or the server was away.
        """
        self._raise_error()
        self._remove_safe()
        entry = self._events.add(event)
        if not entry.due:
            if self.run is not None and self.state is State.CONNECTED:
                self.run.send_soon()
            return None
        decisions: list[Decision | None] = []
        if not self._tolerate(lambda: decisions.append(self._flush())) and entry.due:
            if any(waiting is entry for waiting in self._events.entries()):  # else the server has refused it
                self.held.hold(entry, save, self._spool_events)
            else:
                self._spool_events()
        return decisions[0] if decisions else None

    def record(self, event: Event) -> None:
        """Keep an event about which the server shall not decide; it is sent with the next one that is reported."""
        self._between.add(event)
        if self._outage.error is not None:
            self._spool_events()

    def save(
        self, decision: Decision, path: Path, tensors: TensorFile | None = None, begin: float | None = None
    ) -> None:
        """Upload the model at `path`, or tensors, and commit; see `job_of`. If the session is asynchronous, later."""
        try:
            added = job_of(decision, path, tensors, self.asynchronous, begin)
        except (OSError, ValueError) as error:  # somebody removed it
            if not self.survive:
                raise
            self.abandon(decision)
            self._tell_loss(decision, f"its model at {path} is gone: {error}")
            return
        for job in self._saves.add(added):
            self._give_up(job, "newer models took its place, because those that waited exceeded `held_bytes`")
        if self.asynchronous:
            self._background.wake()
        else:
            self._work_off()
            self._remove_safe()
            self._raise_error()

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
        with self._lock:
            self._outage.ends()
        self._tolerate(lambda: self._end(finish))
        if self.run is not None:
            self.run.stop_sending()
        self._remove_safe()
        losses = self._sum_up(RunState.RUN_STATE_FINISHED if finish else None)
        self._meets(Happening.CLOSED)
        self._raise_error()
        return losses

    def fail(self, reason: str, epoch: int, seconds: float, in_a_save: bool) -> list[str]:
        """The training died: finish uploads, send what waits and end the run as failed, within so many seconds.

        Args:
            reason: why it died.
            epoch: in which it died.
            seconds: how long the uploads in the background may take, and then as long again all the rest, at most 5 s.
            in_a_save: whether this interrupts `report` or `save`, so that events must stay as they are.

        Returns:
            What could not be saved, as sentences.
        """
        run = self.run if self.state in SENDING else None
        had_spool = self.spool is not None and self.spool.is_begun
        if run is not None and not in_a_save:
            self._events.add(make_event(EventKind.EVENT_KIND_TRAIN_END, epoch, {FAILURE: reason}))
            self._keep_on_disk(RunState.RUN_STATE_FAILED)  # whoever asked the process to end may kill it during a call
        late = [] if self._background.wait(seconds) else [f"an upload did not end within {seconds:g} s"]
        self._remove_safe()
        losses = [*self.losses, *late, *self._saves.not_uploaded()]
        try:
            self._raise_error()
        except Exception as error:
            losses.append(f"an upload failed: {error}")
        if run is not None and self.state in SENDING:
            try:
                self._tell_failure(run, reason, min(seconds, _FAIL_SECONDS), flush=not in_a_save)
            except KeepbestError as error:
                losses.append(f"that the training ended ({reason}) could not be told: {error}")
                self._fails(error)
        if self.run is not None:
            self.run.stop_sending()
        if self.spool is not None and self._overtaken is not None and not had_spool:
            self.spool.forget()  # how the run ends is the other process's to say
        if not in_a_save:
            losses += self._leave(RunState.RUN_STATE_FAILED)
        losses += self.held.losses(self._events.entries())
        self._meets(Happening.CLOSED)
        return losses

    def _tell_failure(self, run: Run, reason: str, seconds: float, flush: bool) -> None:
        """Send what waits, and end the run as failed; of what the server does not take, `_leave` tells.

        Raises:
            KeepbestError: the end was not told. After a call that got no answer none is tried, as it would get none.
        """
        # Each may be repeated for its share of the time, and all of them end with it.
        patience = Patience(seconds / _FAIL_CALLS, until=time.monotonic() + seconds)

        def give_up(entry: Entry, decision: Decision) -> None:
            if not self.held.left_to_sync(entry, decision):
                run.abandon(decision, timeout=patience)
                self.held.decided(entry, decision, None, "the training died before it was saved")

        def send() -> None:
            unsaved = run.flush(give_up, timeout=patience)
            if unsaved is not None:
                run.abandon(unsaved, timeout=patience)

        def send_between() -> None:
            self._record_between(run, patience)

        for step in (send_between, send) if flush else ():
            try:
                step()
            except KeepbestError as error:
                if error.unanswered:
                    raise
        run.fail(reason, flush=False, timeout=patience)

    def _sum_up(self, ended: RunState | None) -> list[str]:
        losses = self.losses + self._saves.not_uploaded() + self._leave(ended)
        losses += [*self.held.losses(self._events.entries()), *self._events.losses(), *self._between.losses()]
        if self._overtaken is not None:
            losses.append(f"the server refused all events: {self._overtaken}")
        elif self._outage.error is not None:
            what = "is away" if self.state is State.AWAY else "does not take what waits"
            losses.append(f"the server {what}: {self._outage.error}")
        return losses

    def _leave(self, ended: RunState | None) -> list[str]:
        """Keep on disk what was not reported, and let a sync have it; what that is, as a sentence."""
        left = []
        if unsent := self._waiting() + self._on_disk():
            left.append(f"{counted(unsent, 'event')}: not reported{self._spool_events(ended)}")
        elif self.held.wanted:
            left.append(f"{counted(self.held.wanted, 'model')}: not uploaded{self._spool_events(ended)}")
        elif ended is not None and self.run is not None and self._outage.error is not None and not self.run.is_ended:
            left.append(f"the end of the run: not told{self._spool_events(ended)}")
        elif self.spool is not None:
            self.spool.forget()
        if self.spool is not None:
            self.spool.close()
        return left

    def _waiting(self) -> int:
        """How many events the server has not acknowledged."""
        return len(self._events) + len(self._between)

    def _on_disk(self) -> int:
        """How many events only the spool has: they gave way here to newer ones. A sync brings them in."""
        return self._events.on_disk + self._between.on_disk

    def _spool_events(self, ended: RunState | None = None) -> str:
        """Keep the events that wait on disk, so that they outlive this process; where, for the warning at the end."""
        if self.spool is None or self._overtaken is not None:
            return ""
        error = self._keep_on_disk(ended)
        if error is not None:
            if not self._spool_fault_is_told:
                self._spool_fault_is_told = True
                tell(
                    f"Keepbest: what waits for the server is in memory alone, because `{self.spool.path}` cannot be "
                    f"written: {error}",
                )
            return f", and not kept in `{self.spool.path}`: {error}"
        return (
            f" but kept in `{self.spool.path}`: the next start of this run with the same path brings them in, or "
            f"`python -m keepbest sync {self.spool.path.parent}`"
        )

    def _keep_on_disk(self, ended: RunState | None = None) -> OSError | None:
        """Keep the events that wait in the spool, if there is one; why that cannot be."""
        if self.spool is None:
            return None
        try:
            attempt = None if self.run is None else self.run.attempt
            entries = self._events.entries()
            self.spool.keep(entries, attempt, ended, between=self._between.events())
        except OSError as error:
            return error
        for entry in entries:
            entry.is_kept = True
        self._between.are_kept()
        return None

    # What needs the server.

    def _end(self, finish: bool) -> None:
        self._flush()
        if not self._saves.work(self._upload):
            assert self._outage.error is not None, "a save waits because of an error"
            raise self._outage.error
        if self.run is None:
            return
        self._abandon_given_up(self.run)  # decided late, a moment ago
        if finish:
            self.run.finish(timeout=self._patience())

    def _connect(self) -> None:
        if self.run is None:
            self.run = self.start(self._events, self._patience())
            self.held.direction = self.run.resource.direction

    def _flush(self) -> Decision | None:
        self._connect()
        assert self.run is not None
        if not self.asynchronous and not self._saves.work(self._upload):
            # What was decided later is not better than this, or the server would have wanted it instead.
            assert self._outage.error is not None, "a save waits because of an error"
            raise self._outage.error
        self._abandon_given_up(self.run)
        self._record_between(self.run)
        try:
            return self.run.flush(self._decided_late, timeout=self._patience())
        finally:
            self.held.tell_left()

    def _abandon_given_up(self, run: Run) -> None:
        while self._given_up:
            try:
                run.abandon(self._given_up[0], timeout=self._patience())
            except KeepbestError as error:
                if error.retryable or isinstance(error, _OVERTAKEN):
                    raise
            self._given_up.popleft()

    def _record_between(self, run: Run, patience: Patience | None = None) -> None:
        self._between.send(
            run,
            lambda: patience or self._patience(),
            lambda event, error: self.losses.append(f"epoch {event.epoch + 1}: not reported: {error}"),
        )

    def _probe(self, deadline_seconds: float) -> Any:
        return self.ask(deadline_seconds) if self.run is None else self.run.ask(deadline_seconds)

    def _patience(self) -> Patience:
        if self._closing:
            return Patience(self.retry_seconds, unreached_seconds=_LAST_SECONDS)
        then = ", then the training goes on without it" if self.survive else ""
        seconds = self.retry_seconds if self._outage.error is None else 0.0
        return Patience(seconds, _SILENCE_SECONDS, unreached_seconds=FIRST_SECONDS, then=then)

    def _tolerate(self, step: Callable[[], object]) -> bool:
        """Do a step that needs the server. False: it could not be done, and the training goes on."""
        with self._lock:
            if self.state not in SENDING or not self._outage.may_step():
                return False
        started, begin = self.run is not None, time.monotonic()
        try:
            step()
        except KeepbestError as error:
            told_at_start = not started and self.run is None and self.state is State.CONNECTED and not error.retryable
            if told_at_start or not (self.survive or isinstance(error, _OVERTAKEN)):
                raise
            self._fails(error, time.monotonic() - begin)
            return False
        with self._lock:
            self._outage.ends()
            waits = len(self._saves) > 0
            self._meets(Happening.ANSWERED if waits else Happening.CAUGHT_UP)
        if self.spool is not None and not self._waiting() and not self._on_disk():
            self.spool.forget()
        if waits and self.asynchronous:
            self._background.wake()
        return True

    def _fails(self, error: KeepbestError, spent_seconds: float = 0.0) -> None:
        """Take note of an error, and warn if it leads to another state or is lost otherwise."""
        with self._lock:
            before = self.state
            if isinstance(error, _OVERTAKEN):
                self._overtaken = error
                self._meets(Happening.OVERTAKEN)
                text = "no model is saved any more, the training goes on without the server"
            elif error.retryable or error.is_misaddressed:
                self._outage.fails(error, spent_seconds)
                self._meets(Happening.NOT_NOW if error.reason else Happening.NO_ANSWER)
                away = self.state is State.AWAY
                text = f"the server {'is away' if away else 'cannot now'}, the training goes on without it"
            else:
                before, text = State.ENDED, "the server refuses, and the training goes on"
            told = before is self.state or {before, self.state} == {State.AWAY, State.BEHIND}
        if not told:
            tell(f"Keepbest: {text}: {error}")

    def _meets(self, happening: Happening) -> None:
        with self._lock:
            self.state = TRANSITIONS[self.state][happening]

    # Saves.

    def _work_off(self) -> None:
        """Upload what waits; what cannot be done now stays on disk, and is tried again when the server answers."""
        try:
            if self._error is None and self.state in SENDING and not self._saves.work(self._upload):
                return
        finally:
            for job in self._saves.settle():
                self._give_up(job, "it could be neither uploaded nor written to disk")
        with self._lock:
            if self.state is State.BEHIND and self._outage.error is None and not len(self._events):
                self._meets(Happening.CAUGHT_UP)

    def _upload(self, job: SaveJob) -> bool:
        """Whether the job is done with: its model is saved, or never will be. If not, `_outage` has the error."""
        assert self.run is not None, "a decision comes from a run"
        begin = time.monotonic()
        try:
            if not job.unchanged():
                self.run.abandon(job.decision)
                raise ValueError(f"{job.path} was overwritten meanwhile")
            told = unseen if self.asynchronous else None
            metadata = job.metadata(self.metadata)
            self.run.save(job.decision, job.what, metadata, on_progress=told, timeout=self._patience())
        except Exception as error:
            if not self.survive:
                self._error = self._error or error
            elif isinstance(error, KeepbestError) and (error.retryable or isinstance(error, _OVERTAKEN)):
                self._fails(error, time.monotonic() - begin)
                return False
            else:
                self._lose(job, str(error))
                return True
        else:
            if not self.keep_local:
                self._safe.append(job)
        job.forget()
        return True

    def _remove_safe(self) -> None:
        while self._safe:
            job = self._safe.popleft()
            path = self.final_path(job.decision)
            if job.is_at(path):
                remove(path)

    def _give_up(self, job: SaveJob, why: str) -> None:
        self._given_up.append(job.decision)
        self._lose(job, why)

    def _lose(self, job: SaveJob, why: str) -> None:
        """Tell of a save that will never be, at once and at the end."""
        job.forget()
        self._tell_loss(job.decision, why)

    def _tell_loss(self, decision: Decision, why: str) -> None:
        text = f"epoch {decision.epoch + 1}: not saved: {why}"
        self.losses.append(text)
        tell(f"Keepbest: {text}")

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _decided_late(self, entry: Entry, decision: Decision) -> None:
        """Carry out a decision that came after its event, because the server was away at that time."""
        path = self.final_path(decision)
        if self.held.decided(entry, decision, path):
            self.save(decision, path)
        else:
            self.abandon(decision)
