"""Repeating calls: pauses, deadlines, and the cost of a server that accepts calls but does not answer."""

from __future__ import annotations

import socket
import struct
import threading
from pathlib import Path

import grpc
import pytest
from conftest import Server, random_file

import keepbest
from keepbest import _chunks, _pull, _retry
from keepbest._retry import Backoff, Patience, pause_seconds

ALWAYS = keepbest.strategy("m-{epoch}.bin")


def test_callers_that_are_told_the_same_pause_come_back_spread_above_it():
    pauses = [pause_seconds(1.0, 0.1) for _ in range(1000)]
    assert all(1.0 <= pause <= 2.0 for pause in pauses)
    # Some in each tenth of that second. That one of these is empty by chance happens less than once in 10^44 runs.
    assert {int(10 * (pause - 1.0)) for pause in pauses} >= set(range(10))
    assert all(0.0 <= pause_seconds(None, 0.1) <= 0.1 for _ in range(1000))


def silent(seconds: float) -> keepbest.Unavailable:
    error = keepbest.Unavailable(f"no answer for {seconds} s", code=grpc.StatusCode.DEADLINE_EXCEEDED)
    error.unanswered = True
    return error


def test_a_silent_server_is_left_soon_and_a_slow_one_gets_its_time(monkeypatch):
    monkeypatch.setattr(_retry.time, "sleep", lambda seconds: None)
    backoff = Backoff(Patience(300.0))
    deadlines = []
    for _ in range(4):
        deadlines.append(backoff.call_seconds())
        backoff.pause(silent(deadlines[-1]))
    assert deadlines == [10.0, 20.0, 30.0, 30.0]


def test_silence_is_waited_for_no_longer_than_was_said_however_long_the_budget_is(monkeypatch):
    monkeypatch.setattr(_retry.time, "sleep", lambda seconds: None)
    backoff = Backoff(Patience(300.0, silence_seconds=12.0))
    refused = keepbest.Unavailable("connection refused", code=grpc.StatusCode.UNAVAILABLE)
    assert backoff.call_seconds() == 10.0
    backoff.pause(refused)  # at once, which does not count as silence
    assert backoff.call_seconds() == 10.0
    backoff.pause(silent(10.0))
    assert backoff.call_seconds() == 2.0
    with pytest.raises(keepbest.Unavailable, match="no answer for 2"):
        backoff.pause(silent(2.0))


class Resetter:
    """A TCP proxy in front of a server, which resets its first connections."""

    def __init__(self, server: Server, resets: int) -> None:
        self._server = server
        self.left = resets
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.left > 0:
                self.left -= 1
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self._server.port))
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
        except OSError:
            pass
        finally:
            target.close()


def test_resets_while_a_client_connects_are_repeated(server: Server, project):
    resetter = Resetter(server, resets=3)
    with keepbest.Client(resetter.address, timeout=60) as client:
        assert client.start_run(project, "r", ALWAYS).attempt == 1
    assert resetter.left == 0
    resetter.close()


def test_a_stream_on_which_nothing_moves_is_given_up_and_gone_on_with(
    own_server: Server, project, tmp_path: Path, monkeypatch
):
    random_file(tmp_path / "m.bin", 40 << 20)
    client = keepbest.Client(own_server.address, timeout=60)
    run = client.start_run(project, "r", ALWAYS)
    decision = run.report_epoch(0, {"val_loss": 1.0})
    fill = _chunks.Messages._message

    def fill_and_pause(messages, **fields):
        if messages.position == 10 << 20:
            own_server.pause()
        return fill(messages, **fields)

    with monkeypatch.context() as patch:
        patch.setattr(_chunks.Messages, "_message", fill_and_pause)
        patch.setattr(_retry, "_STREAM_IDLE_SECONDS", 0.5)
        with pytest.raises(keepbest.Unavailable, match="nothing moved on a stream"):
            run.save(decision, tmp_path / "m.bin", timeout=0.0)
    own_server.resume()
    version = run.save(decision, tmp_path / "m.bin")

    read = _pull._read

    def read_and_pause(*arguments):
        for number, data in enumerate(read(*arguments)):
            if number == 5:
                own_server.pause()
            yield data

    client.timeout = 0.0
    with monkeypatch.context() as patch:
        patch.setattr(_pull, "_read", read_and_pause)
        patch.setattr(_retry, "_STREAM_IDLE_SECONDS", 0.5)
        with pytest.raises(keepbest.Unavailable, match="nothing moved on a stream"):
            client.pull(version.name, tmp_path / "pulled")
    own_server.resume()
    client.timeout = 60
    assert client.pull(version.name, tmp_path / "pulled").size_bytes == 40 << 20
