"""Rows of any size come whole, to where they are told and nowhere else, and every bit of them is checked."""

import os
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.feature_store.errors import DamagedError
from cache.feature_store.shard_writer import ArrayFile
from cache.feature_store.shards import MappedFile, ShardFile

GUARD = 64


def write_shard(folder: Path, rows_B: np.ndarray) -> Path:
    count, row_bytes = rows_B.shape
    file = ArrayFile(folder / "0", rows=count, row_bytes=row_bytes, sync=False)
    file.add(rows_B)
    return file.finish()


@settings(max_examples=200)
@given(
    size=st.one_of(st.integers(1, 600), st.integers(1, 60_000)),
    row=st.integers(0, 2),
    target_at=st.integers(0, 63),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_bytes_anywhere(tmp_path: Path, size: int, row: int, target_at: int, seed: int) -> None:
    rows = np.random.default_rng(seed).integers(0, 256, (3, size), np.uint8)
    shard = ShardFile(MappedFile(write_shard(tmp_path, rows)), rows=3, row_bytes=size)
    target = np.full(target_at + size + GUARD, 0xA5, np.uint8)
    found = shard.read(row, target[target_at : target_at + size])
    assert found == google_crc32c.value(rows[row].tobytes())
    assert target[target_at : target_at + size].tobytes() == rows[row].tobytes()
    assert (target[:target_at] == 0xA5).all()
    assert (target[target_at + size :] == 0xA5).all()


@pytest.mark.parametrize("size", [1, 7, 64, 257, 4096, 802816])
def test_every_bit_counts(tmp_path: Path, size: int) -> None:
    path = write_shard(tmp_path, np.zeros((1, size), np.uint8))
    shard, out = ShardFile(MappedFile(path), rows=1, row_bytes=size), np.empty(size, np.uint8)
    places = sorted({0, 1, size // 3, size // 2, size - 2, size - 1} & set(range(size)))
    content = path.read_bytes()
    with path.open("r+b", buffering=0) as file:  # the map shows what is changed in place
        for place in [*places, size, size + 3]:  # the last two in the stored checksum
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([content[place] ^ 1 << bit]), place)
                with pytest.raises(DamagedError, match="the checksum of row 0 of the shard does not match"):
                    shard.read(0, out)
            os.pwrite(file.fileno(), content[place : place + 1], place)
    shard.read(0, out)
    assert not out.any()
