"""`ModelCheckpoint` for Keras 3, with Keras' arguments; a Keepbest server decides and keeps the models.

    import keepbest.keras
    model.fit(..., callbacks=[keepbest.keras.ModelCheckpoint("m-{epoch:02d}.keras", save_best_only=True,
    run="mnist-7")])

Needs no TensorFlow. For tf_keras and Keras 2, see `keepbest.tf_keras`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import keras

from keepbest._arguments import wrong
from keepbest._callback import GRACE_SECONDS, HELD_BYTES, CheckpointCallback
from keepbest._tensors import EXTENSION, TensorFile
from keepbest.client import Client

_VERSION = tuple(int(part) for part in keras.__version__.split(".")[:2])
if _VERSION < (3, 0):
    raise ImportError(
        f"keepbest.keras is for Keras 3, but Keras {keras.__version__} is installed; use keepbest.tf_keras"
    )

from keepbest._keras_weights import load_into_model, tensors_of_model  # noqa: E402

try:
    from keras.src.utils.io_utils import print_msg
except ImportError:  # it is not a public name: fall back to the standard output

    def print_msg(message: str) -> None:
        """Print a line."""
        print(message, flush=True)


class ModelCheckpoint(CheckpointCallback, keras.callbacks.Callback):  # type: ignore[misc]
    """Keras' ModelCheckpoint on a Keepbest server.

    It saves a local file whenever Keras' own callback would, and at no other time. What differs: the best value
    survives a restart of the script with the same `run`; NaN is never the best; a template or a direction that cannot
    work fails at the first batch; a file is only replaced once the new one is complete; and each saved file is uploaded
    too, and becomes a version of the run's artifact. Two callbacks of one training are two runs: with the same `run`,
    the second one's name has its monitor, or `best`, behind it.

    With `asynchronous`, uploads run in a background thread, from a hard link to the saved file (or a copy) in a hidden
    directory beside it. The training waits for none of them; when those that wait exceed `held_bytes`, the oldest gives
    way. An error is a warning at once, and told again at the end.

    While the server is away, `on_unavailable="warn"` lets the training go on. Up to 10,000 events and 4 MiB of them are
    buffered. Where the server would have decided, the model is kept in `keepbest-held/` beside the path, and not at the
    path, because it may be worse than the one there. With `save_best_only` that is the best of these models, with a
    path without placeholders the newest, else all of them, up to `held_bytes`. Once the server is back it decides: the
    models that it wants are moved to their paths and uploaded, the others removed. A warning at the end of the training
    names what could not be reported or saved.
    """

    _framework = "keras"
    _other = ("tf_keras", "keepbest.tf_keras.ModelCheckpoint")

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: Literal["epoch"] | int = "epoch",
        initial_value_threshold: float | None = None,
        *,
        server: str | None = None,
        project: str | None = None,
        run: str | None = None,
        asynchronous: bool = False,
        on_unavailable: Literal["warn", "raise"] = "warn",
        min_delta: float = 0.0,
        client: Client | None = None,
        artifact: str = "",
        config: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        retry_seconds: float = 30.0,
        finish_run: bool = True,
        held_bytes: int = HELD_BYTES,
        every_epochs: int = 1,
        keep_local: bool = True,
        copies: Literal["own", "same"] = "own",
        grace_seconds: float = GRACE_SECONDS,
        save_format: Literal["safetensors"] | None = None,
    ) -> None:
        """Check the arguments as Keras does. The first eight are Keras' own, in Keras' order.

        Args:
            filepath: path or template: `"m-{epoch:02d}-{val_loss:.2f}.keras"`.
            monitor: name of the metric to watch.
            verbose: 1 prints a line for each decision.
            save_best_only: save only when the monitor improves.
            save_weights_only: save `.weights.h5` instead of the whole model.
            mode: `auto`, `min` or `max`.
            save_freq: `"epoch"`, or a number of batches.
            initial_value_threshold: with `save_best_only`, the value to beat at first.
            server: its address; None: the environment's KEEPBEST_ADDRESS, else http://127.0.0.1:7400.
            project: `team/project`; None: the environment's KEEPBEST_PROJECT, else `default/default`.
            run: id of the run to start or to resume; None: the environment's KEEPBEST_RUN, else a new one, which is
                printed once.
            asynchronous: whether to upload in the background.
            on_unavailable: while the server is away, `warn` and go on, or `raise`.
            min_delta: an improvement must be larger than this.
            client: is used instead of a new one for `server`, and left open.
            artifact: id of the artifact; empty: `run-{run}-model`.
            config: the training's settings, free JSON, kept on the run.
            metadata: free JSON, kept on each version.
            retry_seconds: how long a call is repeated before the server counts as away; in a training 5 s at most, as
                long as no server ever answered at the address.
            finish_run: whether the end of the training ends the run; a later `fit` opens it again.
            held_bytes: how large the models together may be that are kept while the server is away. When they exceed
                it, the oldest are removed, and a warning names them; the newest is always kept.
            every_epochs: with `save_freq="epoch"`, a save may be due in each so many epochs, as Keras' former `period`
                had it. The others are reported, and not decided upon.
            keep_local: whether a local file stays once it is safe on the server. If not, it is removed then, and a full
                disk at a save is a warning.
            copies: what a copy of this callback reports to, by `copy.deepcopy` or pickle: a run of its `own`, as each
                trial of a tuner needs it, or the `same`.
            grace_seconds: how long a save that runs may take to end when the process is told to (SIGTERM), or dies of
                an exception.
            save_format: `"safetensors"` saves the weights and the optimizer's state straight from memory, as a version
                with one file of this format and without a local one; `filepath` ends in `.safetensors` then. With
                `asynchronous` an epoch waits for one memory copy of them. None: the ending of `filepath` says the
                format, as in Keras.

        Raises:
            ValueError: an argument is not what Keras allows.
        """
        super().__init__()
        if mode not in ("auto", "min", "max"):
            name = type(self).__name__
            warnings.warn(f"{name} mode '{mode}' is unknown, fallback to auto mode.", stacklevel=2)
            mode = "auto"
        if save_freq != "epoch" and not isinstance(save_freq, int):
            raise ValueError(f"Unrecognized save_freq: {save_freq}. Expected save_freq are 'epoch' or integer values")
        _check_extension(os.fspath(filepath), save_weights_only, save_format)
        self._save_format = save_format
        self._configure(
            filepath,
            monitor=monitor,
            verbose=verbose,
            save_best_only=save_best_only,
            save_weights_only=save_weights_only or save_format is not None,
            mode=mode,
            save_freq=save_freq,
            initial_value_threshold=initial_value_threshold,
            server=server,
            project=project,
            run=run,
            asynchronous=asynchronous,
            on_unavailable=on_unavailable,
            min_delta=min_delta,
            client=client,
            artifact=artifact,
            config=config,
            metadata=metadata,
            retry_seconds=retry_seconds,
            finish_run=finish_run,
            held_bytes=held_bytes,
            every_epochs=every_epochs,
            keep_local=keep_local,
            copies=copies,
            grace_seconds=grace_seconds,
        )

    def _dialect(self) -> dict[str, Any]:
        return dialect(_VERSION)

    def _metric_directions(self) -> dict[str, str]:
        directions: dict[str, str] = {}
        for group in getattr(self.model, "metrics", []):
            # As in Keras: only the metrics of compile() count, and of two with one name the last.
            if type(group).__name__ in ("CompileMetrics", "MetricsList"):
                for metric in group.metrics:
                    if hasattr(metric, "_direction"):
                        directions[metric.name] = "up" if metric._direction == "up" else "down"
        return directions

    def _print(self, line: str) -> None:
        print_msg(line)

    def _tensors(self, path: str | None = None) -> TensorFile | None:
        return None if self._save_format is None else TensorFile.of(tensors_of_model(self.model), path=path)

    def _write(self, path: str) -> None:
        if (tensors := self._tensors()) is not None:  # while the server is away
            tensors.write_to(path)
        elif self.save_weights_only:
            self.model.save_weights(path, overwrite=True)
        else:
            self.model.save(path, overwrite=True)

    def _load(self, model: Any, path: str) -> None:
        optimizer = getattr(model, "optimizer", None)
        if optimizer is not None and not optimizer.built:  # else its state would be passed over
            optimizer.build(model.trainable_variables)
        model.load_weights(path)

    def _load_tensors(self, model: Any, tensors: dict[str, Any]) -> None:
        load_into_model(model, tensors)


def dialect(version: tuple[int, ...]) -> dict[str, Any]:
    """The strategy's fields that make the server decide as this version of Keras 3 does."""
    monitor_callback = version >= (3, 11)
    return {
        "when_monitor_missing": "WHEN_MISSING_SAVE" if version >= (3, 10) else "WHEN_MISSING_SKIP",
        "when_monitor_not_scalar": "WHEN_MISSING_SAVE",
        "when_template_key_missing": "WHEN_TEMPLATE_KEY_MISSING_FAIL",
        "initial_best": "INITIAL_BEST_NONE" if monitor_callback else "INITIAL_BEST_WORST",
        "announce_finished": version >= (3, 13),
        "direction_inference": (
            "DIRECTION_INFERENCE_METRIC_DIRECTIONS" if monitor_callback else "DIRECTION_INFERENCE_NAME"
        ),
    }


def _check_extension(filepath: str, save_weights_only: bool, save_format: str | None) -> None:
    if save_format not in (None, "safetensors"):
        right = '"safetensors", or None, and the ending of `filepath` says the format'
        raise ValueError(wrong("save_format", save_format, right))
    if save_format is not None:
        if not filepath.endswith(EXTENSION):
            raise ValueError(f'with save_format="{save_format}" filepath `{filepath}` must end in `{EXTENSION}`')
        return
    if filepath.endswith(EXTENSION):
        raise ValueError(f'filepath `{filepath}` ends in `{EXTENSION}`, which needs save_format="safetensors"')
    if save_weights_only and not filepath.endswith(".weights.h5"):
        raise ValueError(
            "When using `save_weights_only=True` in `ModelCheckpoint`, the filepath provided must end in "
            f"`.weights.h5` (Keras weights format). Received: filepath={filepath}"
        )
    if not save_weights_only and not filepath.endswith((".keras", ".h5")):
        raise ValueError(
            f"The filepath provided must end in `.keras` (Keras model format). Received: filepath={filepath}"
        )


__all__ = ["ModelCheckpoint", "dialect"]
