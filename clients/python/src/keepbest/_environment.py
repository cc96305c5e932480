"""The environment's variables that this client reads: one that is empty or wrong is named in the error."""

from __future__ import annotations

import os


def read(variable: str, right: str) -> str | None:
    """The value of a variable; None: it is not set.

    Args:
        variable: its name.
        right: what it must be, for the error.

    Raises:
        ValueError: it is set and empty, as by a script whose own variable is not set. To take that for the default
            would send a training's models to another place than was meant.
    """
    value = os.environ.get(variable)
    if value is not None and not value.strip():
        raise ValueError(f"the environment's {variable} is empty: set it to {right}, or unset it")
    return value


def wrong(variable: str, error: ValueError) -> ValueError:
    """The error about a value, as one about the variable that it is of."""
    return ValueError(f"the environment's {variable} is wrong: {error}")
