"""Near misses: a name that nothing has, and the one that was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# How alike two names are, from 0 to 1, when one is taken for a misspelling of the other: `epch`, `eopch` and `Epochs`
# are like `epoch`, while `loss` and `val_loss` are two names.
_ALIKE = 0.75

_METRICS = (
    *("loss", "accuracy", "acc", "auc", "precision", "recall", "f1", "f1_score", "map", "iou", "dice", "perplexity"),
    *("error", "mae", "mse", "rmse", "mape", "msle", "r2"),
)
# What metrics are usually called. A name that is none of these, and near to one, is probably the slip.
USUAL_METRICS = (*_METRICS, *(f"val_{name}" for name in _METRICS))


def near_miss(name: str, known: Iterable[str]) -> str | None:
    """What is known and called almost as this name; None: nothing is, or this very name is known."""
    names = list(dict.fromkeys(known))
    if not name or name in names:
        return None
    lower = {each.lower(): each for each in reversed(names)}
    near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=_ALIKE)
    # `val_loss_1` and `val_loss_2` are two metrics.
    if not near or (_letters(near[0]) == _letters(name.lower()) and near[0] != name.lower()):
        return None
    return lower[near[0]]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """What to put behind the text of an error; empty without a near miss."""
    near = near_miss(name, known)
    return "" if near is None else f", did you mean `{near}`?"


def _letters(name: str) -> str:
    return re.sub(r"\d", "", name)
