"""A training without a framework, whose callback is the one that Keras' callbacks derive from. Starts fast."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from keepbest._callback import GRACE_SECONDS, HELD_BYTES, CheckpointCallback

_DEFAULTS = {
    "monitor": "loss",
    "verbose": 0,
    "save_best_only": False,
    "save_weights_only": False,
    "mode": "min",
    "save_freq": "epoch",
    "initial_value_threshold": None,
    "server": None,
    "project": None,
    "run": None,
    "asynchronous": False,
    "on_unavailable": "warn",
    "min_delta": 0.0,
    "client": None,
    "artifact": "",
    "config": None,
    "metadata": None,
    "retry_seconds": 20.0,
    "finish_run": True,
    "held_bytes": HELD_BYTES,
    "every_epochs": 1,
    "keep_local": True,
    "copies": "own",
    "grace_seconds": GRACE_SECONDS,
}


class Framework:
    """What a framework's callbacks derive from."""

    def set_model(self, model):
        self.model = model


class Callback(CheckpointCallback, Framework):
    """Saves a model that is a text."""

    _framework, _other = "plain", ("keras", "keepbest.keras.ModelCheckpoint")

    def __init__(self, filepath, **arguments):
        self._configure(filepath, **{**_DEFAULTS, **arguments})

    def _dialect(self):
        return {}

    def _metric_directions(self):
        return {}

    def _print(self, line):
        print(line, flush=True)

    def _write(self, path):
        Path(path).write_text(self.model.text)

    def _load(self, model, path):
        model.text = Path(path).read_text()


class Model:
    """A model that is a text."""

    def __init__(self, text="new"):
        self.text = text


class CallbackList:
    """Calls the hooks; only `fit` holds it, as in Keras."""

    def __init__(self, callbacks):
        self.callbacks = callbacks

    def on_train_begin(self):
        for callback in self.callbacks:
            callback.on_train_begin()


def fit(callback, epochs=2, model=None, first=0, in_epoch=lambda epoch: None):
    """Train: `in_epoch` is called in the middle of each epoch."""
    model = model or Model()
    callback.set_model(model)
    callbacks = CallbackList([callback])
    callbacks.on_train_begin()
    for epoch in range(first, epochs):
        callback.on_epoch_begin(epoch)
        callback.on_train_batch_end(0, {"loss": 1.0})
        in_epoch(epoch)
        model.text = f"epoch {epoch}"
        callback.on_epoch_end(epoch, {"loss": 1.0 / (epoch + 1)})
    callback.on_train_end()


def main():
    """Train as the arguments say: the callback's as JSON, and code that is run in the second epoch."""
    arguments, code = json.loads(sys.argv[1]), sys.argv[2]
    # A shell starts what runs in the background with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    callback = Callback(**arguments)

    def in_epoch(epoch):
        if epoch == 1:
            exec(code, {"callback": callback, "os": os, "sys": sys})

    fit(callback, 3, in_epoch=in_epoch)


if __name__ == "__main__":
    main()
