"""Runs Keras' own tests of ModelCheckpoint on the callback of `keepbest.keras`, against a real server. See README.md.

Keras' tests read the class from the package `callbacks` when they run, so it is replaced there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import threading

import keras.callbacks
import pytest
from keras.src import callbacks

import keepbest
from keepbest.keras import ModelCheckpoint

_ADDRESS = re.compile(r"127\.0\.0\.1:[1-9]\d*")


class _Server:
    """The server of one test session. Each callback makes a run of its own, since KEEPBEST_RUN is not set."""

    def __init__(self) -> None:
        self._data = tempfile.mkdtemp(prefix="keepbest-conformance-")
        command = [os.environ["KEEPBEST_BIN"], "serve", "--data", self._data, "--listen", "127.0.0.1:0"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.address = self._read_address()
        threading.Thread(target=self._drain, daemon=True).start()

    def _read_address(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := _ADDRESS.search(line):
                return found[0]
        raise pytest.UsageError("KEEPBEST_BIN started no server: it printed no address")

    def _drain(self) -> None:
        """Read on, so that the server never waits for a full pipe."""
        assert self._process.stdout is not None
        for _ in self._process.stdout:
            pass

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._data, ignore_errors=True)


def pytest_configure(config: pytest.Config) -> None:
    """Start the server and put our class in the place of Keras'."""
    if "KEEPBEST_BIN" not in os.environ:
        raise pytest.UsageError("set KEEPBEST_BIN to the path of the server's binary `keepbest`")
    server = _Server()
    config.add_cleanup(server.stop)
    os.environ["KEEPBEST_ADDRESS"] = server.address
    os.environ["KEEPBEST_PROJECT"] = "keras/conformance"
    os.environ.pop("KEEPBEST_RUN", None)
    callbacks.ModelCheckpoint = _Strict
    keras.callbacks.ModelCheckpoint = _Strict


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tests that passed without a single version on the server did not test our callback: then this raises NotFound."""
    if session.testscollected:
        keepbest.Client().best("keras/conformance", "loss", "min")


class _Strict(ModelCheckpoint):  # type: ignore[misc]
    """A server that cannot be reached shall fail the test, not be survived."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, on_unavailable="raise", **kwargs)  # type: ignore[arg-type]


_Strict.__name__ = _Strict.__qualname__ = "ModelCheckpoint"
