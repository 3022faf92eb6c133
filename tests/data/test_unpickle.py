"""The reader of foreign pickles: plain data of every protocol comes back, and nothing in a file can run."""

import copyreg
import io
import os
import pickle
import pickletools
import struct
from collections import OrderedDict
from contextlib import suppress
from datetime import date
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stal_data.errors import InputError, NotFoundError
from stal_data.published import unpickle
from stal_data.published.unpickle import load_plain, parse_plain

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=300) | st.binary()
plain = st.recursive(
    scalars | st.sets(scalars, max_size=4) | st.frozensets(scalars, max_size=4),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(scalars, inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
    ),
    max_leaves=30,
)


@settings(max_examples=60)
@given(plain, st.integers(0, 5))
def test_plain_data_comes_back_from_every_protocol(value: object, protocol: int) -> None:
    found = parse_plain(pickle.dumps(value, protocol=protocol), "x")
    assert found == value
    assert type(found) is type(value)


def test_values_that_a_file_names_twice_are_one_object() -> None:
    shared = [1.5]
    cyclic: list = [shared, shared]
    cyclic.append(cyclic)
    for protocol in range(6):
        found = parse_plain(pickle.dumps(cyclic, protocol=protocol), "x")
        assert found[0] is found[1]
        assert found[2] is found
    assert parse_plain(pickle.dumps(list(range(5000))), "x") == list(range(5000))


def _reduce(function: object, *arguments: object, protocol: int = 4) -> bytes:
    class Evil:
        def __reduce__(self) -> object:
            return function, arguments

    return pickle.dumps([Evil()], protocol=protocol)


def _short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def _hostile(mark: Path) -> dict[str, tuple[bytes, str]]:
    """name -> (pickle that makes the folder `mark` when it is run, what the refusal must name)."""
    command, system = f"mkdir {mark}", f"{os.system.__module__}.system"
    line = command.encode() + b"\n"
    text = _short(command)
    return {
        "REDUCE, protocol 0": (_reduce(os.system, command, protocol=0), system),
        "REDUCE, protocol 2": (_reduce(os.system, command, protocol=2), system),
        "REDUCE, protocol 5": (_reduce(os.system, command, protocol=5), system),
        "GLOBAL": (b"cos\nsystem\n(S'" + command.encode() + b"'\ntR.", "os.system"),
        "GLOBAL alone": (b"cos\nsystem\n.", "os.system"),
        "GLOBAL of a builtin": (b"cbuiltins\neval\n(S'1'\ntR.", "builtins.eval"),
        "GLOBAL with a path": (b"cbuiltins\nset.__class__.__base__\n.", "builtins.set.__class__"),
        "STACK_GLOBAL": (b"\x80\x04" + _short("os") + _short("system") + b"\x93" + text + b"\x85R.", "os.system"),
        "STACK_GLOBAL, names joined": (b"\x80\x04" + _short("os") + _short("getcwd") + b"\x93)R.", "os.getcwd"),
        "INST": (b"(S'" + command.encode() + b"'\nios\nsystem\n.", "os.system"),
        "INST of an allowed name": (b"(ibuiltins\nset\n.", "INST"),
        "OBJ": (b"(cos\nsystem\nS'" + command.encode() + b"'\no.", "os.system"),
        "OBJ of an allowed name": (b"(cbuiltins\nset\no.", "OBJ"),
        "NEWOBJ": (b"\x80\x02cos\nsystem\n" + text + b"\x85\x81.", "os.system"),
        "NEWOBJ of an allowed name": (b"\x80\x02cbuiltins\nset\n)\x81.", "NEWOBJ"),
        "NEWOBJ_EX": (b"\x80\x04cbuiltins\nset\n)}\x92.", "NEWOBJ_EX"),
        "BUILD": (b"\x80\x02}}S'__setstate__'\ncos\nsystem\nsb" + text + b"b.", "os.system"),
        "BUILD of a container": (b"\x80\x02]}b.", "BUILD"),
        "EXT1": (b"\x80\x02\x82\xf0" + text + b"\x85R.", "EXT1"),
        "EXT2": (b"\x80\x02\x83\xf0\x00" + text + b"\x85R.", "EXT2"),
        "EXT4": (b"\x80\x02\x84\xf0\x00\x00\x00" + text + b"\x85R.", "EXT4"),
        "PERSID": (b"P" + line + b".", "PERSID"),
        "BINPERSID": (b"\x80\x02" + text + b"Q.", "BINPERSID"),
        "REDUCE of text": (text + b")R.", "REDUCE"),
        "REDUCE of a list": (b"\x80\x02])R.", "REDUCE"),
        "REDUCE without a tuple": (b"cbuiltins\nset\n]R.", "REDUCE"),
        "BYTEARRAY8 of a length that nobody has": (b"\x80\x05\x96" + struct.pack("<Q", 1 << 60), "BYTEARRAY8"),
        "READONLY_BUFFER": (b"\x80\x05C\x01x\x98.", "READONLY_BUFFER"),
        "NEXT_BUFFER": (b"\x80\x05\x97.", "NEXT_BUFFER"),
        "BYTEARRAY8": (pickle.dumps(bytearray(b"x"), protocol=5), "BYTEARRAY8"),
        "codec": (b"c_codecs\nencode\nX\x01\x00\x00\x00xX\x03\x00\x00\x00rot\x86R.", "rot"),
    }


