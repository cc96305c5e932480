"""What a save in the background holds a training up for, beside a memory copy of the same weights.

    PYTHON benches/async_save.py KEEPBEST [ROUNDS [MIB]]

PYTHON is that of .venv, KEEPBEST the program. A model of MIB (256) MiB of weights, in 16 layers, is saved ROUNDS (7)
times in each way, in turn: by a copy of all weights into memory that was used before; by `Run.save` of tensors in the
background; by the callback in the background with `save_format="safetensors"`, and with a `.weights.h5` file; and by
Keras' own ModelCheckpoint, which is synchronous. Of a callback the whole hook counts, with the server's decision; what
came after that is what the version's metadata has as `blocked_seconds`. Between two saves the last upload ends, and one
batch is trained, so that JAX's weights are new. Medians, the worst, and the ratio to the copy, as a Markdown table; the
first round, in which memory is new, is left out.
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

import keepbest
from keepbest.keras import ModelCheckpoint

LAYERS = 16


def model_of(size_bytes: int) -> keras.Model:
    """A model with so many bytes of weights, compiled without an optimizer's state."""
    units = round((size_bytes / LAYERS / 4) ** 0.5)
    made = keras.Sequential([keras.Input((units,)), *(keras.layers.Dense(units) for _ in range(LAYERS))])
    made.compile("sgd", "mse")
    return made


class Copied:
    """The memory copy: of each weight into an array that is kept."""

    def __init__(self, model: keras.Model) -> None:
        """Make the arrays, and use them once."""
        self._model = model
        self._kept = [np.zeros(weight.shape, weight.dtype) for weight in model.weights]
        self.save(0)

    def save(self, epoch: int) -> None:
        """Copy."""
        for kept, weight in zip(self._kept, self._model.weights, strict=True):
            np.copyto(kept, np.asarray(weight.value))

    def end(self) -> None:
        """Nothing runs on."""

    def close(self) -> None:
        """Nothing is open."""


class OfRun:
    """`Run.save` in the background."""

    def __init__(self, client: keepbest.Client, model: keras.Model) -> None:
        """Start a run, whose decisions are not measured."""
        self._model = model
        self._run = client.start_run(strategy={"filepath": "m-{epoch}.safetensors"})
        self._decision = self._run.report_epoch(0, {})

    def save(self, epoch: int) -> None:
        """Save."""
        tensors = {weight.path: weight.value for weight in self._model.weights}
        self._run.save(self._decision, tensors=tensors, asynchronous=True)

    def end(self) -> None:
        """Let the upload end, and ask for the next decision."""
        self._run.wait()
        self._decision = self._run.report_epoch(self._decision.epoch + 1, {})

    def close(self) -> None:
        """End the run."""
        self._run.finish()


class Saved:
    """A callback's hook at the end of an epoch."""

    def __init__(self, callback: keras.callbacks.Callback, model: keras.Model) -> None:
        """Begin a training with it."""
        self._callback = callback
        # What each version tells of it, in seconds.
        self.told: list[float] = []
        callback.set_model(model)
        callback.on_train_begin()

    def save(self, epoch: int) -> None:
        """Call the hook."""
        self._callback.on_epoch_begin(epoch)
        self._callback.on_epoch_end(epoch, {"loss": 1.0})

    def end(self) -> None:
        """Let the upload end, so that nothing runs beside the next measurement."""
        if isinstance(self._callback, ModelCheckpoint):
            self._callback._session._background.wait()
            (newest,) = [*self._callback._client.versions(f"run-{self._callback.run_name.split('/')[-1]}-model")][:1]
            self.told.append(newest.metadata["blocked_seconds"])

    def close(self) -> None:
        """End the training."""
        self._callback.on_train_end()


def main() -> None:
    """Start a server, measure, and print a table."""
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 7
    size_bytes = (int(sys.argv[3]) if len(sys.argv) > 3 else 256) << 20
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.argv[1], "serve", "--data", f"{folder}/data", "--listen", "127.0.0.1:0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert server.stdout
        address = server.stdout.readline().split()[-1]
        try:
            measure(address, Path(folder), rounds, size_bytes)
        finally:
            server.terminate()
            server.wait()


def measure(address: str, folder: Path, rounds: int, size_bytes: int) -> None:
    """Save in each way, in turn, and print the table."""
    model = model_of(size_bytes)
    images = np.random.default_rng(1).random((8, model.inputs[0].shape[1]), dtype="float32")
    client = keepbest.Client(address)
    ours = {"client": client, "monitor": "loss", "mode": "min", "asynchronous": True}
    of_tensors = {"save_format": "safetensors", **ours}
    of_file = {"save_weights_only": True, **ours}
    theirs = keras.callbacks.ModelCheckpoint(folder / "keras.weights.h5", monitor="loss", save_weights_only=True)
    ways: list[tuple[str, Any]] = [
        ("a memory copy of the weights", Copied(model)),
        ("`Run.save(tensors=..., asynchronous=True)`", OfRun(client, model)),
        (
            'the callback in the background, `save_format="safetensors"`',
            Saved(ModelCheckpoint(folder / "m.safetensors", **of_tensors), model),
        ),
        (
            "the callback in the background, a `.weights.h5` file",
            Saved(ModelCheckpoint(folder / "m.weights.h5", **of_file), model),
        ),
        ("Keras' own ModelCheckpoint, a `.weights.h5` file", Saved(theirs, model)),
    ]
    seconds: list[list[float]] = [[] for _ in ways]
    for number in range(rounds + 1):
        for (_, way), found in zip(ways, seconds, strict=True):
            model.train_on_batch(images, images)
            begin = time.perf_counter()
            way.save(number)
            found.append(time.perf_counter() - begin)
            way.end()
    for _, way in ways:
        way.close()
    print(
        f"| a save of {size_bytes >> 20} MiB, {rounds} rounds | held up, median / worst | of the copy |\n|---|---|---|"
    )
    copy_seconds = statistics.median(seconds[0][1:])
    for (name, way), found in zip(ways, seconds, strict=True):
        print_row(name, found[1:], copy_seconds)
        if told := getattr(way, "told", []):
            print_row("of it after the decision, as the versions tell", told[1:], copy_seconds)


def print_row(name: str, seconds: list[float], copy_seconds: float) -> None:
    """A row of the table."""
    median, worst = statistics.median(seconds), max(seconds)
    print(f"| {name} | {1e3 * median:.0f} / {1e3 * worst:.0f} ms | {median / copy_seconds:.2f}x |")


if __name__ == "__main__":
    main()
