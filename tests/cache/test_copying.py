"""Copying and checking at once does what copying and then google-crc32c do, for every width of vectors that this
processor has, and the reader works without it."""

import itertools
import logging
import shutil
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.feature_store import FeatureSet, copying, one_pass, verify_feature_set
from cache.feature_store.copying import CopyAll, two_passes
from cache.feature_store.damage import DamagedError
from tests.cache.samples import SHAPES, make_features

GUARD = 64
LANES = one_pass.supported_lanes()


@pytest.fixture(params=["two passes", *LANES])
def copy(request: pytest.FixtureRequest) -> CopyAll:
    return two_passes if request.param == "two passes" else copying.one_pass(request.param)


@pytest.fixture
def choose_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_chosen", None)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.one_of(st.integers(1, 600), st.integers(1, 60_000)),
    source_at=st.integers(0, 63),
    target_at=st.integers(0, 63),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_bytes_anywhere(copy: CopyAll, size: int, source_at: int, target_at: int, seed: int) -> None:
    source = np.random.default_rng(seed).integers(0, 256, source_at + size, np.uint8)
    target = np.full(target_at + size + GUARD, 0xA5, np.uint8)
    found = copy([(source.ctypes.data + source_at, target.ctypes.data + target_at, size)])
    assert found == [google_crc32c.value(source[source_at:].tobytes())]
    assert target[target_at : target_at + size].tobytes() == source[source_at:].tobytes()
    assert (target[:target_at] == 0xA5).all()
    assert (target[target_at + size :] == 0xA5).all()


def test_many_at_once_come_in_order(copy: CopyAll) -> None:
    source, target = np.random.default_rng(0).integers(0, 256, 5000, np.uint8), np.zeros(5000, np.uint8)
    cuts = [0, 1, 300, 1800, 1801, 4096, 5000]
    copies = [
        (source.ctypes.data + start, target.ctypes.data + 5000 - end, end - start)
        for start, end in itertools.pairwise(cuts)
    ]
    assert copy(copies) == [google_crc32c.value(source[a:b].tobytes()) for a, b in itertools.pairwise(cuts)]
    for start, end in itertools.pairwise(cuts):
        assert target[5000 - end : 5000 - start].tobytes() == source[start:end].tobytes()
    assert copy([]) == []


@pytest.mark.parametrize("size", [1, 7, 63, 64, 255, 256, 257, 1023, 1024, 4096, 11264, 802816])
def test_every_bit_counts(copy: CopyAll, size: int) -> None:
    source, target = np.zeros(size, np.uint8), np.empty(size, np.uint8)
    whole = [(source.ctypes.data, target.ctypes.data, size)]
    sums = {*copy(whole)}
    places = sorted({0, 1, size // 3, size // 2, size - 2, size - 1} & set(range(size)))
    for place in places:
        for bit in range(8):
            source[place] = 1 << bit
            sums.update(copy(whole))
            assert target[place] == 1 << bit
            source[place] = 0
    assert len(sums) == 1 + 8 * len(places)


@pytest.fixture(params=["one pass", "no such instructions", "no llvmlite"])
def way(request: pytest.FixtureRequest, choose_anew: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "no such instructions":
        monkeypatch.setattr(one_pass, "supported_lanes", tuple)
    if request.param == "no llvmlite":
        monkeypatch.setitem(sys.modules, "cache.feature_store.one_pass", None)
    yield request.param
    assert copying._chosen is not None
    assert (copying._chosen is two_passes) == (request.param != "one pass" or not LANES)


def test_the_reader_reads_and_notices_damage_in_each_way(way: str, ten_rows: Path, tmp_path: Path) -> None:
    root, arrays = Path(shutil.copytree(ten_rows, tmp_path / "set")), make_features(10)
    batch = FeatureSet(root).read(range(10))
    for name in SHAPES:
        assert getattr(batch, name).tobytes() == arrays[name].tobytes()
    shard = root / "slow/c/1/0/0/0"
    content = bytearray(shard.read_bytes())
    content[5] ^= 1  # in row 4
    shard.write_bytes(content)
    with pytest.raises(DamagedError, match="checksum"):
        FeatureSet(root).read(range(10))
    assert [item.shard for item in verify_feature_set(root)] == [1]


def test_why_it_takes_two_passes_is_logged(
    choose_anew: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(one_pass, "supported_lanes", tuple)
    source, out = np.arange(9, dtype=np.uint8), np.empty(9, np.uint8)
    with caplog.at_level(logging.INFO, logger=copying.__name__):
        copying.copy_all([(source.ctypes.data, out.ctypes.data, 9)])
    assert out.tolist() == list(range(9))
    assert "two passes" in caplog.text


def test_threads_that_come_first_together_get_the_same(choose_anew: None) -> None:
    start = threading.Barrier(4)

    def choose(_: int) -> CopyAll:
        start.wait()
        return copying._choose()

    with ThreadPoolExecutor(4) as pool:
        assert len({id(found) for found in pool.map(choose, range(4))}) == 1


@pytest.mark.skipif(not LANES, reason="this processor has no carry-less multiplication of x86")
def test_a_width_that_the_processor_lacks_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="width"):
        one_pass.compiled(16)
