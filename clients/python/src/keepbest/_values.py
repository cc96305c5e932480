"""What trainings put into logs, config and metadata, made into what the wire can carry.

Nothing here raises because of a value: what cannot be carried is cut or left out, with one warning.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import math
import os
import unicodedata
import uuid
from collections.abc import Iterable, Mapping, Set
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

from keepbest._arguments import wrong
from keepbest._proto.keepbest.v1.resources_pb2 import MetricValue
from keepbest._tell import tell
from keepbest._template import placeholders
from keepbest.types import Event, Strategy

# The limits of an event, as the contract has them.
_METRICS = 1_000
_NAME_BYTES = 256
_TEXT_BYTES = 1_024
# Longer arrays are not printed: those on an accelerator would be fetched from it.
_ARRAY_ELEMENTS = 1_000
_INT64 = range(-(1 << 63), 1 << 63)
# JSON on the wire has doubles only, which hold whole numbers up to this one.
_EXACT = 1 << 53
# The server takes 64 KiB; it may write a number a little longer than it is written here.
_JSON_BYTES = 60 << 10
# The server takes 32; one is for the whole.
_JSON_DEPTH = 30
# A training that invents a name at each step must not collect warnings for ever.
_NOTES = 100


class Notes:
    """Warnings of which each is given once, however often its cause comes again."""

    def __init__(self) -> None:
        """Begin with nothing told."""
        self._told: set[str] = set()

    def tell(self, cause: str, text: str) -> None:
        """Warn, unless this cause was told before."""
        if cause in self._told or len(self._told) > _NOTES:
            return
        self._told.add(cause)
        if len(self._told) > _NOTES:
            text = "more metrics were cut or left out than can be told one by one"
        tell(f"Keepbest: {text}")


class Intake:
    """Fills events with metrics. It knows which of them the strategy uses, so that those are never left out.

    Attributes:
        monitor: of the strategy; empty without one.
    """

    def __init__(self, strategy: Strategy | None = None, *, one_element_is_number: bool = False) -> None:
        """Take what matters of the strategy.

        Args:
            strategy: of the run; None: no metric is preferred.
            one_element_is_number: whether the monitor may be an array of one element, as tf_keras compares it.
        """
        self._notes = Notes()
        self.monitor = "" if strategy is None else strategy.monitor or "val_loss"
        fields = placeholders(strategy.filepath) if strategy is not None else []
        self._wanted = {field.name for field in fields} | {self.monitor}
        # Python prints a boolean as a word without a format, and as a number with one.
        self._as_number = {field.name for field in fields if field.spec and not field.conversion} | {self.monitor}
        self._one_element_is_number = one_element_is_number
        # Names that are sent as they are, so that they are looked at once and not in each batch.
        self._plain_names: dict[str, str] = {}

    def fill(self, event: Event, metrics: Mapping[Any, Any]) -> None:
        """Put metrics into an event: numbers as numbers, all else in its own kind, within the limits of an event."""
        floats = event.metrics
        for name, value in self._named(metrics):
            plain = value if type(value) is float else self._metric(name, value)
            if isinstance(plain, float):
                floats[name] = plain
            else:
                event.typed_metrics[name].CopyFrom(plain)

    def _named(self, metrics: Mapping[Any, Any]) -> Iterable[tuple[str, Any]]:
        named: dict[str, Any] = {}
        for key, value in metrics.items():
            name = self._plain_names.get(key) if type(key) is str else None
            if name is None:
                name = self._name(key)
                if name == key and len(self._plain_names) < _METRICS:
                    self._plain_names[name] = name
            if name in named:
                self._notes.tell(f"twice {name}", f"two metrics are called `{name}` once they are texts: one is kept")
                if not isinstance(key, str):
                    continue
            if name:
                named[name] = value
        if len(named) <= _METRICS:
            return named.items()
        self._notes.tell(
            "many",
            f"{len(named)} metrics in one event: the first {_METRICS} are kept, and the ones that the path and "
            "the monitor need",
        )
        wanted = [name for name in named if name in self._wanted]
        others = [name for name in named if name not in self._wanted]
        return [(name, named[name]) for name in [*wanted, *others][:_METRICS]]

    def _name(self, key: Any) -> str:
        """The name that goes onto the wire; empty: none can."""
        name = encodable(key) if isinstance(key, str) else encodable(_printed(key))
        if not name:
            self._notes.tell("empty", "a metric has an empty name, so it is left out")
            return ""
        if any(unicodedata.category(char) == "Cc" for char in name):
            escaped = "".join(repr(char)[1:-1] if unicodedata.category(char) == "Cc" else char for char in name)
            self._notes.tell(
                f"control {name}", f"the name of metric `{escaped[:64]}` is sent with its control characters escaped"
            )
            name = escaped
        if len(name.encode()) > _NAME_BYTES:
            cut = cut_to(name, _NAME_BYTES)
            self._notes.tell(f"name {cut}", f"the name of metric `{name[:64]}…` is cut to {_NAME_BYTES} bytes")
            name = cut
        return name

    def _metric(self, name: str, value: Any) -> float | MetricValue:
        try:
            plain = self._plain(name, value)
            if isinstance(plain, bool):
                return MetricValue(integer=plain) if name in self._as_number else MetricValue(text=str(plain))
            if isinstance(plain, int):
                return MetricValue(integer=plain) if plain in _INT64 else MetricValue(number=float(plain))
            if isinstance(plain, float):
                return float(plain)
            if plain is None:
                return MetricValue(missing=True)
            if _dimensions(plain):
                return MetricValue(not_scalar=self._text(name, self._array(name, plain)))
            return MetricValue(text=self._text(name, plain if isinstance(plain, str) else _printed(plain)))
        except Exception as error:  # of a foreign object, or of an integer that is no double
            self._notes.tell(
                f"value {name}", f"metric `{name}` cannot be read ({error!r:.200}): its type is sent instead"
            )
            return MetricValue(text=f"<{type(value).__name__}>")

    def _plain(self, name: str, value: Any) -> Any:
        """The Python value that a scalar or a 0-d array of any framework holds; else the value itself."""
        if isinstance(value, (bool, int, float, str)) or value is None:
            return float(value) if isinstance(value, float) else value
        if isinstance(value, (Decimal, Fraction)):
            return float(value)
        shape = _dimensions(value)
        if shape is None:
            return value
        if shape and not (self._one_element_is_number and name == self.monitor and math.prod(shape) == 1):
            return value
        if hasattr(value, "item"):
            return value.item()
        return value.numpy().item() if hasattr(value, "numpy") else float(value)

    def _array(self, name: str, value: Any) -> str:
        shape = _dimensions(value) or ()
        if any(not isinstance(size, int) for size in shape) or math.prod(shape) > _ARRAY_ELEMENTS:
            self._notes.tell(f"array {name}", f"metric `{name}` is a large array: only its shape is sent")
            return f"<{type(value).__name__} of shape {shape}, {getattr(value, 'dtype', 'unknown type')}>"
        return str(value)

    def _text(self, name: str, text: str) -> str:
        text = encodable(text[: _TEXT_BYTES + 1])
        cut = cut_to(text, _TEXT_BYTES)
        if cut != text:
            self._notes.tell(f"text {name}", f"the text of metric `{name}` is cut to {_TEXT_BYTES} bytes")
        return cut


def numbers(metrics: Mapping[Any, Any]) -> dict[Any, Any]:
    """Metrics of which each must be a number, as numbers; so are scalars and arrays of one element of any framework.

    Raises:
        TypeError: one is none; the text names it.
    """
    return {name: _number(name, value) for name, value in metrics.items()}


def _number(name: Any, value: Any) -> int | float:
    with contextlib.suppress(Exception):  # of a foreign object
        shape = _dimensions(value)
        plain = value
        if shape is not None and math.prod(shape) == 1:
            plain = value.item() if hasattr(value, "item") else value.numpy().item()
        if isinstance(plain, int):
            return int(plain)
        if not isinstance(plain, (str, bytes)):
            return float(plain)
    raise TypeError(f"metric {wrong(str(name), value, 'a number')}")


def check_monitor(name: str) -> None:
    """Refuse what cannot be the name of a metric on the wire.

    Raises:
        ValueError: it is too long or has control characters; the text says what would be right.
    """
    if len(encodable(name).encode()) > _NAME_BYTES or any(unicodedata.category(char) == "Cc" for char in name):
        raise ValueError(
            f"monitor `{name[:64]!r}` is no name of a metric: at most {_NAME_BYTES} bytes without control characters"
        )


def json_values(what: str, values: Any) -> dict[str, Any] | None:
    """Values of any kind as a mapping that a protobuf Struct takes, at most 64 KiB of JSON.

    Numbers that JSON cannot hold (NaN, infinities, integers above 2^53) become texts, as dates, paths and foreign
    objects do. Entries that do not fit are left out, with one warning that names them.

    Args:
        what: `config` or `metadata`, for the warnings.
        values: a mapping, or an object whose attributes are meant; None stays None.
    """
    if values is None:
        return None
    notes = Notes()
    kept: dict[str, Any] = {}
    left_out = []
    room = _JSON_BYTES
    for key, value in _entries(values).items():
        name = _key(key)
        try:
            plain = _Plain(f"{what} `{name[:64]}`", notes).of(value)
            size_bytes = len(json.dumps({name: plain}, ensure_ascii=False).encode())
        except (_TooLargeError, RecursionError):
            size_bytes = _JSON_BYTES + 1
        if size_bytes > room:
            left_out.append(cut_to(name, 64))
            continue
        room -= size_bytes
        kept[name] = plain
    if left_out:
        shown = ", ".join(f"`{name}`" for name in left_out[:10]) + (", …" if len(left_out) > 10 else "")
        notes.tell("room", f"{what} may have 64 KiB as JSON, so {len(left_out)} of its entries are left out: {shown}")
    return kept


class _TooLargeError(Exception):
    """An entry has more values than can ever be sent."""


class _Plain:
    """Makes JSON of one entry."""

    def __init__(self, what: str, notes: Notes) -> None:
        self._what = what
        self._notes = notes
        # Each value takes a byte at least, and each text its length, so more can never be sent.
        self._left = _JSON_BYTES

    def of(self, value: Any, depth: int = 0) -> Any:
        self._left -= 1
        if self._left < 0:
            raise _TooLargeError
        try:
            return self._of(value, depth)
        except (_TooLargeError, RecursionError):
            raise
        except Exception as error:  # of a foreign object
            self._notes.tell(self._what, f"{self._what} cannot be read ({error!r:.200}): its type is kept instead")
            return f"<{type(value).__name__}>"

    def _of(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, (int, float)) and not isinstance(value, Enum):
            return self._number(value)
        if isinstance(value, str) and not isinstance(value, Enum):
            return encodable(value)
        if depth < _JSON_DEPTH and (entries := _fields(value)) is not None:
            return {_key(key): self.of(entry, depth + 1) for key, entry in entries.items()}
        if depth < _JSON_DEPTH and isinstance(value, (list, tuple, Set, range)):
            return [self.of(entry, depth + 1) for entry in value]
        shape = _dimensions(value)
        if shape is not None and all(isinstance(size, int) for size in shape):
            if math.prod(shape) > _ARRAY_ELEMENTS:
                self._notes.tell(f"array {self._what}", f"{self._what} is a large array: only its shape is kept")
                return f"<{type(value).__name__} of shape {shape}, {getattr(value, 'dtype', 'unknown type')}>"
            host = value if hasattr(value, "tolist") else value.numpy()
            return self.of(host.tolist(), depth + 1) if depth < _JSON_DEPTH else str(value)
        text = encodable(_printed(value, self._left))
        self._left -= len(text)
        return text

    def _number(self, value: float) -> Any:
        if isinstance(value, int):
            return int(value) if -_EXACT <= value <= _EXACT else str(int(value))
        if math.isfinite(value):
            return float(value)
        text = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        self._notes.tell(
            f"{text} {self._what}", f"{self._what} holds {value}, which JSON cannot say: the text `{text}` is kept"
        )
        return text


def _entries(values: Any) -> Mapping[Any, Any]:
    """A mapping's entries, or an object's attributes."""
    fields = _fields(values)
    if fields is not None:
        return fields
    try:
        return dict(vars(values))
    except TypeError:
        return {"value": values}


def _fields(value: Any) -> Mapping[Any, Any] | None:
    """The entries of what is a mapping, or as good as one; None: it is not."""
    if isinstance(value, Mapping):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, SimpleNamespace) or type(value).__name__ == "Namespace":  # of argparse
        return dict(vars(value))
    return None


def _key(key: Any) -> str:
    return encodable(key if isinstance(key, str) else _printed(key))


def _dimensions(value: Any) -> tuple[Any, ...] | None:
    """The shape of a scalar or an array of any framework; None: it is neither."""
    shape = getattr(value, "shape", None)
    if shape is None or isinstance(value, type) or not isinstance(shape, Iterable):
        return None
    return tuple(int(size) if hasattr(size, "__index__") else size for size in shape)


def _printed(value: Any, room: int = _TEXT_BYTES) -> str:
    """The text for a value, as far as it is needed: at least `room` characters of it, if it has so many."""
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, Enum):
        return str(value.value) if isinstance(value.value, (str, int, float)) else value.name
    if isinstance(value, (uuid.UUID, Decimal, Fraction, complex)):
        return str(value)
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    if type(value) not in _BRACKETS:
        return str(value)
    pieces: list[str] = []
    # Each element is counted as two characters and its own, which may be twice of what is printed.
    _print_into(pieces, value, [2 * room], 0)
    return "".join(pieces)


# Containers whose elements are printed one by one, so that a long one is not printed to its end.
_BRACKETS: dict[type, tuple[str, str]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
    dict: ("{", "}"),
}


def _print_into(pieces: list[str], value: Any, room: list[int], depth: int) -> None:
    if type(value) not in _BRACKETS or not value or depth > _JSON_DEPTH:
        text = "..." if depth > _JSON_DEPTH else repr(value)
        pieces.append(text)
        room[0] -= len(text)
        return
    opening, closing = _BRACKETS[type(value)]
    pieces.append(opening)
    for place, element in enumerate(value):
        if room[0] < 0:
            return
        room[0] -= 2
        if place:
            pieces.append(", ")
        _print_into(pieces, element, room, depth + 1)
        if isinstance(value, dict):
            pieces.append(": ")
            _print_into(pieces, value[element], room, depth + 1)
    pieces.append(",)" if isinstance(value, tuple) and len(value) == 1 else closing)


def encodable(text: str) -> str:
    """The text with escapes for what UTF-8 has no bytes for, as names of files may have."""
    try:
        text.encode()
        return str(text)
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()


def cut_to(text: str, size_bytes: int) -> str:
    """The text, or as much of its beginning as fits with an ellipsis."""
    encoded = text.encode()
    if len(encoded) <= size_bytes:
        return text
    return encoded[: size_bytes - len("…".encode())].decode(errors="ignore") + "…"
