"""A file while it is downloaded: one local file holds its bytes, another one records which chunks are verified.

Both are as `keepbest pull` makes them, so that either goes on with what the other has left. The record is text: one
line says what is downloaded, then each chunk has a line with its number and its digest, in any order. Before a download
goes on, the recorded chunks are read and hashed again: it does not matter in which order the files reached the disk.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from blake3 import blake3

from keepbest._digest import CHUNK_BYTES, FileDigest
from keepbest.errors import DataLoss
from keepbest.types import File

_READ_BYTES = 1 << 20
# The folder of unfinished files, inside the directory that is pulled to: a finished file only needs to be renamed.
_UNFINISHED = ".keepbest-pull"
# How a lock fails that another process has.
_IN_USE = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


def unfinished_folder(directory: Path, paths: list[str]) -> Path:
    """The folder for the unfinished files of a version with these paths, whose first names it does not have.

    The same paths give the same folder, so that a download can go on.
    """
    taken = {path.partition("/")[0].lower() for path in paths}
    name, number = _UNFINISHED, 2
    while name in taken:
        name, number = f"{_UNFINISHED}-{number}", number + 1
    return directory / name


def is_equal(path: Path, size_bytes: int, digest: bytes) -> bool:
    """Whether a plain file of this size and digest lies at the path."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size != size_bytes:
        return False
    found = FileDigest()
    with path.open("rb") as opened:
        while data := opened.read(_READ_BYTES):
            found.update(data)
    return found.digest() == digest


class Part:
    """One file of a version on its way to `target`; a context manager, within which no other pull has it."""

    def __init__(self, file: File, target: Path, unfinished: Path) -> None:
        """Nothing is made before the context is entered."""
        self._file = file
        self._target = target
        # Short whatever the path is: a name of 255 bytes, which is the most, could not be made longer.
        name = blake3(file.path.encode()).hexdigest()[:32]
        self._data_path = unfinished / f"{name}.part"
        self._record_path = unfinished / f"{name}.record"
        count = -(-file.size_bytes // CHUNK_BYTES)
        # By number, the digests of the verified chunks.
        self._chunks: list[bytes | None] = [None] * count
        self._hasher = blake3()

    def __enter__(self) -> Part:
        """Open what there is of the file, or make it.

        Raises:
            ValueError: another pull has it, or a link is in the way.
        """
        for path in (self._data_path, self._record_path):
            if path.is_symlink():
                raise ValueError(f"`{path}` is a link; move it out of the way")
        self._record_path.parent.mkdir(parents=True, exist_ok=True)
        self._record = _open_or_make(self._record_path)
        try:
            if not lock(self._record):
                raise ValueError(f"`{self._target}` is being written by another pull; wait for it")
            self._data = _open_or_make(self._data_path)
        except BaseException:
            self._record.close()
            raise
        self._recall()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the file go. What is not whole stays for the next download."""
        self._data.close()
        self._record.close()

    def missing(self) -> list[tuple[int, int]]:
        """The ranges of bytes that are missing, each from the start of a chunk up to its end."""
        ranges: list[tuple[int, int]] = []
        for number, digest in enumerate(self._chunks):
            start, end = number * CHUNK_BYTES, min((number + 1) * CHUNK_BYTES, self._file.size_bytes)
            if digest is not None:
                continue
            if ranges and ranges[-1][1] == start:
                ranges[-1] = (ranges[-1][0], end)
            else:
                ranges.append((start, end))
        return ranges

    def begin(self, offset_bytes: int) -> None:
        """Write from here on, which is the start of a chunk."""
        self._data.seek(offset_bytes)
        self._hasher = blake3()

    def write(self, data: bytes) -> None:
        """Write the next bytes, and record each chunk that they complete."""
        view = memoryview(data)
        while view:
            at = self._data.tell()
            piece = view[: CHUNK_BYTES - at % CHUNK_BYTES]
            self._data.write(piece)
            self._hasher.update(piece)
            view = view[len(piece) :]
            end = at + len(piece)
            if end % CHUNK_BYTES == 0 or end == self._file.size_bytes:
                self._note((end - 1) // CHUNK_BYTES, self._hasher.digest())
                self._hasher = blake3()

    def finish(self, version: str) -> None:
        """Check the whole file, sync it to the disk, and move it to its place.

        Raises:
            DataLoss: it is not what the version holds. What was received is removed.
        """
        fault = self._fault()
        if fault is None:
            self._data.flush()
            os.fsync(self._data.fileno())
        self._data.close()  # Windows renames no open file
        if fault is None:
            self._data_path.replace(self._target)
            _sync_folder(self._target.parent)
        else:
            self._data_path.unlink()
        self._record.close()
        self._record_path.unlink()
        if fault is not None:
            raise DataLoss(f"`{self._file.path}` of {version} does not match its {fault}")

    def _fault(self) -> str | None:
        digests = b"".join(digest for digest in self._chunks if digest is not None)
        if blake3(digests).digest() != self._file.digest:
            return f"digest {self._file.digest.hex()}"
        if self._file.sha256 and self._sha256() != self._file.sha256:
            return f"declared SHA-256 {self._file.sha256.hex()}"
        return None

    def _sha256(self) -> bytes:
        sha256 = hashlib.sha256()
        self._data.seek(0)
        while data := self._data.read(_READ_BYTES):
            sha256.update(data)
        return sha256.digest()

    def _header(self) -> str:
        return f"keepbest-part 1 {self._file.size_bytes} {self._file.digest.hex()}\n"

    def _recall(self) -> None:
        """Read the record, forget chunks whose bytes are not in the file, and write it anew."""
        self._record.seek(0)
        text = self._record.read().decode(errors="replace")
        self._data.truncate(self._file.size_bytes)
        lines = text[len(self._header()) :] if text.startswith(self._header()) else ""
        for line in lines.splitlines(keepends=True):
            number, _, digest = line.partition(" ")
            if line.endswith("\n") and number.isascii() and number.isdigit() and int(number) < len(self._chunks):
                with contextlib.suppress(ValueError):
                    self._keep_if_verified(int(number), bytes.fromhex(digest.strip()))
        self._record.seek(0)
        self._record.truncate()
        self._record.write(self._header().encode())
        for at, kept in enumerate(self._chunks):
            if kept is not None:
                self._note(at, kept)

    def _keep_if_verified(self, number: int, digest: bytes) -> None:
        self._data.seek(number * CHUNK_BYTES)
        if blake3(self._data.read(CHUNK_BYTES)).digest() == digest:
            self._chunks[number] = digest

    def _note(self, number: int, digest: bytes) -> None:
        self._data.flush()
        self._chunks[number] = digest
        self._record.write(f"{number} {digest.hex()}\n".encode())
        self._record.flush()


def _open_or_make(path: Path) -> BinaryIO:
    """Open for reading and writing; made as any new file is, so that the umask is applied and never asked for."""
    with contextlib.suppress(FileExistsError):
        path.open("xb").close()
    return path.open("r+b")


def lock(opened: BinaryIO) -> bool:
    """Lock a file for this process until it is closed; False if another one has it.

    On a file system that has no locks this is True, and nothing is locked.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(opened.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(opened.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _IN_USE
    return True


def _sync_folder(folder: Path) -> None:
    """Let a new name reach the disk. Windows cannot open folders, and writes names at once."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
