"""Arrays of any framework as NumPy's, without a copy where there is a way. Imports NumPy only once it is used."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from keepbest._arguments import wrong
from keepbest._safetensors import DTYPES

if TYPE_CHECKING:
    import numpy as np

_RIGHT = "a tensor: an array of NumPy, JAX, torch or TensorFlow, or anything with a buffer, `__array__` or `__dlpack__`"
# Torch gives NumPy no array of a dtype that NumPy lacks, but one of its bits.
_TORCH_BITS = {1: "uint8", 2: "int16"}
_NUMPY_LACKS = frozenset(name for name in DTYPES if name == "bfloat16" or name.startswith("float8"))


def numpy() -> Any:
    """The module.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import numpy
    except ImportError:
        raise ImportError("tensors need NumPy: pip install numpy") from None
    return numpy


def dtype_of(name: str) -> Any:
    """NumPy's dtype of this name, one of `DTYPES`.

    Raises:
        ImportError: it is one that ml_dtypes adds to NumPy, and that is not installed.
    """
    if name not in _NUMPY_LACKS:
        return numpy().dtype(name)
    try:
        import ml_dtypes
    except ImportError:
        raise ImportError(f"NumPy has no `{name}` of its own: pip install ml-dtypes") from None
    if not hasattr(ml_dtypes, name):
        raise ImportError(f"this ml_dtypes ({ml_dtypes.__version__}) has no `{name}`: pip install -U ml-dtypes")
    return numpy().dtype(getattr(ml_dtypes, name))


def described(name: str, value: Any) -> tuple[Any, str, tuple[int, ...]]:
    """What an argument is as a tensor; nothing of it is copied.

    Args:
        name: of the tensor, for errors.
        value: of any framework.

    Returns:
        The tensor, of which `array_of` makes NumPy's array; the name of its dtype, one of `DTYPES`; and its shape.

    Raises:
        TypeError: it is no tensor, or one that a safetensors file cannot hold.
    """
    argument = f"tensors[{name!r}]"
    if _is_torch(value):
        layout, device = str(value.layout), str(value.device)
        if layout != "torch.strided" or device == "meta":
            raise TypeError(
                f"`{argument}` is a torch tensor of layout `{layout}` on `{device}`: it must be a dense one"
            )
    elif not hasattr(value, "dtype") or not hasattr(value, "shape"):
        value = _from_buffer(argument, value)
    elif not (hasattr(value, "__array__") or hasattr(value, "__dlpack__") or _has_buffer(value)):
        raise TypeError(wrong(argument, value, _RIGHT))
    dtype = getattr(value.dtype, "name", None) or str(value.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        right = ", ".join(DTYPES)
        raise TypeError(f"`{argument}` has dtype `{dtype}`, which safetensors cannot hold; it holds {right}")
    try:
        return value, dtype, tuple(int(length) for length in value.shape)
    except (TypeError, ValueError):  # a shape that TensorFlow does not know yet
        raise TypeError(f"`{argument}` has shape `{value.shape}`: it must be a tensor with values") from None


def array_of(value: Any) -> np.ndarray[Any, Any]:
    """A tensor as NumPy's array, on the host: a view where there can be one. Of torch's bfloat16 it has the bits."""
    np = numpy()
    if isinstance(value, np.ndarray):
        return value  # type: ignore[no-any-return]
    if _is_torch(value):
        value = value.detach().cpu()
        if str(value.dtype).removeprefix("torch.") in _NUMPY_LACKS:
            value = value.view(getattr(sys.modules["torch"], _TORCH_BITS[value.element_size()]))
        return value.numpy()  # type: ignore[no-any-return]
    if hasattr(value, "__array__") or not hasattr(value, "__dlpack__"):
        return np.asarray(value)  # type: ignore[no-any-return]
    return np.from_dlpack(value)  # type: ignore[no-any-return]


def bytes_of(array: np.ndarray[Any, Any]) -> memoryview:
    """The bytes of an array in C order, little-endian: a view of it, or of a copy if they lie otherwise."""
    np = numpy()
    if array.dtype.kind in "iufc" and array.dtype != (little := array.dtype.newbyteorder("<")):
        array = array.astype(little)
    return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def _is_torch(value: Any) -> bool:
    return any(base.__module__.partition(".")[0] == "torch" for base in type(value).__mro__[:-1])


def _has_buffer(value: Any) -> bool:
    try:
        memoryview(value).release()
    except (TypeError, ValueError, BufferError):
        return False
    return True


def _from_buffer(argument: str, value: Any) -> np.ndarray[Any, Any]:
    """An array of what has no dtype: a view of its buffer, or what its `__array__` or `__dlpack__` give."""
    has_own = hasattr(value, "__array__") or hasattr(value, "__dlpack__")
    if isinstance(value, bytes) or not (has_own or _has_buffer(value)):
        raise TypeError(wrong(argument, value, _RIGHT))
    try:
        return array_of(value if has_own else memoryview(value))
    except (TypeError, ValueError, BufferError, RuntimeError) as error:
        raise TypeError(f"`{argument}` gives no array: {error}") from error
