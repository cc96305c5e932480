"""How runs, versions and decisions look in a notebook.

What a cell shows is made of what the object holds: no call of the server hides in it, for a cell that is only looked
at must not wait, fail, or look otherwise tomorrow. What needs calls is asked for by name: `Client.history`, and
`keepbest.table`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from keepbest import _html
from keepbest._curve import Curve
from keepbest._progress import size
from keepbest._proto.keepbest.v1.resources_pb2 import Alias, Artifact, Decision, Version
from keepbest._proto.keepbest.v1.resources_pb2 import Run as RunResource

# How many metrics and aliases of a version are shown.
_SHOWN = 12
# How many rows a table has, unless it is told; and at most, whatever it is told.
_ROWS = 50
_MOST_ROWS = 1_000

_Element = TypeVar("_Element")
_Html = Callable[[Any], str]


def never_raises(make: _Html) -> Callable[[Any], str | None]:
    """What a notebook calls: None, where the HTML cannot be made, lets it show the text instead."""

    def made(shown: Any) -> str | None:
        try:
            return make(shown)
        except Exception:  # of whatever a message holds; a cell must not fail because of how it looks
            return None

    return made


def version_html(version: Version) -> str:
    """One version: where it comes from, and what it is."""
    rows = [
        ("aliases", _some(version.aliases)),
        ("epoch", _moment_of(version)),
        ("metrics", _metrics(version)),
        ("run", short(version.run)),
        ("size", f"{size(version.size_bytes)} in {version.file_count} file{'' if version.file_count == 1 else 's'}"),
        ("created", _time(version.create_time)),
        ("why", version.reason_text),
        ("digest", version.digest.hex()[:16]),
    ]
    return _html.block(_html.heading("version", short(version.name)), _html.facts(rows))


def decision_html(decision: Decision) -> str:
    """One decision, and what became of it."""
    rows = [
        ("why", decision.reason_text),
        ("value", _number(decision, "value")),
        ("to beat", _number(decision, "best_before")),
        ("path", decision.path),
        ("outcome", _word(decision, "outcome")),
        ("version", short(decision.version)),
        ("decided", _time(decision.decide_time)),
        ("warnings", _some(decision.warnings)),
    ]
    what = f"{_word(decision, 'action').upper()} at epoch {_moment_of(decision)}"
    return _html.block(_html.heading("decision", what), _html.facts(rows))


def run_html(run: RunResource) -> str:
    """One run as it was when it was read. Its values are asked for by `Client.history`."""
    more = _html.note(f"its curve: client.history({short(run.name)!r})") if run.event_count else ""
    return _html.block(_html.heading("run", short(run.name)), _html.facts(_facts_of(run)), more)


def live_run_html(run: RunResource, attempt: int, epoch: int | None, curve: Curve) -> str:
    """A run that this process reports for: as it started or ended, and what was reported and saved since."""
    best = curve.best[1] if curve.best is not None else _best(run)
    facts = [
        ("state", _word(run, "state")),
        ("attempt", attempt),
        ("best", _best_text(curve.metric, best, f"v{curve.best[2]}" if curve.best is not None else "")),
        ("last epoch", epoch),
        ("artifact", short(run.artifact)),
        ("failure", run.failure),
    ]
    said = _html.note("since this attempt began; as this process knows it")
    return _html.block(_html.heading("run", short(run.name)), _html.facts(facts), _html.curve(curve, best), said)


@dataclass(frozen=True)
class History:
    """A run with the values of one metric, as the server had them when it was asked; `Client.history` makes it.

    Attributes:
        run: the run.
        curve: the values, and which moments were saved.
        is_whole: whether all events were read; else the first ones.
    """

    run: RunResource
    curve: Curve
    is_whole: bool

    def __repr__(self) -> str:
        """Whose it is, of which metric."""
        return f"History(run={self.run.name!r}, metric={self.curve.metric!r})"

    @property
    def values(self) -> list[tuple[int, float]]:
        """Epoch and value, at most 1,000 of them: the highest and the lowest are always there."""
        return [(moment[0], value) for moment, value in self.curve.points(1_000)]

    @never_raises
    def _repr_html_(self) -> str:
        best = _best(self.run) if self.curve.metric == (self.run.strategy.monitor or "val_loss") else None
        said = "" if self.is_whole else _html.note("of the first events: there are more than are read at once")
        return _html.block(
            _html.heading("run", short(self.run.name)),
            _html.facts(_facts_of(self.run)),
            _html.curve(self.curve, best) or _html.note(f"no event has a finite {self.curve.metric}"),
            said,
        )


class Table(list[_Element]):
    """A list that a notebook shows as a table; `keepbest.table` makes it.

    Attributes:
        is_whole: whether there was no more.
    """

    is_whole = True

    @never_raises
    def _repr_html_(self) -> str:
        if not self:
            return _html.block(_html.note("nothing"))
        columns, row = _columns_of(self[0])
        rows = [row(element) for element in self[:_MOST_ROWS]]
        more = "" if self.is_whole and len(rows) == len(self) else _html.note(f"the first {len(rows)}: there are more")
        return _html.block(_html.table(columns, rows), more)


def table(elements: Iterable[_Element], limit: int = _ROWS) -> Table[_Element]:
    """Read a list of the client, as `client.versions(...)`, and show it as a table in a notebook.

    Args:
        elements: versions, decisions, runs, artifacts or aliases.
        limit: how many are read; more are told of.
    """
    iterator: Iterator[_Element] = iter(elements)
    read = Table(islice(iterator, max(0, limit)))
    read.is_whole = next(iterator, None) is None
    return read


def show_in_notebooks() -> None:
    """Let notebooks show messages of these kinds so."""
    kinds: list[tuple[type[Message], _Html]] = [
        (Version, version_html),
        (Decision, decision_html),
        (RunResource, run_html),
    ]
    for kind, make in kinds:
        kind._repr_html_ = never_raises(make)  # type: ignore[attr-defined]


def short(name: str) -> str:
    """A name as people write it: `team/project/run`, `team/project/artifact:v3`."""
    parts = name.split("/")
    if len(parts) < 6 or parts[0] != "teams" or parts[2] != "projects":
        return name
    shown = "/".join(parts[1:6:2])
    return f"{shown}:{parts[7]}" if len(parts) == 8 and parts[6] == "versions" else shown


def _columns_of(first: object) -> tuple[list[str], Callable[[Any], list[object]]]:
    """The head of a table and what makes its rows, by the kind of the first element."""
    if isinstance(first, Version):
        return ["version", "aliases", "epoch", "metrics", "size", "created", "run"], lambda it: [
            short(it.name), _some(it.aliases), _moment_of(it), _metrics(it), size(it.size_bytes),
            _time(it.create_time), short(it.run),
        ]  # fmt: skip
    if isinstance(first, Decision):
        return ["epoch", "action", "value", "to beat", "why", "outcome", "version"], lambda it: [
            _moment_of(it), _word(it, "action"), _number(it, "value"), _number(it, "best_before"), it.reason_text,
            _word(it, "outcome"), short(it.version),
        ]  # fmt: skip
    if isinstance(first, RunResource):
        return ["run", "state", "best", "last epoch", "attempt", "heard from", "started"], lambda it: [
            short(it.name), _state(it), _best_text(it.strategy.monitor, _best(it), ""), _optional(it, "last_epoch"),
            it.attempt, _time(it.heard_time), _time(it.create_time),
        ]  # fmt: skip
    if isinstance(first, Artifact):
        return ["artifact", "type", "monitor", "versions", "created"], lambda it: [
            short(it.name), it.type, it.monitor, it.version_count, _time(it.create_time)
        ]  # fmt: skip
    if isinstance(first, Alias):
        return ["alias", "version", "moved"], lambda it: [it.alias, short(it.version), _time(it.update_time)]
    return [type(first).__name__], lambda it: [repr(it)]


def _facts_of(run: RunResource) -> list[tuple[str, object]]:
    monitor = run.strategy.monitor or "val_loss"
    checkpoint = run.monitor_state.best_checkpoint
    return [
        ("state", _state(run)),
        ("best", _best_text(monitor, _best(run), "" if checkpoint else "a threshold")),
        ("last epoch", _optional(run, "last_epoch")),
        ("attempt", run.attempt),
        ("events", run.event_count),
        ("artifact", short(run.artifact)),
        ("started", _time(run.create_time)),
        ("heard from", _time(run.heard_time)),
        ("failure", run.failure),
    ]


def _state(run: RunResource) -> str:
    contact = _word(run, "contact")
    return f"{_word(run, 'state')}, {contact}" if contact else _word(run, "state")


def _best(run: RunResource) -> float | None:
    return run.monitor_state.best if run.monitor_state.HasField("best") else None


def _best_text(monitor: str, best: float | None, where: str) -> str:
    if best is None:
        return ""
    return f"{monitor or 'val_loss'} {_html.number(best)}" + (f" ({where})" if where else "")


def _some(elements: Iterable[str]) -> str:
    shown = list(elements)
    more = f", … {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more


def _metrics(version: Version) -> str:
    return _some(f"{name} {_html.number(version.metrics[name])}" for name in sorted(version.metrics))


def _moment_of(message: Version | Decision) -> str:
    return f"{message.epoch}, batch {message.batch}" if message.HasField("batch") else str(message.epoch)


def _optional(message: Message, field: str) -> object:
    return getattr(message, field) if message.HasField(field) else ""


def _number(message: Message, field: str) -> str:
    return _html.number(getattr(message, field)) if message.HasField(field) else ""


def _word(message: Message, field: str) -> str:
    """A value of an enumeration as a word: `active`. One that a newer server has is its number."""
    kind: Any = message.DESCRIPTOR.fields_by_name[field].enum_type
    value = getattr(message, field)
    named = kind.values_by_number.get(value)
    if named is None:
        return str(value)
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", kind.name).upper() + "_"
    word = str(named.name).removeprefix(prefix).lower().replace("_", " ")
    return "" if word == "unspecified" else word


def _time(time: Timestamp) -> str:
    if not time.seconds:
        return ""
    try:
        return f"{time.ToDatetime():%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError):
        return "at no time"
