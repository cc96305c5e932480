"""What a training could not tell the server, kept on disk until `keepbest._sync` brings it in.

A spool is a file: its first line is what begins the run, further ones are its events, those of epochs between saves,
the attempt, and how the run ended. It is only added to, so that a training that is killed leaves what it had written; a
line that is torn is not there. The models lie beside it, and a line names that of its event.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from google.protobuf.message import DecodeError

from keepbest._events import UNFORESEEN, Entry
from keepbest._local import in_folder, parts_of
from keepbest._part import lock
from keepbest._proto.keepbest.v1.runs_pb2 import StartRunRequest
from keepbest.types import Event, RunState

_FORMAT = 1
SUFFIX = ".spool"

T = TypeVar("T")


@dataclass
class SpooledEvent:
    """An event as it was kept.

    Attributes:
        due: whether the server may decide at it.
        model: the local model of this moment, as `_local.parts_of` finds it; None: there is none.
        why_not_held: then the reason; empty: another one took its place.
        is_decided: whether the server has decided about it.
        is_lost: whether the server did not take it, so that its model must stay.
    """

    event: Event
    due: bool
    model: Path | None
    why_not_held: str = ""
    is_decided: bool = False
    is_lost: bool = False


@dataclass
class Spool:
    """The spool of one training: written by it, read by a sync.

    Attributes:
        path: of the file. It is made by the first event that is kept.
        start: what begins the run; its `request_id` makes a repeated start the same attempt.
        directory: what stands before a decision's path: the model goes where the training would have saved it.
        metadata: for each version.
    """

    path: Path
    start: Callable[[], StartRunRequest]
    directory: str = ""
    metadata: dict[str, Any] | None = None
    _opened: BinaryIO | None = None
    # The events of the newest lines, and the attempt that is noted.
    _newest: Entry | None = field(default=None, repr=False)
    _newest_between: Event | None = field(default=None, repr=False)
    _attempt: int | None = None
    # Whether the last line may have been written in part.
    _is_torn: bool = False

    @property
    def is_begun(self) -> bool:
        """Whether the file is there."""
        return self._opened is not None

    def keep(
        self,
        entries: Iterable[Entry],
        attempt: int | None,
        ended: RunState | None = None,
        between: Sequence[Event] = (),
    ) -> None:
        """Add those of a training's unacknowledged events that are not in the file yet; durable when it returns.

        Args:
            entries: all of them, oldest first.
            attempt: of the run, if it could be started.
            ended: how the run ended, if it did.
            between: all unacknowledged epochs between saves, oldest first.

        Raises:
            OSError: the file cannot be written.
        """
        waiting = list(entries)
        lines = [self._line(entry) for entry in _after(waiting, self._newest)]
        lines += [{"between": _encoded(event)} for event in _after(between, self._newest_between)]
        if attempt != self._attempt:
            lines.append({"attempt": attempt})
        if ended is not None:
            lines.append({"ended": RunState.Name(ended)})
        if not lines:
            return
        opened = self._open()
        # A line that broke off for want of room must not swallow the next one.
        data = b"\n" * self._is_torn + b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        self._is_torn = True
        _write(opened, data)
        os.fsync(opened.fileno())
        self._is_torn, self._attempt = False, attempt
        if waiting:
            self._newest = waiting[-1]
        if between:
            self._newest_between = between[-1]

    def forget(self) -> None:
        """Remove the file: the server has all that is in it."""
        if self._opened is not None:
            self._opened.close()
            self._opened = self._newest = self._newest_between = self._attempt = None
            self.path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.path.parent.rmdir()  # it holds nothing else

    def close(self) -> None:
        """Let a sync have the file."""
        if self._opened is not None:
            self._opened.close()
            self._opened = self._newest = self._newest_between = None

    def _open(self) -> BinaryIO:
        if self._opened is None:
            # Unbuffered: what is refused for want of room must not come again at the close.
            opened: BinaryIO = in_folder(self.path.parent, lambda: self.path.open("ab", buffering=0))
            lock(opened)  # no sync takes the file of a training that is still at it
            header = {
                "spool": _FORMAT,
                "begun_ns": time.time_ns(),
                "start": base64.b64encode(self.start().SerializeToString()).decode(),
                "directory": self._whole_directory(),
                "metadata": self.metadata,
            }
            try:
                _write(opened, json.dumps(header).encode() + b"\n")
            except OSError:
                opened.close()
                self.path.unlink(missing_ok=True)
                raise
            self._opened = opened
        return self._opened

    def _whole_directory(self) -> str:
        """From the root, because a sync may run elsewhere; with its separator or its drive's colon, as it was typed."""
        end = self.directory[-1:]
        return self.directory if end == ":" else os.path.abspath(self.directory or ".") + (end or os.sep)

    def _line(self, entry: Entry) -> dict[str, Any]:
        line = {"event": _encoded(entry.event), "due": entry.due, "model": None, "seen": entry.seen}
        if entry.held is not None:
            return line | {"model": entry.held.name}
        return line | {"why": entry.why_not_held} if entry.why_not_held else line


