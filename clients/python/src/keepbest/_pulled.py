"""What pulls have put into a directory, so that the files of an earlier version do not stay among a later one's.

The record lies beside the directory, because in it is the version and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

from keepbest._part import is_equal
from keepbest._paths import target_path
from keepbest.types import File

# Then a line for each file: size in bytes, digest, path. `keepbest pull` reads and writes the same.
_HEADER = "keepbest-pulled 1"
# Longest record that is read: a version has 100,000 files at most, with paths of 1 KiB.
_RECORD_BYTES = 256 << 20


class PulledFiles:
    """The files that pulls have put into one directory, and that no pull has replaced since.

    Where no record can be written, as beside the root of a file system, nothing is known of earlier pulls.
    """

    def __init__(self, directory: Path) -> None:
        """Read the record, if there is one."""
        self._directory = directory
        whole = Path(os.path.abspath(directory))  # a link keeps its own name
        self._path = whole.parent / f".{whole.name}.keepbest-pulled" if whole.name else None
        # By path in the directory: size in bytes, and digest in hexadecimal digits.
        self._files: dict[str, tuple[int, str]] = {}
        with contextlib.suppress(OSError, ValueError):
            self._files = self._read()

    def expect(self, files: list[File]) -> None:
        """Note files that are going to be put there, before they are: a pull that is killed leaves no file unnoted."""
        if files:
            self._files |= {file.path: (file.size_bytes, file.digest.hex()) for file in files}
            self._write()

    def remove_others(self, files: list[File]) -> int:
        """Remove what earlier pulls put there, unless it is among `files` or was changed since.

        Returns:
            How many files were removed.
        """
        kept, removed = {file.path for file in files}, 0
        for path, (size_bytes, digest) in list(self._files.items()):
            if path in kept:
                continue
            del self._files[path]
            with contextlib.suppress(ValueError, OSError):  # a link in the way, or a file in use: it stays
                target = target_path(self._directory, path)
                if is_equal(target, size_bytes, bytes.fromhex(digest)):
                    target.unlink()
                    removed += 1
                    self._remove_empty(target.parent)
        self._write()
        return removed

    def _remove_empty(self, folder: Path) -> None:
        while folder != self._directory and self._directory in folder.parents:
            try:
                folder.rmdir()
            except OSError:  # it is not empty
                return
            folder = folder.parent

    def _read(self) -> dict[str, tuple[int, str]]:
        if self._path is None or self._path.stat().st_size > _RECORD_BYTES:
            return {}
        header, *lines = self._path.read_text(encoding="utf-8").split("\n")
        if header != _HEADER:
            return {}
        fields = [line.split(" ", 2) for line in lines if line]
        return {path: (int(size_bytes), digest) for size_bytes, digest, path in fields}

    def _write(self) -> None:
        if self._path is None:
            return
        lines = (f"{size_bytes} {digest} {path}\n" for path, (size_bytes, digest) in self._files.items())
        text = f"{_HEADER}\n{''.join(lines)}"
        temporary = self._path.with_name(f"{self._path.name}-{uuid.uuid4().hex}")
        with contextlib.suppress(OSError):
            try:
                temporary.write_bytes(text.encode())
                temporary.replace(self._path)
            finally:
                temporary.unlink(missing_ok=True)
