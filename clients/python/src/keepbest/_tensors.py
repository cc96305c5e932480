"""Tensors in memory as a file of a checkpoint: a safetensors file that can be read at any offset, and lies nowhere."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from keepbest._arguments import check_mapping, check_text, wrong
from keepbest._arrays import array_of, bytes_of, described, numpy
from keepbest._safetensors import Place, begins_of, lay_out
from keepbest.errors import FileChanged

EXTENSION = ".safetensors"
DEFAULT_PATH = f"model{EXTENSION}"
_WRITE_BYTES = 1 << 20
_RESERVED = "__metadata__"


@dataclass(frozen=True)
class _Block:
    """Bytes of the file that come from one object.

    Attributes:
        begin: its offset in the file, in bytes.
        place: of the tensor; None: these are bytes already.
    """

    begin: int
    value: Any
    place: Place | None = None

    def view(self) -> memoryview:
        """All of its bytes, of a copy only if the object has them in another order, or elsewhere."""
        if self.place is None:
            return memoryview(self.value)
        array = array_of(self.value)
        if array.shape != self.place.shape or array.nbytes != self.place.end - self.place.begin:
            raise FileChanged(
                f"tensor `{self.place.name}` was changed while it was uploaded: its shape is {array.shape} instead of "
                f"{self.place.shape}, its size {array.nbytes} bytes"
            )
        return bytes_of(array)


class TensorFile:
    """A safetensors file of tensors in memory, as the source of an upload.

    The tensors must stay as they are until it is uploaded. A tensor is copied only if it is not contiguous, has another
    order of bytes, or lies on a device; then while it is sent, one at a time.

    Attributes:
        name: its path in the checkpoint.
        size_bytes: of the whole file.
        cut_points: where the header ends and each tensor begins, as offsets in bytes; see `Source`.
    """

    described = "the tensors"

    def __init__(
        self, name: str, header: bytes, places: list[Place], blocks: list[_Block], release: Callable[[], None]
    ) -> None:
        """Take a plan; `of` makes one."""
        self.name = name
        self._header = header
        self._places = places
        self._blocks = [_Block(0, header), *blocks]
        self._begins = [block.begin for block in self._blocks]
        self._release = release
        self.size_bytes = places[-1].end
        self.cut_points = begins_of(places, self.size_bytes)

    @classmethod
    def of(
        cls, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None, path: str | None = None
    ) -> TensorFile:
        """Plan the file; nothing is copied.

        Args:
            tensors: name to tensor, of any framework.
            metadata: text to text, for the file.
            path: in the checkpoint; None: `model.safetensors`.

        Raises:
            TypeError: an argument is of the wrong kind, or a tensor of a dtype that safetensors does not have.
            ValueError: there is no tensor, a name cannot be one, the path is none, or the header exceeds 100 MB.
            ImportError: NumPy is not installed.
        """
        numpy()
        _check_metadata(metadata)
        name = DEFAULT_PATH if path is None else _checked_path(path)
        known = {tensor: described(tensor, value) for tensor, value in _checked(tensors).items()}
        header, places = lay_out({it: (dtype, shape) for it, (_, dtype, shape) in known.items()}, metadata or {})
        blocks = [_Block(it.begin, known[it.name][0], it) for it in places if it.end > it.begin]
        return cls(name, header, places, blocks, lambda: None)

    @property
    def tensor_bytes(self) -> int:
        """The size of all tensors together, in bytes."""
        return self.size_bytes - len(self._header)

    def copied_to(self, buffer: Any, release: Callable[[], None]) -> TensorFile:
        """The same file from a copy of its tensors: one memory copy, whatever their order and place.

        Args:
            buffer: a NumPy array of `tensor_bytes` bytes.
            release: is called by `release`.
        """
        np = numpy()
        for block in self._blocks[1:]:
            assert block.place is not None, "only a copy has other blocks"
            source = array_of(block.value)
            begin = block.begin - len(self._header)
            target = buffer[begin : begin + source.nbytes]
            dtype = source.dtype.newbyteorder("<") if source.dtype.kind in "iufc" else source.dtype
            np.copyto(target.view(dtype).reshape(source.shape), source)
        block = _Block(len(self._header), buffer[: self.tensor_bytes])
        blocks = [block] if self.tensor_bytes else []
        return TensorFile(self.name, self._header, self._places, blocks, release)

    def release(self) -> None:
        """Give the buffer of a copy back; of others, nothing. It may be called twice, and nothing is read after it."""
        release, self._release = self._release, lambda: None
        release()

    def open(self) -> OpenTensors:
        """Begin to read it."""
        return OpenTensors(self.size_bytes, self._blocks, self._begins)

    def open_early(self) -> OpenTensors:
        """The same: there is nothing to wait for."""
        return self.open()

    def write_to(self, path: str | Path) -> None:
        """Write it to a local file."""
        with self.open() as opened, Path(path).open("wb") as file:
            for at in range(0, self.size_bytes, _WRITE_BYTES):
                file.write(opened.read(at, min(_WRITE_BYTES, self.size_bytes - at)))


class OpenTensors:
    """A `TensorFile` while it is read; a context manager. It keeps the bytes of the tensor that was read last."""

    is_settled = True

    def __init__(self, size_bytes: int, blocks: list[_Block], begins: list[int]) -> None:
        """Begin with no tensor."""
        self._size_bytes = size_bytes
        self._blocks = blocks
        self._begins = begins
        # The number of the block, and its bytes. Whoever reads takes both at once.
        self._last: tuple[int, memoryview] | None = None
        self._lock = threading.Lock()
        self._is_closed = False

    def __enter__(self) -> OpenTensors:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the tensors go."""
        with self._lock:
            self._is_closed, self._last = True, None

    def read(self, offset_bytes: int, size_bytes: int) -> bytes:
        """Read exactly so many bytes from an offset."""
        assert offset_bytes + size_bytes <= self._size_bytes, "it was asked for its size"
        with self._lock:
            pieces = [self._piece(offset_bytes, size_bytes)]
            while (had := len(pieces[-1])) < size_bytes:
                offset_bytes, size_bytes = offset_bytes + had, size_bytes - had
                pieces.append(self._piece(offset_bytes, size_bytes))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def check(self, digest: bytes) -> None:
        """Nothing: tensors have no time of change. Where bytes changed between two readings, the server finds it."""

    def _piece(self, offset_bytes: int, at_most_bytes: int) -> bytes:
        """A copy of what one block has from an offset on: nothing else keeps a block's memory."""
        number = bisect_right(self._begins, offset_bytes) - 1
        begin = offset_bytes - self._begins[number]
        return bytes(self._view(number)[begin : begin + at_most_bytes])

    def _view(self, number: int) -> memoryview:
        if self._is_closed:
            raise ValueError("the tensors are not read any more")
        if self._last is None or self._last[0] != number:
            self._last = None  # before the next one is copied
            self._last = number, self._blocks[number].view()
        return self._last[1]


