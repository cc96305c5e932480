"""A small training on Keras 3 whose logs a test chooses."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import pytest

keras = pytest.importorskip("keras", minversion="3.0")
import numpy as np  # noqa: E402

X = np.random.default_rng(1).random((30, 3), dtype="float32")
Y = np.eye(3, dtype="float32")[np.random.default_rng(2).integers(0, 3, 30)]


def model(optimizer="sgd"):
    keras.utils.set_random_seed(1)
    made = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(5), keras.layers.Dense(3, "softmax")])
    auc = keras.metrics.AUC(name="auc")
    made.compile(loss="categorical_crossentropy", optimizer=optimizer, metrics=["accuracy", auc])
    return made


class Drive:
    """Calls the hooks of callbacks in the order of `fit`, with logs that the test chooses."""

    def __init__(self, *callbacks, made=None):
        self.model = made or model()
        self.model.train_on_batch(X, Y)
        self.callbacks = callbacks
        for callback in callbacks:
            callback.set_model(self.model)
        for callback in callbacks:
            callback.on_train_begin()

    def epoch(self, epoch, **logs):
        for callback in self.callbacks:
            callback.on_epoch_begin(epoch)
            callback.on_train_batch_end(0, {"loss": 1.0})
        for callback in self.callbacks:
            callback.on_epoch_end(epoch, logs)
        return self

    def end(self):
        for callback in self.callbacks:
            callback.on_train_end()


def versions(client, callback):
    return list(client.versions(client.run(callback.run_name).artifact))


def names(directory):
    """All files but spools, whose names are new in each training."""
    files = (path for path in directory.rglob("*") if path.is_file() and path.suffix != ".spool")
    return sorted(path.relative_to(directory).as_posix() for path in files)
