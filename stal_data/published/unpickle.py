"""Reads pickles of plain data (lists, tuples, dicts, sets, text, bytes, numbers, None), and nothing else.

A pickle is a program for a stack machine. Of its instructions those that import, call or build something are refused,
so a hostile file has nothing to run. Containers may not be keys or members of sets: hashing deeply nested ones
overflows the interpreter's stack.
"""

import io
import pickle
import struct
from collections.abc import Callable, Iterable, Sized
from pathlib import Path
from types import FunctionType
from typing import Any

from stal_data.errors import InputError, NotFoundError
from stal_data.user_files import read_bounded

MAX_BYTES = 1 << 30
"""A larger file is refused; what is read takes some ten times its size in memory."""


def load_plain(path: Path, machine: "type[PlainUnpickler] | None" = None) -> object:
    """Return what the pickle at `path` holds; anything but plain data is an error that names what was found.

    machine: what reads it, for files that hold more than plain data.
    """
    try:
        content = read_bounded(path, MAX_BYTES)
    except FileNotFoundError:
        raise NotFoundError(f"The file {path} does not exist.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    return parse_plain(content, str(path), machine)


def parse_plain(content: bytes, source: str, machine: "type[PlainUnpickler] | None" = None) -> object:
    """Return what a pickle of any protocol holds; `source` is what messages call it.

    All lengths that the file claims are cut at its end, so memory stays in proportion to its size.
    """
    file = io.BytesIO(content)
    kind = machine or PlainUnpickler
    reader = kind(file, room=len(content))
    try:
        value = reader.load()
        if reader.stack or reader.metastack or isinstance(value, FunctionType):
            raise ValueError("it ends inside a value")
    except RefusedError as error:
        raise InputError(
            f"{source}, near byte {file.tell()}: {error} is refused, and nothing of the file has been run. Only "
            f"{kind.READS} are read: write the file with these alone."
        ) from None
    except _DAMAGED as error:
        raise InputError(
            f"{source} is not a whole pickle of plain data, near byte {file.tell()}: {error!r}. Get the file again."
        ) from None
    if rest := len(content) - file.tell():
        raise InputError(f"{source}: {rest} bytes follow the end of the pickle, but it must be all of the file.")
    return value


# fmt: off
_DAMAGED = (
    pickle.UnpicklingError, EOFError, struct.error, ValueError, LookupError, TypeError, AttributeError, OverflowError,
)
# fmt: on


class RefusedError(Exception):
    """The text says what was found."""


# The private class: the public one is C code, which runs BUILD and cached extensions without asking a subclass.
class PlainUnpickler(pickle._Unpickler):
    """Plain data and nothing else."""

    READS = "lists, tuples, dicts, sets, text, bytes, numbers and None"
    stack: list[Any]
    metastack: list[list[Any]]

    def __init__(self, file: io.BytesIO, *, room: int) -> None:
        """room: how many items and characters may be copied in all; a real file copies none twice."""
        super().__init__(file, encoding="latin-1")  # Python 2's text
        self.room = room

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        if (module, name) not in _GLOBALS:
            raise RefusedError(f"the global '{f'{module}.{name}'[:200]}'")
        return _GLOBALS[module, name]

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        # Only find_class puts functions on the stack.
        if not isinstance(function, FunctionType) or not isinstance(arguments, tuple):
            raise RefusedError("a call (REDUCE)")
        self.room -= sum(len(argument) for argument in arguments if isinstance(argument, Sized))
        if self.room < 0:
            raise ValueError("it copies more than it holds")
        self.stack.append(function(*arguments))

    def _instantiate(self, *_: object) -> None:
        raise RefusedError("an instance (INST or OBJ)")

    def skip_frame(self) -> None:
        """Frames say how much to read at once; without them the file's position is the machine's."""
        self.read(8)  # type: ignore[attr-defined]


def _hashable(values: Iterable[Any]) -> list[Any]:
    found = list(values)
    for value in found:
        if not isinstance(value, (str, bytes, int, float, type(None))):
            raise RefusedError(f"a {type(value).__name__} as a key or as a member of a set")
    return found


def _set(items: Iterable[Any] = ()) -> set[Any]:
    return set(_hashable(items))


def _frozenset(items: Iterable[Any] = ()) -> frozenset[Any]:
    return frozenset(_hashable(items))


def _empty_bytes() -> bytes:
    return b""


def _encode(text: str, encoding: str) -> bytes:
    """Protocols 0 to 2 write bytes as text, one character a byte."""
    if encoding != "latin1":
        raise RefusedError(f"text in the encoding {encoding!r}")
    return text.encode("latin-1")


# The names that old protocols need for sets and bytes.
_GLOBALS: dict[tuple[str, str], Callable[..., object]] = {("_codecs", "encode"): _encode} | {
    (module, name): build
    for name, build in (("set", _set), ("frozenset", _frozenset), ("bytes", _empty_bytes))
    for module in ("builtins", "__builtin__")
}


def _refused(name: str) -> Callable[[Any], None]:
    def step(_: object) -> None:
        raise RefusedError(f"the instruction {name}")

    return step


def _with_keys(name: str, where: slice) -> Callable[[Any], None]:
    act = pickle._Unpickler.dispatch[getattr(pickle, name)[0]]

    def step(machine: Any) -> None:
        _hashable(machine.stack[where])
        act(machine)

    return step


# fmt: off
_REFUSED = (
    "PERSID", "BINPERSID", "NEWOBJ", "NEWOBJ_EX", "BUILD", "EXT1", "EXT2", "EXT4",
    "BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER",
)
# fmt: on
_KEYS = {
    "SETITEM": slice(-2, -1),
    "SETITEMS": slice(None, None, 2),
    "DICT": slice(None, None, 2),
    "ADDITEMS": slice(None),
    "FROZENSET": slice(None),
}
PlainUnpickler.dispatch = pickle._Unpickler.dispatch | {
    pickle.REDUCE[0]: PlainUnpickler.reduce,
    pickle.FRAME[0]: PlainUnpickler.skip_frame,
    **{getattr(pickle, name)[0]: _with_keys(name, where) for name, where in _KEYS.items()},
    **{getattr(pickle, name)[0]: _refused(name) for name in _REFUSED},
}
