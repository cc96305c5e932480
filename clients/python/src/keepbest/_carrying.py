"""The part of a callback that carries a decision out: the model is written or copied, and given to the session."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import Any

from keepbest._keras_errors import directories_refused, exception_of
from keepbest._local import replace
from keepbest._session import Session
from keepbest._snapshots import SnapshotBuffers
from keepbest._tell import tell
from keepbest._tensors import TensorFile
from keepbest.types import Action, Decision, Strategy

# A full disk, a used up quota.
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


class Carrying:
    """Saves a model when the server has decided so."""

    filepath: str
    verbose: int
    best: float | None
    run_name: Any
    _asynchronous: bool
    _directory: str
    _keep_local: bool
    _snapshots: SnapshotBuffers
    _strategy: Strategy

    def _print(self, line: str) -> None:
        """Print a line as the framework does."""
        raise NotImplementedError

    def _write(self, path: str) -> None:
        """Write the model, or its weights, to a path."""
        raise NotImplementedError

    def _tensors(self, path: str | None = None) -> TensorFile | None:
        """The model's weights as a file, of this path in the version; None: they are saved by `_write`."""
        return None

    def _carry_out(self, session: Session, decision: Decision) -> None:
        begin = time.perf_counter()
        for warning in decision.warnings:
            tell(warning)
        if decision.action == Action.ACTION_FAIL:
            raise exception_of(decision, self._strategy.filepath, self.filepath)
        if self.verbose > 0 and decision.message:
            self._print(decision.message)
        if decision.action != Action.ACTION_SAVE:
            return
        path = self._final_path(decision)
        try:
            tensors = self._taken(path, decision)
        except OSError as error:
            session.abandon(decision)
            if self._keep_local or error.errno not in _FULL:
                raise
            tell(f"Keepbest: epoch {decision.epoch + 1} is not saved, there is no room: {error}")
            return
        except BaseException:
            session.abandon(decision)
            raise
        session.save(decision, path, tensors, begin)
        if decision.improvement:
            self.best = decision.value
        if self.verbose > 0:
            self._tell_saved(decision, time.perf_counter() - begin)

    def _tell_saved(self, decision: Decision, seconds: float) -> None:
        if decision.finished_message:
            self._print(decision.finished_message)
        if self._asynchronous:
            self._print(
                f"Keepbest: epoch {decision.epoch + 1}: the save held the training up for {1e3 * seconds:.0f} ms; the "
                "upload goes on in the background"
            )

    def _taken(self, path: Path, decision: Decision) -> TensorFile | None:
        """Take the model as it is now: written to its path; or its weights, copied if they are uploaded later."""
        tensors = self._tensors(decision.path)
        if tensors is None:
            with directories_refused(self._directory + decision.path):
                replace(path, self._write, self.run_name)
            return None
        return self._snapshots.copy(tensors) if self._asynchronous else tensors

    def _final_path(self, decision: Decision) -> Path:
        return Path(self._directory + decision.path)


__all__ = ["Carrying"]
