"""Models that are set aside while the server cannot be asked whether it wants them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from keepbest._events import Entry
from keepbest._local import HELD_FOLDER, Saver, extension_of, parts_of, remove, replace, size_of
from keepbest._paths import split_template
from keepbest._spool import names_in
from keepbest.types import Event, Mode


@dataclass
class HeldFiles:
    """Keeps the model of each moment at which the server would have decided, had it been there.

    Such a model may be worse than the one at the template's path, so it goes to `keepbest-held/` beside that path. With
    `save_best_only` only the best held model is kept, and with a template without placeholders only the newest: the
    server would not want the others, or they would overwrite each other. In all other cases every model is kept, and
    when they exceed the limit, the oldest are removed.

    Attributes:
        run: the resource name; the names of held models begin with its last part.
        direction: of the monitor; unspecified until the run has started, and until then every model is kept.
        limit_bytes: how large all held models together may be. The newest is kept even if it is larger on its own.
    """

    filepath: str
    monitor: str
    save_best_only: bool
    direction: Mode
    run: str
    limit_bytes: int
    # Names that spools of earlier trainings have for models, which may be gone: a new one must not pass for such a one.
    _named: set[str] | None = None
    # The held model that a better or newer one replaces.
    _kept: Entry | None = None
    # All held models, oldest first, with their sizes in bytes.
    _sizes: list[tuple[Entry, int]] = field(default_factory=list)

    def keep(self, entry: Entry, save: Saver) -> list[Path]:
        """Set the model of this moment aside, unless a held one is better.

        Returns:
            The models that were removed, because all of them together exceeded the limit.
        """
        if self._kept is not None and self._kept.held is None:
            self._kept = None  # the server has decided about it meanwhile
        if self._kept is not None and self.save_best_only and not self._is_better(entry.event, self._kept.event):
            return []
        path = self._path(entry.event)
        replace(path, save, self.run)
        entry.held = path
        if self._replaceable(entry.event):
            previous, self._kept = self._kept, entry
            if previous is not None and previous.held is not None:
                remove(previous.held)
                previous.held = None
        self._sizes = [(held, size_bytes) for held, size_bytes in self._sizes if held.held is not None]
        self._sizes.append((entry, size_of(path)))
        return self._make_room()

    def _make_room(self) -> list[Path]:
        removed = []
        while len(self._sizes) > 1 and sum(size_bytes for _, size_bytes in self._sizes) > self.limit_bytes:
            oldest, _ = self._sizes.pop(0)
            if oldest.held is not None:
                remove(oldest.held)
                removed.append(oldest.held)
                oldest.held = None
                oldest.why_not_held = "its model was removed, because the held models exceeded `held_bytes`"
        return removed

    def _path(self, event: Event) -> Path:
        directory, rest = split_template(self.filepath)
        batch = f"-batch-{event.batch + 1}" if event.HasField("batch") else ""
        run_id = self.run.rpartition("/")[2]
        folder, name, number = held_folder(directory), f"{run_id}-epoch-{event.epoch + 1}{batch}", 1
        path = folder / f"{name}{extension_of(rest)}"
        if self._named is None:
            self._named = names_in(folder)
        while path.name in self._named or parts_of(path):  # of an earlier training, in whose spool it is
            number += 1
            path = folder / f"{name}-{number}{extension_of(rest)}"
        return path

    def _replaceable(self, event: Event) -> bool:
        """Whether a later model may replace this one."""
        if self.save_best_only:
            return self.direction != Mode.MODE_UNSPECIFIED and math.isfinite(_value(event, self.monitor))
        return "{" not in self.filepath

    def _is_better(self, new: Event, old: Event) -> bool:
        """Whether the server may prefer the new model. One whose value is not a number is kept beside the others."""
        new_value, old_value = _value(new, self.monitor), _value(old, self.monitor)
        if not math.isfinite(new_value):
            return not math.isnan(new_value) or self.monitor not in new.metrics
        return new_value > old_value if self.direction == Mode.MODE_MAX else new_value < old_value


def held_folder(directory: str) -> Path:
    """Where the models and spools lie that belong to a template with this beginning."""
    return Path(directory) / HELD_FOLDER


def _value(event: Event, monitor: str) -> float:
    """The monitored number of an event; NaN if it has none."""
    if monitor in event.metrics:
        return event.metrics[monitor]
    if monitor in event.typed_metrics and event.typed_metrics[monitor].WhichOneof("kind") == "integer":
        return float(event.typed_metrics[monitor].integer)
    return math.nan