@pytest.mark.parametrize("name", list(_hostile(Path("x"))))
def test_a_hostile_pickle_runs_nothing_and_the_refusal_says_what_it_wanted(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "was-run"
    content, wanted = _hostile(mark)[name]
    copyreg.add_extension("os", "system", 0xF0)  # what EXT1 to EXT4 would fetch
    copyreg._extension_cache[0xF0] = os.system
    try:
        path = tmp_path / "hostile.pkl"
        path.write_bytes(content)
        with pytest.raises(InputError, match="is refused, and nothing of the file has been run") as caught:
            load_plain(path)
    finally:
        copyreg.remove_extension("os", "system", 0xF0)
        copyreg._extension_cache.pop(0xF0, None)
    assert wanted in str(caught.value)
    assert str(path) in str(caught.value)
    assert not mark.exists()


def test_no_instruction_is_new_to_the_private_class() -> None:
    """The class is pickle's own and may change: an instruction that a later Python adds must be judged first."""
    assert issubclass(unpickle.PlainUnpickler, pickle._Unpickler)
    known = {code.encode("latin-1")[0] for code in pickletools.code2op}
    assert set(unpickle.PlainUnpickler.dispatch) == set(pickle._Unpickler.dispatch) == known
    assert len(known) == 68
    assert pickle.HIGHEST_PROTOCOL == 5


def test_the_hostile_pickles_are_hostile(tmp_path: Path) -> None:
    """Negative control: pickle itself runs them."""
    content, _ = _hostile(tmp_path / "was-run")["GLOBAL"]
    pickle.Unpickler(io.BytesIO(content)).load()
    assert (tmp_path / "was-run").is_dir()


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (np.float64(1.5), "numpy"),
        (np.zeros(2), "numpy"),
        (OrderedDict(a=1), "collections.OrderedDict"),
        (date(2024, 1, 1), "datetime.date"),
        (Fraction(1, 2), "fractions.Fraction"),
        (len, "builtins.len"),
        (range(3), "builtins.range"),
        (1 + 2j, "complex"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_objects_are_refused_by_name(value: object, named: str, protocol: int) -> None:
    with pytest.raises(InputError, match="is refused") as caught:
        parse_plain(pickle.dumps([value], protocol=protocol), "x")
    assert named.removeprefix("builtins.") in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle at all",
        pickle.dumps([1, 2, 3])[:-2],
        b".",
        b"(.",
        b"a.",
        b"]u.",
        b"K\x01K\x02a.",
        b"g5\n.",
        b"cbuiltins\nset\n.",
        b"I12x\n.",
        b"K\x01K\x02.",
        b"\x80\x04" + b"K\x01K\x02\x93.",
        b"I" + b"9" * 5000 + b"\n.",
        b"\x80\x63K\x01",
        # Declared sizes far beyond the file and beyond memory.
        b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"x.",
        b"\x80\x04\x8e" + struct.pack("<Q", (1 << 64) - 1) + b"x.",
        b"\x80\x04B" + struct.pack("<I", (1 << 32) - 1) + b"x.",
        b"\x80\x04\x8b" + struct.pack("<i", (1 << 31) - 1) + b"x.",
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 60),
    ],
)
def test_what_is_no_whole_pickle_is_an_error_of_ours(content: bytes) -> None:
    with pytest.raises(InputError, match=r"^x"):
        parse_plain(content, "x")


@settings(max_examples=150)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_give_a_value_or_an_error_of_ours(content: bytes, ended: bool) -> None:
    with suppress(InputError):
        parse_plain(content + b"." * ended, "x")


def test_a_huge_place_in_the_memory_takes_no_memory() -> None:
    content = b"\x80\x02K\x07r" + struct.pack("<I", (1 << 32) - 1) + b"."
    assert parse_plain(content, "x") == 7
    assert parse_plain(b"K\x07p99999999999999999999\n.", "x") == 7


def test_copies_cannot_outgrow_the_file() -> None:
    text = b"X" + struct.pack("<I", 1000) + b"x" * 1000 + b"q\x00"
    copy = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"
    assert parse_plain(b"]" + text + b"a" + copy + b"a.", "x") == ["x" * 1000, b"x" * 1000]
    with pytest.raises(InputError, match="copies more than it holds"):
        parse_plain(b"]" + text + b"a" + (copy + b"a") * 100 + b".", "x")


def test_bytes_behind_the_end_are_an_error() -> None:
    with pytest.raises(InputError, match="3 bytes follow the end"):
        parse_plain(pickle.dumps([1]) + b"abc", "x")


def test_deep_nesting_is_no_way_to_crash() -> None:
    depth = 200_000
    assert isinstance(parse_plain(b"]" * depth + b"a" * (depth - 1) + b".", "x"), list)
    key = b")" + b"\x85" * depth  # a tuple in a tuple in a tuple: its hash overflows the stack
    for content in (b"}" + key + b"K\x01s.", b"\x8f(" + key + b"\x90."):
        with pytest.raises(InputError, match="a tuple as a key or as a member of a set"):
            parse_plain(content, "x")


def test_a_missing_and_a_too_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFoundError, match=r"nowhere.pkl does not exist"):
        load_plain(tmp_path / "nowhere.pkl")
    monkeypatch.setattr(unpickle, "MAX_BYTES", 10)
    path = tmp_path / "large.pkl"
    path.write_bytes(pickle.dumps(list(range(20))))
    with pytest.raises(InputError, match="more than 10"):
        load_plain(path)
