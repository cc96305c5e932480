"""Download a version. A file appears under its name only once all its bytes were checked; a broken download goes on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Protocol

from keepbest._channel import Connection
from keepbest._digest import version_digest
from keepbest._part import Part, is_equal, unfinished_folder
from keepbest._paths import target_path
from keepbest._progress import OnProgress
from keepbest._proto.keepbest.v1.artifacts_pb2 import (
    ReadFileRequest,
    ReadFileResponse,
)
from keepbest._proto.keepbest.v1.resources_pb2 import File, Version
from keepbest._pulled import PulledFiles
from keepbest._retry import Backoff, Patience, Stream
from keepbest._tell import tell
from keepbest._versions import files_of, version_of
from keepbest.errors import DataLoss, KeepbestError

# How many files are pulled at once: while some are received, others are synced to the disk.
_FILES_AT_ONCE = 8
# How many files of others a warning names.
_NAMED_FILES = 5


def pull(
    connection: Connection, name: str, directory: Path, patience: Patience, on_progress: OnProgress | None = None
) -> Version:
    """Download all files of version `name` (a resource name) into `directory`.

    Raises:
        DataLoss: the list of files does not match the version's digest, or the bytes received not a file's.
        ValueError: a path leaves the directory, or goes through a symlink in it; or another pull writes the same file.
        KeepbestError: the server refused, or was away for longer than the budget.
    """
    version = version_of(connection, name, patience)
    version.files.extend(files_of(connection, version.name, patience))
    check_files(version)
    targets = [(file, target_path(directory, file.path)) for file in version.files]
    directory.mkdir(parents=True, exist_ok=True)
    missing = [(file, target) for file, target in targets if not is_equal(target, file.size_bytes, file.digest)]
    meter = Meter(on_progress, sum(file.size_bytes for file, _ in missing))
    pulled = PulledFiles(directory)
    pulled.expect([file for file, _ in missing])
    unfinished = unfinished_folder(directory, [file.path for file in version.files])

    def one(file: File, target: Path) -> None:
        if target.is_dir():
            raise ValueError(f"`{target}` is a folder; move it away to pull the file `{file.path}`")
        target.parent.mkdir(parents=True, exist_ok=True)
        with Part(file, target, unfinished) as part:
            receive(connection, version.name, file, part, patience, meter)
            part.finish(version.name)

    try:
        _all_of(one, missing, meter)
    finally:
        with contextlib.suppress(OSError):  # it is kept if it is not empty: the next pull goes on from there
            unfinished.rmdir()
    pulled.remove_others(list(version.files))
    _tell_of_others(directory, version, {target for _, target in targets})
    return version


def _all_of(one: Callable[[File, Path], None], files: list[tuple[File, Path]], meter: Meter) -> None:
    """Pull several files at once: each waits for the server, and then for the disk.

    Raises:
        Exception: that of the first file that failed. Nothing is begun after it, and what is under way ends soon.
    """
    if len(files) < 2:
        for file, target in files:
            one(file, target)
        return
    with ThreadPoolExecutor(min(_FILES_AT_ONCE, len(files)), "keepbest-pull") as threads:
        pulled = [threads.submit(one, file, target) for file, target in files]
        try:
            for done in as_completed(pulled):
                done.result()
        except BaseException:
            meter.stop()
            for waiting in pulled:
                waiting.cancel()
            raise


def check_files(version: Version) -> None:
    """Raise `DataLoss` if the list of files does not match the version's digest."""
    digest = version_digest((file.path, file.size_bytes, file.digest) for file in version.files)
    if digest != version.digest:
        raise DataLoss(
            f"{version.name} is not what was committed: the digest of its {len(version.files)} files is "
            f"{digest.hex()} instead of {version.digest.hex()}, so files are missing, too many, or others; nothing was "
            "downloaded (`keepbest check` on the server looks for the cause)"
        )


def _tell_of_others(directory: Path, version: Version, targets: set[Path]) -> None:
    """Warn if other files lie beside those of a version of several: a loader may take them for some of its own."""
    if len(targets) < 2:
        return
    folders = {directory} | {target.parent for target in targets}
    others = sorted(
        path for folder in folders for path in folder.iterdir() if path not in targets and not path.is_dir()
    )
    if others:
        more = f" and {len(others) - _NAMED_FILES} more" if len(others) > _NAMED_FILES else ""
        tell(
            f"Keepbest: `{directory}` holds files that are not of {version.name}, and they stay: "
            f"{', '.join(map(str, others[:_NAMED_FILES]))}{more}; pull into a folder of its own if they should not be "
            "taken for a part of it",
            levels_up=2,
        )


class Receiver(Protocol):
    """Takes the bytes of one file as they come."""

    def missing(self) -> list[tuple[int, int]]:
        """The ranges of bytes to receive, each from an offset up to the one behind its last byte."""

    def begin(self, offset_bytes: int) -> None:
        """A range begins here."""

    def write(self, data: bytes) -> None:
        """The next bytes of it."""


class Stopped(Exception):
    """Another file of the pull has failed."""


class Meter:
    """Tells of the bytes of all files of one pull, and whether it goes on. Several files may be received at once."""

    def __init__(self, on_progress: OnProgress | None, all_bytes: int) -> None:
        self._on_progress = on_progress
        self._all_bytes = all_bytes
        self._received_bytes = 0
        self._is_stopped = False
        self._lock = threading.Lock()

    def received(self, size_bytes: int) -> None:
        """So many bytes more are here.

        Raises:
            Stopped: they are not needed any more.
        """
        with self._lock:
            if self._is_stopped:
                raise Stopped
            self._received_bytes += size_bytes
            if self._on_progress is not None:
                self._on_progress(self._received_bytes, self._all_bytes)

    def stop(self) -> None:
        """Nothing more is needed."""
        self._is_stopped = True


def receive(connection: Connection, version: str, file: File, part: Receiver, patience: Patience, meter: Meter) -> None:
    """Receive the ranges that are missing. After a broken stream, continue where it stopped."""
    backoff = Backoff(patience)
    missing = part.missing()
    meter.received(file.size_bytes - sum(end - start for start, end in missing))
    for start, end in missing:
        received = start
        part.begin(start)
        while received < end:
            try:
                for data in _read(connection, version, file.path, (received, end), patience):
                    part.write(data)
                    received += len(data)
                    meter.received(len(data))
                    backoff.progress()
                if received < end:
                    raise DataLoss(f"`{file.path}` of {version} ended at byte {received} of {end}")
            except KeepbestError as error:
                backoff.pause(error)


def _read(
    connection: Connection, version: str, path: str, bytes_range: tuple[int, int], patience: Patience
) -> Iterator[bytes]:
    offset_bytes, end = bytes_range
    request = ReadFileRequest(version=version, path=path, offset_bytes=offset_bytes, length_bytes=end - offset_bytes)
    read: Callable[..., Iterator[ReadFileResponse]] = connection.stubs().artifacts.ReadFile
    with Stream(lambda seconds: read(request, timeout=seconds), lambda: offset_bytes, patience) as stream:
        for message in stream.call:
            data = message.data  # once: protobuf makes a copy each time
            if data and (message.offset_bytes != offset_bytes or offset_bytes + len(data) > end):
                raise DataLoss(
                    f"`{path}` of {version}: got {len(data)} bytes from {message.offset_bytes} on instead of "
                    f"those from {offset_bytes} to {end}"
                )
            offset_bytes += len(data)
            yield data
