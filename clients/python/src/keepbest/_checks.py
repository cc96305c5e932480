"""What can be known of a callback's arguments when it is made, before a training is spent on them."""

from __future__ import annotations

import math
import os
from typing import Any

from keepbest._arguments import check_number, check_text, check_whole, wrong
from keepbest._values import check_monitor
from keepbest.client import Client
from keepbest.names import check_id


def check_callback(
    *,
    filepath: Any,
    monitor: Any,
    verbose: Any,
    initial_value_threshold: Any,
    artifact: Any,
    client: Any,
    on_unavailable: Any,
    **numbers: Any,
) -> None:
    """Refuse what can never work; the arguments are those of the callback.

    Args:
        numbers: `min_delta`, `retry_seconds`, `held_bytes`, `every_epochs` and `grace_seconds`.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: one has a value that cannot work.
    """
    if not isinstance(filepath, (str, os.PathLike)):
        raise TypeError(wrong("filepath", filepath, 'a path, as "models/m-{epoch:02d}.keras"'))
    check_text("monitor", monitor, "the name of a metric")
    check_monitor(monitor)
    check_whole("verbose", verbose)
    if artifact is not None:
        check_text("artifact", artifact, "the id of an artifact, or empty")
    if artifact:
        check_id("artifact", artifact)
    if client is not None and not isinstance(client, Client):
        raise TypeError(wrong("client", client, "a keepbest.Client, or None"))
    if on_unavailable not in ("warn", "raise"):
        raise ValueError(f"on_unavailable `{on_unavailable}` is neither `warn` nor `raise`")
    if initial_value_threshold is not None:
        check_number("initial_value_threshold", initial_value_threshold, "a number, or None")
        if math.isnan(initial_value_threshold):
            raise ValueError("initial_value_threshold is NaN, which no value can beat: pass a number, or none")
    _check_numbers(**numbers)


def _check_numbers(
    *, min_delta: Any, retry_seconds: Any, held_bytes: Any, every_epochs: Any, grace_seconds: Any
) -> None:
    check_number("min_delta", min_delta)
    if not 0 <= min_delta < math.inf:
        raise ValueError(f"min_delta `{min_delta}` is no distance: it must be a finite number, 0 or more")
    check_whole("every_epochs", every_epochs)
    if every_epochs < 1:
        raise ValueError(f"every_epochs `{every_epochs}` is no number of epochs; 1 is each")
    for name, value in {
        "retry_seconds": retry_seconds,
        "held_bytes": held_bytes,
        "grace_seconds": grace_seconds,
    }.items():
        check_number(name, value)
        if math.isnan(value):
            raise ValueError(f"{name} is NaN, which is no limit: pass a number, 0 or more")
        if value < 0:
            raise ValueError(f"{name} `{value}` is negative")
