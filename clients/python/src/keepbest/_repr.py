"""How messages look when they are printed: every field by name, digests in hexadecimal, times as dates."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

# How many elements of a list or a map are shown; a version has up to 1,000 files on a page.
_SHOWN = 10


def shown(message: Message) -> str:
    """The message as text: `Version(name='...', number=0, batch=None, ...)`. What is 0 or empty is there too."""
    if isinstance(message, Timestamp):
        return message.ToJsonString()
    if isinstance(message, Struct):
        return repr(json_format.MessageToDict(message))
    fields = message.DESCRIPTOR.fields
    return f"{message.DESCRIPTOR.name}({', '.join(f'{it.name}={_field(message, it)}' for it in fields)})"


def show_as_text(*kinds: type[Message]) -> None:
    """Let `repr` and `str` of messages of these kinds be `shown`."""
    for kind in kinds:
        kind.__repr__ = kind.__str__ = shown  # type: ignore[assignment]


def _field(message: Message, field: Any) -> str:
    value = getattr(message, field.name)
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        of_value = kind.fields_by_name["value"]
        return _cut([f"{key!r}: {_value(value[key], of_value)}" for key in sorted(value)], "{}")
    if hasattr(value, "append") or hasattr(value, "add"):
        return _cut([_value(element, field) for element in value], "[]")
    if field.has_presence and not message.HasField(field.name):
        return "None"
    return _value(value, field)


def _value(value: Any, field: Any) -> str:
    if isinstance(value, Message):
        return shown(value)
    if isinstance(value, bytes):
        return value.hex() or "''"
    if field.enum_type is not None:
        named = field.enum_type.values_by_number.get(value)
        return named.name if named is not None else str(value)
    return repr(value)


def _cut(elements: list[str], brackets: str) -> str:
    more = [f"... {len(elements) - _SHOWN} more"] if len(elements) > _SHOWN else []
    return brackets[0] + ", ".join(elements[:_SHOWN] + more) + brackets[1]
