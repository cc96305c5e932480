"""The local files of a checkpoint: which they are, and whether they stayed as they were."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from keepbest.errors import FileChanged

# What can be saved: a file, a directory, several of them, or a map from the path in the checkpoint to the file.
Saveable = str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | Mapping[str, str | os.PathLike[str]]


@dataclass(frozen=True)
class Fingerprint:
    """What tells that a file was written to: its size in bytes and its time of change in nanoseconds."""

    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Fingerprint:
        """The fingerprint in an answer of `os.stat`."""
        return cls(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class LocalFile:
    """A file to upload: `name` is its path in the checkpoint, with `/`."""

    name: str
    path: Path
    fingerprint: Fingerprint

    @property
    def size_bytes(self) -> int:
        """Its size when it was found."""
        return self.fingerprint.size_bytes

    def check(self, descriptor: int) -> None:
        """Raise `FileChanged` if the open file is not as it was when it was found."""
        now = Fingerprint.of(os.fstat(descriptor))
        if now != self.fingerprint:
            raise FileChanged(
                f"`{self.path}` was changed while it was uploaded (size {self.size_bytes} -> {now.size_bytes} bytes, "
                f"mtime {self.fingerprint.mtime_ns} -> {now.mtime_ns} ns); write each save to a new file, "
                "or wait until the upload has ended"
            )


def collect(what: Saveable) -> list[LocalFile]:
    """The files of a save, ordered by their paths in the checkpoint.

    A file is named by its base name, a directory's files by their paths below it.

    Raises:
        ValueError: nothing to save, a symlink or special file in a directory, or two files of one name.
        FileNotFoundError: it does not exist.
    """
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
                raise ValueError(f"`{entry.path}` is a symlink; a checkpoint holds plain files only")
            if entry.is_dir():
                yield from _walk(Path(entry.path))
            else:
                yield Path(entry.path)


def _file(name: str, path: Path) -> LocalFile:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"`{path}` is no plain file; a checkpoint holds plain files only")
    return LocalFile(name, path, Fingerprint.of(status))
