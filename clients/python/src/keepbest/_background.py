"""Uploads in the background: a bounded queue, one thread, and errors that are handed to the caller."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

# Besides the upload that runs. A trainer that saves faster than the network carries has to wait for a place.
_QUEUE = 2


class Background:
    """Runs jobs one after the other, in a thread that ends when there are none left.

    It is not a daemon thread, so the interpreter waits for the last job before it exits.
    """

    def __init__(self) -> None:
        """Begin without a thread; the first job starts one."""
        self._changed = threading.Condition()
        self._jobs: deque[Callable[[], None]] = deque()
        self._running = False
        self._error: BaseException | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Queue a job; block while the queue is full."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._jobs) < _QUEUE)
            self._jobs.append(job)
            if not self._running:
                self._running = True
                threading.Thread(target=self._work, name="keepbest-upload").start()

    def wait(self, seconds: float | None = None) -> bool:
        """Block until all jobs are done, or for so many seconds; whether they are done."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._running, seconds)

    def raise_error(self) -> None:
        """Raise the first error of a job that has not been raised here before."""
        with self._changed:
            error, self._error = self._error, None
        if error is not None:
            raise error

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._jobs:
                    self._running = False
                    self._changed.notify_all()
                    return
                job = self._jobs.popleft()
                self._changed.notify_all()
            try:
                job()
            except BaseException as error:
                with self._changed:
                    self._error = self._error or error
