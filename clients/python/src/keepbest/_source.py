"""What an upload reads: bytes of a known size that can be read again from any offset, wherever they are."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from keepbest._digest import FileDigest

_READ_BYTES = 1 << 20


class Opened(Protocol):
    """A source while it is read; a context manager. It may be read from several threads, also at one offset twice."""

    def __enter__(self) -> Opened:
        """The source itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let it go. Whoever reads it after this gets an error."""

    @property
    def is_settled(self) -> bool:
        """Whether `check` is done at once. Otherwise it waits some ms, and reads the source once more."""

    def read(self, offset_bytes: int, size_bytes: int) -> bytes:
        """Read exactly so many bytes from an offset."""

    def check(self, digest: bytes) -> None:
        """Raise `FileChanged` if it has changed since bytes of this digest were read from it."""


class Source(Protocol):
    """A file of a checkpoint, as it is before the upload."""

    @property
    def name(self) -> str:
        """Its path in the checkpoint, with `/`."""

    @property
    def size_bytes(self) -> int:
        """How many bytes it has."""

    @property
    def cut_points(self) -> tuple[int, ...]:
        """Offsets in bytes, rising, at which something begins that other versions may have too, a tensor for example.

        Neither 0 nor the size is among them. Empty: nothing is known of what is in it.
        """

    @property
    def described(self) -> str:
        """What errors call it."""

    def open(self) -> Opened:
        """Begin to read it. It is kept as it is until the context ends, or a change is found."""

    def open_early(self) -> Opened:
        """The same without waiting for anything. If that needs time, what was opened is not settled."""


def read_on(opened: Opened, digest: FileDigest, end_bytes: int) -> FileDigest:
    """Feed a digest with a source, from the byte it has reached up to `end_bytes`, and return it."""
    while (at := digest.size_bytes) < end_bytes:
        digest.update(opened.read(at, min(_READ_BYTES, end_bytes - at)))
    return digest


def digest_of_source(source: Source) -> bytes:
    """Read all of a source, and return its digest."""
    with source.open() as opened:
        digest = read_on(opened, FileDigest(), source.size_bytes).digest()
        opened.check(digest)
        return digest
