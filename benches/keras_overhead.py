"""What the callback costs a training, beside Keras' own ModelCheckpoint in the same run of `fit`.

    PYTHON benches/keras_overhead.py KEEPBEST [EPOCHS]

PYTHON is that of .venv, KEEPBEST the program. A small model is trained with both callbacks, each in a wrapper that
takes the time of its hooks: milliseconds an epoch and microseconds a batch, median and worst of all but the first
epoch, which starts the run. Once for each kind: saves by epochs (in the foreground and in the background), the best
only, and saves by batches, of which one in a hundred is due.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import keras
import numpy as np

from keepbest.keras import ModelCheckpoint

BATCHES = 200
BATCH = 8
UNITS = 512
KINDS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("each epoch", {}, {}),
    ("each epoch, in the background", {}, {"asynchronous": True}),
    ("the best only", {"save_best_only": True, "monitor": "loss"}, {}),
    ("every 100 batches", {"save_freq": 100}, {}),
]


class Timed(keras.callbacks.Callback):
    """Takes the time of another callback's hooks."""

    def __init__(self, inner: keras.callbacks.Callback) -> None:
        """Wrap it."""
        super().__init__()
        self.inner = inner
        self.epochs: list[float] = []
        self.batches: list[float] = []

    def set_model(self, model: keras.Model) -> None:
        """Pass it on."""
        super().set_model(model)
        self.inner.set_model(model)

    def on_train_begin(self, logs: Any = None) -> None:
        """Pass it on."""
        self.inner.on_train_begin(logs)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Pass it on."""
        self.inner.on_epoch_begin(epoch, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Take its time."""
        begin = time.perf_counter()
        self.inner.on_train_batch_end(batch, logs)
        self.batches.append(time.perf_counter() - begin)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Take its time."""
        begin = time.perf_counter()
        self.inner.on_epoch_end(epoch, logs)
        self.epochs.append(time.perf_counter() - begin)

    def on_train_end(self, logs: Any = None) -> None:
        """Pass it on."""
        self.inner.on_train_end(logs)

    def row(self) -> str:
        """Median and worst, an epoch and a batch, as cells of a table."""
        epochs, batches = self.epochs[1:], self.batches[BATCHES:]
        return (
            f"{1e3 * statistics.median(epochs):.1f} / {1e3 * max(epochs):.1f} ms | "
            f"{1e6 * statistics.median(batches):.1f} / {1e6 * max(batches):.0f} µs"
        )


def measure(server: str, folder: Path, epochs: int, both: dict[str, Any], ours: dict[str, Any]) -> tuple[Timed, Timed]:
    """Train once with both callbacks."""
    rng = np.random.default_rng(1)
    data = rng.random((BATCHES * BATCH, UNITS), dtype="float32")
    model = keras.Sequential([keras.Input((UNITS,)), keras.layers.Dense(UNITS), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    name = "{epoch:03d}-{batch:04d}" if "save_freq" in both else "{epoch:03d}"
    keras_own = Timed(keras.callbacks.ModelCheckpoint(folder / f"theirs-{name}.keras", **both))
    keepbest = Timed(ModelCheckpoint(folder / f"ours-{name}.keras", server=server, **both, **ours))
    model.fit(data, data[:, :1], batch_size=BATCH, epochs=epochs, verbose=0, callbacks=[keras_own, keepbest])
    return keras_own, keepbest


def main() -> None:
    """Start a server, measure each kind, and print a table."""
    epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.argv[1], "serve", "--data", f"{folder}/data", "--listen", "127.0.0.1:0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert server.stdout
        address = server.stdout.readline().split()[-1]
        try:
            print("| saves | callback | an epoch, median / worst | a batch, median / worst |\n|---|---|---|---|")
            for number, (kind, both, ours) in enumerate(KINDS):
                out = Path(folder) / str(number)
                out.mkdir()
                keras_own, keepbest = measure(address, out, epochs, both, ours)
                print(f"| {kind} | Keras' own | {keras_own.row()} |")
                print(f"| | Keepbest's | {keepbest.row()} |", flush=True)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
