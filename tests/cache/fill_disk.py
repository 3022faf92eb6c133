"""Writes feature sets and HDF5 files on a file system of 8 MB that fills up; see test_feature_store_disk.py.

Arguments: an empty folder to mount on, and one for a set that is written undisturbed.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cache.feature_store import FeatureWriter, verify_feature_set
from cache.proposal_store import DetectorSpec, Proposals, read_proposals, write_proposals
from cache.spec import FeatureSpec
from cache.split_store import load_split, publish_split, split_file
from cache.store import Store
from stal_data.errors import StalError
from stal_data.keyframes import KeyFrame
from tests.cache.conftest import write_rows
from tests.cache.samples import SLOWFAST, VIT, make_split
from tests.cache.small_disk import fill, mount

SPEC = FeatureSpec(backbones=(SLOWFAST, VIT), decoder="pillow-1", dtype="float32")


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


def fill_while_exporting(disk: Path, elsewhere: Path) -> None:
    """The command says so in one line; the export that was there before stays."""
    features = write_rows(Store.open(elsewhere), SPEC, 400, rows_per_shard=100)
    output = disk / "train.h5"
    output.write_bytes(b"an earlier export")
    export = [sys.executable, "-m", "cli.main", "cache", "export", str(elsewhere), features.id, "--output", str(output)]
    ballast = fill(disk, left=60_000)
    run = subprocess.run(export, capture_output=True, text=True, check=False)
    assert run.returncode == 1, run  # -11 if HDF5 crashed
    assert run.stderr.splitlines()[-1].startswith(f"Error: '{output}' could not be written: No space left on device")
    assert output.read_bytes() == b"an earlier export"
    assert list(disk.glob(".*.partial")) == []
    ballast.unlink()
    subprocess.run(export, capture_output=True, check=True)


def fill_while_publishing(disk: Path) -> None:
    """A split and proposals that do not fit leave the ones before them, and the process lives on."""
    store, split = Store.open(disk / "store"), make_split(disk)
    digest = publish_split(store, split).digest
    few, many = make_proposals(3), make_proposals(2000)
    proposals = write_proposals(store, few)
    ballast = fill(disk, left=8_000)
    assert_full(lambda: publish_split(store, make_split(disk, seconds=300)))
    assert_full(lambda: write_proposals(store, many))
    assert load_split(store, split.dataset, split.name).digest == digest
    assert len(read_proposals(proposals).key_frames) == 3
    for path in (split_file(store, split.dataset, split.name), proposals):
        assert list(path.parent.iterdir()) == [path]
    ballast.unlink()
    assert len(read_proposals(write_proposals(store, many)).key_frames) == 2000


def make_proposals(count: int) -> Proposals:
    return Proposals(
        dataset="street",
        split="train",
        key_frames=tuple(KeyFrame("v0", 1000 * second) for second in range(count)),
        offsets_K1=np.arange(count + 1),
        boxes_N4=np.tile(np.array([0.1, 0.2, 0.3, 0.4], np.float32), (count, 1)),
        scores_N=np.ones(count, np.float32),
        detector=DetectorSpec(name="yolo", weights="sha256:0", height=8, width=8, confidence=0.1, library="none"),
    )


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    mount(folder)
    fill_while_writing(folder, Path(sys.argv[2]))
    fill_before_creating(folder)
    fill_while_exporting(folder, Path(sys.argv[2]))
    fill_while_publishing(folder)
    print("done")
