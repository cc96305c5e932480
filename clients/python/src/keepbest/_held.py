"""Models that are set aside while the server cannot be asked whether it wants them.

What becomes of each is said here alone. It is taken, to be saved; or dropped, because the server or a later model does
away with it; or it lies there at the end of the training, and is told of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from keepbest._events import UNFORESEEN, Entry, moment_text
from keepbest._local import HELD_FOLDER, Saver, extension_of, move, parts_of, remove, replace, size_of
from keepbest._paths import split_template
from keepbest._spool import names_in
from keepbest._tell import tell
from keepbest.types import Action, Decision, Event, Mode


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
        wanted: how many the server wants that are left to a sync.
    """

    filepath: str
    monitor: str
    save_best_only: bool
    direction: Mode
    run: str
    limit_bytes: int
    wanted: int = 0
    # Names that spools of earlier trainings have for models, which may be gone: a new one must not pass for such a one.
    _named: set[str] | None = None
    # The held model that a better or newer one replaces.
    _kept: Entry | None = None
    # All that were held, oldest first, with the sizes of their models in bytes; but those whose models are gone.
    _lying: list[tuple[Entry, int]] = field(default_factory=list)
    # Models that were removed for newer ones, and events whose models could not be written.
    _removed: list[Path] = field(default_factory=list)
    _not_written: list[Entry] = field(default_factory=list)
    # Those of which it was told that they stay.
    _told: list[Entry] = field(default_factory=list)
    # What was to be saved of which there is no model, as sentences.
    _lost: list[str] = field(default_factory=list)

    def hold(self, entry: Entry, save: Saver, note: Callable[[], object]) -> None:
        """Set the model of this moment aside, unless a held one is better. What goes wrong is told, and ends nothing.

        Args:
            entry: of the moment.
            save: writes the model to a path.
            note: keeps the entry in the spool, with the name that its model is going to have: so a process that is
                killed leaves no model behind that nothing names.
        """
        if self._kept is not None and (self._kept.held is None or self._kept.why_undecided):
            self._kept = None  # the server has decided about it meanwhile, or never will
        if self._kept is not None and self.save_best_only and not self._is_better(entry.event, self._kept.event):
            entry.why_not_held = "the server was away, and a model that was kept before is better"
            note()
            return
        path = entry.held = self._path(entry.event)
        try:
            note()
            replace(path, save, self.run)
            self._lying.append((entry, size_of(path)))
        except BaseException as error:
            remove(path)
            entry.held = None
            if not isinstance(error, OSError):
                raise
            entry.why_not_held = f"the server was away, and its model could not be kept: {error}"
            tell(f"Keepbest: epoch {entry.event.epoch + 1}: {entry.why_not_held}")
            self._not_written.append(entry)
            return
        if self._replaceable(entry.event):
            previous, self._kept = self._kept, entry
            if previous is not None:
                previous.why_not_held = "a later model took its place while the server was away"
                self._drop(previous)
        self._make_room()

    def decided(self, entry: Entry, decision: Decision, path: Path | None, why: str = UNFORESEEN) -> bool:
        """Do with a model what was decided after its moment. If it ought to be saved and cannot be, that is told.

        Args:
            entry: of the moment.
            decision: about it.
            path: where the training saves it; None: it does not any more.
            why: there is nothing to save, if nothing more is known.

        Returns:
            Whether the model lies at `path` now, to be saved.
        """
        if decision.action == Action.ACTION_SKIP:
            self._drop(entry)
            return False
        if decision.action == Action.ACTION_FAIL:
            why = decision.reason_text
        elif entry.held is None:
            why = entry.why_not_held or why
        elif path is not None:
            return self._take(entry, path)
        if entry.held is None:
            self._lost.append(f"epoch {decision.epoch + 1}: not saved: {why}")
        else:
            self._leave(entry, why)
        return False

    def left_to_sync(self, entry: Entry, decision: Decision) -> bool:
        """Whether a model ought to be saved, and a sync can do it: it lies there, and the spool names it."""
        is_left = decision.action == Action.ACTION_SAVE and entry.held is not None and entry.is_kept
        self.wanted += is_left
        return is_left

    def tell_left(self) -> None:
        """Tell at once of the models which the server will not decide about, and that they stay."""
        for entry, _ in self._lying:
            if entry.why_undecided and not any(entry is told for told in self._told):
                self._told.append(entry)
                tell(f"Keepbest: {_left_text(entry)}")

    def losses(self, waiting: Iterable[Entry]) -> list[str]:
        """What became of the models that were held and are not saved, as sentences: each that lies there is named.

        Args:
            waiting: what the server has not acknowledged; of the rest it was told when it was decided.
        """
        undecided = {id(entry) for entry in waiting}
        losses = list(self._lost)
        losses += [f"epoch {it.event.epoch + 1}: {it.why_not_held}" for it in self._not_written if id(it) in undecided]
        if self._removed:
            losses.append(f"models removed to make room for newer ones: {', '.join(map(str, self._removed))}")
        if kept := [entry.held for entry, _ in self._lying if not entry.why_undecided]:
            losses.append(f"models kept aside, which are not saved yet: {', '.join(map(str, kept))}")
        return losses + [_left_text(entry) for entry, _ in self._lying if entry.why_undecided]

    def _take(self, entry: Entry, path: Path) -> bool:
        """Move a model to where the training saves; if that cannot be, it stays, and is told of."""
        assert entry.held is not None, "only what is held is taken"
        try:
            move(entry.held, path)
        except OSError as error:
            self._leave(entry, f"it could not be moved to {path}: {error}")
            return False
        self._forget(entry)
        return True

    def _drop(self, entry: Entry) -> None:
        """Remove a model that nobody wants, if there is one."""
        if entry.held is None:
            return
        remove(entry.held)
        if parts_of(entry.held):
            self._leave(entry, "it is not wanted, and could not be removed")
        else:
            self._forget(entry)

    def _leave(self, entry: Entry, why: str) -> None:
        """Let a model lie that is not going to be saved, and tell of it."""
        entry.why_undecided = why
        self.tell_left()

    def _forget(self, entry: Entry) -> None:
        entry.held = None
        self._lying = [(lying, size_bytes) for lying, size_bytes in self._lying if lying is not entry]

    def _make_room(self) -> None:
        removed = []
        while len(self._lying) > 1 and sum(size_bytes for _, size_bytes in self._lying) > self.limit_bytes:
            oldest, _ = self._lying.pop(0)
            assert oldest.held is not None, "only models that are there are among them"
            remove(oldest.held)
            removed.append(oldest.held)
            oldest.held = None
            oldest.why_not_held = "its model was removed, because the held models exceeded `held_bytes`"
        if removed:
            self._removed += removed
            tell(
                f"Keepbest: the server is away, and the models that are held for it take more than `held_bytes` "
                f"({self.limit_bytes}): the oldest gave way to the newest: {', '.join(map(str, removed))}",
            )

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


def _left_text(entry: Entry) -> str:
    return f"{moment_text(entry.event)}: not saved: {entry.why_undecided}; its model is at {entry.held}"


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
