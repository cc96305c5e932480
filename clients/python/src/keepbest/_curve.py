"""A metric over a run's moments, and which of them were saved: little enough to draw, however long the run is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from keepbest._proto.keepbest.v1.resources_pb2 import (
    EVENT_KIND_BATCH_END,
    EVENT_KIND_EPOCH_END,
    Decision,
    Event,
    Strategy,
    Version,
)

# An epoch, and a batch in it or -1 for the epoch's end. The same moment of a later attempt takes the earlier's place.
Moment = tuple[int, int]

# How many points are kept; when there are twice as many, half of them go.
_KEPT = 1_000
# How many of the newest saves are kept.
_MARKS = 200


class Curve:
    """What a drawing needs. It is added to while others read it, so readers take copies.

    Attributes:
        metric: whose values these are.
        saved: number of the version by the moment at which it was saved, of the newest ones.
        levels: the metric's value at these moments, where there was one; a point may be thinned out, a save is not.
        best: moment, value and version number of the best one that was saved, as far as this object was told.
    """

    def __init__(self, strategy: Strategy, metric: str | None = None) -> None:
        """Begin without a point.

        Args:
            strategy: of the run, which says at which moments it may save.
            metric: None: the monitor.
        """
        self.metric = metric or strategy.monitor or "val_loss"
        by_batches = strategy.WhichOneof("save_frequency") == "every_batches"
        self._kind = EVENT_KIND_BATCH_END if by_batches else EVENT_KIND_EPOCH_END
        self._points: dict[Moment, float] = {}
        self.saved: dict[Moment, int] = {}
        self.levels: dict[Moment, float] = {}
        self.best: tuple[Moment, float, int] | None = None

    @property
    def is_of_batches(self) -> bool:
        """Whether its moments are ends of batches, not of epochs."""
        return self._kind == EVENT_KIND_BATCH_END

    def add(self, event: Event) -> None:
        """Take the metric's value in an event, if it is at such a moment and has a finite one."""
        if event.kind != self._kind:
            return
        value = event.metrics.get(self.metric)
        if value is None and self.metric in event.typed_metrics:
            typed = event.typed_metrics[self.metric]
            kind = typed.WhichOneof("kind")
            value = float(getattr(typed, kind)) if kind in ("number", "integer") else None
        if value is None or not math.isfinite(value):
            return
        self._points[event.epoch, event.batch if self.is_of_batches else -1] = value
        if len(self._points) >= 2 * _KEPT:
            self._points = dict(thinned(list(self._points.items()), _KEPT))

    def note_saved(self, decision: Decision, version: Version) -> None:
        """Take note that what was decided is a version now."""
        moment = decision.epoch, decision.batch if decision.HasField("batch") else -1
        saved = self.saved | {moment: version.number}
        self.saved = dict(sorted(saved.items())[-_MARKS:])
        levels = self.levels | ({moment: self._points[moment]} if moment in self._points else {})
        self.levels = {it: level for it, level in levels.items() if it in self.saved}
        if decision.improvement and decision.HasField("value"):
            self.best = moment, decision.value, version.number

    def points(self, most: int) -> list[tuple[Moment, float]]:
        """At most so many points, in the order of their moments, the highest and the lowest among them."""
        return thinned(sorted(self._points.copy().items()), most)


def thinned(points: Sequence[tuple[Moment, float]], most: int) -> list[tuple[Moment, float]]:
    """At most so many of the points and the newest: of each four the lowest and the highest, as often as it takes."""
    kept = list(points)
    while len(kept) > max(most, 4):
        fewer = []
        for begin in range(0, len(kept), 4):
            group = kept[begin : begin + 4]
            places = range(len(group))
            chosen = {min(places, key=lambda it: group[it][1]), max(places, key=lambda it: group[it][1])}
            fewer += [group[it] for it in sorted(chosen)]
        # Where the metric stands now.
        kept = fewer if fewer[-1] == kept[-1] else [*fewer, kept[-1]]
    return kept
