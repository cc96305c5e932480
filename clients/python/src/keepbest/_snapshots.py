"""Copies of tensors for saves in the background: in buffers that are kept between saves, and of which there are few."""

from __future__ import annotations

import threading
from typing import Any

from keepbest._arrays import numpy
from keepbest._tensors import TensorFile

# One is uploaded while the next one is made; the save after that waits. This many times the model's size is the most
# memory that saves in the background take.
SNAPSHOTS = 2


class SnapshotBuffers:
    """Buffers for copies. A memory copy into one that was used before is several times faster than into new memory."""

    def __init__(self, limit: int = SNAPSHOTS) -> None:
        """Begin without a buffer.

        Args:
            limit: how many copies there are at most, those that are uploaded among them.
        """
        self._changed = threading.Condition()
        self._limit = limit
        self._taken = 0
        self._free: list[Any] = []

    def copy(self, tensors: TensorFile) -> TensorFile:
        """Copy tensors now, so that they may be changed. Waits while there are as many copies as allowed.

        Returns:
            The same file, made of the copy. Call its `release` when it is not read any more.
        """
        buffer = self._take(tensors.tensor_bytes)
        try:
            return tensors.copied_to(buffer, lambda: self._give_back(buffer))
        except BaseException:
            self._give_back(buffer)
            raise

    def clear(self) -> None:
        """Give the memory of the buffers back that are not in use."""
        with self._changed:
            self._free.clear()

    def _take(self, size_bytes: int) -> Any:
        with self._changed:
            self._changed.wait_for(lambda: self._taken < self._limit)
            self._taken += 1
            self._free.sort(key=lambda buffer: buffer.nbytes)
            for number, buffer in enumerate(self._free):
                if buffer.nbytes >= size_bytes:
                    return self._free.pop(number)
            if len(self._free) + self._taken > self._limit:
                del self._free[0]  # the smallest gives way
        try:
            np = numpy()
            return np.empty(size_bytes, np.uint8)
        except BaseException:
            self._give_back(None)
            raise

    def _give_back(self, buffer: Any) -> None:
        with self._changed:
            self._taken -= 1
            if buffer is not None:
                self._free.append(buffer)
            self._changed.notify()
