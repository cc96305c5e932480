"""Build a strategy, by which the server decides when to save."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Mapping
from typing import Any, Literal

from google.protobuf import struct_pb2

from keepbest._arguments import check_known, check_mapping, check_text, check_whole, message, wrong
from keepbest._paths import plain_template
from keepbest._template import misspelling_text, misspelt
from keepbest._values import json_values
from keepbest.types import MetricDirection, Mode, Strategy

_MODES = {"auto": Mode.MODE_UNSPECIFIED, "min": Mode.MODE_MIN, "max": Mode.MODE_MAX}
_DIRECTIONS = {"down": MetricDirection.METRIC_DIRECTION_DOWN, "up": MetricDirection.METRIC_DIRECTION_UP}


def mode_value(mode: str) -> Mode:
    """The enum's value for `auto`, `min` or `max`.

    Raises:
        ValueError: it is none of them.
    """
    if mode not in _MODES:
        raise ValueError(f"mode `{mode}` is none of `auto`, `min`, `max`")
    return _MODES[mode]


def direction_values(directions: Mapping[str, str]) -> dict[str, MetricDirection]:
    """The enum's values for a map from metric name to `up` or `down`.

    Raises:
        ValueError: a direction is neither.
    """
    check_mapping("metric_directions", directions, 'a mapping from metric to `up` or `down`, as {"auc": "up"}')
    for name, direction in directions.items():
        check_text("name of a metric in metric_directions", name)
        if direction not in _DIRECTIONS:
            raise ValueError(f"direction `{direction}` of metric `{name}` is neither `up` nor `down`")
    return {name: _DIRECTIONS[direction] for name, direction in directions.items()}


def struct_of(values: Any, what: str = "metadata") -> struct_pb2.Struct | None:
    """Values of any kind as a protobuf Struct, see `json_values`; None stays None.

    Args:
        values: a mapping, or an object whose attributes are meant.
        what: what they are called in a warning about those that cannot be kept.
    """
    plain = json_values(what, values)
    if plain is None:
        return None
    struct = struct_pb2.Struct()
    struct.update(plain)
    return struct


# Fields that `strategy` takes by their own names: all that none of its arguments stands for.
_FURTHER = [
    field.name
    for field in Strategy.DESCRIPTOR.fields
    if field.name.startswith(("when_", "initial_best", "announce_", "local_", "direction_"))
]


def _labelled(name: str, value: Any) -> Any:
    """The value of a further field: that of an enum by its label, which may lack what all labels begin with."""
    labels = Strategy.DESCRIPTOR.fields_by_name[name].enum_type
    if labels is None or not isinstance(value, str):
        return value
    common = labels.values[0].name.removesuffix("UNSPECIFIED")
    short = [label.name.removeprefix(common) for label in labels.values[1:]]
    given = value.upper().removeprefix(common)
    if given not in short and given != "UNSPECIFIED":
        raise ValueError(f"{name} `{value}` is none of {', '.join(f'`{each}`' for each in short)}")
    return common + given


def strategy(
    filepath: str | os.PathLike[str],
    monitor: str = "val_loss",
    verbose: int = 0,
    save_best_only: bool = False,
    save_weights_only: bool = False,
    mode: str = "auto",
    save_freq: Literal["epoch"] | int = "epoch",
    options: Mapping[str, Any] | None = None,
    initial_value_threshold: float | None = None,
    min_delta: float = 0.0,
    **fields: Any,
) -> Strategy:
    """Build a strategy from the arguments of Keras' ModelCheckpoint.

    Args:
        filepath: template of the relative path in the checkpoint: `"m-{epoch:02d}-{val_loss:.2f}.safetensors"`.
        monitor: name of the metric to watch.
        verbose: 1: the server fills `Decision.message`.
        save_best_only: save only what improves the monitor.
        save_weights_only: shown on the version; the server does not act on it.
        mode: `auto`, `min` or `max`.
        save_freq: `"epoch"`, or a number of batches; 0 or less: every batch.
        options: free JSON, kept and shown by the server.
        initial_value_threshold: with `save_best_only`, the value to beat at first.
        min_delta: an improvement must be larger than this.
        fields: any other field of the message `Strategy`, for example `when_monitor_missing="SKIP"`.

    Raises:
        TypeError: an argument is of the wrong kind, or there is none of this name.
        ValueError: mode, save_freq or a field is none of the allowed values.
    """
    check_known("strategy", fields, STRATEGY_ARGUMENTS)
    fields = {name: _labelled(name, value) for name, value in fields.items()}
    if not isinstance(filepath, (str, os.PathLike)):
        raise TypeError(wrong("filepath", filepath, 'a path, as "m-{epoch:02d}.safetensors"'))
    check_text("monitor", monitor, "the name of a metric")
    if save_freq != "epoch" and not isinstance(save_freq, int):
        raise ValueError(f'save_freq `{save_freq}` is neither "epoch" nor a number of batches')
    check_whole("verbose", verbose)
    if save_freq == "epoch":
        fields["every_epoch"] = True
    else:
        fields["every_batches"] = int(save_freq)
    template = plain_template(os.fspath(filepath))
    if found := misspelt(template, ["epoch", "batch"], monitor):
        warnings.warn(misspelling_text(template, found), stacklevel=2)
    return message(
        Strategy,
        {"every_batches": "save_freq"},
        filepath=template,
        monitor=monitor,
        verbose=int(verbose),
        save_best_only=save_best_only,
        save_weights_only=save_weights_only,
        mode=mode_value(mode),
        options=struct_of(options, "options"),
        initial_value_threshold=initial_value_threshold,
        min_delta=min_delta,
        **fields,
    )


# What `strategy` takes.
STRATEGY_ARGUMENTS = [*list(inspect.signature(strategy).parameters)[:-1], *_FURTHER]
