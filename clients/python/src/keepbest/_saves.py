"""Saves that wait for the server: their files stay as they were, and all together have a limit in bytes."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from keepbest._files import Fingerprint, collect
from keepbest._local import hidden, parts_of, remove, snapshot
from keepbest.types import Decision


@dataclass
class SaveJob:
    """A model to upload: the decision, and where the model lies."""

    decision: Decision
    path: Path
    # Path in the checkpoint to local file.
    files: dict[str, Path]
    fingerprints: dict[str, Fingerprint]
    size_bytes: int
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
            sum(file.size_bytes for file in found),
            snapshot,
        )

    @classmethod
    def of_snapshot(cls, decision: Decision, path: Path) -> SaveJob:
        """A job for a snapshot of `path`, which later saves to that path do not touch."""
        run = decision.checkpoint.partition("/checkpoints/")[0]
        copy = snapshot(path, hidden(path.parent, run))
        return cls.of(decision, copy, snapshot=copy.parent)

    def secured(self) -> SaveJob:
        """The job for a snapshot of the same files; itself if it has one, or if none can be made."""
        if self.snapshot is not None or not self.unchanged():
            return self
        try:
            return SaveJob.of_snapshot(self.decision, self.path)
        except (OSError, ValueError):
            return self

    def keep(self) -> Path:
        """Where its model stays, once this process does not upload it: under a name that nobody removes."""
        if self.snapshot is not None and self.snapshot.exists():
            kept = self.snapshot.with_name(f"keepbest-not-uploaded-{self.snapshot.name[-8:]}")
            with contextlib.suppress(OSError):
                self.snapshot.rename(kept)
                self.path, self.snapshot = kept / self.path.name, None
        return self.path

    def forget(self) -> None:
        """Remove the snapshot, if there is one."""
        if self.snapshot is not None:
            remove(self.snapshot)

    def is_at(self, path: Path) -> bool:
        """Whether the files at `path` are the very ones of this job, and not those of a later save."""
        try:
            return all(
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

    def left(self) -> list[SaveJob]:
        """The jobs that wait."""
        with self._lock:
            return list(self._jobs)
