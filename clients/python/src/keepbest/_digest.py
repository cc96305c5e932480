"""Digests as the server computes them: a file's over its chunks, a version's over its files."""

from __future__ import annotations

from collections.abc import Iterable

from blake3 import blake3

# The server stores files in chunks of this size. A file's digest is BLAKE3 over the BLAKE3 digests of its chunks.
CHUNK_BYTES = 8 << 20
_DIGEST_BYTES = 32


class FileDigest:
    """A running digest of a file, which is fed from its start."""

    def __init__(self, chunk_digests: bytes = b"") -> None:
        """Begin at the file's first byte, or behind whole chunks whose digests are given, concatenated."""
        self._digests = bytearray(chunk_digests)
        self._chunk = blake3()
        self._chunk_bytes = 0

    @property
    def size_bytes(self) -> int:
        """How many bytes it has taken."""
        return len(self._digests) // _DIGEST_BYTES * CHUNK_BYTES + self._chunk_bytes

    def update(self, data: bytes) -> None:
        """Take the next bytes."""
        view = memoryview(data)
        while view:
            piece = view[: CHUNK_BYTES - self._chunk_bytes]
            self._chunk.update(piece)
            self._chunk_bytes += len(piece)
            view = view[len(piece) :]
            if self._chunk_bytes == CHUNK_BYTES:
                self._digests += self._chunk.digest()
                self._chunk, self._chunk_bytes = blake3(), 0

    def digest(self) -> bytes:
        """The digest of all bytes taken so far, 32 bytes."""
        last = self._chunk.digest() if self._chunk_bytes else b""
        return blake3(bytes(self._digests) + last).digest()

    def before(self, offset_bytes: int) -> FileDigest:
        """A copy that has taken only the whole chunks which end at or before an offset."""
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
