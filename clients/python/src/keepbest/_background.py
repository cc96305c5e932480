"""Upload in the background: a bounded queue, one thread, and no error lost."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

# One upload runs while the next waits; a trainer that saves faster than the network is held up.
_QUEUE = 2


class Background:
    """Runs jobs one after the other in a thread that lives only while there are jobs.

    The thread is no daemon: the interpreter does not end before the last job has.
    """

    def __init__(self) -> None:
        """Start no thread yet."""
        self._changed = threading.Condition()
        self._jobs: deque[Callable[[], None]] = deque()
        self._running = False
        self._error: BaseException | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Queue a job; waits while the queue is full."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._jobs) < _QUEUE)
            self._jobs.append(job)
            if not self._running:
                self._running = True
                threading.Thread(target=self._work, name="keepbest-upload").start()

    def wait(self) -> None:
        """Wait until all jobs are done."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running)

    def raise_error(self) -> None:
        """Raise the first error of a job that was not raised yet."""
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
