"""What a run does about its decisions: save what was decided, or give it up."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any, Literal, overload

from keepbest._arguments import wrong
from keepbest._channel import Connection
from keepbest._curve import Curve
from keepbest._files import Saveable
from keepbest._progress import OnProgress, unseen
from keepbest._proto.keepbest.v1.checkpoints_pb2 import AbandonCheckpointRequest
from keepbest._retry import Patience, Timeout, call
from keepbest._save import Contents, Save, SaveFuture, SaveThread, may_be_saved_later
from keepbest._saves import BLOCKED
from keepbest._snapshots import SnapshotBuffers
from keepbest._tensors import tensors_of
from keepbest.errors import KeepbestError
from keepbest.types import Action, Decision, Version

# How long to try to abandon checkpoints.
ABANDON_SECONDS = 5.0
# Of how many checkpoints that is remembered, in case their saves are repeated.
_REMEMBERED = 100


class RunSaves:
    """The part of a `Run` that saves.

    Attributes:
        attempt: the number of this start.
        rank: of the processes that save together, which this is, from 0.
        ranks: how many such processes there are.
    """

    _connection: Connection
    _curve: Curve
    attempt: int
    rank: int
    ranks: int

    def __init__(self) -> None:
        """Begin without a save."""
        self._saves = SaveThread()
        self._snapshots = SnapshotBuffers()
        # By checkpoint, how long its first save in the background held up the caller, in seconds.
        self._blocked_seconds: dict[str, float] = {}

    @overload
    def save(
        self,
        decision: Decision,
        what: Saveable | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        tensors: Mapping[str, Any] | None = None,
        path: str | None = None,
        asynchronous: Literal[False] = False,
        sha256: bool = False,
        on_progress: OnProgress | None = None,
        timeout: Timeout = None,
    ) -> Version: ...

    @overload
    def save(
        self,
        decision: Decision,
        what: Saveable | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        tensors: Mapping[str, Any] | None = None,
        path: str | None = None,
        asynchronous: Literal[True],
        sha256: bool = False,
        on_progress: OnProgress | None = None,
        timeout: Timeout = None,
    ) -> SaveFuture: ...

    def save(
        self,
        decision: Decision,
        what: Saveable | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        tensors: Mapping[str, Any] | None = None,
        path: str | None = None,
        asynchronous: bool = False,
        sha256: bool = False,
        on_progress: OnProgress | None = None,
        timeout: Timeout = None,
    ) -> Version | SaveFuture:
        """Upload files, or tensors in memory, to the checkpoint of a SAVE and commit it.

        It may be repeated: with the same files and metadata it returns the same version.

        Tensors are streamed as one safetensors file, which lies nowhere on this machine. They must stay as they are
        until this returns. `Client.load` gives them back, and so does the package `safetensors` of the file.

        Each of several ranks uploads its own files, under paths that no other rank uses. When all have, each returns
        the one version. If a rank dies, the others get `FailedPrecondition` (`PARTS_EXPIRED`, with
        `metadata["missing_parts"]`) an hour (`collector.parts_expiry_seconds`) after any of them was last heard of. If
        the save of one rank fails, the others' fail at once (`CHECKPOINT_DELETED`). In both cases there is no version.

        Args:
            decision: what `report` returned.
            what: a file, a directory, several of them, or a map from path in the checkpoint to file. None: there are
                tensors, or this is one of several ranks and has no files.
            metadata: free JSON, kept on the version; rank 0's, if there are several. With tensors it is a map from text
                to text, and the safetensors file has it too.
            tensors: name to array, of NumPy, JAX, torch or TensorFlow, or anything with a buffer, `__array__` or
                `__dlpack__`. No copy is made, unless one is not contiguous, or lies on a device: then of one at a time.
            path: of the tensors in the version; None: `model.safetensors`, of several ranks
                `model-00001-of-00008.safetensors`.
            asynchronous: whether to do it in a thread, one save after the other, and return at once: a future, which is
                done when the version is durable, or has the error. Files must stay as they are from the call until
                then; a change is found (`FileChanged`). Tensors are copied before this returns, into memory that is
                kept for the next save; of such copies there are two, and a third save waits until one is uploaded. How
                long the call took is the version's metadata `blocked_seconds`, and the future's. A warning tells of an
                error as soon as it happens, and `wait` raises it. The interpreter waits for these saves when it exits.
            sha256: whether to declare each file's SHA-256, for which it is read twice.
            on_progress: is given how many bytes were sent, and how many there are in all, now and then. After a break
                the first number may go back. None: the client's bar, but none in the background.
            timeout: how long to go on without progress, in seconds; None: as for the client.

        Raises:
            Unavailable, ResourceExhausted: the server is away or overloaded, or its disk is full. The checkpoint stays
                open, and the same call goes on where this one stopped.
            FileChanged: a file changed while it was uploaded, or this decision's version holds other files. After this
                and all other errors the checkpoint is abandoned, unless it is committed, and the earlier best stands.
            ValueError: the decision is not SAVE, or there is nothing to save; of tensors, none is there, or a name or
                the path cannot be one.
            TypeError: an argument is of the wrong kind, or a tensor of a dtype that safetensors does not have. What is
                wrong with tensors is told before anything is sent, and the checkpoint stays open.
            ImportError: there are tensors, and NumPy is not installed.
        """
        begin = time.perf_counter()
        _check_decision(decision)
        if decision.action != Action.ACTION_SAVE:
            raise ValueError(
                f"the decision about event {decision.sequence} is {Action.Name(decision.action)}, not SAVE"
            )
        source = tensors_of(what, tensors, metadata, path, (self.rank, self.ranks))
        if not asynchronous:
            contents = self._contents(decision, what if source is None else source, metadata)
            return self._save(decision, contents, sha256, on_progress, timeout)
        if source is not None:
            source = self._snapshots.copy(source)
        contents = self._contents(decision, what if source is None else source, metadata, begin)
        return self._saves.submit(
            lambda: self._save(decision, contents, sha256, on_progress or unseen, timeout),
            f"epoch {decision.epoch + 1}",
            release=source.release if source is not None else lambda: None,
            blocked_seconds=time.perf_counter() - begin,
        )

    def wait(self, timeout: float | None = None) -> None:
        """Block until the saves in the background are done.

        Args:
            timeout: for how long, in seconds; None: until they are.

        Raises:
            TimeoutError: they are not.
            Exception: the first error of one of them since the last call. A warning told of it, and its future has it.
        """
        self._saves.wait(timeout)

    def _contents(
        self,
        decision: Decision,
        what: Saveable | None,
        metadata: Mapping[str, Any] | None,
        begin: float | None = None,
    ) -> Contents:
        """What is to be saved. If it is later, since when the caller waits (`time.perf_counter`) is told with it.

        A repeated save must have the same metadata, so it tells how long the first one took.
        """
        contents = Contents.of(what, metadata, self.ranks, later=begin is not None)
        if begin is not None and decision.checkpoint not in self._blocked_seconds:
            if len(self._blocked_seconds) == _REMEMBERED:
                del self._blocked_seconds[next(iter(self._blocked_seconds))]
            self._blocked_seconds[decision.checkpoint] = round(time.perf_counter() - begin, 6)
        if decision.checkpoint in self._blocked_seconds:
            contents.add_metadata(BLOCKED, self._blocked_seconds[decision.checkpoint])
        return contents

    def _save(
        self, decision: Decision, contents: Contents, sha256: bool, on_progress: OnProgress | None, timeout: Timeout
    ) -> Version:
        patience = self._connection.patience(timeout)
        save = Save(self._connection, decision.checkpoint, self.attempt, self.rank, self.ranks, patience)
        try:
            version, files = save.commit(contents, sha256, on_progress)
        except Exception as error:
            if not may_be_saved_later(error):
                self.abandon(decision)
            raise
        save.check(version, files)
        self._curve.note_saved(decision, version)
        return version

    def abandon(self, decision: Decision, timeout: Timeout = None) -> None:
        """Give up the save of a decision. If the server is away, nothing is raised: the checkpoint will expire.

        Args:
            decision: what `report` returned.
            timeout: how long to repeat, in seconds; then the error is raised after all. None: 5 s, and none is.
        """
        _check_decision(decision)
        if decision.action != Action.ACTION_SAVE:
            return
        request = AbandonCheckpointRequest(checkpoint=decision.checkpoint, attempt=self.attempt)
        method = self._connection.stubs().checkpoints.AbandonCheckpoint
        if timeout is not None:
            call(method, request, self._connection.patience(timeout))
            return
        with contextlib.suppress(KeepbestError):
            call(method, request, Patience(ABANDON_SECONDS, ABANDON_SECONDS))


def _check_decision(decision: Decision) -> None:
    if not isinstance(decision, Decision):
        right = "a decision that `report` returned; None means that no save was due"
        raise TypeError(wrong("decision", decision, right))
