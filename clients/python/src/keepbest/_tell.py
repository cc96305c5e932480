"""Warnings of what happens once a callback, a client or a run is made: never one that ends a training."""

from __future__ import annotations

import logging
import warnings

_log = logging.getLogger("keepbest")
# From the call of `warnings.warn` to the caller of the function that calls `tell`.
_LEVELS = 3


def tell(text: str, levels_up: int = 0) -> None:
    """Warn. Where warnings are errors (`-W error`, as tests have it) the text is logged, and nothing is raised.

    What follows a warning keeps events and ends runs: an error in its place would lose them, and end the training.

    Args:
        text: of the warning.
        levels_up: how many calls the place that the warning names lies above the caller of whoever tells.
    """
    try:
        warnings.warn(text, stacklevel=_LEVELS + levels_up)
    except Warning:
        _log.warning("%s", text)


def counted(number: int, noun: str) -> str:
    """A number and what it counts: `1 event`, `2 events`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
