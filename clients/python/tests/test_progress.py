"""The bar of a transfer: where it is drawn, what it says, and that it leaves no trace."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import threading

import pytest
from conftest import random_file

import keepbest
from keepbest import _progress
from keepbest._progress import Bar, is_seen, size

SAVE = """
import sys, keepbest
from keepbest import _progress
_progress._PATIENCE_SECONDS = _progress._PAUSE_SECONDS = 0.0
address, project, file, folder = sys.argv[1:]
client = keepbest.Client(address, timeout=30, project=project)
client.push(file, "a")
client.pull("a:latest", folder)
"""


def test_a_bar_says_how_far_how_fast_and_how_long_and_then_is_gone():
    times = iter([0.0, 0.5, 2.0, 2.05, 4.0])
    stream = io.StringIO()
    bar = Bar("uploading", stream, lambda: next(times))
    bar(100 << 20, 400 << 20)
    assert stream.getvalue() == "", "a short transfer shows nothing"
    bar(200 << 20, 400 << 20)
    line = "uploading [############------------] 200 MiB of 400 MiB, 50.0 MiB/s, 4 s left"
    assert stream.getvalue() == f"\r{line}"
    bar(201 << 20, 400 << 20)
    assert stream.getvalue() == f"\r{line}", "not more often than can be read"
    bar(400 << 20, 400 << 20)
    bar.close()
    *_, last, wiped, begin = stream.getvalue().split("\r")
    assert last.startswith("uploading [########################] 400 MiB of 400 MiB")
    assert (wiped, begin) == (" " * len(last.rstrip()), "")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (200 << 20, "200 MiB"),
        (5 << 40, "5.0 TiB"),
        (5 << 50, "5120.0 TiB"),
    ],
)
def test_sizes_are_for_people(count, text):
    assert size(count) == text


def test_where_nobody_looks_nothing_is_drawn(client, project, tmp_path, monkeypatch):
    assert not is_seen(io.StringIO())
    monkeypatch.setattr(_progress, "_PATIENCE_SECONDS", 0.0)
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    random_file(tmp_path / "m.bin", 3 << 20)
    client.push(tmp_path / "m.bin", f"{project}/a")
    assert shown.getvalue() == ""
    asked = keepbest.Client(client.connection.address.target, progress=True)
    asked.push(tmp_path / "m.bin", f"{project}/b")
    assert "uploading [" in shown.getvalue()


def test_a_terminal_shows_uploads_and_downloads(server, project, tmp_path):
    random_file(tmp_path / "m.bin", 20 << 20)
    controller, terminal = pty.openpty()
    shown = bytearray()

    def read() -> None:
        try:
            while data := os.read(controller, 4096):
                shown.extend(data)
        except OSError:  # all its writers are gone
            pass

    reader = threading.Thread(target=read)
    reader.start()
    arguments = [server.address, project, str(tmp_path / "m.bin"), str(tmp_path / "out")]
    subprocess.run([sys.executable, "-c", SAVE, *arguments], stderr=terminal, check=True)
    os.close(terminal)
    reader.join(60)
    os.close(controller)
    text = shown.decode()
    assert "uploading [" in text and "downloading [" in text and "20.0 MiB" in text
    assert text.rstrip("\r").endswith(" "), "the last line is wiped"


class Closed(io.StringIO):
    """A terminal that goes away once something is drawn."""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


class Tee:
    """As people write one: it has these two methods, and no more."""

    def __init__(self) -> None:
        self.shown = ""

    def write(self, text: str) -> None:
        self.shown += text

    def flush(self) -> None:
        pass


@pytest.mark.parametrize("progress", [None, True])
@pytest.mark.parametrize("stream", [None, Tee(), Closed()], ids=["none", "tee", "closed"])
def test_no_stream_that_nobody_reads_disturbs_a_transfer(server, project, tmp_path, monkeypatch, stream, progress):
    monkeypatch.setattr(_progress, "_PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(_progress, "_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(sys, "stderr", stream)
    data = random_file(tmp_path / "m.bin", 3 << 20)
    with keepbest.Client(server.address, timeout=30, progress=progress) as client:
        client.push(tmp_path / "m.bin", f"{project}/a")
        client.pull(f"{project}/a:latest", tmp_path / "out")
    assert (tmp_path / "out" / "m.bin").read_bytes() == data
    if isinstance(stream, Tee):
        assert ("uploading [" in stream.shown) == (progress is True)
