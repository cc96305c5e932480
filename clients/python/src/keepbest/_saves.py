"""Saves that wait for the server: their files stay as they were, and all together have a limit in bytes."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keepbest._files import Fingerprint, Saveable, local_files
from keepbest._local import hidden, in_folder, parts_of, remove, snapshot
from keepbest._tensors import TensorFile
from keepbest.types import Decision

# In a version's metadata: for how long a save in the background held up the training, in seconds.
BLOCKED = "blocked_seconds"


@dataclass
class SaveJob:
    """A model to upload: the decision, and where the model lies; or its tensors, which lie in memory.

    Attributes:
        blocked_seconds: how long the training was held up for it; None: it was not asked, or is held up still.
    """

    decision: Decision
    path: Path
    # Path in the checkpoint to local file.
    files: dict[str, Path]
    fingerprints: dict[str, Fingerprint]
    size_bytes: int
    # The directory of a snapshot, to be removed after the upload.
    snapshot: Path | None = None
    tensors: TensorFile | None = None
    blocked_seconds: float | None = None

    @classmethod
    def of_tensors(cls, decision: Decision, path: Path, tensors: TensorFile) -> SaveJob:
        """A job for tensors, which are written to files near `path` if they cannot be uploaded at once."""
        return cls(decision, path, {}, {}, tensors.size_bytes, tensors=tensors)

    @classmethod
    def of(cls, decision: Decision, path: Path, snapshot: Path | None = None) -> SaveJob:
        """A job for a file, a directory, or the files that share a prefix (TensorFlow's weights format)."""
        name = decision.path or path.name
        parts = {name + part.name.removeprefix(path.name): part for part in parts_of(path)}
        found = local_files(path if path.is_dir() else parts)
        above = f"{name}/" if path.is_dir() else ""
        return cls(
            decision,
            path,
            {above + file.name: file.path for file in found},
            {above + file.name: file.fingerprint for file in found},
            sum(file.size_bytes for file in found),
            snapshot,
        )

    @classmethod
    def of_snapshot(cls, decision: Decision, path: Path) -> SaveJob:
        """A job for a snapshot of `path`, which later saves to that path do not touch."""
        copy = snapshot(path, hidden(path.parent, decision.checkpoint.partition("/checkpoints/")[0]))
        return cls.of(decision, copy, snapshot=copy.parent)

    @property
    def what(self) -> Saveable:
        """What is to be uploaded."""
        return self.files if self.tensors is None else self.tensors

    def metadata(self, given: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """The version's metadata: what is given, and how long the training was held up."""
        if self.blocked_seconds is None:
            return given
        return {BLOCKED: round(self.blocked_seconds, 6), **(given or {})}

    def secured(self) -> SaveJob:
        """The job for a snapshot of the same files; itself if it has one, or if none can be made."""
        if self.snapshot is not None or not self.unchanged():
            return self
        try:
            if self.tensors is not None:
                return self._written(hidden(self.path.parent, self._run))
            return replace(SaveJob.of_snapshot(self.decision, self.path), blocked_seconds=self.blocked_seconds)
        except (OSError, ValueError):
            return self

    def keep(self) -> str:
        """Where its model stays, once this process does not upload it: under a name that nobody removes."""
        kept = self.path
        if self.tensors is not None:
            try:
                kept = self._written(self.path.with_name(f"keepbest-not-uploaded-{uuid.uuid4().hex[:8]}")).path
            except OSError as error:
                return f"its model could not be written: {error}"
        elif self.snapshot is not None and self.snapshot.exists():
            folder = self.snapshot.with_name(f"keepbest-not-uploaded-{self.snapshot.name[-8:]}")
            with contextlib.suppress(OSError):
                self.snapshot.rename(folder)
                kept = self.path = folder / self.path.name
                self.snapshot = None
        return f"its model is at {kept}"

    @property
    def _run(self) -> str:
        return self.decision.checkpoint.partition("/checkpoints/")[0]

    def _written(self, folder: Path) -> SaveJob:
        """Write the tensors into a new folder, and give their memory back: the job for the file."""
        tensors, path = self.tensors, folder / self.path.name
        assert tensors is not None, "only tensors are written"
        try:
            in_folder(folder, lambda: tensors.write_to(path))
            job = SaveJob.of(self.decision, path, snapshot=folder)
        except BaseException:
            remove(folder)
            raise
        tensors.release()
        return replace(job, blocked_seconds=self.blocked_seconds)

    def forget(self) -> None:
        """Remove the snapshot, if there is one, and give memory back."""
        if self.tensors is not None:
            self.tensors.release()
        if self.snapshot is not None:
            remove(self.snapshot)

    def is_at(self, path: Path) -> bool:
        """Whether the files at `path` are the very ones of this job, and not those of a later save."""
        try:
            return self.tensors is None and all(
                Fingerprint.of(os.stat(f"{path}{name.removeprefix(self.decision.path)}")) == fingerprint
                for name, fingerprint in self.fingerprints.items()
            )
        except OSError:
            return False

    def unchanged(self) -> bool:
        """Whether the files are still the ones that were saved for the decision."""
        try:
            return all(
                Fingerprint.of(self.files[name].stat()) == fingerprint
                for name, fingerprint in self.fingerprints.items()
            )
        except FileNotFoundError:
            return False


def job_of(
    decision: Decision, path: Path, tensors: TensorFile | None, later: bool, begin: float | None = None
) -> SaveJob:
    """A job for the model at `path`, or for tensors.

    Args:
        decision: to save it.
        path: where it lies, or would.
        tensors: None: it lies there.
        later: whether it is uploaded beside the training.
        begin: then since when the training waits, by `time.perf_counter`.
    """
    if tensors is not None:
        job = SaveJob.of_tensors(decision, path, tensors)
    else:
        job = (SaveJob.of_snapshot if later else SaveJob.of)(decision, path)
    if later and begin is not None:
        job.blocked_seconds = time.perf_counter() - begin
    return job


class SaveQueue:
    """Jobs in the order of their decisions. It may be used from several threads."""

    def __init__(self, limit_bytes: int) -> None:
        """Begin empty.

        Args:
            limit_bytes: how large the files of all jobs together may be. The newest is kept even if it is larger.
        """
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._working = threading.Lock()
        self._jobs: deque[SaveJob] = deque()
        # The one that is being uploaded, which gives way to no other.
        self._busy: SaveJob | None = None

    def __len__(self) -> int:
        """How many jobs wait or are being uploaded."""
        return len(self._jobs)

    def add(self, job: SaveJob) -> list[SaveJob]:
        """Queue a job.

        Returns:
            The oldest jobs, which gave way because all together exceeded the limit.
        """
        dropped = []
        with self._lock:
            self._jobs.append(job)
            waiting = [other for other in self._jobs if other is not self._busy and other is not job]
            size_bytes = sum(other.size_bytes for other in self._jobs)
            for other in waiting:
                if size_bytes <= self._limit_bytes:
                    break
                size_bytes -= other.size_bytes
                self._jobs.remove(other)
                dropped.append(other)
        return dropped

    def work(self, upload: Callable[[SaveJob], bool]) -> bool:
        """Upload the jobs, oldest first, until one has to wait on. A second thread that does this waits for the first.

        Args:
            upload: whether the job is done with; if not, it stays and is kept as a snapshot.

        Returns:
            Whether none is left.
        """
        with self._working:
            return self._work(upload)

    def _work(self, upload: Callable[[SaveJob], bool]) -> bool:
        while True:
            with self._lock:
                job = self._busy = self._jobs[0] if self._jobs else None
            if job is None:
                return True
            done = False
            try:
                done = upload(job)
            finally:
                kept = None if done else job.secured()
                with self._lock:
                    self._busy = None
                    self._jobs.popleft()
                    if kept is not None:
                        self._jobs.appendleft(kept)
            if not done:
                return False

    def settle(self) -> list[SaveJob]:
        """Write tensors that wait to disk: memory is for saves that are under way.

        Returns:
            The jobs that were taken out, because theirs could not be written.
        """
        with self._working:
            lost = []
            for job in self.left():
                if job.tensors is None:
                    continue
                kept = job.secured()
                with self._lock:
                    at = next((at for at, other in enumerate(self._jobs) if other is job), None)
                    if at is None:  # it gave way meanwhile
                        kept.forget()
                    elif kept is not job:
                        self._jobs[at] = kept
                    else:
                        del self._jobs[at]
                        lost.append(job)
            return lost

    def left(self) -> list[SaveJob]:
        """The jobs that wait."""
        with self._lock:
            return list(self._jobs)

    def not_uploaded(self) -> list[str]:
        """What becomes of the jobs that wait when the training ends, as sentences."""
        return [f"epoch {job.decision.epoch + 1}: not uploaded, {job.keep()}" for job in self.left()]
