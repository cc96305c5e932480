"""Load the tensors of a version: as they are received, into arrays of their own; or mapped from a file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from keepbest._arrays import dtype_of, numpy
from keepbest._channel import Connection
from keepbest._digest import FileDigest
from keepbest._paths import target_path
from keepbest._progress import OnProgress
from keepbest._pull import Meter, check_files, pull, receive
from keepbest._retry import Patience
from keepbest._safetensors import LENGTH_BYTES, Place, header_end, read_header
from keepbest._tensors import EXTENSION
from keepbest._versions import files_of, version_of
from keepbest.errors import DataLoss
from keepbest.types import File, Version

# How many files an error names.
_NAMED_FILES = 5


def load(
    connection: Connection, name: str, path: str | None, patience: Patience, on_progress: OnProgress | None = None
) -> dict[str, Any]:
    """The tensors of a safetensors file of version `name` (a resource name), as arrays of NumPy.

    Raises:
        DataLoss: the list of files does not match the version's digest, or the bytes received not the file's.
        ValueError: there is no such file, or it is no safetensors file.
        ImportError: NumPy is not installed, or ml_dtypes, and a tensor needs it.
        KeepbestError: the server refused, or was away for longer than the budget.
    """
    numpy()
    version = version_of(connection, name, patience)
    version.files.extend(files_of(connection, version.name, patience))
    check_files(version)
    file = _file_of(version, path)
    tensors = _Tensors(file, version.name)
    receive(connection, version.name, file, tensors, patience, Meter(on_progress, file.size_bytes))
    return tensors.finish()


def load_mapped(
    connection: Connection,
    name: str,
    path: str | None,
    directory: Path,
    patience: Patience,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """The same, mapped from the file that a pull of the version puts into a directory. They cannot be written to.

    Raises:
        ValueError, DataLoss, ImportError, KeepbestError: as `load`, and as `pull`.
    """
    np = numpy()
    version = pull(connection, name, directory, patience, on_progress)
    file = _file_of(version, path)
    target = target_path(directory, file.path)
    try:
        with target.open("rb") as opened:
            end = header_end(opened.read(LENGTH_BYTES), file.size_bytes)
            places, _ = read_header(opened.read(end - LENGTH_BYTES), file.size_bytes)
    except ValueError as error:
        raise _unreadable(file, version.name, error) from error
    mapped = np.memmap(target, np.uint8, "r")
    return {it.name: mapped[it.begin : it.end].view(_little(it)).reshape(it.shape) for it in places}


class _Tensors:
    """What is received of a safetensors file, which goes into the tensors' own memory."""

    def __init__(self, file: File, version: str) -> None:
        """Begin without a byte."""
        self._file = file
        self._version = version
        self._digest = FileDigest()
        self._sha256 = hashlib.sha256() if file.sha256 else None
        # All before the tensors, until it is whole.
        self._header = bytearray()
        self._header_end: int | None = None
        self._arrays: dict[str, Any] = {}
        # What is not full yet: where it ends in the file, and its memory. The next one is the last of the list.
        self._targets: list[tuple[int, memoryview]] = []

    def missing(self) -> list[tuple[int, int]]:
        """The ranges of bytes to receive."""
        return [(0, self._file.size_bytes)]

    def begin(self, offset_bytes: int) -> None:
        """Go on from here, which is the first byte."""

    def write(self, data: bytes) -> None:
        """Take the next bytes."""
        at = self._digest.size_bytes
        self._digest.update(data)
        if self._sha256 is not None:
            self._sha256.update(data)
        view = memoryview(data)
        if not self._arrays:
            view = self._take_header(view)
            at = self._digest.size_bytes - len(view)
        while view:
            end, target = self._targets[-1]
            piece = view[: end - at]
            begin = len(target) - (end - at)
            target[begin : begin + len(piece)] = piece
            at += len(piece)
            view = view[len(piece) :]
            if at == end:
                self._targets.pop()

    def finish(self) -> dict[str, Any]:
        """All tensors, once all bytes are received.

        Raises:
            DataLoss: they are not the version's.
        """
        self._check()
        if not self._arrays and self._header_end is None:
            raise self._fault(
                ValueError(f"it has {self._file.size_bytes} bytes, and a safetensors file has 8 at least")
            )
        return self._arrays

    def _check(self) -> None:
        if self._digest.digest() != self._file.digest:
            raise DataLoss(
                f"`{self._file.path}` of {self._version} does not match its digest {self._file.digest.hex()}: what was "
                "received was thrown away"
            )
        if self._sha256 is not None and self._sha256.digest() != self._file.sha256:
            raise DataLoss(
                f"`{self._file.path}` of {self._version} does not match its declared SHA-256 {self._file.sha256.hex()}"
            )

    def _take_header(self, view: memoryview) -> memoryview:
        """Take what belongs to the header, and make the arrays when it is whole; the rest."""
        try:
            if self._header_end is None:
                view = self._collect(view, LENGTH_BYTES)
                if len(self._header) < LENGTH_BYTES:
                    return view
                self._header_end = header_end(bytes(self._header), self._file.size_bytes)
            view = self._collect(view, self._header_end)
            if len(self._header) == self._header_end:
                places, _ = read_header(bytes(self._header[LENGTH_BYTES:]), self._file.size_bytes)
                self._make(places)
        except ValueError as error:
            raise self._fault(error) from error
        return view

    def _collect(self, view: memoryview, up_to: int) -> memoryview:
        more = up_to - len(self._header)
        self._header += view[:more]
        return view[more:]

    def _make(self, places: list[Place]) -> None:
        np = numpy()
        self._arrays = {place.name: np.empty(place.shape, _little(place)) for place in places}
        self._targets = [
            (it.end, memoryview(self._arrays[it.name].reshape(-1).view(np.uint8)))
            for it in reversed(places)
            if it.end > it.begin
        ]

    def _fault(self, error: ValueError) -> ValueError:
        return _unreadable(self._file, self._version, error)


def _little(place: Place) -> Any:
    dtype = dtype_of(place.dtype)
    return dtype.newbyteorder("<") if dtype.kind in "iufc" else dtype


def _unreadable(file: File, version: str, error: ValueError) -> ValueError:
    return ValueError(f"`{file.path}` of {version} is no safetensors file that can be read: {error}")


def _file_of(version: Version, path: str | None) -> File:
    if path is not None:
        for file in version.files:
            if file.path == path:
                return file
        raise ValueError(f"{version.name} has no file `{path}`; it has {_named([file.path for file in version.files])}")
    found = [file for file in version.files if file.path.endswith(EXTENSION)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"{version.name} has {len(found)} safetensors files: name one as `path`: "
            f"{_named([file.path for file in found])}"
        )
    raise ValueError(
        f"{version.name} has no file `*{EXTENSION}`: it has {_named([file.path for file in version.files])}; name one "
        "as `path`, or use `pull`"
    )


def _named(paths: list[str]) -> str:
    more = f" and {len(paths) - _NAMED_FILES} more" if len(paths) > _NAMED_FILES else ""
    return ", ".join(f"`{path}`" for path in paths[:_NAMED_FILES]) + more
