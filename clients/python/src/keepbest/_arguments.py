"""Arguments of the wrong kind: an error that names the argument, what was given, and what is right.

What is sent is a protobuf message. Its own errors name neither, so whoever makes one of arguments makes it here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from keepbest._near import did_you_mean

# How much of a value is shown.
_SHOWN_CHARACTERS = 80

M = TypeVar("M", bound=Message)

_TEXT = "a text"
_WHOLE = "a whole number"
_FLAG = "True or False"
_NUMBER = "a number"
_RIGHT = {
    FieldDescriptor.CPPTYPE_STRING: _TEXT,
    FieldDescriptor.CPPTYPE_BOOL: _FLAG,
    FieldDescriptor.CPPTYPE_INT32: _WHOLE,
    FieldDescriptor.CPPTYPE_INT64: _WHOLE,
    FieldDescriptor.CPPTYPE_DOUBLE: _NUMBER,
}
# Of a whole number, without its sign.
_BITS = {FieldDescriptor.CPPTYPE_INT32: 31, FieldDescriptor.CPPTYPE_INT64: 63}


def message(kind: type[M], called: Mapping[str, str] | None = None, /, **fields: Any) -> M:
    """Make a message of arguments.

    Args:
        kind: of the message.
        called: the name of the argument, for fields that have another one.
        fields: as the message's constructor takes them; None: not set.

    Raises:
        TypeError: one is of the wrong kind; the text names it.
        ValueError: one is out of range.
    """
    try:
        return kind(**fields)
    except (TypeError, ValueError) as error:
        for name, value in fields.items():
            try:
                kind(**{name: value})
            except (TypeError, ValueError) as fault:
                right = _right(kind.DESCRIPTOR.fields_by_name[name].cpp_type, value, fault)
                text = wrong((called or {}).get(name, name), value, right)
                raise (ValueError if isinstance(fault, ValueError) else TypeError)(text) from None
        raise error


def _right(cpp_type: int, value: Any, fault: TypeError | ValueError) -> str:
    if isinstance(fault, UnicodeError):  # half a surrogate pair, as in a file's name that is no UTF-8; or such bytes
        return "a text that UTF-8 can say"
    if isinstance(fault, ValueError) and cpp_type in _BITS:
        return f"{_WHOLE} between -2^{_BITS[cpp_type]} and 2^{_BITS[cpp_type]}"
    return "a list of texts" if isinstance(value, list) else _RIGHT.get(cpp_type, "a value of another kind")


def wrong(name: str, value: Any, right: str) -> str:
    """The text of an error about an argument."""
    shown = repr(value)
    if len(shown) > _SHOWN_CHARACTERS:
        shown = shown[:_SHOWN_CHARACTERS] + "…"
    kind = "" if value is None else f", a value of type `{type(value).__name__}`"
    return f"`{name}` is {shown}{kind}: it must be {right}"


def check_text(name: str, value: Any, right: str = _TEXT) -> None:
    """Refuse what is no text.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, str):
        raise TypeError(wrong(name, value, right))


def check_number(name: str, value: Any, right: str = _NUMBER) -> None:
    """Refuse what is no number, or no value like one, as arrays of one element are.

    Raises:
        TypeError: it is none.
    """
    try:
        if not isinstance(value, (str, bytes)):
            float(value)
            return
    except (TypeError, ValueError, OverflowError):
        pass
    raise TypeError(wrong(name, value, right))


def check_whole(name: str, value: Any, right: str = _WHOLE) -> None:
    """Refuse what is no whole number; a float may be one, as 2.0.

    Raises:
        TypeError: it is none.
    """
    if not hasattr(value, "__index__") and not (isinstance(value, float) and value.is_integer()):
        raise TypeError(wrong(name, value, right))


def check_mapping(name: str, value: Any, right: str) -> None:
    """Refuse what has no entries.

    Raises:
        TypeError: it has none.
    """
    if not callable(getattr(value, "items", None)):
        raise TypeError(wrong(name, value, right))


def check_metrics(value: Any, monitor: str) -> None:
    """Refuse metrics that have no names; a number alone was probably meant as the monitor.

    Raises:
        TypeError: they have none.
    """
    if callable(getattr(value, "items", None)):  # before a text is made that only an error needs
        return
    number = value if isinstance(value, float) and math.isfinite(value) else 0.3
    example = f'{{"{monitor or "loss"}": {number}}}'
    raise TypeError(wrong("metrics", value, f"a mapping from name to value, as {example}"))


def check_known(what: str, given: Mapping[str, Any], known: Mapping[str, Any] | list[str]) -> None:
    """Refuse names of arguments that there are not.

    Raises:
        TypeError: there is none of this name; the text has the near miss.
    """
    for name in given:
        if name not in known:
            near = did_you_mean(str(name), known) or f"; there are {', '.join(f'`{each}`' for each in known)}"
            raise TypeError(f"{what} has no argument `{name}`{near}")
