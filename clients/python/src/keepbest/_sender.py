"""Sends what no decision depends on beside the training, so that reporting it costs no round trip."""

from __future__ import annotations

import threading
from collections.abc import Callable

# An event is durable this long after it was reported at the latest, if the server answers.
DURABLE_SECONDS = 5.0
# How often a waiting sender looks whether the program has ended, which then waits for it no longer than this.
_LOOK_SECONDS = 0.5


class Sender:
    """A thread that sends when enough has gathered or the oldest has waited long enough, and ends when nothing waits.

    It is not a daemon: when the program ends it sends at once, so that the last events are not lost.
    """

    def __init__(self, waits: Callable[[], float | None], send: Callable[[], bool]) -> None:
        """Begin without a thread; `wake` starts one.

        Args:
            waits: in how many seconds there is something to send; None: nothing waits.
            send: sends it; False: that failed, and is to be tried again later.
        """
        self._waits = waits
        self._send = send
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._is_over = False

    def wake(self) -> None:
        """Take note that something waits. It returns at once."""
        with self._lock:  # the condition's own, which is entered in half of its time
            if self._is_over:
                return
            if self._thread is None or not self._thread.is_alive():  # a forked child has its parent's dead one
                self._thread = threading.Thread(target=self._run, name="keepbest-events")
                self._thread.start()
            self._changed.notify()

    def end(self) -> None:
        """Send nothing any more. It returns at once; a thread that is sending ends after that."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def _run(self) -> None:
        while self._ripe():
            if not self._send():
                if not threading.main_thread().is_alive():
                    return
                with self._changed:
                    if not self._is_over:
                        self._changed.wait(DURABLE_SECONDS)

    def _ripe(self) -> bool:
        """Wait until there is something to send. False: there never will be, and the thread counts as ended."""
        with self._changed:
            while True:
                seconds = None if self._is_over else self._waits()
                if seconds is None:
                    self._thread = None
                    return False
                if seconds <= 0 or not threading.main_thread().is_alive():
                    return True
                self._changed.wait(min(seconds, _LOOK_SECONDS))
