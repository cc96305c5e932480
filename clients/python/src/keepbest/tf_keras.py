"""`ModelCheckpoint` for tf_keras (Keras 2), with `options` and SavedModel directories. For Keras 3: `keepbest.keras`.

TensorFlow before 2.16 without the package tf_keras is taken through `tensorflow.keras`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any, Literal

import tensorflow as tf

try:
    import tf_keras
except ImportError:
    tf_keras = tf.keras

from keepbest._callback import GRACE_SECONDS, HELD_BYTES, CheckpointCallback
from keepbest.client import Client

if not tf_keras.__version__.startswith("2."):
    raise ImportError(f"keepbest.tf_keras needs the package tf_keras; found Keras {tf_keras.__version__} only")

_LOG = logging.getLogger("keepbest")


class ModelCheckpoint(CheckpointCallback, tf_keras.callbacks.Callback):  # type: ignore[misc]
    """The ModelCheckpoint of tf_keras on a Keepbest server.

    It decides as tf_keras does: a missing monitor skips the save, and the direction follows from the metric's name. For
    what differs otherwise, and what happens while the server is away, see `keepbest.keras.ModelCheckpoint`. The
    deprecated arguments `period` and `load_weights_on_restart` do not exist.
    """

    _framework = "tf_keras"
    _other = ("keras", "keepbest.keras.ModelCheckpoint")
    _one_element_is_number = True

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: Literal["epoch"] | int = "epoch",
        options: Any = None,
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
    ) -> None:
        """Check the arguments as tf_keras does. They are those of `keepbest.keras.ModelCheckpoint`, except:

        Args:
            filepath: `.keras`, `.h5`, or any other name: a SavedModel directory, or TensorFlow's format of weights.
            options: `tf.train.CheckpointOptions` with `save_weights_only`, else `tf.saved_model.SaveOptions`.

        Raises:
            TypeError: the options are of the wrong kind.
            ValueError: an argument is not what tf_keras allows.
        """
        super().__init__()
        self._options = _checked_options(os.fspath(filepath), save_weights_only, options)
        if mode not in ("auto", "min", "max"):
            _LOG.warning("ModelCheckpoint mode %s is unknown, fallback to auto mode.", mode)
            mode = "auto"
        if save_freq != "epoch" and not isinstance(save_freq, int):
            raise ValueError(f'Unrecognized save_freq: {save_freq}. Expected save_freq are "epoch" or integer')
        self._configure(
            filepath,
            monitor=monitor,
            verbose=verbose,
            save_best_only=save_best_only,
            save_weights_only=save_weights_only,
            mode=mode,
            save_freq=save_freq,
            initial_value_threshold=initial_value_threshold,
            options=None if options is None else _shown(options),
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

    def _implements_train_batch_hooks(self) -> bool:
        """Tells tf_keras not to call the hooks of batches when saves go by epochs."""
        return self.save_freq != "epoch"

    def _dialect(self) -> dict[str, Any]:
        return {
            "when_monitor_missing": "WHEN_MISSING_SKIP",
            # An array makes tf_keras raise ValueError. Skipping the save is the closest that a strategy can say.
            "when_monitor_not_scalar": "WHEN_MISSING_SKIP",
            "when_template_key_missing": "WHEN_TEMPLATE_KEY_MISSING_FAIL",
            "initial_best": "INITIAL_BEST_WORST",
            "announce_finished": False,
            "direction_inference": "DIRECTION_INFERENCE_NAME",
        }

    def _metric_directions(self) -> dict[str, str]:
        return {}

    def _print(self, line: str) -> None:
        print(line, flush=True)

    def _write(self, path: str) -> None:
        if self.save_weights_only:
            plain = path.endswith(".weights.h5")
            self.model.save_weights(path, overwrite=True, **({} if plain else {"options": self._options}))
        else:
            plain = path.endswith(".keras")
            self.model.save(path, overwrite=True, **({} if plain else {"options": self._options}))

    def _load(self, model: Any, path: str) -> None:
        model.load_weights(path)


def _checked_options(filepath: str, save_weights_only: bool, options: Any) -> Any:
    """The options, or default ones of the kind that the file format needs."""
    kind = tf.train.CheckpointOptions if save_weights_only else tf.saved_model.SaveOptions
    if not save_weights_only and filepath.endswith(".keras") and options is not None:
        raise ValueError(
            "The native TF-Keras format does not support the `options` argument. Please remove the `options` argument, "
            "or use the SavedModel format by removing the `.keras` extension from the model filepath."
        )
    if options is not None and not isinstance(options, kind):
        name = "tf.train.CheckpointOptions" if save_weights_only else "tf.saved_model.SaveOptions"
        raise TypeError(
            f"If save_weights_only is {save_weights_only}, then `options` must be either None or a {name}. "
            f"Got {options}."
        )
    return options or kind()


def _shown(options: Any) -> dict[str, Any]:
    """The options as JSON, which the server shows: plain values unchanged, others as text."""
    names = [name for name in dir(options) if not name.startswith("_") and not callable(getattr(options, name))]
    values = {name: getattr(options, name) for name in names}
    plain = (str, int, float, bool, type(None))
    return {name: value if isinstance(value, plain) else str(value) for name, value in values.items()}


__all__ = ["ModelCheckpoint"]
