"""A Keras training goes on while its server is killed again and again, and nothing acknowledged is lost."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import threading
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import pytest
from conftest import Server

import keepbest
from keepbest.run import Run

keras = pytest.importorskip("keras", minversion="3.0")
import numpy as np  # noqa: E402

from keepbest.keras import ModelCheckpoint  # noqa: E402

ROUNDS = 50
# Up to more than the server needs to start, or a save to complete, so that kills fall into all phases.
PAUSE_SECONDS = (0.05, 0.6)
# Ends the training should the killer fail.
MOST_EPOCHS = 2_000


class Killer(threading.Thread):
    """Kills and restarts the server at random moments; `done` is set after the last time."""

    def __init__(self, server: Server, seed: int) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._random = random.Random(seed)
        self.done = threading.Event()
        self.rounds = 0

    def run(self) -> None:
        try:
            while self.rounds < ROUNDS:
                time.sleep(self._random.uniform(*PAUSE_SECONDS))
                self._server.kill()
                self._server.start()
                self.rounds += 1
        finally:
            self.done.set()


class UntilDone(keras.callbacks.Callback):
    """Ends the training once the killer is done."""

    def __init__(self, killer: Killer) -> None:
        super().__init__()
        self._killer = killer

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0 and not self._killer.is_alive() and not self._killer.done.is_set():
            self._killer.start()
        if self._killer.done.is_set():
            self.model.stop_training = True


def model():
    """About 9 MB, so that a save is more than one chunk."""
    keras.utils.set_random_seed(3)
    hidden = [keras.layers.Dense(1500, "relu") for _ in range(2)]
    made = keras.Sequential([keras.layers.Input((64,)), *hidden, keras.layers.Dense(10, "softmax")])
    made.compile(loss="sparse_categorical_crossentropy", optimizer=keras.optimizers.SGD(0.01))
    return made


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_training_survives_fifty_kills_of_its_server(own_server: Server, tmp_path: Path, monkeypatch):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    acked: dict[str, str] = {}
    save = Run.save

    def recorded(run, decision, path, *arguments, **options):
        digests = {name: sha256(file) for name, file in path.items()}
        version = save(run, decision, path, *arguments, **options)
        acked[version.name] = next(iter(digests.values()))
        return version

    monkeypatch.setattr(Run, "save", recorded)
    data = np.random.default_rng(seed).random((64, 64), dtype="float32")
    labels = np.random.default_rng(seed + 1).integers(0, 10, 64)
    killer = Killer(own_server, seed)
    # Each epoch is saved, so that kills meet uploads.
    callback = ModelCheckpoint(
        tmp_path / "model-{epoch:04d}.keras", "loss", server=own_server.address, project="team/crash", run="loop"
    )
    model().fit(data, labels, epochs=MOST_EPOCHS, verbose=0, callbacks=[callback, UntilDone(killer)])

    assert killer.rounds == ROUNDS
    client = keepbest.Client(own_server.address, timeout=30)
    run = client.run(callback.run_name)
    versions = {version.name: version for version in client.versions(run.artifact)}
    assert len(acked) > 10, "the training saved too little for the kills to mean something"
    assert set(acked) <= set(versions), "an acknowledged version is lost"
    torn = []
    for name, digest in acked.items():
        client.pull(name, tmp_path / "pulled")
        (pulled,) = (tmp_path / "pulled").glob("*.keras")
        if sha256(pulled) != digest:
            torn.append(name)
        pulled.unlink()
    assert torn == []
    numbers = sorted(version.number for version in versions.values())
    assert numbers == list(range(len(numbers))), "version numbers have a gap or repeat"
    epochs = [version.epoch for version in versions.values()]
    assert len(set(epochs)) == len(epochs), "one decision became two versions"
    decided = [decision.epoch for decision in client.decisions(callback.run_name)]
    assert decided == sorted(set(decided)), "an event was decided twice"
    assert run.state == keepbest.types.RunState.RUN_STATE_FINISHED
    check = [os.environ["KEEPBEST_BIN"], "check", "--read-data", "--data", str(tmp_path / "server-data")]
    checked = subprocess.run(check, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    print(f"ledger: kills {killer.rounds}, acked {len(acked)}, kept {len(acked)}, torn 0, duplicated 0")
