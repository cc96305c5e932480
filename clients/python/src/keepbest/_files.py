"""The local files of a checkpoint: finding them, reading them, and noticing that they change meanwhile."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from keepbest._digest import FileDigest
from keepbest._safetensors import LENGTH_BYTES, begins_of, header_end, read_header
from keepbest._source import Source, read_on
from keepbest._tensors import EXTENSION, TensorFile
from keepbest.errors import FileChanged

# Linux stamps a write with the time of the last clock tick, up to 10 ms ago, so two writes within a tick get the same
# time. Twice that, to be sure.
_TICK_SECONDS = 0.02

_Path = str | os.PathLike[str]
# What can be saved: a file, a directory, several of them, or a map from the path in the checkpoint to the file; or
# tensors, of which a file is planned.
Saveable = _Path | Iterable[_Path] | Mapping[str, _Path] | TensorFile


@dataclass(frozen=True)
class Fingerprint:
    """What differs when a file has been written to or replaced: its size, mtime and inode."""

    size_bytes: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Fingerprint:
        """The fingerprint of a file whose status this is."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass(frozen=True)
class LocalFile:
    """A file to upload.

    Attributes:
        name: its path in the checkpoint, with `/`.
        path: where it lies.
        fingerprint: as it was when it was found.
        ctime_ns: when its inode was last changed. It exposes a write that was followed by resetting mtime. But
            renaming, linking and chmod change it too, so where it alone differs, the bytes are compared.
    """

    name: str
    path: Path
    fingerprint: Fingerprint
    ctime_ns: int

    @property
    def size_bytes(self) -> int:
        """Its size when it was found."""
        return self.fingerprint.size_bytes

    @property
    def cut_points(self) -> tuple[int, ...]:
        """Where tensors begin, if its name and its header say that it is a safetensors file."""
        if not self.name.endswith(EXTENSION):
            return ()
        try:
            with self.path.open("rb") as file:
                end = header_end(file.read(LENGTH_BYTES), self.size_bytes)
                places, _ = read_header(file.read(end - LENGTH_BYTES), self.size_bytes)
        except (OSError, ValueError):
            return ()  # who reads it to send it will see what is wrong, if anything is
        return begins_of(places, self.size_bytes)

    @property
    def described(self) -> str:
        """What errors call it."""
        return f"`{self.path}`"

    def open(self) -> OpenFile:
        """Open it for reading.

        Waits, for 20 ms at most, until any later write is sure to get another time than the file has now.

        Raises:
            FileChanged: it is no longer what was found.
        """
        self.settle()
        return self._opened(is_settled=True)

    def open_early(self) -> OpenFile:
        """Open it without waiting, if it is small: `check` may wait instead, and reads it once more.

        Raises:
            FileChanged: it is no longer what was found.
        """
        return self._opened(is_settled=self._unsettled_seconds() == 0)

    def _opened(self, is_settled: bool) -> OpenFile:
        opened = OpenFile(self, self.path.open("rb"), is_settled)
        try:
            opened.check_status()
        except BaseException:
            opened.close()
            raise
        return opened

    def settle(self) -> None:
        """Wait until any later write is sure to get another time than the file had when it was found."""
        if seconds := self._unsettled_seconds():
            time.sleep(seconds)

    def _unsettled_seconds(self) -> float:
        age_seconds = time.time() - max(self.fingerprint.mtime_ns, self.ctime_ns) / 1e9
        return _TICK_SECONDS - age_seconds if 0 <= age_seconds < _TICK_SECONDS else 0.0

    def changed(self, how: str) -> FileChanged:
        """The error that says how it has changed."""
        return FileChanged(
            f"`{self.path}` was changed while it was uploaded ({how}); write each save to a new file, or wait until "
            "the upload has ended"
        )