@dataclass
class Kept:
    """A spool as a sync reads it; it is locked until it is closed."""

    path: Path
    start: StartRunRequest
    directory: str
    metadata: dict[str, Any] | None
    events: list[SpooledEvent]
    # Of epochs between saves, about which nothing is decided.
    between: list[Event]
    attempt: int | None
    # Batches since a save was last due, after the newest of the events.
    seen: int
    # `RUN_STATE_FINISHED` or `RUN_STATE_FAILED`; None: the training did not come to its end.
    ended: str | None
    _opened: BinaryIO = field(repr=False)

    @classmethod
    def open(cls, path: Path) -> Kept:
        """Read a spool.

        Raises:
            BlockingIOError: a training is still writing it, or another sync reads it.
            ValueError: it is no spool.
        """
        opened = path.open("r+b")
        try:
            if not lock(opened):
                raise BlockingIOError(f"`{path}` is in use by a training or another sync; it can be synced after that")
            lines = list(_lines(opened))
            header = lines[0] if lines else {}
            if header.get("spool") != _FORMAT:
                raise ValueError(f"`{path}` is no spool that this version of keepbest reads")
            # An event has two lines if the training did not learn that the first one was written: the disk was full
            # behind it, or a signal came in between. The last line has the newest model.
            events = {
                moment(it.event): it for it in (_event(line, path.parent) for line in lines[1:] if "event" in line)
            }
            between = {
                moment(event): event for event in (_decoded(line["between"]) for line in lines[1:] if "between" in line)
            }
            held = [line for line in lines[1:] if line.get("model")]
            newest = events[moment(_decoded(held[-1]["event"]))] if held else None
            if newest is not None and newest.model is None:  # no later one took its place
                newest.why_not_held = "no model of it lies beside the spool"
            seen = next((line["seen"] for line in reversed(lines) if "seen" in line), 0)
            attempt = next((line["attempt"] for line in reversed(lines) if "attempt" in line), None)
            ended = [line["ended"] for line in lines[1:] if "ended" in line]
            start = StartRunRequest.FromString(base64.b64decode(header["start"]))
            start.request_id = next(
                (it["request_id"] for it in reversed(lines) if "request_id" in it), start.request_id
            )
            return cls(
                path,
                start,
                header["directory"],
                header["metadata"],
                list(events.values()),
                list(between.values()),
                attempt,
                seen,
                ended[-1] if ended else None,
                opened,
            )
        except BaseException as error:
            opened.close()
            if isinstance(error, (LookupError, TypeError, AttributeError, DecodeError)):
                raise ValueError(f"`{path}` is damaged: {error}") from error
            raise

    @property
    def run(self) -> str:
        """The resource name of its run."""
        return f"{self.start.parent}/runs/{self.start.run_id}"

    def note_attempt(self, attempt: int) -> None:
        """Note the attempt in which the sync is under way, so that a repeated one goes on in it."""
        if attempt != self.attempt:
            self.attempt = attempt
            self._note({"attempt": attempt})

    def note_start(self, request_id: str, attempt: int) -> None:
        """Note what begins an attempt of the sync's own, so that a repeated one goes on in it."""
        self.start.request_id, self.attempt = request_id, attempt
        self._note({"request_id": request_id, "attempt": attempt})

    def note_end(self, ended: str) -> None:
        """Note how the run is to end; the training did not."""
        self.ended = ended
        self._note({"ended": ended})

    def _note(self, line: dict[str, Any]) -> None:
        """Add a line; durable when it returns."""
        self._opened.seek(0, os.SEEK_END)
        self._opened.write(b"\n" + json.dumps(line).encode() + b"\n")
        self._opened.flush()
        os.fsync(self._opened.fileno())

    def remove(self) -> None:
        """Remove the file, and its folder if that is empty."""
        self._opened.close()  # Windows removes no open file
        self.path.unlink()
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()

    def close(self) -> None:
        """Let it go, as it was."""
        self._opened.close()


