"""Save the files of one decision: upload them, commit, and check that the version is what was read here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.struct_pb2 import Struct

from keepbest._background import Background
from keepbest._channel import Connection
from keepbest._digest import version_digest
from keepbest._files import Saveable, collect
from keepbest._progress import OnProgress, progress_of
from keepbest._proto.keepbest.v1.checkpoints_pb2 import CommitCheckpointRequest
from keepbest._retry import WAIT_SECONDS, Patience, call, call_waiting
from keepbest._source import Source, digest_of_source
from keepbest._tell import tell
from keepbest._upload import Uploader
from keepbest._versions import files_of
from keepbest.errors import (
    CHECKPOINT_COMMITTED,
    FailedPrecondition,
    FileChanged,
    KeepbestError,
    StaleAttempt,
)
from keepbest.strategy import struct_of
from keepbest.types import Version


def may_be_saved_later(error: Exception) -> bool:
    """Whether to leave a checkpoint open after this error, because the server may take it later.

    True also for a stale attempt, which may not abandon anything any more.
    """
    if not isinstance(error, KeepbestError):
        return False
    return error.retryable or isinstance(error, StaleAttempt)


@dataclass
class Contents:
    """What is to be saved, as it was when this was made.

    Attributes:
        files: with their fingerprints, by which a later change is found.
        metadata: None: there is none.
        error: why there is nothing to save; `Save.commit` raises it.
    """

    files: list[Source] = field(default_factory=list)
    metadata: Struct | None = None
    error: Exception | None = None

    @classmethod
    def of(cls, what: Saveable | None, metadata: Mapping[str, Any] | None, ranks: int, later: bool) -> Contents:
        """Find the files now. It raises nothing.

        Args:
            what: files, or tensors; None: there are no files, which is an error unless there are several ranks.
            metadata: free JSON.
            ranks: how many processes save together.
            later: whether they are uploaded later. Then this takes up to 20 ms, so that any later write is sure to
                get another time.
        """
        try:
            files = [] if what is None and ranks > 1 else collect(what or [])
            if later:
                for file in files:
                    with file.open():
                        pass
            return cls(files, struct_of(metadata))
        except Exception as error:
            return cls(error=error)

    def add_metadata(self, name: str, value: float) -> None:
        """Add an entry, unless there is one of this name."""
        if self.metadata is None:
            self.metadata = Struct()
        if name not in self.metadata:
            self.metadata.update({name: value})


class SaveFuture(Future[Version]):
    """What a save in the background will be: the version, or an error.

    Attributes:
        blocked_seconds: how long the call of `save` took, for which it held up whoever called it.
    """

    blocked_seconds: float = 0.0


class SaveThread:
    """Saves in the background, one after the other, in a thread that the interpreter waits for."""

    def __init__(self) -> None:
        """Begin without a thread."""
        self._jobs: deque[tuple[Callable[[], Version], str, Callable[[], None], SaveFuture]] = deque()
        self._background = Background(self._work_off)
        # The first one since the last `wait`.
        self._error: Exception | None = None

    def submit(
        self, save: Callable[[], Version], what: str, release: Callable[[], None], blocked_seconds: float
    ) -> SaveFuture:
        """Queue a save. If it fails, a warning tells, and names it `what`.

        Args:
            save: does it.
            what: it is.
            release: is called once it is done, whatever came of it.
            blocked_seconds: how long it took to get here.
        """
        future = SaveFuture()
        future.blocked_seconds = blocked_seconds
        self._jobs.append((save, what, release, future))
        self._background.wake()
        return future

    def wait(self, seconds: float | None) -> None:
        """Block until no save is left.

        Raises:
            TimeoutError: that takes longer than so many seconds.
            Exception: the first error of a save since the last call.
        """
        if not self._background.wait(seconds):
            raise TimeoutError(f"{len(self._jobs) + 1} saves in the background did not end within {seconds:g} s")
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _work_off(self) -> None:
        while self._jobs:
            save, what, release, future = self._jobs.popleft()
            if not future.set_running_or_notify_cancel():
                release()
                continue
            try:
                try:
                    version = save()
                finally:
                    release()  # before anybody learns that it is done
            except Exception as error:
                self._error = self._error or error
                future.set_exception(error)
                tell(f"Keepbest: {what}: not saved: {error}")
            else:
                future.set_result(version)


@dataclass
class Save:
    """What one process saves of a checkpoint. It may be done again from the start, also after it succeeded.

    Attributes:
        checkpoint: the resource name of the checkpoint.
        rank: which of `ranks` processes this is that save the checkpoint together, from 0.
        patience: when to give up.
    """

    connection: Connection
    checkpoint: str
    attempt: int
    rank: int
    ranks: int
    patience: Patience
    # Whether the checkpoint was committed already when the files were to be uploaded.
    _repeated: bool = False

    def commit(
        self,
        contents: Contents,
        sha256: bool,
        on_progress: OnProgress | None = None,
    ) -> tuple[Version, list[tuple[str, int, bytes]]]:
        """Upload the files and commit.

        Returns:
            The version; and for each file its path in the version, its size in bytes, and the digest of what was read.
        """
        if contents.error is not None:
            raise contents.error
        files = contents.files
        digests = self._upload(files, sha256, on_progress)
        request = CommitCheckpointRequest(
            checkpoint=self.checkpoint, attempt=self.attempt, file_count=len(files), metadata=contents.metadata
        )
        method: Callable[..., Version] = self.connection.stubs().checkpoints.CommitCheckpoint
        if self.ranks == 1:
            version = call(method, request, self.patience)
        else:
            request.part, request.part_count, request.wait.seconds = self.rank, self.ranks, WAIT_SECONDS
            version = call_waiting(method, request, self.patience, wait_seconds=None)
        return version, [(file.name, file.size_bytes, digests[file.name]) for file in files]

    def check(self, version: Version, files: list[tuple[str, int, bytes]]) -> None:
        """Raise `FileChanged` if the version does not hold what this process read.

        A version of several ranks holds the others' files too, so its digest says nothing about this rank's. Those were
        compared as they were uploaded, unless the checkpoint was committed before.
        """
        if version_digest(files) == version.digest if self.ranks == 1 else not self._repeated:
            return
        fault = self._fault(version, files)
        if fault is not None:
            raise FileChanged(
                f"`{version.name}` was committed before, and not with what is to be saved now: {fault}. A version "
                "never changes; report the event anew, and save what it decides"
            )

    def _upload(self, files: list[Source], sha256: bool, on_progress: OnProgress | None) -> dict[str, bytes]:
        """Upload, unless all is committed already; the digest of each file as it was read here."""
        try:
            with progress_of("uploading", on_progress, self.connection.progress) as told:
                uploader = Uploader(self.connection, self.checkpoint, self.attempt, self.patience, sha256, told)
                return uploader.upload(files)
        except FailedPrecondition as error:
            if error.reason != CHECKPOINT_COMMITTED:
                raise
            # An earlier call committed it, and its answer may have been lost. `check` compares the files.
            self._repeated = True
            return {file.name: digest_of_source(file) for file in files}

    def _fault(self, version: Version, files: list[tuple[str, int, bytes]]) -> str | None:
        kept = {file.path: file for file in files_of(self.connection, version.name, self.patience)}
        for path, size_bytes, digest in files:
            if path not in kept:
                return f"`{path}` is not among its files"
            if (kept[path].size_bytes, kept[path].digest) != (size_bytes, digest):
                return f"its `{path}` has other bytes, {kept[path].size_bytes} of them"
        if self.ranks > 1:  # the rest are other ranks' files
            return None
        if len(kept) != len(files):
            return f"it has {len(kept)} files instead of {len(files)}"
        return f"its digest {version.digest.hex()} is not that of its files"