def tensors_of(
    what: Any,
    tensors: Mapping[str, Any] | None,
    metadata: Any,
    path: str | None,
    rank_of_ranks: tuple[int, int] = (0, 1),
) -> TensorFile | None:
    """The tensors among the arguments of a save; None if it is one of files.

    Raises:
        ValueError, TypeError, ImportError: see `TensorFile.of`; there are files too; or a path, and no tensors.
    """
    if tensors is None:
        if path is not None:
            raise ValueError(f"path `{path}` is that of `tensors` in the version, and there are none")
        return None
    if what is not None:
        raise ValueError(
            "pass files or `tensors`, not both: a version of both is a folder with a safetensors file in it"
        )
    rank, ranks = rank_of_ranks
    if path is None and ranks > 1:
        path = f"model-{rank + 1:05}-of-{ranks:05}.safetensors"
    return TensorFile.of(tensors, metadata, path)


def _checked(tensors: Mapping[str, Any]) -> dict[str, Any]:
    check_mapping("tensors", tensors, 'a map from name to tensor, as {"kernel": array}')
    found: dict[str, Any] = {}
    for name, value in tensors.items():
        check_text("a name of `tensors`", name)
        _check_encodable("a name of `tensors`", name)
        if name == _RESERVED:
            raise ValueError(f"no tensor may be called `{_RESERVED}`: safetensors keeps the file's metadata there")
        if name in found:
            raise ValueError(f"`tensors` has `{name}` twice: each tensor must have a name of its own")
        found[name] = value
    if not found:
        raise ValueError("`tensors` is empty: a checkpoint needs at least one tensor")
    return found


def _check_metadata(metadata: Mapping[str, str] | None) -> None:
    if metadata is None:
        return
    check_mapping("metadata", metadata, 'with tensors, a map from text to text, as {"format": "np"}')
    for key, value in metadata.items():
        check_text("a key of `metadata`", key)
        check_text(f"metadata[{key!r}]", value, "a text, because a safetensors file keeps texts only")
        _check_encodable("a key of `metadata`", key)
        _check_encodable(f"metadata[{key!r}]", value)


def _checked_path(path: str) -> str:
    check_text("path", path, 'a path in the version, as "model.safetensors"')
    if not path.strip("/.") or "\\" in path or path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"path `{path}` is none in a version: it must be relative, with `/` and without `..`")
    return path


def _check_encodable(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(wrong(name, text, "a text that UTF-8 can say")) from None
