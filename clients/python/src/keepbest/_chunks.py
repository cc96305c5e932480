"""A file on its way to the server: read in groups of chunks, of which those are sent that the team has not.

A file of tensors is cut where these begin, so that what stays equal from save to save is known wherever it moves to;
any other one every 8 MiB.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from blake3 import blake3

from keepbest._digest import CHUNK_BYTES, FileDigest
from keepbest._proto.keepbest.v1.checkpoints_pb2 import KnownChunk, WriteFileRequest
from keepbest._source import Opened, Source

MESSAGE_BYTES = 1 << 20
# A group is read to be hashed and asked for in one call; what must be sent of it is read again, so that it need not be
# kept. The server takes so many chunks in a message.
_GROUP_BYTES = 64 << 20
_GROUP_CHUNKS = 1_000
# Tensors below this share a chunk with their small neighbours: a chunk costs rows and, if it is new, an object.
_SMALL_BYTES = 4 << 10
# Where there would be more cuts, larger tensors count as small: the server takes 8,192 chunks more than every 8 MiB.
_MOST_CUTS = 1 << 12


def cuts_of(cut_points: Sequence[int], size_bytes: int) -> list[int]:
    """The ends of a file's chunks; empty if it is cut every 8 MiB.

    They are at the points where something begins, but between small neighbours, and every 8 MiB behind these.
    """
    if not cut_points:
        return []
    ends = [*cut_points, size_bytes]
    small_bytes = _SMALL_BYTES
    while len(cuts := _cuts_between(ends, small_bytes)) > _MOST_CUTS + size_bytes // CHUNK_BYTES:
        small_bytes *= 4
    return cuts


def _cuts_between(ends: Sequence[int], small_bytes: int) -> list[int]:
    cuts: list[int] = []
    last = 0
    for number, end in enumerate(ends):
        following = ends[number + 1] if number + 1 < len(ends) else None
        if end - last < small_bytes and following is not None and following - end < small_bytes:
            continue
        cuts.extend(range(last + CHUNK_BYTES, end, CHUNK_BYTES))
        cuts.append(end)
        last = end
    return cuts


@dataclass
class _Chunk:
    begin: int
    end: int
    digest: bytes


class Messages(Iterator[WriteFileRequest]):
    """The messages of one WriteFile call, from an offset to the end; each is made when gRPC asks for it.

    gRPC asks in a thread of its own, which may go on for a while after the call has failed. So sources are read
    at offsets, which disturbs no other reader.

    Attributes:
        digest: of the file's bytes as far as they were read.
        position: up to which byte of the file messages were made.
        of_all: the digest of the whole file, once the last message was made.
        error: why a message could not be made.
    """

    def __init__(
        self,
        file: Source,
        opened: Opened,
        first: WriteFileRequest,
        digest: FileDigest,
        missing: Callable[[list[bytes]], Collection[int]],
        tell: Callable[[int], None] = lambda sent_bytes: None,
    ) -> None:
        """Begin behind the bytes of `digest`, with a first message that lacks only its data.

        Args:
            missing: which of chunks, by their digests, must be sent: their places.
            tell: is told up to which byte messages were made.
        """
        self.digest = digest
        self.position = digest.size_bytes
        self.of_all: bytes | None = None
        self.error: Exception | None = None
        self._file = file
        self._opened = opened
        self._first: WriteFileRequest | None = first
        self._missing = missing
        self._tell = tell
        self._crc32c = _fast_crc32c()
        self._cuts = cuts_of(file.cut_points, file.size_bytes)
        self._made = self._make()

    def __next__(self) -> WriteFileRequest:
        try:
            return next(self._made)
        except StopIteration:
            raise
        except Exception as error:
            self.error = error
            raise

    def _make(self) -> Iterator[WriteFileRequest]:
        while self.of_all is None:
            group = self._read_group()
            digests = [chunk.digest for chunk in group]
            missing = self._missing(digests) if digests else ()
            is_last = self.digest.size_bytes == self._file.size_bytes
            known: list[KnownChunk] = []
            for number, chunk in enumerate(group):
                if number not in missing:
                    known.append(KnownChunk(size_bytes=chunk.end - chunk.begin, digest=chunk.digest))
                    self._moved_to(chunk.end)
                    continue
                if known:
                    yield self._message(known=known)
                    known = []
                for begin in range(chunk.begin, chunk.end, MESSAGE_BYTES):
                    end = min(begin + MESSAGE_BYTES, chunk.end)
                    data = self._opened.read(begin, end - begin)
                    crc32c = None if self._crc32c is None else self._crc32c(data)
                    finish = is_last and end == self._file.size_bytes
                    if finish:
                        self._check()
                    message = self._message(data=data, crc32c=crc32c, cut=end == chunk.end, finish=finish)
                    self._moved_to(end)
                    yield message
            if is_last and self.of_all is None:
                self._check()
                yield self._message(known=known, finish=True)
            elif known:
                yield self._message(known=known)

    def _check(self) -> None:
        """Take the last chance to notice a change before the server takes the file for complete."""
        of_all = self.digest.digest()
        self._opened.check(of_all)
        self.of_all = of_all

    def _message(
        self,
        data: bytes = b"",
        crc32c: int | None = None,
        cut: bool = False,
        finish: bool = False,
        known: Sequence[KnownChunk] = (),
    ) -> WriteFileRequest:
        message, self._first = self._first or WriteFileRequest(), None
        # Not read from the message again: protobuf makes a copy each time.
        message.data = data
        if crc32c is not None:
            message.crc32c = crc32c
        message.cut, message.finish = cut, finish
        message.known.extend(known)
        return message

    def _moved_to(self, position: int) -> None:
        self.position = position
        self._tell(position)

    def _read_group(self) -> list[_Chunk]:
        group: list[_Chunk] = []
        begin, at = self.digest.size_bytes, self.digest.size_bytes
        while at < self._file.size_bytes and at - begin < _GROUP_BYTES and len(group) < _GROUP_CHUNKS:
            end = self._end_of_chunk(at)
            group.append(self._read_chunk(at, end))
            at = end
        return group

    def _end_of_chunk(self, at: int) -> int:
        """Where the chunk ends that begins at a byte."""
        if not self._cuts:
            return min((at // CHUNK_BYTES + 1) * CHUNK_BYTES, self._file.size_bytes)
        return min(self._cuts[bisect_right(self._cuts, at)], at + CHUNK_BYTES)

    def _read_chunk(self, at: int, end: int) -> _Chunk:
        """Read it, and take it into the digest; of a file that is not cut, that has the chunks' own."""
        is_cell = at % CHUNK_BYTES == 0 and (end - at == CHUNK_BYTES or end == self._file.size_bytes)
        chunk = None if is_cell else blake3()
        for begin in range(at, end, MESSAGE_BYTES):
            data = self._opened.read(begin, min(MESSAGE_BYTES, end - begin))
            self.digest.update(data)
            if chunk is not None:
                chunk.update(data)
        digest = self.digest.of_cell(at // CHUNK_BYTES) if chunk is None else chunk.digest()
        return _Chunk(at, end, digest)


def _fast_crc32c() -> Callable[[bytes], int] | None:
    try:
        import google_crc32c
    except ImportError:
        return None
    if google_crc32c.implementation != "c":  # the one in pure Python is far slower than a network
        return None
    return cast(Callable[[bytes], int], google_crc32c.value)
