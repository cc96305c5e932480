"""What a run does about its decisions: save what was decided, or give it up."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, Literal, overload

from keepbest._arguments import wrong
from keepbest._channel import Connection
from keepbest._files import Saveable
from keepbest._progress import OnProgress, unseen
from keepbest._proto.keepbest.v1.checkpoints_pb2 import AbandonCheckpointRequest
from keepbest._retry import Patience, Timeout, call
from keepbest._save import Contents, Save, SaveThread, may_be_saved_later
from keepbest.errors import KeepbestError
from keepbest.types import Action, Decision, Version

# How long to try to abandon checkpoints.
ABANDON_SECONDS = 5.0


class RunSaves:
    """The part of a `Run` that saves.

    Attributes:
        attempt: the number of this start.
        rank: of the processes that save together, which this is, from 0.
        ranks: how many such processes there are.
    """

    _connection: Connection
    _saves: SaveThread
    attempt: int
    rank: int
    ranks: int

    @overload
    def save(
        self,
        decision: Decision,
        what: Saveable | None,
        metadata: Mapping[str, Any] | None = None,
        *,
        asynchronous: Literal[False] = False,
        sha256: bool = False,
        on_progress: OnProgress | None = None,
        timeout: Timeout = None,
    ) -> Version: ...

    @overload
    def save(
        self,
        decision: Decision,
        what: Saveable | None,
        metadata: Mapping[str, Any] | None = None,
        *,
        asynchronous: Literal[True],
        sha256: bool = False,
        on_progress: OnProgress | None = None,
        timeout: Timeout = None,
    ) -> Future[Version]: ...

    def save(
        self,
        decision: Decision,
        what: Saveable | None,
        metadata: Mapping[str, Any] | None = None,
        *,
        asynchronous: bool = False,
        sha256: bool = False,
        on_progress: OnProgress | None = None,
        timeout: Timeout = None,
    ) -> Version | Future[Version]:
        """Upload files to the checkpoint of a SAVE and commit it.

        It may be repeated: with the same files and metadata it returns the same version.

        Each of several ranks uploads its own files, under paths that no other rank uses. When all have, each returns
        the one version. If a rank dies, the others get `FailedPrecondition` (`PARTS_EXPIRED`, with
        `metadata["missing_parts"]`) an hour (`collector.parts_expiry_seconds`) after any of them was last heard of. If
        the save of one rank fails, the others' fail at once (`CHECKPOINT_DELETED`). In both cases there is no version.

        Args:
            decision: what `report` returned.
            what: a file, a directory, several of them, or a map from path in the checkpoint to file. None: this is one
                of several ranks, and has no files.
            metadata: free JSON, kept on the version; rank 0's, if there are several.
            asynchronous: whether to do it in a thread, one save after the other, and return at once: a future, which is
                done when the version is durable, or has the error. The files must stay as they are from the call until
                then; a change is found (`FileChanged`). A warning tells of an error as soon as it happens. The
                interpreter waits for these saves when it exits.
            sha256: whether to declare each file's SHA-256, for which it is read twice.
            on_progress: is given how many bytes were sent, and how many there are in all, now and then. After a break
                the first number may go back. None: the client's bar, but none in the background.
            timeout: how long to go on without progress, in seconds; None: as for the client.

        Raises:
            Unavailable, ResourceExhausted: the server is away or overloaded, or its disk is full. The checkpoint stays
                open, and the same call goes on where this one stopped.
            FileChanged: a file changed while it was uploaded, or this decision's version holds other files. After this
                and all other errors the checkpoint is abandoned, unless it is committed, and the earlier best stands.
            ValueError: the decision is not SAVE, or there is nothing to save.
        """
        _check_decision(decision)
        if decision.action != Action.ACTION_SAVE:
            raise ValueError(
                f"the decision about event {decision.sequence} is {Action.Name(decision.action)}, not SAVE"
            )
        contents = Contents.of(what, metadata, self.ranks, later=asynchronous)
        if asynchronous:
            return self._saves.submit(
                lambda: self._save(decision, contents, sha256, on_progress or unseen, timeout),
                f"epoch {decision.epoch + 1}",
            )
        return self._save(decision, contents, sha256, on_progress, timeout)

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
