"""A look at what is reported: whether the metric is in it by which the best model is told."""

from __future__ import annotations

from keepbest._near import near_miss
from keepbest._proto.keepbest.v1.resources_pb2 import EVENT_KIND_BATCH_END, EVENT_KIND_EPOCH_END, WhenMissing
from keepbest._tell import tell
from keepbest.types import Event, Strategy

# How many names a warning lists.
_SHOWN_NAMES = 10
# What becomes of an event without the monitor where only the best is saved, by the strategy.
_SKIPPED = "is not saved, because only the best is"
_EFFECTS = {
    WhenMissing.WHEN_MISSING_SAVE: "is saved without being the best",
    WhenMissing.WHEN_MISSING_FAIL: "is not saved, and its decision is FAIL",
}


class MonitorWatch:
    """Warns once of an event that has no value for the monitor. Nothing is raised."""

    def __init__(self, strategy: Strategy) -> None:
        """Take what matters of the strategy."""
        self._monitor = strategy.monitor
        self._best_only = strategy.save_best_only
        self._effect = (
            _EFFECTS.get(strategy.when_monitor_missing, _SKIPPED) if self._best_only else "cannot be the best"
        )
        by_batches = strategy.WhichOneof("save_frequency") == "every_batches"
        self._kind = EVENT_KIND_BATCH_END if by_batches else EVENT_KIND_EPOCH_END
        self._is_told = False

    def look(self, event: Event) -> None:
        """Look at an event about which the server may decide.

        Where every model is saved, an absent monitor is told only if it seems to be misspelt: `val_loss` is the monitor
        of whoever names none.
        """
        if self._is_told or event.kind != self._kind or self._monitor in event.metrics:
            return
        if not self._monitor or self._monitor in event.typed_metrics:
            return
        names = [*event.metrics, *event.typed_metrics]
        near = near_miss(self._monitor, names)
        if near is None and not self._best_only:
            return
        self._is_told = True
        moment = f"epoch {event.epoch + 1}" + (f", batch {event.batch + 1}" if event.HasField("batch") else "")
        shown = ", ".join(f"`{name}`" for name in sorted(names)[:_SHOWN_NAMES])
        has = f"it has {shown}{', …' if len(names) > _SHOWN_NAMES else ''}" if names else "it has none"
        meant = (
            "" if near is None else f"; is `{near}` the one? Then report it as `{self._monitor}`, or monitor `{near}`"
        )
        tell(
            f"Keepbest: {moment} was reported without the metric `{self._monitor}`, which the run monitors, so it "
            f"{self._effect}: {has}{meant}",
            levels_up=2,
        )


def near_monitor_text(event: Event, monitor: str) -> str | None:
    """A warning for an event that lacks the monitor; None: nothing in it is called almost so."""
    names = [*event.metrics, *event.typed_metrics]
    near = near_miss(monitor, names)
    if near is None:
        return None
    moment = f"epoch {event.epoch + 1}" + (f", batch {event.batch + 1}" if event.HasField("batch") else "")
    return (
        f"{moment} has no `{monitor}`, which the run monitors: it has `{near}`; is that the one? Then pass "
        f'monitor="{near}"'
    )
