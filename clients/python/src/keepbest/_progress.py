"""The progress of a transfer, as a line that is drawn over itself in a terminal or a notebook, and nowhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

# Is given how many bytes were transferred, and how many there are in all.
OnProgress = Callable[[int, int], None]

# A transfer that takes no longer than this shows nothing.
_PATIENCE_SECONDS = 1.0
# From one drawing to the next.
_PAUSE_SECONDS = 0.1
_BAR_CHARACTERS = 24
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@contextmanager
def progress_of(what: str, on_progress: OnProgress | None, wanted: bool | None) -> Iterator[OnProgress | None]:
    """Whom to tell of a transfer's progress: the caller's own function, or a bar that is gone when the transfer ends.

    Args:
        what: what is done, as `uploading`.
        on_progress: the caller's.
        wanted: whether to draw a bar if the caller has none; None: where a person sees it.
    """
    if on_progress is not None or not (is_seen(sys.stderr) if wanted is None else wanted):
        yield on_progress
        return
    bar = Bar(what, sys.stderr)
    try:
        yield bar
    finally:
        bar.close()


def unseen(done_bytes: int, all_bytes: int) -> None:
    """For what runs beside something else, which a bar would disturb."""


def is_seen(stream: TextIO | None) -> bool:
    """Whether a person sees what is written to a stream at once: it is a terminal, or a notebook's.

    Nobody sees one that is closed, or that cannot tell: programs put objects in the place of standard error that have
    little more than `write`.
    """
    if type(stream).__module__.startswith(("ipykernel.", "google.colab.")):
        return True
    try:
        return stream is not None and stream.isatty()
    except Exception:
        return False


class Bar:
    """`uploading [######------------------]  128 MiB of  512 MiB, 96 MiB/s, 4 s left`.

    It raises nothing, because a transfer must not end with its terminal: a stream that fails is drawn to no more.
    """

    def __init__(self, what: str, stream: TextIO | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin to measure; nothing is drawn yet."""
        self._what = what
        self._stream: TextIO | None = stream
        self._clock = clock
        self._begin = clock()
        self._first_bytes: int | None = None
        self._next = self._begin + _PATIENCE_SECONDS
        self._drawn_characters = 0

    def __call__(self, done_bytes: int, all_bytes: int) -> None:
        """Draw, if it is time to."""
        now = self._clock()
        if self._first_bytes is None:
            self._first_bytes = done_bytes  # what was there before costs no time
        if now < self._next:
            return
        self._next = now + _PAUSE_SECONDS
        self._draw(self._line(done_bytes, all_bytes, now - self._begin))

    def close(self) -> None:
        """Leave no trace."""
        if self._drawn_characters:
            self._draw("")
            self._write("\r")

    def _line(self, done_bytes: int, all_bytes: int, seconds: float) -> str:
        full = _BAR_CHARACTERS * min(done_bytes, all_bytes) // max(all_bytes, 1)
        bar = "#" * full + "-" * (_BAR_CHARACTERS - full)
        rate = (done_bytes - (self._first_bytes or 0)) / seconds if seconds > 0 else 0.0
        left = f", {(all_bytes - done_bytes) / rate:.0f} s left" if rate > 0 else ""
        return f"{self._what} [{bar}] {size(done_bytes)} of {size(all_bytes)}, {size(rate)}/s{left}"

    def _draw(self, line: str) -> None:
        self._write("\r" + line.ljust(self._drawn_characters))
        self._drawn_characters = len(line)

    def _write(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except Exception:
            self._stream = None


def size(count: float) -> str:
    """A number of bytes for people: `1.5 GiB`."""
    for unit in _UNITS[:-1]:
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} {_UNITS[-1]}"
