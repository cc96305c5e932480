"""Where a run goes on: the newest version that is committed says which epoch comes next, and has the weights of it.

What was reported behind it counts for nothing: a training that died before a save was committed repeats its epoch.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keepbest import _identity
from keepbest._held import held_folder
from keepbest._identity import Identity
from keepbest._proto.keepbest.v1.runs_pb2 import StartRunRequest
from keepbest._retry import Patience
from keepbest._spool import SUFFIX, Spool, batches_seen
from keepbest._sync import take_up
from keepbest._tell import tell
from keepbest._tensors import EXTENSION
from keepbest._values import Notes
from keepbest._versions import epoch_after
from keepbest.client import Client, start_request
from keepbest.errors import NotFound, Unavailable
from keepbest.types import RunResource, RunState, Strategy, Version


def newest_version(client: Client, run: RunResource) -> Version | None:
    """The newest committed version of a run; None: it has none."""
    if not run.artifact:  # it was deleted, and the next start begins a new one
        return None
    run_id = run.name.rpartition("/")[2]
    try:
        # Runs may share an artifact, so its alias `latest` may be another's.
        return next(client.versions(run.artifact, filter=f'run = "{run_id}"', page_size=1), None)
    except NotFound:
        return None


class Resuming:
    """The part of a callback that knows where its run goes on."""

    _identity: Identity
    _strategy: Strategy
    _client: Client
    _directory: str
    _retry_seconds: float
    _start_arguments: dict[str, Any]
    _metadata: dict[str, Any] | None
    _current_epoch: int
    # The epoch to go on with, once somebody asked for it.
    _next_epoch: int | None
    # Whether somebody asked, and the run had not come to its end.
    _unfinished: bool
    # The model that this callback trained last.
    _trained: weakref.ref[Any] | None
    # Batches since a save was last due, when that was last known; None: the server was not asked yet.
    _seen: int | None
    # What is told once.
    _notes: Notes

    def _print(self, line: str) -> None:
        """Print a line as the framework does."""
        raise NotImplementedError

    def _load(self, model: Any, path: str) -> None:
        """Give a model the weights of what this callback wrote to a path, and its optimizer's state."""
        raise NotImplementedError

    def _load_tensors(self, model: Any, tensors: dict[str, Any]) -> None:
        """Give a model the weights that this callback saved as tensors, and its optimizer's state."""
        raise NotImplementedError

    def _trains(self) -> Any:
        """The model, as the framework gave it; None: none."""
        model = self.__dict__.get("_model")
        return self.__dict__.get("model") if model is None else model

    @property
    def run_name(self) -> str:
        """The run's resource name: `teams/{team}/projects/{project}/runs/{run}`."""
        return self._identity.name

    def resume(self, model: Any) -> int:
        """Give the model the newest weights that are saved, and return the epoch to go on with after them.

        `model.fit(..., initial_epoch=checkpoint.resume(model))`. For a new run, and one of which nothing is saved, it
        returns 0 and leaves the model as it is; so it does, with a warning, if the run's artifact was deleted. What was
        reported and not saved counts for nothing: after a preemption in the middle of an upload that epoch is trained
        again. With `save_best_only` the newest weights are the best ones, and when saves go by batches, it returns the
        epoch in the middle of which they were saved. The model must have its weights already, as it has once its
        input's shape is known.

        Raises:
            Unavailable: the server was away for `retry_seconds`. Beginning at 0 instead would repeat the training.
            ResourceExhausted: the server's store is full, so that what an earlier training kept cannot be brought in.
        """
        version = self._newest()
        if version is None:
            return 0
        self._load_version(model, version)
        first = epoch_after(version)
        self._print(
            f"Keepbest: run `{self.run_name}` goes on with epoch {first + 1}, from the weights of epoch "
            f"{version.epoch + 1} (`v{version.number}`)"
        )
        return first

    def _load_version(self, model: Any, version: Version) -> None:
        if version.path.endswith(EXTENSION):
            self._load_tensors(model, self._client.load(version.name, path=version.path))
            return
        directory = Path(os.path.dirname(self._directory) or ".")  # it may end in a drive
        directory.mkdir(parents=True, exist_ok=True)
        # Not under a name of the run's: another process may start it while this one loads.
        with tempfile.TemporaryDirectory(prefix=".keepbest-resume-", dir=directory) as temporary:
            pulled = os.path.join(temporary, "version")  # a pull leaves a record beside it
            self._client.pull(version.name, pulled)
            self._load(model, os.path.join(pulled, version.path))

    def initial_epoch(self) -> int:
        """The epoch to go on with, for whoever loads the weights himself: those of the run's newest version.

        `resume` loads them too. For a new run, and one of which nothing is saved, it is 0.

        Raises:
            Unavailable: the server was away for `retry_seconds`. Beginning at 0 instead would repeat the training.
            ResourceExhausted: the server's store is full, so that what an earlier training kept cannot be brought in.
        """
        version = self._newest()
        return 0 if version is None else epoch_after(version)

    def _newest(self) -> Version | None:
        """The newest committed version of the run, which says where the training goes on."""
        self._next_epoch, self._unfinished = 0, False
        if self._identity.is_new:
            return None
        try:
            self._take_up(Patience(self._retry_seconds))
            run = self._standing()
            version = None if run is None else newest_version(self._client, run)
            self._unfinished = run is not None and run.state != RunState.RUN_STATE_FINISHED
            self._seen = 0 if run is None else run.monitor_state.batches_since_save
        except Unavailable as error:
            if error.is_misaddressed:
                raise
            raise Unavailable(
                f"the server is away, so where run `{self.run_name}` stands is unknown: start it (`keepbest serve`), "
                f"or name another with server=...: {error}; to train without a server pass `initial_epoch=` yourself: "
                f"what the training tells is kept in `{held_folder(self._directory)}/` and brought in by `python -m "
                "keepbest sync`",
                code=error.code,
            ) from error
        if version is not None:
            self._next_epoch = epoch_after(version)
        elif run is not None and not run.artifact:
            self._tell_deletion(run)
        return version

    def _tell_deletion(self, run: RunResource) -> None:
        """Tell once that what the run saved was deleted on purpose, so that nobody wonders why it begins anew."""
        reported = f"which has reported epoch {run.last_epoch + 1}, " if run.HasField("last_epoch") else ""
        self._notes.tell(
            "deletion",
            f"the artifact of run `{run.name}`, {reported}was deleted: there is nothing to resume from, so the "
            "training begins at epoch 1, and with a new artifact",
        )

    def _take_up(self, patience: Patience) -> None:
        """Bring in what earlier trainings of this run could not tell the server, while it was away."""
        patience = self._client.connection.patience(patience)
        for synced in take_up(self._client.connection, held_folder(self._directory), self.run_name, patience):
            saved = f" and saved {len(synced.versions)} models" if synced.versions else ""
            self._print(f"Keepbest: reported {synced.events} events that an earlier training kept{saved}")
            for loss in synced.losses:
                tell(f"Keepbest, run `{self.run_name}`: {loss}")

    def _spool(self, request_id: str, directions: Callable[[], dict[str, str]]) -> Spool:
        """Where the training that now begins keeps what it cannot tell the server."""

        def request() -> StartRunRequest:
            return start_request(
                self._identity.project,
                self._identity.run,
                self._strategy,
                metric_directions=directions(),
                request_id=request_id,
                **self._start_arguments,
            )

        path = held_folder(self._directory) / f"{self._identity.run}-{request_id[:8]}{SUFFIX}"
        return Spool(path, request, self._directory, self._metadata)

    def _seen_before(self) -> int:
        """How many batches passed since a save was last due: the server counts on, and may be away at the start."""
        if self._seen is not None:
            return self._seen
        return batches_seen(held_folder(self._directory), self.run_name)

    def _standing(self) -> RunResource | None:
        """The run as it is; of two that callbacks of one training shared a name for, this one's."""
        run = self._look_at(self.run_name)
        if run is None or _identity.same_saves(self._strategy, run.strategy):
            return run
        for beside in (
            _identity.beside(self._identity.run, self._strategy, run.strategy),
            _identity.third(self._identity.run, self._strategy),
        ):
            found = self._look_at(f"{self._identity.project}/runs/{beside}")
            if found is not None and _identity.same_saves(self._strategy, found.strategy):
                self._identity.run = beside
                return found
        return run

    def _look_at(self, name: str) -> RunResource | None:
        try:
            return self._client.run(name, timeout=self._retry_seconds)
        except NotFound:
            return None

    def _note_begin(self) -> None:
        """The run has started: what was asked about it before does not matter any more."""
        model = self._trains()
        self._next_epoch, self._unfinished = None, False
        self._trained = None if model is None else weakref.ref(model)

    def _check_begin(self, run: RunResource) -> None:
        """Tell loudly that an old run goes on, though its training seems to be a new one."""
        if self._current_epoch > 0 or not run.HasField("last_epoch") or self._next_epoch == 0:
            return
        if self._trained is not None and self._trained() is self._trains():  # `fit` was called twice
            return
        best = f" and goes on with its best, {run.monitor_state.best:g}" if run.monitor_state.HasField("best") else ""
        tell(
            f"Keepbest: run `{run.name}` is an old one, which has reported epoch {run.last_epoch + 1}; this training "
            f"resumes it at epoch 1{best}. For a new training (a fold, a trial) name a run of its own, or none; to go "
            "on with the old one pass initial_epoch=checkpoint.resume(model)",
        )
