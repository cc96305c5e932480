"""Digests as the server makes them: of a file over its chunks, of a version over its files."""

from __future__ import annotations

from collections.abc import Iterable

from blake3 import blake3

# The contract's unit of storage: a file's digest is BLAKE3 over the BLAKE3 digests of its chunks.
CHUNK_BYTES = 8 << 20
_DIGEST_BYTES = 32


class FileDigest:
    """The digest of a file, fed piece by piece from its start."""

    def __init__(self, chunk_digests: bytes = b"") -> None:
        """Begin behind whole chunks of these digests, one after the other; without any, at the file's first byte."""
        self._digests = bytearray(chunk_digests)
        self._chunk = blake3()
        self._chunk_bytes = 0

    @property
    def size_bytes(self) -> int:
        """How many bytes it is the digest of."""
        return len(self._digests) // _DIGEST_BYTES * CHUNK_BYTES + self._chunk_bytes

    def update(self, data: bytes) -> None:
        """Take more bytes in."""
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
        """The digest of all bytes so far, 32 bytes."""
        last = self._chunk.digest() if self._chunk_bytes else b""
        return blake3(bytes(self._digests) + last).digest()

    def before(self, offset_bytes: int) -> FileDigest:
        """The digest of the whole chunks that end at or before an offset."""
        return FileDigest(bytes(self._digests[: offset_bytes // CHUNK_BYTES * _DIGEST_BYTES]))


def digest_of(data: bytes) -> bytes:
    """The digest of a file that holds these bytes."""
    digest = FileDigest()
    digest.update(data)
    return digest.digest()


def version_digest(files: Iterable[tuple[str, int, bytes]]) -> bytes:
    """The digest of a version: over path, size in bytes and digest of each file, in the order of their paths.

    A path is preceded by its length; numbers are 64 bits, little-endian.
    """
    digest = blake3()
    for path, size_bytes, file_digest in sorted((path.encode(), size, of_file) for path, size, of_file in files):
        digest.update(len(path).to_bytes(8, "little") + path + size_bytes.to_bytes(8, "little") + file_digest)
    return digest.digest()
