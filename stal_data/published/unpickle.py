"""Reads pickles of plain data (lists, tuples, dicts, sets, text, bytes, numbers, None) without `pickle`.

A pickle is a program for a stack machine. This one knows only the instructions that plain data need; there is none
among them that imports, calls or builds anything, so a hostile file has nothing to run. Containers may not be
keys or members of sets: hashing deeply nested ones overflows the interpreter's stack.
"""

import io
import pickletools
import reprlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from stal_data.errors import InputError, NotFoundError
from stal_data.user_files import read_bounded

MAX_BYTES = 1 << 30
"""A larger file is refused; what is read takes some ten times its size in memory."""


def load_plain(path: Path) -> object:
    """Return what the pickle at `path` holds; anything but plain data is an error that names what was found."""
    try:
        content = read_bounded(path, MAX_BYTES)
    except FileNotFoundError:
        raise NotFoundError(f"The file {path} does not exist.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    return parse_plain(content, str(path))


def parse_plain(content: bytes, source: str) -> object:
    """Return what a pickle of any protocol holds; `source` is what messages call it.

    All lengths that the file claims are cut at its end, so memory stays in proportion to its size.
    """
    file, machine = io.BytesIO(content), _Machine(room=len(content))
    try:
        for opcode, argument, position in pickletools.genops(file):
            try:
                machine.step(opcode.name, argument)
            except _RefusedError as error:
                raise InputError(
                    f"{source}, byte {position}: {error} is refused, and nothing of the file has been run. Only lists, "
                    "tuples, dicts, sets, text, bytes, numbers and None are read: write the file with these alone."
                ) from None
        value = machine.result()
    except InputError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        text = f"{error}" or type(error).__name__
        raise InputError(f"{source} is not a whole pickle of plain data: {text}. Get the file again.") from None
    if rest := len(content) - file.tell():
        raise InputError(f"{source}: {rest} bytes follow the end of the pickle, but it must be all of the file.")
    return value


class _RefusedError(Exception):
    """The text says what was found."""


class _Mark:
    """Where a container's items begin on the stack."""


class _Global:
    """One of the names that old protocols need for sets and bytes; `build` is a function of this module."""

    def __init__(self, build: Callable[..., object]) -> None:
        self.build = build


class _Machine:
    """The stack, and the memory of values that are used again: a dict, because a file chooses its places freely."""

    def __init__(self, *, room: int) -> None:
        """room: how many items and characters may be copied in all; a real file copies none twice."""
        self.stack: list[Any] = []
        self.memo: dict[int, object] = {}
        self.room = room

    def step(self, name: str, argument: Any) -> None:
        """Execute one instruction; `argument` as pickletools decodes it."""
        if name in _PUSHES:
            self.stack.append(argument)
        elif name in _NEW:
            self.stack.append(_NEW[name]())
        elif name in _STEPS:
            _STEPS[name](self, argument)
        elif name not in _NO_STEPS:
            raise _RefusedError(f"the instruction {name}" + ("" if argument is None else f" {reprlib.repr(argument)}"))

    def result(self) -> object:
        (value,) = self.stack
        if isinstance(value, (_Mark, _Global)):
            raise ValueError("it ends inside a value")  # noqa: TRY004
        return value

    def pop_to_mark(self) -> list[Any]:
        position = len(self.stack) - 1
        while not isinstance(self.stack[position], _Mark):
            position -= 1
            if position < 0:
                raise ValueError("a container has no beginning")
        items = self.stack[position + 1 :]
        del self.stack[position:]
        return items

    def tuple_of(self, count: int) -> None:
        items = tuple(self.stack.pop() for _ in range(count))
        self.stack.append(items[::-1])

    def top(self, kind: type[Any]) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise ValueError(f"items are added to a {type(self.stack[-1]).__name__}")  # noqa: TRY004
        return self.stack[-1]

    def set_items(self, items: list[Any]) -> None:
        self.top(dict).update(_dict(items))

    def push_global(self, name: str) -> None:
        if name not in _GLOBALS:
            raise _RefusedError(f"the global '{name[:200].replace(' ', '.', 1)}'")
        self.stack.append(_GLOBALS[name])

    def stack_global(self) -> None:
        module, name = self.stack.pop(-2), self.stack.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a global's name is no text")  # noqa: TRY004
        self.push_global(f"{module} {name}")

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise _RefusedError("a call (REDUCE)")
        self.room -= sum(len(argument) for argument in arguments)
        if self.room < 0:
            raise ValueError("it copies more than it holds")
        self.stack.append(function.build(*arguments))


def _hashable(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if not isinstance(value, (str, bytes, int, float, type(None))):
            raise _RefusedError(f"a {type(value).__name__} as a key or as a member of a set")
        yield value


def _set(items: Iterable[Any] = ()) -> set[Any]:
    return set(_hashable(items))


def _frozenset(items: Iterable[Any] = ()) -> frozenset[Any]:
    return frozenset(_hashable(items))


def _dict(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(_hashable(items[::2]), items[1::2], strict=True))


def _empty_bytes() -> bytes:
    return b""


def _encode(text: str, encoding: str) -> bytes:
    """Protocols 0 to 2 write bytes as text, one character a byte."""
    if encoding != "latin1":
        raise _RefusedError(f"text in the encoding {encoding!r}")
    return text.encode("latin-1")


_GLOBALS = {
    f"{module} {name}": _Global(build)
    for name, build in (("set", _set), ("frozenset", _frozenset), ("bytes", _empty_bytes))
    for module in ("builtins", "__builtin__")
} | {"_codecs encode": _Global(_encode)}

# fmt: off
_PUSHES = frozenset((
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
))
# fmt: on
_NEW: dict[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
    "MARK": _Mark,
}
_NO_STEPS = frozenset({"PROTO", "FRAME", "STOP"})
_STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda m, place: m.memo.__setitem__(place, m.stack[-1])),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, place: m.stack.append(m.memo[place])),
    "MEMOIZE": lambda m, _: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: m.pop_to_mark(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "LIST": lambda m, _: m.stack.append(m.pop_to_mark()),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.pop_to_mark())),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "DICT": lambda m, _: m.stack.append(_dict(m.pop_to_mark())),
    "FROZENSET": lambda m, _: m.stack.append(_frozenset(m.pop_to_mark())),
    "APPEND": lambda m, _: _append(m, [m.stack.pop()]),
    "APPENDS": lambda m, _: _append(m, m.pop_to_mark()),
    "ADDITEMS": lambda m, _: _add(m, m.pop_to_mark()),
    "SETITEM": lambda m, _: m.set_items([m.stack.pop(-2), m.stack.pop()]),
    "SETITEMS": lambda m, _: m.set_items(m.pop_to_mark()),
    "GLOBAL": lambda m, name: m.push_global(name),
    "STACK_GLOBAL": lambda m, _: m.stack_global(),
    "REDUCE": lambda m, _: m.reduce(),
}


def _append(machine: _Machine, items: list[Any]) -> None:
    machine.top(list).extend(items)


def _add(machine: _Machine, items: list[Any]) -> None:
    machine.top(set).update(_hashable(items))
