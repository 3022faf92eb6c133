"""Writes feature sets on a file system of 8 MB that fills up; see test_feature_store_disk.py.

Arguments: an empty folder to mount on, and one for a set that is written undisturbed.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cache.feature_store import FeatureWriter, verify_feature_set
from cache.spec import FeatureSpec
from cache.store import Store
from stal_data.errors import StalError
from tests.cache.conftest import write_rows
from tests.cache.samples import SLOWFAST, VIT
from tests.cache.small_disk import fill, mount

SPEC = FeatureSpec(slowfast=SLOWFAST, vit=VIT, decoder="pillow-1", dtype="float32")


def assert_full(write: Callable[[], object]) -> None:
    with pytest.raises(StalError, match=r"could not be written: No space left on device .*make room and run the same"):
        write()


def content(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def fill_while_writing(disk: Path, elsewhere: Path) -> None:
    """The error is clear, what was written before is whole, and the same run goes on after room was made."""
    store = Store.open(disk / "store", create=True)
    features = write_rows(store, SPEC, 400, rows_per_shard=100, shards=[0])
    ballast = fill(disk, left=60_000)  # less than one more shard takes
    assert_full(lambda: write_rows(store, SPEC, 400, rows_per_shard=100, shards=[1]))
    assert features.done.tolist() == [True] * 100 + [False] * 300
    assert verify_feature_set(features.path) == []
    ballast.unlink()
    write_rows(store, SPEC, 400, rows_per_shard=100, shards=FeatureWriter(features.path).pending())
    reference = write_rows(Store.open(elsewhere, create=True), SPEC, 400, rows_per_shard=100)
    assert content(features.path) == content(reference.path)


def fill_before_creating(disk: Path) -> None:
    """A disk too full for a new set leaves none."""
    store = Store.open(disk / "empty", create=True)
    ballast = fill(disk, left=8_000)
    assert_full(lambda: write_rows(store, SPEC, 400, rows_per_shard=100, shards=[]))
    assert [path.name for path in store.features_dir("street", "train").glob("*") if path.name != ".locks"] == []
    ballast.unlink()
    assert write_rows(store, SPEC, 10).complete


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    mount(folder)
    fill_while_writing(folder, Path(sys.argv[2]))
    fill_before_creating(folder)
    print("done")
