"""Download a version. A file appears under its name only once all its bytes were checked."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from keepbest._channel import Connection
from keepbest._digest import FileDigest, version_digest
from keepbest._proto.keepbest.v1.artifacts_pb2 import (
    ReadFileRequest,
    ReadFileResponse,
)
from keepbest._proto.keepbest.v1.resources_pb2 import File, Version
from keepbest._retry import Backoff, Patience, Stream
from keepbest._versions import files_of, version_of
from keepbest.errors import DataLoss, KeepbestError


def pull(connection: Connection, name: str, directory: Path, patience: Patience) -> Version:
    """Download all files of version `name` (a resource name) into `directory`.

    Raises:
        DataLoss: the list of files does not match the version's digest, or the bytes received not a file's.
        ValueError: a path leaves the directory, or goes through a symlink in it.
        KeepbestError: the server refused, or was away for longer than the budget.
    """
    version = version_of(connection, name, patience)
    version.files.extend(files_of(connection, version.name, patience))
    _check_files(version)
    targets = [(file, target_path(directory, file.path)) for file in version.files]
    for file, target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
        _pull_file(connection, version.name, file, target, patience)
    return version


def _check_files(version: Version) -> None:
    """Raise `DataLoss` if the list of files does not match the version's digest."""
    digest = version_digest((file.path, file.size_bytes, file.digest) for file in version.files)
    if digest != version.digest:
        raise DataLoss(
            f"{version.name} is not what was committed: the digest of its {len(version.files)} files is "
            f"{digest.hex()} instead of {version.digest.hex()}, so files are missing, too many, or others; nothing was "
            "downloaded (`keepbest check` on the server looks for the cause)"
        )


def target_path(directory: Path, path: str) -> Path:
    """The local path for a file of the version.

    Raises:
        ValueError: `path` is absolute, has `..` or a backslash in it, or leads through a symlink.
    """
    relative = PurePosixPath(path)
    parts = relative.parts
    if not parts or relative.is_absolute() or ".." in parts or "\\" in path or "\0" in path or Path(path).drive:
        raise ValueError(f"path `{path}` of the version leaves the directory; it must be relative and without `..`")
    target = directory
    for part in parts:
        target = target / part
        if target.is_symlink():
            raise ValueError(f"`{target}` is a symlink; move it away to pull `{path}`")
    return target


def _pull_file(connection: Connection, version: str, file: File, target: Path, patience: Patience) -> None:
    temporary = target.with_name(f".keepbest-{uuid.uuid4().hex}")
    # The kernel applies the umask to a file created like this. Reading the umask would change it for all threads.
    with temporary.open("xb") as opened:
        try:
            _receive(connection, version, file, opened, patience)
            opened.flush()
            os.fsync(opened.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink()
            raise


def _receive(connection: Connection, version: str, file: File, opened: BinaryIO, patience: Patience) -> None:
    """Write the file's bytes to `opened` and check them. After a broken stream, continue where it stopped."""
    digest, sha256, received, backoff = FileDigest(), hashlib.sha256(), 0, Backoff(patience)
    while received < file.size_bytes:
        try:
            for data in _read(connection, version, file.path, received, patience):
                opened.write(data)
                digest.update(data)
                if file.sha256:
                    sha256.update(data)
                received += len(data)
                backoff.progress()
            if received < file.size_bytes:
                raise DataLoss(f"`{file.path}` of {version} ended at byte {received} of {file.size_bytes}")
        except KeepbestError as error:
            backoff.pause(error)
    if received != file.size_bytes:
        raise DataLoss(f"`{file.path}` of {version} has {received} bytes instead of {file.size_bytes}")
    if digest.digest() != file.digest:
        raise DataLoss(f"`{file.path}` of {version} does not match its digest {file.digest.hex()}")
    if file.sha256 and sha256.digest() != file.sha256:
        raise DataLoss(f"`{file.path}` of {version} does not match its declared SHA-256 {file.sha256.hex()}")


def _read(connection: Connection, version: str, path: str, offset_bytes: int, patience: Patience) -> Iterator[bytes]:
    request = ReadFileRequest(version=version, path=path, offset_bytes=offset_bytes)
    read: Callable[..., Iterator[ReadFileResponse]] = connection.stubs().artifacts.ReadFile
    with Stream(lambda seconds: read(request, timeout=seconds), lambda: offset_bytes, patience) as stream:
        for message in stream.call:
            if message.data and message.offset_bytes != offset_bytes:
                raise DataLoss(f"`{path}` of {version}: got byte {message.offset_bytes} instead of {offset_bytes}")
            offset_bytes += len(message.data)
            yield message.data
