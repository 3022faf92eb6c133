"""Pickles with arrays give the same arrays as pickle itself, and nothing else of NumPy can be named."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stal_data.errors import InputError
from stal_data.published.unpickle_arrays import load_arrays

DTYPES = st.sampled_from(["<f4", "<f8", "<i2", "<i8", "|u1", "|b1"])


@given(
    array=DTYPES.flatmap(lambda code: hnp.arrays(code, hnp.array_shapes(max_dims=3, min_side=0))),
    protocol=st.integers(0, 4),
)
def test_arrays_of_every_protocol_are_read_as_pickle_reads_them(
    array: np.ndarray[Any, Any], protocol: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("pickle") / "a.pkl"
    path.write_bytes(pickle.dumps({"b": [array, array.T, array], "c": np.float32(0.5)}, protocol=protocol))
    found = load_arrays(path)
    assert isinstance(found, dict)
    for read, written in zip(found["b"], (array, array.T, array), strict=True):
        assert read.dtype == written.dtype
        np.testing.assert_array_equal(read, written)
    assert found["c"] == 0.5


class _Runs:
    def __reduce__(self) -> tuple[object, ...]:
        return (np.fromfile, ("/etc/passwd",))


class _Array(np.ndarray[Any, Any]):
    pass


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([{}], object), "an array of the type 'O8'"),
        (np.zeros(2, ">f4"), "an array of byte order '>'"),
        (np.zeros(2, "f4,f4"), "an array of the type 'V8'"),
        (np.zeros(2).view(_Array), "the global 'tests"),
        (_Runs(), "the global 'numpy"),
        (np.dtype, None),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(value: object, message: str | None, tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps([value], protocol=4))
    if message is None:
        assert callable(load_arrays(path)[0])  # type: ignore[index]  # a name that was never called
        return
    with pytest.raises(InputError, match=message):
        load_arrays(path)


def test_an_array_cannot_claim_more_than_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    content = pickle.dumps(np.zeros(4, np.uint8), protocol=4)
    assert b"K\x04\x85" in content
    path.write_bytes(content.replace(b"K\x04\x85", b"K\x40\x85"))
    with pytest.raises(InputError, match="an array of another size than its content"):
        load_arrays(path)


def test_one_content_cannot_become_many_arrays(tmp_path: Path) -> None:
    shared = bytes(100_000)
    arrays = [np.frombuffer(shared, np.uint8) for _ in range(3)]
    content = b"\x80\x04]("
    # (version, shape, dtype, fortran, content) of each array, with the content taken from the memo.
    make = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01bt\x52"
    dtype = b"cnumpy\ndtype\n(X\x02\x00\x00\x00u1K\x00K\x01t\x52"
    first = b"B" + len(shared).to_bytes(4, "little") + shared + b"q\x01"
    for number in range(len(arrays) * 3):
        content += make + b"(K\x01J" + len(shared).to_bytes(4, "little") + b"\x85" + dtype + b"\x89"
        content += (first if number == 0 else b"h\x01") + b"tb"
    path = tmp_path / "a.pkl"
    path.write_bytes(content + b"e.")
    with pytest.raises(InputError, match="it copies more than it holds"):
        load_arrays(path)