def _write(opened: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[opened.write(view) :]


def spools_in(folder: Path) -> list[Path]:
    """The spools in a folder and in those below it, in the order in which they were begun."""
    found = [path for path in folder.rglob(f"*{SUFFIX}") if path.is_file()] if folder.is_dir() else [folder]
    return sorted(found, key=lambda path: (_begun_ns(path), path.name))


def batches_seen(folder: Path, run: str) -> int:
    """Batches since a save was last due, after what trainings of a run kept that the server does not know yet."""
    for path in reversed(spools_in(folder)) if folder.is_dir() else ():
        try:
            kept = Kept.open(path)
        except (OSError, ValueError):  # in use, or no spool
            continue
        kept.close()
        if kept.run == run:
            return kept.seen
    return 0


def names_in(folder: Path) -> set[str]:
    """How the models are called that the spools in a folder name, those among them that are gone as well."""
    names = set()
    for path in folder.glob(f"*{SUFFIX}"):
        with contextlib.suppress(OSError, AttributeError), path.open("rb") as opened:
            names |= {str(line["model"]) for line in _lines(opened) if line.get("model")}
    return names


def _begun_ns(path: Path) -> int:
    """By the file itself: its times change when it is copied, or when a sync is cut off."""
    try:
        with path.open("rb") as opened:
            header = next(_lines(opened), {})
        return int(header.get("begun_ns", 0)) or path.stat().st_ctime_ns
    except (OSError, ValueError, AttributeError):  # another process has brought it in meanwhile, or it is no spool
        return 0


def _lines(opened: BinaryIO) -> Iterator[dict[str, Any]]:
    for line in opened:
        with contextlib.suppress(ValueError):  # empty, or torn because the training was killed while it wrote it
            yield json.loads(line)


def _event(line: dict[str, Any], folder: Path) -> SpooledEvent:
    name = line["model"]
    model = None if name is None else folder / Path(name).name
    why = ""
    if model is None:
        why = line.get("why", "no model of it was kept" if line["due"] else UNFORESEEN)
    if model is not None and not parts_of(model):
        model = None  # a better or newer one took its place
    return SpooledEvent(_decoded(line["event"]), line["due"], model, why)


def moment(event: Event) -> tuple[int, ...]:
    """What tells an event from all others of its run: what it is about, and when it was, in microseconds."""
    batch = event.batch if event.HasField("batch") else -1
    return event.kind, event.epoch, batch, event.wall_time.seconds, event.wall_time.nanos // 1_000


def _encoded(event: Event) -> str:
    return base64.b64encode(event.SerializeToString()).decode()


def _decoded(text: str) -> Event:
    return Event.FromString(base64.b64decode(text))


def _after(waiting: Sequence[T], newest: T | None) -> Sequence[T]:
    """Those that are newer than one of them; all, if it is none of them any more."""
    return waiting[next((at for at, one in enumerate(waiting) if one is newest), -1) + 1 :]
