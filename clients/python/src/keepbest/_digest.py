"""Digests as the server computes them: a file's over its cells, a version's over its files."""

from __future__ import annotations

from collections.abc import Iterable

from blake3 import blake3

# The most that a chunk has; and what each cell has but the last: a file's digest is BLAKE3 over the BLAKE3 digests of
# its cells, wherever the file is cut into chunks.
CHUNK_BYTES = 8 << 20
_DIGEST_BYTES = 32


class FileDigest:
    """A running digest of a file, which is fed from its start."""

    def __init__(self, cell_digests: bytes = b"") -> None:
        """Begin at the file's first byte, or behind whole cells whose digests are given, concatenated."""
        self._digests = bytearray(cell_digests)
        self._cell = blake3()
        self._cell_bytes = 0

    @property
    def size_bytes(self) -> int:
        """How many bytes it has taken."""
        return len(self._digests) // _DIGEST_BYTES * CHUNK_BYTES + self._cell_bytes

    def update(self, data: bytes) -> None:
        """Take the next bytes."""
        view = memoryview(data)
        while view:
            piece = view[: CHUNK_BYTES - self._cell_bytes]
            self._cell.update(piece)
            self._cell_bytes += len(piece)
            view = view[len(piece) :]
            if self._cell_bytes == CHUNK_BYTES:
                self._digests += self._cell.digest()
                self._cell, self._cell_bytes = blake3(), 0

    def digest(self) -> bytes:
        """The digest of all bytes taken so far, 32 bytes."""
        last = self._cell.digest() if self._cell_bytes else b""
        return blake3(bytes(self._digests) + last).digest()

    def of_cell(self, number: int) -> bytes:
        """The digest of a cell that it has taken, of the last one as far as it has; counted from 0."""
        begin = number * _DIGEST_BYTES
        return bytes(self._digests[begin : begin + _DIGEST_BYTES]) or self._cell.digest()

    def before(self, offset_bytes: int) -> FileDigest:
        """A copy that has taken only the whole cells which end at or before an offset."""
        return FileDigest(bytes(self._digests[: offset_bytes // CHUNK_BYTES * _DIGEST_BYTES]))


def digest_of(data: bytes) -> bytes:
    """The digest of a file that holds these bytes."""
    digest = FileDigest()
    digest.update(data)
    return digest.digest()


def version_digest(files: Iterable[tuple[str, int, bytes]]) -> bytes:
    """The digest of a version, 32 bytes: BLAKE3 over path, size and digest of each file, ordered by path.

    The path's length in bytes comes before it. Lengths and sizes are 64 bits, little-endian.

    Args:
        files: path, size in bytes and digest of each file, in any order.
    """
    digest = blake3()
    for path, size_bytes, file_digest in sorted((path.encode(), size, of_file) for path, size, of_file in files):
        digest.update(len(path).to_bytes(8, "little") + path + size_bytes.to_bytes(8, "little") + file_digest)
    return digest.digest()
