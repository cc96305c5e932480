"""What the callbacks of Keras 3 and tf_keras share. Imports no framework."""

from __future__ import annotations

import builtins
import functools
import os
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from keepbest._events import EventBuffer, make_event
from keepbest._held import HeldFiles
from keepbest._local import replace, split_template
from keepbest._proto.keepbest.v1.runs_pb2 import GetRunRequest
from keepbest._retry import Patience
from keepbest._session import Session
from keepbest.client import Client
from keepbest.errors import InvalidArgument, NotFound, Unavailable
from keepbest.names import project_name, run_name
from keepbest.run import Run
from keepbest.strategy import strategy
from keepbest.types import Action, Decision, EventKind, Mode, RunState

PROJECT_VARIABLE = "KEEPBEST_PROJECT"
RUN_VARIABLE = "KEEPBEST_RUN"
DEFAULT_PROJECT = "default/default"
# Default for the size of all models that are held while the server is away: room for a few large ones.
HELD_BYTES = 20 << 30

# The only exceptions that a FAIL may name: those that str.format and Keras raise for a template.
_EXCEPTIONS = {"AttributeError", "IndexError", "KeyError", "OSError", "OverflowError", "TypeError", "ValueError"}


class CheckpointCallback:
    """Turns a framework's hooks into calls of a `Session`.

    A subclass derives from its framework's Callback as well. It supplies what differs between the frameworks: fields of
    the strategy, the metrics' directions, how to write a model, and how to print a line.
    """

    # The framework whose models this callback takes; then the other framework and the callback to use with it.
    _framework: ClassVar[str]
    _other: ClassVar[tuple[str, str]]

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
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Check the arguments and keep them. The server is first asked at the first event."""
        if on_unavailable not in ("warn", "raise"):
            raise ValueError(f"on_unavailable `{on_unavailable}` is neither `warn` nor `raise`")
        if held_bytes < 0:
            raise ValueError(f"held_bytes `{held_bytes}` is negative")
        self.filepath = os.fspath(filepath)
        self.monitor = monitor
        self.verbose = verbose
        self.save_best_only = save_best_only
        self.save_weights_only = save_weights_only
        self.mode = mode
        self.save_freq = save_freq
        self.best = initial_value_threshold
        self._directory, template = split_template(self.filepath)
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
        self._client = client or Client(server)
        self._own_client = client is None
        self._project = project_name(project or os.environ.get(PROJECT_VARIABLE) or DEFAULT_PROJECT)
        named = run or os.environ.get(RUN_VARIABLE)
        self._run_is_new = not named
        self._run_id = named or f"run-{uuid.uuid4().hex[:12]}"
        self._asynchronous = asynchronous
        self._survive = on_unavailable == "warn"
        self._start_arguments = {"artifact": artifact, "config": config}
        self._metadata = dict(metadata) if metadata is not None else None
        self._retry_seconds = retry_seconds
        self._finish_run = finish_run
        self._held_bytes = held_bytes
        self._current_epoch = 0
        self._session: Session | None = None

    # Supplied by the framework's subclass.

    def _dialect(self) -> dict[str, Any]:
        """The strategy's fields that differ between versions of the framework."""
        raise NotImplementedError

    def _metric_directions(self) -> dict[str, str]:
        """The direction, `up` or `down`, of each compiled metric for which the framework knows it."""
        raise NotImplementedError

    def _print(self, line: str) -> None:
        """Print a line as the framework does."""
        raise NotImplementedError

    def _write(self, path: str) -> None:
        """Write the model, or its weights, to a path."""
        raise NotImplementedError

    # Called by the training script.

    @property
    def run_name(self) -> str:
        """The run's resource name: `teams/{team}/projects/{project}/runs/{run}`."""
        return run_name(self._project, self._run_id)

    def initial_epoch(self) -> int:
        """The epoch to go on with: `model.fit(..., initial_epoch=callback.initial_epoch())`.

        For a new run it is 0, else the epoch after the last one that was reported. When saves go by batches and the run
        was killed, it is the last reported epoch itself, which may not have been completed. Unless it is 0, load the
        weights before the training goes on, for example with `Client.pull` and the alias `latest`.

        Raises:
            Unavailable: the server was away for `retry_seconds`. Beginning at 0 instead would repeat the training.
        """
        if self._run_is_new:
            return 0
        try:
            run = self._client.run(self.run_name, timeout=self._retry_seconds)
        except NotFound:
            return 0
        except Unavailable as error:
            raise Unavailable(
                f"the server is away, so where run `{self.run_name}` stands is unknown: start it (`keepbest serve`), "
                f"or name another with server=...: {error}"
            ) from error
        if not run.HasField("last_epoch"):
            return 0
        complete = self.save_freq == "epoch" or run.state == RunState.RUN_STATE_FINISHED
        return run.last_epoch + 1 if complete else run.last_epoch

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

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Remember the epoch: the hooks of batches are not given it."""
        self._current_epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Report the batch if saves go by batches; else start the run, so that a bad strategy fails early."""
        if self.save_freq == "epoch":
            if self._session is None:
                self._open_session().open()
            return
        self._report(EventKind.EVENT_KIND_BATCH_END, self._current_epoch, logs, batch)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Report the epoch, and save if the server decides SAVE."""
        self._report(EventKind.EVENT_KIND_EPOCH_END, epoch, logs)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Send and upload what is left, finish the run, and warn of what could not be saved."""
        if self._session is None:
            return
        session, self._session = self._session, None
        event = make_event(EventKind.EVENT_KIND_TRAIN_END, self._current_epoch, logs or {})
        try:
            losses = session.close(event, self._finish_run)
        finally:
            if self._own_client:
                self._client.close()  # a later `fit` or `initial_epoch` opens it again
        if losses:
            warnings.warn(f"Keepbest, run `{self.run_name}`: " + "; ".join(losses), stacklevel=2)

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
        held = HeldFiles(self.filepath, self.monitor, self.save_best_only, direction, self._run_id, self._held_bytes)
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
        )
        return self._session

    def _start(self, request_id: str, directions: dict[str, str], events: EventBuffer, patience: Patience) -> Run:
        run = self._client.start_run(
            self._project,
            self._run_id,
            self._strategy,
            metric_directions=directions,
            request_id=request_id,
            timeout=patience,
            _events=events,
            **self._start_arguments,  # type: ignore[arg-type]
        )
        for warning in run.warnings:
            warnings.warn(warning, stacklevel=2)
        if self._run_is_new:
            self._run_is_new = False
            self._print(f"Keepbest: run `{run.name}`; pass run={self._run_id!r} to continue it after a restart")
        if run.resource.monitor_state.HasField("best"):
            self.best = run.resource.monitor_state.best
        return run

    def _report(self, kind: EventKind, epoch: int, logs: Mapping[str, Any] | None, batch: int | None = None) -> None:
        session = self._session or self._open_session()
        decision = session.report(make_event(kind, epoch, logs or {}, batch=batch), self._write)
        if decision is not None:
            self._carry_out(session, decision)

    def _carry_out(self, session: Session, decision: Decision) -> None:
        for warning in decision.warnings:
            warnings.warn(warning, stacklevel=2)
        if decision.action == Action.ACTION_FAIL:
            raise _exception(decision)
        if self.verbose > 0 and decision.message:
            self._print(decision.message)
        if decision.action != Action.ACTION_SAVE:
            return
        path = self._final_path(decision)
        try:
            self._write_local(path)
        except BaseException:
            session.abandon(decision)
            raise
        session.save(decision, path)
        if decision.improvement:
            self.best = decision.value
        if self.verbose > 0 and decision.finished_message:
            self._print(decision.finished_message)

    def _final_path(self, decision: Decision) -> Path:
        return Path(self._directory) / decision.path

    def _write_local(self, path: Path) -> None:
        try:
            replace(path, self._write)
        except IsADirectoryError:
            raise OSError(
                "Please specify a non-directory filepath for ModelCheckpoint. "
                f"Filepath used is an existing directory: {path}"
            ) from None


def _exception(decision: Decision) -> Exception:
    """The exception that the framework itself would raise where the server decided FAIL."""
    kind = getattr(builtins, decision.error_type) if decision.error_type in _EXCEPTIONS else InvalidArgument
    error: Exception = kind(decision.reason_text)
    return error
