"""Work in the background: one thread, which ends when there is nothing to do."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Background:
    """Runs a piece of work whenever it is woken, never twice at a time.

    Its thread is not a daemon: the interpreter waits for the work that was asked for before it exits.
    """

    def __init__(self, work: Callable[[], object]) -> None:
        """Begin without a thread; the first call of `wake` starts one."""
        self._changed = threading.Condition()
        self._work = work
        self._asked = self._running = False

    def wake(self) -> None:
        """Have the work done from now on, and once more if it is under way."""
        with self._changed:
            self._asked = True
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="keepbest-upload").start()

    def wait(self, seconds: float | None = None) -> bool:
        """Block until nothing is asked for, or for so many seconds; whether nothing is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._running, seconds)

    def _run(self) -> None:
        try:
            while self._next():
                self._work()
        except BaseException:
            with self._changed:
                self._asked = self._running = False
                self._changed.notify_all()
            raise

    def _next(self) -> bool:
        """Whether to do the work once more. If not, the thread counts as ended in the same moment."""
        with self._changed:
            again, self._asked = self._asked, False
            if not again:
                self._running = False
                self._changed.notify_all()
            return again
