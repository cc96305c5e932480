"""What the callbacks of Keras 3 and tf_keras share. Imports no framework."""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import uuid
import warnings
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from keepbest import _identity
from keepbest._carrying import Carrying
from keepbest._checks import check_callback
from keepbest._ending import Ending
from keepbest._events import EventBuffer, make_event
from keepbest._held import HeldFiles
from keepbest._identity import Copies, Identity
from keepbest._local import remove_hidden
from keepbest._monitor import near_monitor_text
from keepbest._paths import split_template
from keepbest._proto.keepbest.v1.resources_pb2 import EVENT_KIND_BATCH_END, EVENT_KIND_EPOCH_END, EVENT_KIND_TRAIN_END
from keepbest._proto.keepbest.v1.runs_pb2 import GetRunRequest
from keepbest._resume import Resuming
from keepbest._retry import Patience
from keepbest._session import Session
from keepbest._snapshots import SnapshotBuffers
from keepbest._tell import tell
from keepbest._template import check_template, misspelling_text, misspelt, never_reported
from keepbest._values import Intake, Notes, json_values
from keepbest.client import Client
from keepbest.ranks import training_rank
from keepbest.run import Run
from keepbest.strategy import strategy
from keepbest.types import Event, EventKind, Mode, Strategy

# Default for the size of all models that are held while the server is away: room for a few large ones.
HELD_BYTES = 20 << 30
# Default for a dying process: Kubernetes and Slurm give 30 s, and some of it is for the rest of the program.
GRACE_SECONDS = 25.0