class OpenFile:
    """A local file that is kept open, so that replacing it meanwhile does no harm; a context manager.

    Attributes:
        is_settled: whether any write since it was opened has another time than the file had when it was found.
    """

    def __init__(self, file: LocalFile, opened: BinaryIO, is_settled: bool) -> None:
        """Take the open file."""
        self.is_settled = is_settled
        self._file = file
        self._opened = opened
        # Windows cannot read at an offset without moving the descriptor's position, which all its readers share.
        self._position = threading.Lock()

    def __enter__(self) -> OpenFile:
        """The file itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close it."""
        self._opened.close()

    def check_status(self) -> None:
        """Raise `FileChanged` if it differs in size, mtime or inode from what was found."""
        found, now = self._file.fingerprint, Fingerprint.of(os.fstat(self._opened.fileno()))
        if now != found:
            raise self._file.changed(
                f"size {found.size_bytes} -> {now.size_bytes} bytes, mtime {found.mtime_ns} -> {now.mtime_ns} ns, "
                f"inode {found.inode} -> {now.inode}"
            )

    def check(self, digest: bytes) -> None:
        """Raise `FileChanged` if it has changed since bytes of this digest were read from it.

        If only its ctime differs, or if it was not settled when it was opened, it is read once more to find out.
        """
        if not self.is_settled:
            self._file.settle()
            self.check_status()
            self._compare(digest)
        self.check_status()  # once more: whatever was written while that read has another time
        if os.fstat(self._opened.fileno()).st_ctime_ns != self._file.ctime_ns:
            self._compare(digest)

    def _compare(self, digest: bytes) -> None:
        if read_on(self, FileDigest(), self._file.size_bytes).digest() != digest:
            raise self._file.changed("its bytes are others, although it has the same size and time")

    def read(self, offset_bytes: int, size_bytes: int) -> bytes:
        """Read exactly so many bytes from an offset."""
        data, descriptor = b"", self._opened.fileno()
        with self._position:
            os.lseek(descriptor, offset_bytes, os.SEEK_SET)
            while len(data) < size_bytes:
                more = os.read(descriptor, size_bytes - len(data))
                if not more:
                    raise self._file.changed(f"it ends at byte {offset_bytes + len(data)} of {self._file.size_bytes}")
                data = data + more if data else more
        return data


def collect(what: Saveable) -> list[Source]:
    """Find the sources of a save, ordered by their paths in the checkpoint.

    A file is named by its base name, a directory's files by their paths below it. A link that is named itself stands
    for what it leads to; in a directory links are refused, because they could lead anywhere.

    Raises:
        ValueError: nothing to save, a symlink or special file in a directory, or two files of one name.
        FileNotFoundError: it does not exist.
    """
    if isinstance(what, TensorFile):
        return [what]
    return [*local_files(what)]


def local_files(what: _Path | Iterable[_Path] | Mapping[str, _Path]) -> list[LocalFile]:
    """Find the local files of a save; see `collect`."""
    if isinstance(what, Mapping):
        found = [_file(name, Path(path)) for name, path in what.items()]
    else:
        paths = [what] if isinstance(what, (str, os.PathLike)) else list(what)
        found = [file for path in paths for file in _expand(Path(path))]
    if not found:
        raise ValueError(f"`{what}` holds no file; a checkpoint needs at least one")
    by_name: dict[str, LocalFile] = {}
    for file in found:
        if file.name in by_name:
            raise ValueError(
                f"`{file.path}` and `{by_name[file.name].path}` would both be `{file.name}` in the checkpoint"
            )
        by_name[file.name] = file
    return [by_name[name] for name in sorted(by_name)]


def _expand(path: Path) -> Iterator[LocalFile]:
    if not path.is_dir():
        yield _file(path.name, path)
        return
    for below in _walk(path):
        yield _file(below.relative_to(path).as_posix(), below)


def _walk(directory: Path) -> Iterator[Path]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_symlink():
                raise ValueError(
                    f"`{entry.path}` is a symlink to `{os.readlink(entry.path)}`; a directory is saved with "
                    "its plain files only: replace the link by what it leads to, or pass a map from path to file, "
                    "which follows links"
                )
            if entry.is_dir():
                yield from _walk(Path(entry.path))
            else:
                yield Path(entry.path)


def _file(name: str, path: Path) -> LocalFile:
    try:
        status = path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise FileNotFoundError(f"`{path}` is a link to `{os.readlink(path)}`, where nothing is") from None
        raise
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"`{path}` is no plain file; a checkpoint holds plain files only")
    return LocalFile(name, path, Fingerprint.of(status), status.st_ctime_ns)
