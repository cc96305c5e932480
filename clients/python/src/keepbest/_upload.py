"""Upload files to a checkpoint: streamed from where they are, and resumed at the byte up to which they are durable."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from keepbest._channel import Connection
from keepbest._chunks import MESSAGE_BYTES, Messages
from keepbest._digest import FileDigest, digest_of
from keepbest._progress import OnProgress
from keepbest._proto.keepbest.v1.checkpoints_pb2 import (
    FindMissingChunksRequest,
    FindMissingChunksResponse,
    PrepareFileRequest,
    SmallFile,
    WriteFileRequest,
    WriteSmallFilesRequest,
    WriteSmallFilesResponse,
)
from keepbest._proto.keepbest.v1.resources_pb2 import FILE_STATE_COMPLETE, File
from keepbest._retry import Backoff, Patience, Stream, call, call_once
from keepbest._source import Opened, Source, read_on
from keepbest.errors import FileChanged, KeepbestError

SMALL_FILE_BYTES = 256 << 10
# The server accepts 1,000 files and 4 MiB in a request; this leaves 1 MiB for the paths.
_BATCH_FILES = 1_000
_BATCH_BYTES = 3 << 20
# So many files are kept open until they are settled; the next one is waited for. A process may have 1,024 of them open.
_UNSETTLED_FILES = 64
# How long to wait for what the server has before its bytes are sent all the same.
_ASK_SECONDS = 10.0
# After so many questions without an answer none is asked any more.
_MOST_UNSAID = 2


@dataclass
class Uploader:
    """Uploads to one checkpoint of one attempt.

    Attributes:
        patience: when to give up.
        sha256: whether to declare each file's SHA-256, for which it is read once more before the upload.
    """

    connection: Connection
    checkpoint: str
    attempt: int
    patience: Patience
    sha256: bool = False
    on_progress: OnProgress | None = None
    # How many bytes the files have together; and those that are complete.
    _all_bytes: int = 0
    _complete_bytes: int = 0
    # How often in a row nobody said which chunks the server has; an older one does not.
    _unsaid: int = 0

    def upload(self, files: Iterable[Source]) -> dict[str, bytes]:
        """Upload files, the small ones many to a call.

        Returns:
            The digest of each file, by its path in the checkpoint. It was computed from the bytes that were read here,
            and the server's own is the same.

        Raises:
            FileChanged: a file changed meanwhile, or the checkpoint holds other bytes under its path.
            KeepbestError: the server refused, or was away for longer than the budget.
        """
        digests: dict[str, bytes] = {}
        small: list[Source] = []
        files = list(files)
        self._all_bytes = sum(file.size_bytes for file in files)
        for file in files:
            if file.size_bytes < SMALL_FILE_BYTES:
                small.append(file)
            else:
                digests[file.name] = self._upload_large(file)
                self._completed([file])
        for batch in _batches(small):
            digests |= self._upload_small(batch)
        return digests

    def _upload_small(self, batch: list[Source]) -> dict[str, bytes]:
        request = WriteSmallFilesRequest(checkpoint=self.checkpoint, attempt=self.attempt)
        digests: dict[str, bytes] = {}
        # Written a moment ago: what has to be waited for passes while they are sent.
        unsettled: list[tuple[Opened, bytes]] = []
        with ExitStack() as until_checked:
            for file in batch:
                with ExitStack() as until_read:
                    early = len(unsettled) < _UNSETTLED_FILES
                    opened = until_read.enter_context(file.open_early() if early else file.open())
                    data = opened.read(0, file.size_bytes)
                    digests[file.name] = digest_of(data)
                    if opened.is_settled:
                        opened.check(digests[file.name])
                    else:
                        unsettled.append((opened, digests[file.name]))
                        until_checked.push(until_read.pop_all())
                sha256 = hashlib.sha256(data).digest() if self.sha256 else b""
                request.files.append(SmallFile(path=file.name, data=data, sha256=sha256))
            method: Callable[..., WriteSmallFilesResponse] = self.connection.stubs().checkpoints.WriteSmallFiles
            kept = {file.path: file for file in call(method, request, self.patience).files}
            for file in batch:
                _check_kept(file, kept.get(file.name, File()), digests[file.name])
            for opened, digest in unsettled:
                opened.check(digest)
        self._completed(batch)
        return digests

    def _completed(self, files: list[Source]) -> None:
        self._complete_bytes += sum(file.size_bytes for file in files)
        self._tell(0)

    def _tell(self, sent_bytes: int) -> None:
        """Tell of progress: so many bytes of the file that is being sent."""
        if self.on_progress is not None:
            self.on_progress(self._complete_bytes + sent_bytes, self._all_bytes)

    def _upload_large(self, file: Source) -> bytes:
        """Prepare and write until the file is complete. It is opened once, however often the stream breaks."""
        with file.open() as opened:
            prepare = PrepareFileRequest(
                checkpoint=self.checkpoint, attempt=self.attempt, path=file.name, size_bytes=file.size_bytes
            )
            declared = None
            if self.sha256:
                prepare.sha256, declared = _sha256(file, opened)
            # `sent` is the digest of what the streams so far have sent; `digest` that of the whole file, once one of
            # them has sent the last byte.
            sent, digest = FileDigest(), None
            backoff, durable_bytes = Backoff(self.patience), -1
            while True:
                try:
                    state = self._prepare(prepare, backoff)
                    if state.durable_bytes > durable_bytes:
                        durable_bytes = state.durable_bytes
                        backoff.progress()
                    if state.state != FILE_STATE_COMPLETE:
                        messages = self._messages(file, opened, state.durable_bytes, sent)
                        # Even if this stream breaks off, the next one can build on what it has hashed.
                        sent = messages.digest
                        state = self._write(messages)
                        digest = messages.of_all
                    break
                except KeepbestError as error:
                    backoff.pause(error)
            if digest is None:  # the server had the file before all of it was sent
                sent = sent.before(file.size_bytes)
                digest = read_on(opened, sent, file.size_bytes).digest()
            opened.check(digest)
            if declared not in (None, digest):
                raise FileChanged(f"{file.described} was changed between the declaration of its SHA-256 and its upload")
            _check_kept(file, state, digest)
            return digest

    def _prepare(self, request: PrepareFileRequest, backoff: Backoff) -> File:
        method: Callable[..., File] = self.connection.stubs().checkpoints.PrepareFile
        return call_once(method, request, backoff.call_seconds())

    def _messages(self, file: Source, opened: Opened, offset_bytes: int, sent: FileDigest) -> Messages:
        """The messages from an offset on. Bytes before it that were not sent here are read, to be in the digest."""
        digest = read_on(opened, sent.before(offset_bytes), offset_bytes)
        first = WriteFileRequest(
            checkpoint=self.checkpoint, attempt=self.attempt, path=file.name, offset_bytes=offset_bytes
        )
        return Messages(file, opened, first, digest, self._missing, self._tell)

    def _missing(self, digests: list[bytes]) -> Collection[int]:
        """Which of the chunks must be sent. If nobody says it, all of them."""
        everything = range(len(digests))
        if self._unsaid >= _MOST_UNSAID:
            return everything
        method: Callable[..., FindMissingChunksResponse] = self.connection.stubs().checkpoints.FindMissingChunks
        request = FindMissingChunksRequest(checkpoint=self.checkpoint, digests=digests)
        try:
            missing = frozenset(call_once(method, request, _ASK_SECONDS).missing)
        except KeepbestError as error:
            self._unsaid = self._unsaid + 1 if error.retryable else _MOST_UNSAID
            return everything
        self._unsaid = 0
        return missing

    def _write(self, messages: Messages) -> File:
        method = self.connection.stubs().checkpoints.WriteFile
        try:
            with Stream(
                lambda seconds: method.future(messages, timeout=seconds),
                lambda: messages.position,
                self.patience,
            ) as stream:
                kept: File = stream.call.result()
                return kept
        except KeepbestError:
            if messages.error is not None:  # gRPC hides the error of an iterator behind one of its own
                raise messages.error from None
            raise


def _check_kept(file: Source, kept: File, digest: bytes) -> None:
    """Raise `FileChanged` unless the server holds bytes of this digest under the file's path."""
    if kept.state == FILE_STATE_COMPLETE and kept.size_bytes == file.size_bytes and kept.digest == digest:
        return
    raise FileChanged(
        f"the checkpoint holds other bytes as `{file.name}` ({kept.size_bytes} bytes, digest {kept.digest.hex()}) than "
        f"{file.described} ({file.size_bytes} bytes, digest {digest.hex()}), which was changed after some of it was "
        "uploaded; report the event anew, and save what it decides"
    )


def _batches(files: list[Source]) -> Iterator[list[Source]]:
    batch: list[Source] = []
    size_bytes = 0
    for file in files:
        if batch and (len(batch) == _BATCH_FILES or size_bytes + file.size_bytes > _BATCH_BYTES):
            yield batch
            batch, size_bytes = [], 0
        batch.append(file)
        size_bytes += file.size_bytes
    if batch:
        yield batch


def _sha256(file: Source, opened: Opened) -> tuple[bytes, bytes]:
    """The file's SHA-256 and its digest, from one reading."""
    sha256, digest = hashlib.sha256(), FileDigest()
    while (at := digest.size_bytes) < file.size_bytes:
        data = opened.read(at, min(MESSAGE_BYTES, file.size_bytes - at))
        sha256.update(data)
        digest.update(data)
    return sha256.digest(), digest.digest()
