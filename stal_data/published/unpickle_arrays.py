"""Pickles with NumPy arrays of numbers besides plain data, as Python 2 and 3 write them; nothing else is built."""

import pickle
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from stal_data.published.unpickle import PlainUnpickler, RefusedError, load_plain


def load_arrays(path: Path) -> object:
    """Return what the pickle holds: plain data and arrays of numbers of little-endian byte order."""
    return load_plain(path, _ArrayUnpickler)


class _ArrayUnpickler(PlainUnpickler):
    READS = PlainUnpickler.READS + ", and NumPy arrays of little-endian numbers (pickle protocol 4 or older)"

    def __init__(self, file: Any, *, room: int) -> None:
        # An array's bytes are copied twice: Python 2 and protocols up to 2 write them as text.
        super().__init__(file, room=3 * room)

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        found = _GLOBALS.get((module.replace("numpy._core", "numpy.core"), name))
        return found or super().find_class(module, name)

    def build(self) -> None:
        """Give the array below on the stack its content; a dtype has all of its own but the byte order."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, np.dtype):
            if state[1] not in ("<", "|", "="):
                raise RefusedError(f"an array of byte order {state[1]!r}")
        elif isinstance(target, np.ndarray):
            _, shape, dtype, fortran, content = state
            content = _content(content)
            self.room -= len(content)
            if (
                not isinstance(dtype, np.dtype)
                or len(content) != prod(shape) * dtype.itemsize
                or min(shape, default=0) < 0
            ):
                raise ValueError("an array of another size than its content")
            if self.room < 0:
                raise ValueError("it copies more than it holds")
            target.__setstate__((1, tuple(map(int, shape)), dtype, bool(fortran), content))  # type: ignore[arg-type]
        else:
            raise RefusedError("the instruction BUILD")


_ArrayUnpickler.dispatch = {**PlainUnpickler.dispatch, pickle.BUILD[0]: _ArrayUnpickler.build}  # type: ignore[dict-item]


def _ndarray() -> object:
    """Stand for the type, which a file names and never calls."""
    raise RefusedError("a call of numpy.ndarray")


def _dtype(code: str, *_: object) -> np.dtype[Any]:
    if code not in {f"{kind}{size}" for kind in "fiu" for size in (1, 2, 4, 8)} | {"b1"}:
        raise RefusedError(f"an array of the type {str(code)[:20]!r}")
    return np.dtype(f"<{code}")


def _empty_array(kind: object, *_: object) -> object:
    if kind is not _ndarray:
        raise RefusedError("an array of another class")
    return np.empty(0, np.uint8)


def _scalar(dtype: object, content: str | bytes) -> object:
    if not isinstance(dtype, np.dtype) or len(content) != dtype.itemsize:
        raise ValueError("a number of another size than its content")
    return np.frombuffer(_content(content), dtype)[0].item()


def _content(value: str | bytes) -> bytes:
    return value.encode("latin-1") if isinstance(value, str) else bytes(value)


_GLOBALS: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy.core.multiarray", "scalar"): _scalar,
}
