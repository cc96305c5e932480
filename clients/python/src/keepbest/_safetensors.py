"""The safetensors format: the header that says where each tensor lies, made and read.

A file is 8 bytes with the length of the header, the header as JSON, and the tensors, one behind the other without gaps.
It is made as the package `safetensors` makes it, byte for byte, so that equal tensors are equal chunks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The most that the package reads, and so the most that is written.
HEADER_BYTES = 100_000_000
LENGTH_BYTES = 8
# The header is padded with spaces to a multiple of this, so that the first tensor is aligned.
_ALIGNMENT_BYTES = 8
_METADATA = "__metadata__"
_MAX_DIMENSIONS = 64

# NumPy's name of a dtype (ml_dtypes' for the last ones) to the format's, with the size of an element in bytes. In the
# order of the package, whose files have the tensors of the last dtypes first: so each is aligned.
DTYPES: dict[str, tuple[str, int]] = {
    "bool": ("BOOL", 1),
    "uint8": ("U8", 1),
    "int8": ("I8", 1),
    "float8_e5m2": ("F8_E5M2", 1),
    "float8_e4m3fn": ("F8_E4M3", 1),
    "float8_e8m0fnu": ("F8_E8M0", 1),
    "float8_e4m3fnuz": ("F8_E4M3FNUZ", 1),
    "float8_e5m2fnuz": ("F8_E5M2FNUZ", 1),
    "int16": ("I16", 2),
    "uint16": ("U16", 2),
    "float16": ("F16", 2),
    "bfloat16": ("BF16", 2),
    "int32": ("I32", 4),
    "uint32": ("U32", 4),
    "float32": ("F32", 4),
    "complex64": ("C64", 8),
    "float64": ("F64", 8),
    "int64": ("I64", 8),
    "uint64": ("U64", 8),
}
_ORDER = {name: number for number, name in enumerate(DTYPES)}
_BY_CODE = {code: name for name, (code, _) in DTYPES.items()}


@dataclass(frozen=True)
class Place:
    """Where a tensor lies.

    Attributes:
        name: of the tensor.
        dtype: NumPy's name of it, `float32`, or ml_dtypes', `bfloat16`.
        shape: its dimensions; empty for a scalar.
        begin: where its first byte lies in the file, in bytes.
        end: behind its last byte.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def lay_out(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> tuple[bytes, list[Place]]:
    """Plan a file.

    Args:
        tensors: name to dtype, one of `DTYPES`, and shape, in any order.
        metadata: text to text, for the file itself.

    Returns:
        What stands before the tensors; and where each one lies, in the order of the file.

    Raises:
        ValueError: the header would be longer than 100 MB.
    """
    header: dict[str, Any] = {}
    if metadata:
        header[_METADATA] = dict(sorted(metadata.items()))
    relative: list[tuple[str, int, int]] = []
    at = 0
    for name in sorted(tensors, key=lambda name: (-_ORDER[tensors[name][0]], name)):
        dtype, shape = tensors[name]
        code, element_bytes = DTYPES[dtype]
        end = at + element_bytes * math.prod(shape)
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [at, end]}
        relative.append((name, at, end))
        at = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    if len(text) > HEADER_BYTES:
        raise ValueError(
            f"the header of {len(tensors)} tensors would have {len(text)} bytes, and safetensors allows "
            f"{HEADER_BYTES}: save fewer tensors, with shorter names or less metadata"
        )
    begin = LENGTH_BYTES + len(text)
    places = [Place(name, *tensors[name], begin + first, begin + end) for name, first, end in relative]
    return len(text).to_bytes(LENGTH_BYTES, "little") + text, places


def header_end(first: bytes, size_bytes: int) -> int:
    """Where the header of a file ends, by its first 8 bytes.

    Raises:
        ValueError: it would be longer than the file or than 100 MB, so this is no safetensors file.
    """
    if len(first) < LENGTH_BYTES:
        raise ValueError(f"it has {size_bytes} bytes, and a safetensors file has 8 at least")
    length = int.from_bytes(first[:LENGTH_BYTES], "little")
    if length > HEADER_BYTES:
        raise ValueError(f"its header would have {length} bytes, and safetensors allows {HEADER_BYTES}")
    if length > size_bytes - LENGTH_BYTES:
        raise ValueError(f"its header would have {length} bytes, and all of the file has {size_bytes}")
    return LENGTH_BYTES + length


def read_header(text: bytes, size_bytes: int) -> tuple[list[Place], dict[str, str]]:
    """Where the tensors of a file lie, in the order of the file, and its metadata.

    Args:
        text: the header, without its length.
        size_bytes: of the whole file.

    Raises:
        ValueError: it is damaged, or the tensors are not, without gaps, the rest of the file.
    """
    try:
        header = json.loads(text.decode(), object_pairs_hook=_without_repeats)
    except RecursionError:
        raise ValueError("its header is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"its header is no UTF-8: {error}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"its header is no JSON: {error}") from None
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"`{_METADATA}` of its header is no map from text to text")
    begin = LENGTH_BYTES + len(text)
    places = sorted((_place(name, it, begin) for name, it in header.items()), key=lambda it: (it.begin, it.end))
    at = begin
    for place in places:
        if place.begin != at:
            raise ValueError(f"its tensor `{place.name}` begins at byte {place.begin} instead of {at}")
        at = place.end
    if at != size_bytes:
        raise ValueError(f"its tensors end at byte {at} of {size_bytes}")
    return places, metadata


def begins_of(places: list[Place], size_bytes: int) -> tuple[int, ...]:
    """Where the tensors of a file begin, rising; those at its end have no byte."""
    return tuple(sorted({place.begin for place in places if place.begin < size_bytes}))


def _place(name: str, told: Any, begin: int) -> Place:
    fault = f"the entry of its tensor `{name}`"
    if not isinstance(told, dict) or set(told) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{fault} has not just `dtype`, `shape` and `data_offsets`")
    dtype = _BY_CODE.get(told["dtype"]) if isinstance(told["dtype"], str) else None
    if dtype is None:
        raise ValueError(f"{fault} has dtype `{told['dtype']}`, which is none of {', '.join(_BY_CODE)}")
    shape, offsets = told["shape"], told["data_offsets"]
    if not _is_counts(shape) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"{fault} has shape `{shape}`, which is no list of up to {_MAX_DIMENSIONS} whole numbers")
    if not _is_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"{fault} has data_offsets `{offsets}`, which are no two whole numbers")
    size_bytes = DTYPES[dtype][1] * math.prod(shape)
    if offsets[1] - offsets[0] != size_bytes:
        raise ValueError(
            f"{fault} has data_offsets `{offsets}`, and a {told['dtype']} of {shape} has {size_bytes} bytes"
        )
    return Place(name, dtype, tuple(shape), begin + offsets[0], begin + offsets[1])


def _is_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(it) is int and 0 <= it < 1 << 63 for it in value)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"its header has `{twice}` twice")
    return found
