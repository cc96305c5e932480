"""Upload files to a checkpoint: streamed from disk, and continued where the server says that they are durable."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

from keepbest._channel import Connection
from keepbest._files import LocalFile
from keepbest._proto.keepbest.v1.checkpoints_pb2 import (
    PrepareFileRequest,
    SmallFile,
    WriteFileRequest,
    WriteSmallFilesRequest,
)
from keepbest._proto.keepbest.v1.resources_pb2 import FILE_STATE_COMPLETE, File
from keepbest._retry import Backoff, call, call_once
from keepbest.errors import FileChanged, KeepbestError

MESSAGE_BYTES = 1 << 20
SMALL_FILE_BYTES = 256 << 10
# The contract's limits are 1,000 files and 4 MiB; 1 MiB is left for paths.
_BATCH_FILES = 1_000
_BATCH_BYTES = 3 << 20
# A stream that runs longer is cut and continued at its durable bytes, so that a dead connection cannot hang it for
# ever.
_STREAM_SECONDS = 600.0


def _fast_crc32c() -> Callable[[bytes], int] | None:
    try:
        import google_crc32c
    except ImportError:
        return None
    if google_crc32c.implementation != "c":  # the pure Python one is far slower than the network
        return None
    return cast(Callable[[bytes], int], google_crc32c.value)


@dataclass
class Uploader:
    """Uploads to one checkpoint of one attempt.

    Attributes:
        budget_seconds: give up after this time without progress.
        sha256: declare each file's SHA-256, which reads it once more before the upload.
    """

    connection: Connection
    checkpoint: str
    attempt: int
    budget_seconds: float
    sha256: bool = False

    def upload(self, files: Iterable[LocalFile]) -> None:
        """Upload files, the small ones many to a call.

        Raises:
            FileChanged: a file was written to meanwhile.
            KeepbestError: the server refused, or was away for longer than the budget.
        """
        small: list[LocalFile] = []
        for file in files:
            if file.size_bytes < SMALL_FILE_BYTES:
                small.append(file)
            else:
                self._upload_large(file)
        for batch in _batches(small):
            self._upload_small(batch)

    def _upload_small(self, batch: list[LocalFile]) -> None:
        request = WriteSmallFilesRequest(checkpoint=self.checkpoint, attempt=self.attempt)
        for file in batch:
            with file.path.open("rb") as opened:
                data = opened.read()
                file.check(opened.fileno())
            digest = hashlib.sha256(data).digest() if self.sha256 else b""
            request.files.append(SmallFile(path=file.name, data=data, sha256=digest))
        call(self.connection.stubs().checkpoints.WriteSmallFiles, request, self.budget_seconds)

    def _upload_large(self, file: LocalFile) -> None:
        """Prepare and write until the file is complete. It is held open, so that a replaced one does not matter."""
        with file.path.open("rb") as opened:
            file.check(opened.fileno())
            prepare = PrepareFileRequest(
                checkpoint=self.checkpoint,
                attempt=self.attempt,
                path=file.name,
                size_bytes=file.size_bytes,
                sha256=_sha256(opened) if self.sha256 else b"",
            )
            backoff, durable_bytes = Backoff(self.budget_seconds), -1
            while True:
                try:
                    state = self._prepare(prepare, backoff)
                    if state.durable_bytes > durable_bytes:
                        durable_bytes = state.durable_bytes
                        backoff.progress()
                    if state.state != FILE_STATE_COMPLETE:
                        self._write(file, opened, state.durable_bytes)
                    file.check(opened.fileno())
                    return
                except KeepbestError as error:
                    backoff.pause(error)

    def _prepare(self, request: PrepareFileRequest, backoff: Backoff) -> File:
        method: Callable[..., File] = self.connection.stubs().checkpoints.PrepareFile
        return call_once(method, request, backoff.call_seconds())

    def _write(self, file: LocalFile, opened: BinaryIO, offset_bytes: int) -> None:
        messages = _Messages(self.checkpoint, self.attempt, file, opened, offset_bytes)
        try:
            call_once(self.connection.stubs().checkpoints.WriteFile, messages, _STREAM_SECONDS)
        except KeepbestError:
            if messages.error is not None:  # gRPC reports a failed iterator as its own error
                raise messages.error from None
            raise


class _Messages(Iterator[WriteFileRequest]):
    """The messages of one WriteFile call, from an offset to the end, read as gRPC asks for them."""

    def __init__(self, checkpoint: str, attempt: int, file: LocalFile, opened: BinaryIO, offset_bytes: int) -> None:
        self.error: Exception | None = None
        self._crc32c = _fast_crc32c()
        self._file = file
        self._opened = opened
        self._at = offset_bytes
        self._next: WriteFileRequest | None = WriteFileRequest(
            checkpoint=checkpoint, attempt=attempt, path=file.name, offset_bytes=offset_bytes
        )

    def __next__(self) -> WriteFileRequest:
        if self._next is None:
            raise StopIteration
        try:
            return self._fill(self._next)
        except Exception as error:
            self.error = error
            raise

    def _fill(self, message: WriteFileRequest) -> WriteFileRequest:
        wanted = min(MESSAGE_BYTES, self._file.size_bytes - self._at)
        data = self._read(wanted)
        self._at += wanted
        message.data = data
        if self._crc32c is not None:
            message.crc32c = self._crc32c(data)
        message.finish = self._at == self._file.size_bytes
        if message.finish:
            # Before the server can take the file for complete: are these still the bytes that were announced?
            self._file.check(self._opened.fileno())
        self._next = None if message.finish else WriteFileRequest()
        return message

    def _read(self, wanted: int) -> bytes:
        """The next bytes. At an offset, because gRPC's thread may still read for a call that has failed already."""
        data = b""
        while len(data) < wanted:
            more = os.pread(self._opened.fileno(), wanted - len(data), self._at + len(data))
            if not more:
                self._file.check(self._opened.fileno())
                raise FileChanged(f"`{self._file.path}` ends at byte {self._at + len(data)} of {self._file.size_bytes}")
            data = data + more if data else more
        return data


def _batches(files: list[LocalFile]) -> Iterator[list[LocalFile]]:
    batch: list[LocalFile] = []
    size_bytes = 0
    for file in files:
        if batch and (len(batch) == _BATCH_FILES or size_bytes + file.size_bytes > _BATCH_BYTES):
            yield batch
            batch, size_bytes = [], 0
        batch.append(file)
        size_bytes += file.size_bytes
    if batch:
        yield batch


def _sha256(opened: BinaryIO) -> bytes:
    digest = hashlib.sha256()
    while data := opened.read(MESSAGE_BYTES):
        digest.update(data)
    return digest.digest()
