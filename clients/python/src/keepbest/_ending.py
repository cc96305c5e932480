"""The ends of a training of which a framework tells nothing: an exception, Ctrl-C, SIGTERM, the interpreter's exit.

Uploads that run are finished within a given time, and the server is told that the run has failed, and why.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

# How far from a callback's hook the framework's list of callbacks is that calls it.
_FRAMES = 4

# Tells the server: why the training ended, how many seconds that may take, and whether it was in the middle of a save.
Tell = Callable[[str, float, bool], None]


class Ending:
    """Watches one training from its begin on, until it ends, in one way or another."""

    def __init__(self, tell: Tell, grace_seconds: float) -> None:
        """Begin to watch.

        Args:
            tell: is called once if the training ends without `close`.
            grace_seconds: how long a save that runs may take to end, once the process is asked to.
        """
        self._tell = tell
        self.grace_seconds = grace_seconds
        self.is_saving = False
        self._over = threading.Lock()  # is taken by whoever ends it
        self._told = threading.Event()
        self._list: weakref.finalize[Any, Any] | None = None
        _watch(self)
        owner = _caller_list(sys._getframe(1))
        if owner is not None:
            # It dies with the frame of `fit`, and that with the exception which ended it.
            self._list = weakref.finalize(owner, self._caught)
            self._list.atexit = False

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """A signal that asks the process to end waits for what is done inside."""
        self.is_saving = True
        try:
            yield
        finally:
            self.is_saving = False
            _die_if_asked()

    def close(self) -> None:
        """The training came to its end, or is none of this process: there is nothing to tell any more."""
        if self._over.acquire(blocking=False):
            self._told.set()
        if self._list is not None:
            self._list.detach()
        _forget(self)

    def end(self, reason: str, seconds: float) -> None:
        """The training is dead: tell why."""
        if not self._over.acquire(blocking=False):
            self._told.wait(seconds)  # by another thread
            return
        try:
            self._tell(reason, seconds, self.is_saving)
        except Exception as error:
            print(f"Keepbest: that the training ended ({reason}) could not be told: {error}", file=sys.stderr)
        finally:
            self._told.set()
            _forget(self)

    def _caught(self) -> None:
        # Not here: the garbage collector may have called this while this thread was inside of gRPC.
        reason = _reason() or "an exception ended fit"
        threading.Thread(target=self.end, args=(reason, self.grace_seconds), name="keepbest-ending").start()


_watched: list[Ending] = []
# The signals that asked this process to end.
_asked: list[int] = []


def _forget_all() -> None:
    """In a forked child, whose end is not the end of its parent's training."""
    for ending in list(_watched):
        ending.close()
    _asked.clear()
    with contextlib.suppress(ValueError):  # of a thread that is not the main one
        if signal.getsignal(signal.SIGTERM) is _on_signal:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


def _watch(ending: Ending) -> None:
    if not _watched:
        atexit.unregister(_at_exit)
        atexit.register(_at_exit)
    _watched.append(ending)
    # A handler of somebody else knows better what a signal means here.
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _on_signal)


def _forget(ending: Ending) -> None:
    if ending in _watched:
        _watched.remove(ending)
    if _watched or threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is _on_signal:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _at_exit() -> None:
    _tell_all(_reason() or "the interpreter exited")


def _on_signal(number: int, frame: FrameType | None) -> None:
    if not _watched:  # all trainings ended in other threads
        _die(number)
    first = not _asked
    _asked.append(number)
    if first and any(ending.is_saving for ending in _watched):
        grace_seconds = max(ending.grace_seconds for ending in _watched)
        timer = threading.Timer(grace_seconds, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()
        return
    _end_all(number)


def _die_if_asked() -> None:
    in_main = threading.current_thread() is threading.main_thread()
    if _asked and in_main and not any(ending.is_saving for ending in _watched):
        _end_all(_asked[0])


def _end_all(number: int) -> None:
    _tell_all(signal.Signals(number).name)
    _die(number)


def _tell_all(reason: str) -> None:
    # All of them together: whoever asked the process to end gave one time for it.
    until = time.monotonic() + max((ending.grace_seconds for ending in _watched), default=0.0)
    for ending in list(_watched):
        ending.end(reason, max(until - time.monotonic(), 0.0))


def _die(number: int) -> None:
    """End as a process does that has no handler for the signal."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _reason() -> str:
    """The exception that is raised or was not caught."""
    error = sys.exc_info()[1] or getattr(sys, "last_value", None)
    return "" if error is None else f"{type(error).__name__}: {error}".rstrip(": ")


def _caller_list(frame: FrameType | None) -> Any:
    """The framework's list of callbacks that called this hook; None: it was called in another way."""
    for _ in range(_FRAMES):
        if frame is None:
            return None
        owner = frame.f_locals.get("self")
        if type(owner).__name__ == "CallbackList":
            return owner
        frame = frame.f_back
    return None
