"""Fixtures for all tests: the real server, whose binary KEEPBEST_BIN names, and what can stand in front of it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import message
from google.rpc import error_details_pb2, status_pb2

import keepbest
from keepbest import _ending, _upload

_ADDRESS = re.compile(r"127\.0\.0\.1:(\d+)")
_START_SECONDS = 30.0


class Server:
    """A server process on its own data directory."""

    def __init__(self, data: Path, settings: dict[str, str] | None = None) -> None:
        self._data = data
        self._settings = settings or {}
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the process. Later starts use the port of the first one."""
        command = [os.environ["KEEPBEST_BIN"], "serve", "--data", str(self._data), "--listen", self.address]
        environment = os.environ | self._settings
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        assert self._process.stdout is not None
        output = []
        deadline = threading.Timer(_START_SECONDS, self._process.kill)
        deadline.start()
        for line in self._process.stdout:
            output.append(line)
            if (found := _ADDRESS.search(line)) and found[1] != "0":
                self.port = int(found[1])
                break
        else:
            pytest.fail(f"the server said no address:\n{''.join(output)}")
        deadline.cancel()
        threading.Thread(target=self._drain, args=(self._process.stdout,), daemon=True).start()

    def kill(self) -> None:
        """End the process as a power failure would (kill -9)."""
        self._stop(signal.SIGKILL)

    def stop(self) -> None:
        """Ask the process to end, and wait for it."""
        self._stop(signal.SIGTERM)

    def pause(self) -> None:
        """Freeze the process: the kernel still accepts connections and bytes for it, but nobody answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process continue."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _stop(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    @staticmethod
    def _drain(stream: object) -> None:
        for _ in stream:  # type: ignore[attr-defined]
            pass


class Proxy:
    """A TCP proxy in front of a server, which cuts all connections at given moments.

    The moments are numbers of bytes that went from the trainer to the server, over all connections. After each cut
    `on_cut` is called with its index.
    """

    def __init__(self, server: Server, cut_at: list[int], on_cut: Callable[[int], None] = lambda index: None) -> None:
        self._server = server
        self._cut_at = cut_at
        self._on_cut = on_cut
        self.forwarded_bytes = 0
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self.cuts = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def close(self) -> None:
        self._listener.close()
        self._cut_all()

    def _accept(self) -> None:
        while True:
            try:
                trainer, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._server.port), timeout=5)
                server.settimeout(None)
            except OSError:
                trainer.close()
                continue
            self._open += [trainer, server]
            threading.Thread(target=self._pump, args=(trainer, server, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, trainer, False), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
                if counted:
                    self._count(len(data))
        except OSError:
            pass
        finally:
            for end in (source, target):
                end.close()

    def _count(self, size_bytes: int) -> None:
        with self._lock:
            self.forwarded_bytes += size_bytes
            if self.cuts == len(self._cut_at) or self.forwarded_bytes < self._cut_at[self.cuts]:
                return
            self.cuts += 1
            index = self.cuts - 1
            self._cut_all()
            self._on_cut(index)

    def _cut_all(self) -> None:
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._open = []


class Refused(Exception):
    """Raised by an `Interposer`'s hook to answer with this error, in the form that the server gives to its own."""

    def __init__(self, code: grpc.StatusCode, reason: str, retry_seconds: float | None = None, **metadata: str) -> None:
        super().__init__(reason)
        self.code = code
        status = status_pb2.Status(code=code.value[0], message=reason)
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="keepbest", metadata=metadata))
        if retry_seconds is not None:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromNanoseconds(int(retry_seconds * 1e9))
            status.details.add().Pack(retry)
        self.details = status.SerializeToString()


# Gets a request's bytes and a function that sends such bytes to the server; returns the answer's bytes.
Hook = Callable[[bytes, Callable[[bytes], bytes]], bytes]


def durable_at_each_try(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes of a large file were durable each time that an upload began or went on; filled as it does."""
    prepare, durable = _upload.Uploader._prepare, []

    def noted(uploader: Any, *arguments: Any) -> Any:
        file = prepare(uploader, *arguments)
        durable.append(file.durable_bytes)
        return file

    monkeypatch.setattr(_upload.Uploader, "_prepare", noted)
    return durable


class Interposer(grpc.GenericRpcHandler):
    """A gRPC server in front of the real one. It forwards all calls, except those that a test hooks.

    Attributes:
        hooks: name of a unary method, as `GetVersion`, to the function that answers it, or raises `Refused`.
        calls: the names of the methods that were called, in order.
    """

    def __init__(self, server: Server) -> None:
        self.hooks: dict[str, Hook] = {}
        self.calls: list[str] = []
        self._channel = grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)])
        self._server = grpc.server(futures.ThreadPoolExecutor(32), handlers=[self])
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def close(self) -> None:
        self._server.stop(0).wait()
        self._channel.close()

    def service(self, details: Any) -> grpc.RpcMethodHandler:
        name = details.method.rpartition("/")[2]
        self.calls.append(name)
        if name == "ReadFile":
            return grpc.unary_stream_rpc_method_handler(self._sent_on(self._channel.unary_stream(details.method)))
        if name == "WriteFile":
            return grpc.stream_unary_rpc_method_handler(self._sent_on(self._channel.stream_unary(details.method)))
        forward = self._channel.unary_unary(details.method)
        hook = self.hooks.get(name)
        answer = forward if hook is None else lambda request, timeout: hook(request, forward)
        return grpc.unary_unary_rpc_method_handler(self._sent_on(answer))

    @staticmethod
    def _sent_on(method: Any) -> Any:
        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            try:
                return method(request, timeout=context.time_remaining())
            except Refused as error:
                context.set_trailing_metadata((("grpc-status-details-bin", error.details),))
                context.abort(error.code, str(error))
            except grpc.RpcError as error:
                context.set_trailing_metadata(error.trailing_metadata())
                context.abort(error.code(), error.details())

        return answer


def _binary_or_fail() -> None:
    if "KEEPBEST_BIN" not in os.environ:
        pytest.fail("set KEEPBEST_BIN to the path of the server's binary `keepbest`")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that do not stop it."""
    _binary_or_fail()
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def end_of_trainings() -> Iterator[None]:
    """Trainings that a test leaves behind, as if their process had died, are not told at the end of all tests."""
    yield
    _ending._forget_all()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A server that the test may stop and kill."""
    _binary_or_fail()
    server = Server(tmp_path / "server-data")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def interposer(server: Server) -> Iterator[Interposer]:
    """In front of the shared server, for a client that the test makes itself."""
    interposer = Interposer(server)
    yield interposer
    interposer.close()


@pytest.fixture
def client(server: Server) -> Iterator[keepbest.Client]:
    with keepbest.Client(server.address, timeout=30) as client:
        yield client


@pytest.fixture
def project() -> str:
    """A project that no other test uses."""
    return f"tests/p-{uuid.uuid4().hex[:8]}"


def random_file(path: Path, size_bytes: int) -> bytes:
    """Write a file of random bytes, and return them."""
    data = os.urandom(size_bytes)
    path.write_bytes(data)
    return data


@contextlib.contextmanager
def nothing_told() -> Iterator[None]:
    """Fail if there is a warning inside. As an error it would end nothing, see `keepbest._tell`."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        yield
    assert [str(it.message) for it in told if issubclass(it.category, UserWarning)] == []


def same(left: message.Message, right: message.Message) -> bool:
    return left.SerializeToString(deterministic=True) == right.SerializeToString(deterministic=True)