class CheckpointCallback(Carrying, Resuming):
    """Turns a framework's hooks into calls of a `Session`.

    A subclass derives from its framework's Callback as well. It supplies what differs between the frameworks: fields of
    the strategy, the metrics' directions, how to write a model, and how to print a line.
    """

    # The framework whose models this callback takes; then the other framework and the callback to use with it.
    _framework: ClassVar[str]
    _other: ClassVar[tuple[str, str]]
    # Whether the framework compares an array of one element as a number.
    _one_element_is_number: ClassVar[bool] = False

    model: Any

    def _configure(
        self,
        filepath: str | os.PathLike[str],
        *,
        monitor: str,
        verbose: int,
        save_best_only: bool,
        save_weights_only: bool,
        mode: str,
        save_freq: Literal["epoch"] | int,
        initial_value_threshold: float | None,
        server: str | None,
        project: str | None,
        run: str | None,
        asynchronous: bool,
        on_unavailable: Literal["warn", "raise"],
        min_delta: float,
        client: Client | None,
        artifact: str,
        config: Mapping[str, Any] | None,
        metadata: Mapping[str, Any] | None,
        retry_seconds: float,
        finish_run: bool,
        held_bytes: int,
        every_epochs: int,
        keep_local: bool,
        copies: Copies,
        grace_seconds: float,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Check the arguments and keep them. The server is first asked at the first event."""
        check_callback(
            filepath=filepath,
            monitor=monitor,
            verbose=verbose,
            initial_value_threshold=initial_value_threshold,
            artifact=artifact,
            client=client,
            on_unavailable=on_unavailable,
            min_delta=min_delta,
            retry_seconds=retry_seconds,
            held_bytes=held_bytes,
            every_epochs=every_epochs,
            grace_seconds=grace_seconds,
        )
        self.filepath = os.fspath(filepath)
        self.monitor = monitor
        self.verbose = verbose
        self.save_best_only = save_best_only
        self.save_weights_only = save_weights_only
        self.mode = mode
        self.save_freq = save_freq
        self.best = self._threshold = initial_value_threshold
        self._directory, template = split_template(self.filepath)
        check_template(template)
        for warning in never_reported(template, by_epochs=save_freq == "epoch"):
            warnings.warn(f"filepath `{self.filepath}`: {warning}", stacklevel=3)
        self._strategy = strategy(
            template,
            monitor,
            verbose=int(verbose > 0),
            save_best_only=bool(save_best_only),
            save_weights_only=bool(save_weights_only),
            mode=mode,
            save_freq=save_freq,
            options=options,
            initial_value_threshold=initial_value_threshold,
            min_delta=min_delta,
            local_directory=self._directory,
            **self._dialect(),
        )
        self._identity = Identity(project, run, copies)
        self._client = client or Client(server, project=self._identity.project)
        self._own_client = client is None
        self._asynchronous = asynchronous
        self._survive = on_unavailable == "warn"
        self._start_arguments = {"artifact": artifact or "", "config": json_values("config", config)}
        self._metadata = json_values("metadata", metadata)
        self._retry_seconds = retry_seconds
        self._finish_run = finish_run
        self._held_bytes = held_bytes
        self._every_epochs = int(every_epochs)
        self._keep_local = keep_local
        self._grace_seconds = grace_seconds
        self._forget_training()

    def _forget_training(self) -> None:
        """Begin without a training."""
        self._current_epoch = 0
        self._session: Session | None = None
        self._ending: Ending | None = None
        self._snapshots = SnapshotBuffers()
        self._notes = Notes()
        self._batch_is_looked_at = False
        self._intake = Intake(self._strategy, one_element_is_number=self._one_element_is_number)
        # Whether another rank of this training saves.
        self._silent = False
        self._unfinished = False
        self._next_epoch = None
        self._trained = self._seen = None

    def __getstate__(self) -> dict[str, Any]:
        """All that a copy of this callback, in this process or another, has in common with it."""
        ours = ("_session", "_snapshots", "_ending", "_intake", "_trained")
        theirs = ("_model", "model", "params")  # set again by the framework
        state = {key: value for key, value in self.__dict__.items() if key not in ours}
        state |= {key: None for key in theirs if key in state}
        return state | {"_strategy": self._strategy.SerializeToString()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become a copy, with a run of its own unless it was told otherwise."""
        self.__dict__.update(state)
        self._strategy = Strategy.FromString(state["_strategy"])
        self._identity = copy.copy(self._identity)
        self._identity.of_a_copy()
        self._client, self._own_client = copy.deepcopy(self._client), True
        self.best = self._threshold
        self._forget_training()

    # Supplied by the framework's subclass.

    def _dialect(self) -> dict[str, Any]:
        """The strategy's fields that differ between versions of the framework."""
        raise NotImplementedError

    def _metric_directions(self) -> dict[str, str]:
        """The direction, `up` or `down`, of each compiled metric for which the framework knows it."""
        raise NotImplementedError

    # Called by the framework.

    def set_model(self, model: Any) -> None:
        """Keep the model.

        Raises:
            TypeError: it is a model of the other framework; the text names the callback to use.
        """
        other, callback = self._other
        roots = {base.__module__.partition(".")[0] for base in type(model).__mro__}
        if other in roots and self._framework not in roots:
            raise TypeError(f"the model is of {other}, this callback is for {self._framework}; use {callback}")
        super().set_model(model)  # type: ignore[misc]

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Find out who else trains: other ranks, and other callbacks under the same name of a run."""
        rank, ranks, found = training_rank(told=self._identity.told)
        self._silent = rank > 0
        if self._silent:
            self._print(f"Keepbest: this is rank {rank} of {ranks} ({found}); rank 0 reports and saves")
            return
        if self._ending is not None:
            self._ending.end("another training began with its callback", self._grace_seconds)
        other = _identity.in_training(self.run_name)
        if other is not None and other is not self and other._trains() is self._trains() is not None:
            first = self._identity.run
            self._identity.run = _identity.beside(first, self._strategy, other._strategy)
            if _identity.in_training(self.run_name) not in (None, self):
                self._identity.run = _identity.third(first, self._strategy)
            self._print(
                f"Keepbest: run `{self.run_name}`, because another callback of this training saves to run `{first}`"
            )
        _identity.enter_training(self.run_name, self)
        self._ending = Ending(self._tell_failure, self._grace_seconds)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Remember the epoch: the hooks of batches are not given it."""
        self._current_epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Report the batch if saves go by batches.

        Before the first one, start the run: a bad strategy fails early, and the count of batches goes on where the run
        stands.
        """
        if self._silent:
            return
        if self._session is None:
            self._tell_misspellings(logs or {})
            self._open_session().open()
        if self.save_freq == "epoch":
            return
        self._report(EVENT_KIND_BATCH_END, self._current_epoch, logs, batch)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Report the epoch, and save if the server decides SAVE."""
        if (epoch + 1) % self._every_epochs == 0 or self.save_freq != "epoch":
            self._report(EVENT_KIND_EPOCH_END, epoch, logs)
        elif not self._silent:
            event = make_event(EVENT_KIND_EPOCH_END, epoch, logs or {}, intake=self._intake)
            session = self._session or self._open_session()
            with self._undisturbed():
                session.record(event)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Send and upload what is left, finish the run, and warn of what could not be saved."""
        ending = self._ending
        _identity.leave_training(self.run_name, self)
        if self._session is None and self._unfinished and self._finish_run and not self._silent:
            # An earlier process died between its last save and the end: there was nothing left to train.
            self._current_epoch = max((self._next_epoch or 0) - 1, 0)
            self._trained = weakref.ref(self.model)
            self._open_session()
        session, losses = self._session, []
        try:
            if session is not None:
                event = make_event(EVENT_KIND_TRAIN_END, self._current_epoch, logs or {}, intake=self._intake)
                # A signal that comes now waits for the uploads that are waited for here.
                with contextlib.nullcontext() if ending is None else ending.saving():
                    losses = session.close(event, self._finish_run)
                    self._session = None
        except Exception:
            self._session = None
            raise
        finally:
            self._snapshots.clear()
            if session is not None:
                self._seen = session.seen
            if self._session is None:  # else the process is told to end, and `ending` tells the server
                self._ending = None
                if ending is not None:
                    ending.close()
                if self._own_client:
                    self._client.close()  # a later `fit` or `initial_epoch` opens it again
        if losses:
            tell(f"Keepbest, run `{self.run_name}`: " + "; ".join(losses))

    def _tell_failure(self, reason: str, seconds: float, in_a_save: bool) -> None:
        """The training died: finish what is uploaded in the background, and tell that the run has failed."""
        _identity.leave_training(self.run_name, self)
        session, self._session = self._session, None
        if session is None:
            return
        losses = session.fail(reason, self._current_epoch, seconds, in_a_save)
        self._seen = session.seen
        for loss in losses:
            tell(f"Keepbest, run `{self.run_name}`: {loss}")

    def _tell_misspellings(self, logs: Mapping[str, Any]) -> None:
        """Warn at the first batch, when the metrics' names are known, of a placeholder that is called almost as one."""
        metrics = [*self._metric_directions(), *map(str, logs)]
        known = ["epoch", "batch", *metrics, *(f"val_{name}" for name in metrics)]
        found = misspelt(self._strategy.filepath, known, self.monitor)
        if found:
            tell(misspelling_text(self.filepath, found))

    def _tell_near_monitor(self, event: Event) -> None:
        """Warn once of an event without the monitor, and with a metric that is called almost so.

        What becomes of the model, the framework's own sentence says.
        """
        if self.monitor in event.metrics or self.monitor in event.typed_metrics:
            return
        if self.save_freq != "epoch":
            if self._batch_is_looked_at or event.kind != EVENT_KIND_BATCH_END:
                return
            self._batch_is_looked_at = True  # they all have the same metrics, and are many
        text = near_monitor_text(event, self.monitor)
        if text is not None:
            self._notes.tell("monitor", text)

    def _open_session(self) -> Session:
        request_id = str(uuid.uuid4())
        # Frameworks add metrics as they train. A repeated start must be the same request, or it is refused.
        directions = functools.cache(self._metric_directions)

        def start(events: EventBuffer, patience: Patience) -> Run:
            return self._start(request_id, directions(), events, patience)

        def ask(deadline_seconds: float) -> Any:
            method = self._client.connection.stubs().runs.GetRun
            return method.future(GetRunRequest(name=self.run_name), timeout=deadline_seconds)

        modes = {"min": Mode.MODE_MIN, "max": Mode.MODE_MAX}
        direction = modes.get(self.mode, Mode.MODE_UNSPECIFIED)
        held = HeldFiles(self.filepath, self.monitor, self.save_best_only, direction, self.run_name, self._held_bytes)
        self._session = Session(
            start=start,
            ask=ask,
            strategy=self._strategy,
            held=held,
            retry_seconds=self._retry_seconds,
            survive=self._survive,
            asynchronous=self._asynchronous,
            metadata=self._metadata,
            final_path=self._final_path,
            keep_local=self._keep_local,
            spool=self._spool(request_id, directions),
            seen_before=self._seen_before(),
        )
        return self._session

    def _start(self, request_id: str, directions: dict[str, str], events: EventBuffer, patience: Patience) -> Run:
        self._take_up(patience)
        run = self._client.start_run(
            self._identity.project,
            self._identity.run,
            self._strategy,
            metric_directions=directions,
            request_id=request_id,
            timeout=patience,
            _events=events,
            **self._start_arguments,
        )
        for warning in run.warnings:
            tell(warning)
        if self._identity.is_new:
            self._identity.is_new = False
            self._print(f"Keepbest: run `{run.name}`; pass run={self._identity.run!r} to continue it after a restart")
        else:
            if run.resumed:
                self._check_begin(run.resource)
            # Also of a run that is new to the server: an earlier process may have trained without one.
            remove_hidden(Path(self._directory), self._strategy.filepath, self.run_name)
        self._note_begin()
        if run.resource.monitor_state.HasField("best"):
            self.best = run.resource.monitor_state.best
        return run

    def _report(self, kind: EventKind, epoch: int, logs: Mapping[str, Any] | None, batch: int | None = None) -> None:
        if self._silent:
            return
        session = self._session or self._open_session()
        event = make_event(kind, epoch, logs or {}, batch=batch, intake=self._intake)
        self._tell_near_monitor(event)
        with self._undisturbed():
            decision = session.report(event, self._write)
            if decision is not None:
                self._carry_out(session, decision)

    def _undisturbed(self) -> contextlib.AbstractContextManager[None]:
        """Inside of it a signal that asks the process to end waits for what is done."""
        return contextlib.nullcontext() if self._ending is None else self._ending.saving()
