"""Damage to any file of a set is noticed when rows are read and by verify; wrong bytes are never returned."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from cache.feature_store import FeatureSet, reset_shard, verify_feature_set
from cache.spec import FeatureSpec
from cache.store import Store
from stal_data.errors import StalError
from tests.cache.samples import LAYOUTS, SHAPES, Layout, layout_of, make_features, with_layout

WriteSet = Callable[..., FeatureSet]
DAMAGED, UNDONE, SOUND = "damaged", "undone", "sound"


def flip(path: Path, random: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    content[random.integers(len(content))] ^= 1 << int(random.integers(8))
    path.write_bytes(content)


def truncate(path: Path, random: np.random.Generator) -> None:
    path.write_bytes(path.read_bytes()[: int(random.integers(path.stat().st_size))])


def delete(path: Path, random: np.random.Generator) -> None:
    path.unlink()


@pytest.fixture
def root(ten_rows: Path, store: Store, spec: FeatureSpec) -> Path:
    return Path(shutil.copytree(ten_rows, store.features_dir("street", "train") / spec.id))


@pytest.fixture(params=LAYOUTS)
def of_layout(request: pytest.FixtureRequest, write_set: WriteSet, spec: FeatureSpec) -> FeatureSet:
    return write_set(10, of=with_layout(spec, request.param))


def files_of(root: Path) -> list[str]:
    return sorted(str(file.relative_to(root)) for file in root.rglob("*") if file.is_file())


def rows_that_read(root: Path, layout: Layout = "pooled") -> set[int]:
    """Return the rows that are returned; each must be what was written."""
    arrays, good = make_features(10, layout=layout), set()
    try:
        features = FeatureSet(root)
        for row in range(10):
            try:
                batch = features.read([row])
            except StalError:
                continue
            for name in SHAPES:
                assert batch[name][0].tobytes() == arrays[name][row].tobytes()
            good.add(row)
    except StalError:  # the set does not open
        assert not good
    return good


def verdict(root: Path) -> str:
    try:
        if verify_feature_set(root):
            return DAMAGED
        return SOUND if FeatureSet(root).complete else UNDONE
    except StalError:
        return DAMAGED


@pytest.fixture(params=[flip, truncate, delete])
def damaged(
    of_layout: FeatureSet, request: pytest.FixtureRequest
) -> Iterator[Iterator[tuple[str, Callable[..., None]]]]:
    """Damage every file of the set in turn, and put it back."""

    def each() -> Iterator[tuple[str, Callable[..., None]]]:
        root, random = of_layout.path, np.random.default_rng(5)
        for name in files_of(root):
            whole = (root / name).read_bytes()
            request.param(root / name, random)
            yield name, request.param
            (root / name).write_bytes(whole)

    return each()


def test_damage_anywhere_is_noticed(of_layout: FeatureSet, damaged: Iterator[tuple[str, Callable[..., None]]]) -> None:
    root, layout, seen = of_layout.path, layout_of(of_layout.spec), 0
    for name, damage in damaged:
        seen += 1
        readable, found = rows_that_read(root, layout), verdict(root)
        # A lost mark only costs work: the shard counts as not computed.
        allowed = UNDONE if damage is delete and name.startswith("done/c") else DAMAGED
        assert found == allowed, name
        assert len(readable) < 10, name
        if "/c/" in name and not name.startswith(("index", "source")):
            assert readable, f"{name}: rows of the other shards must stay readable"
    assert seen > 30
    assert rows_that_read(root, layout) == set(range(10))


def test_damaged_marks_are_repaired_too(root: Path, write_set: WriteSet) -> None:
    random = np.random.default_rng(0)
    for name in ("done/c/0", "digest/c/2"):
        flip(root / name, random)
    found = verify_feature_set(root)
    assert [item.shard for item in found] == [0, 2]
    assert [str(key) for key in found[1].key_frames] == ["vidéo 2,0000", "vidéo 2,0001"]
    for item in found:
        reset_shard(root, item.shard)
    assert verify_feature_set(root) == []
    assert FeatureSet(root).done.tolist() == [False] * 4 + [True] * 4 + [False] * 2
    write_set(10, shards=[0, 2])
    assert verify_feature_set(root) == []
    assert rows_that_read(root) == set(range(10))


def test_an_open_reader_sees_a_repair(root: Path, write_set: WriteSet) -> None:
    """Other hardware may compute other bytes; what is on the disk then fits, but not the digests in memory."""
    features, old, new = FeatureSet(root), make_features(10), make_features(10, seed=1)
    features.read(range(10))
    reset_shard(root, 1)
    write_set(10, shards=[1], seed=1)
    features._shards.clear()  # as when others took its place
    batch = features.read(range(10))
    for name in SHAPES:
        assert batch[name].tobytes() == b"".join(
            (new if 4 <= row < 8 else old)[name][row].tobytes() for row in range(10)
        )


def test_only_the_bad_rows_are_named(root: Path) -> None:
    shard = root / "fast/c/1/0/0/0"
    content = bytearray(shard.read_bytes())
    content[18 * 4 + 4] ^= 16  # the first byte of row 5
    shard.write_bytes(content)
    [item] = verify_feature_set(root)
    assert (item.shard, [str(key) for key in item.key_frames]) == (1, ["vidéo 1,0001"])
    assert rows_that_read(root) == set(range(10)) - {5}
