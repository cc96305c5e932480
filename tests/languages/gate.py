"""A way to the server that stops in the middle of an upload, so that a fault strikes there and nowhere else."""

from __future__ import annotations

import contextlib
import re
import socket
import threading

# A checkpoint's name, as it stands in the messages about it: a new one is the next upload.
_CHECKPOINT = re.compile(rb"/checkpoints/[0-9a-f]{32}")
_NAME_BYTES = 45
# So much of an upload of 20 MiB passes: a chunk of 8 MiB and a part of the next one.
_PASSED_BYTES = 12 << 20


class Gate:
    """Passes connections on to a server on this machine; closes within the uploads whose numbers, from 0, are named."""

    def __init__(self, server_port: int, closes_within: set[int]) -> None:
        self._server_port = server_port
        self._closes_within = closes_within
        self._lock = threading.Lock()
        self._open = threading.Event()
        self._open.set()
        self._checkpoints: list[bytes] = []
        self._passed = 0
        self.closed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def open(self) -> None:
        self.closed.clear()
        self._open.set()

    def stop(self) -> None:
        self._listener.close()
        self._closes_within = set()
        self._open.set()

    def _accept(self) -> None:
        while True:
            try:
                trainer, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(trainer,), daemon=True).start()

    def _connect(self, trainer: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._server_port))
        except OSError:
            trainer.close()
            return
        for one in (trainer, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=self._pass, args=(server, trainer, False), daemon=True).start()
        self._pass(trainer, server, True)

    def _pass(self, source: socket.socket, target: socket.socket, is_watched: bool) -> None:
        before = b""
        try:
            while data := source.recv(64 << 10):
                if is_watched:
                    self._watch(before + data, len(data))
                    before = data[-_NAME_BYTES:]
                    self._open.wait()
                target.sendall(data)
        except OSError:
            pass
        # What one end says no more the other hears no more.
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _watch(self, data: bytes, size: int) -> None:
        with self._lock:
            for name in _CHECKPOINT.findall(data):
                if name not in self._checkpoints:
                    self._checkpoints.append(name)
                    self._passed = 0
            self._passed += size
            upload = len(self._checkpoints) - 1
            if upload in self._closes_within and self._passed >= _PASSED_BYTES:
                self._closes_within.discard(upload)
                self._open.clear()
                self.closed.set()
