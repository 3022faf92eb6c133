"""Damage on disk, writers that compete, writers that die."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cache.feature_store import (
    FeatureSet,
    FeatureWriter,
    ShardClaim,
    reset_shard,
    verify_feature_set,
)
from cache.spec import FeatureSpec
from cache.store import Store
from stal_data.errors import ConflictError, InputError
from tests.cache.samples import make_features

WriteSet = Callable[..., FeatureSet]

SECOND_SHARD = Path("vit/c/1/0/0/0")


@pytest.fixture
def features(ten_rows: Path, store: Store, spec: FeatureSpec) -> FeatureSet:
    return FeatureSet(shutil.copytree(ten_rows, store.features_dir("street", "train") / spec.id))


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("offset", "message"),
    [
        (0, "the checksum of row 0 of the shard does not match"),
        (100 * 4 - 1, "the checksum of row 0 of the shard does not match"),
        (100 * 4, "the checksum of row 0 of the shard does not match"),  # the stored checksum itself
        (-5, "the checksum of its index does not match"),
        (-1, "the checksum of its index does not match"),
    ],
)
def test_one_flipped_bit_is_noticed(features: FeatureSet, offset: int, message: str) -> None:
    flip(features.path / SECOND_SHARD, offset)
    features.read([0, 9])  # other shards are fine
    with pytest.raises(InputError, match=rf"The shard '.*vit/c/1/0/0/0' is damaged: {message}.*verify --repair"):
        features.read([4])


def test_rows_beside_a_damaged_one_are_still_read(features: FeatureSet) -> None:
    flip(features.path / SECOND_SHARD, 0)
    assert (features.read([5])["vit"] == make_features(10)["vit"][5]).all()


@pytest.mark.parametrize("size", [0, 3, 60, 500])
def test_a_truncated_shard_is_an_error_and_not_a_crash(features: FeatureSet, size: int) -> None:
    os.truncate(features.path / SECOND_SHARD, size)
    with pytest.raises(InputError, match="is damaged"):
        features.read([4])


def test_a_shard_that_shrinks_after_it_was_opened_is_an_error_and_not_a_crash(features: FeatureSet) -> None:
    features.read([4])
    whole = (features.path / SECOND_SHARD).read_bytes()
    os.truncate(features.path / SECOND_SHARD, 500)
    with pytest.raises(InputError, match=rf"{SECOND_SHARD}' is damaged"):  # touching its old pages would kill us
        features.read([5])
    (features.path / SECOND_SHARD).write_bytes(whole)
    features.read([5])  # the same object sees the repair


def test_a_missing_shard_is_an_error_and_not_zeros(features: FeatureSet) -> None:
    (features.path / SECOND_SHARD).unlink()
    with pytest.raises(InputError, match="is damaged: it does not open"):
        features.read([4])


def test_a_shard_in_the_wrong_place_is_noticed_although_its_checksums_are_right(features: FeatureSet) -> None:
    shutil.copyfile(features.path / "vit/c/0/0/0/0", features.path / SECOND_SHARD)
    with pytest.raises(InputError, match=r"Row 4 .* is not what was written: its digest differs"):
        features.read([4])


def test_damaged_columns_are_noticed(features: FeatureSet) -> None:
    flip(features.path / "digest/c/0", 0)
    with pytest.raises(InputError, match=r"Row 0 .* is damaged: .*digest' does not read"):
        FeatureSet(features.path).read([0])


@pytest.mark.parametrize(
    ("array", "key", "value", "message"),
    [
        ("", "attributes", {}, "is None version None, not stal-features version 2"),
        ("vit", "data_type", "float64", "stored with data_type float64"),
        ("slow", "codecs", [{"name": "bytes"}], "stored with codecs"),
    ],
)
def test_foreign_metadata_is_refused(features: FeatureSet, array: str, key: str, value: object, message: str) -> None:
    path = features.path / array / "zarr.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ConflictError, match=message):
        FeatureSet(features.path)


def test_an_edited_spec_is_refused(features: FeatureSet) -> None:
    path = features.path / "zarr.json"
    path.write_text(path.read_text().replace("pillow-1", "pillow-9"))
    with pytest.raises(ConflictError, match=r"attributes .* were changed"):
        FeatureSet(features.path)


def test_verify_finds_damaged_shards_and_a_reset_gives_them_back(features: FeatureSet, write_set: WriteSet) -> None:
    assert verify_feature_set(features.path) == []
    flip(features.path / SECOND_SHARD, 150)
    (features.path / "slow/c/2/0/0/0").unlink()
    damaged = verify_feature_set(features.path)
    assert [item.shard for item in damaged] == [1, 2]
    for item in damaged:
        reset_shard(features.path, item.shard)
    assert FeatureSet(features.path).done.tolist() == [True] * 4 + [False] * 6
    write_set(10, shards=[1, 2])
    assert verify_feature_set(features.path) == []


def test_a_shard_has_one_writer_at_a_time(features: FeatureSet) -> None:
    writer, other = FeatureWriter(features.path), FeatureWriter(features.path)
    claim = writer.claim(1)
    assert claim is not None
    with claim:
        assert other.claim(1) is None
        assert other.owner(1).startswith(f"process {os.getpid()} on host ")
        assert other.claim(2) is not None
        with pytest.raises(ConflictError, match=f"is being written by process {os.getpid()}"):
            reset_shard(features.path, 1)
    assert other.claim(1) is not None


def test_writing_without_the_claim_is_a_bug(features: FeatureSet) -> None:
    writer = FeatureWriter(features.path)
    claim = writer.claim(0)
    claim.release()
    with pytest.raises(AssertionError):
        writer.write_shard(claim, make_features(4))


HOLD_CLAIM = """
import sys
from pathlib import Path
from cache.feature_store.claim import ShardClaim
claim = ShardClaim.take(Path(sys.argv[1]), 1)
print("held", flush=True)
sys.stdin.read()
"""


def test_the_claim_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD_CLAIM, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout.readline() == b"held\n"
        assert ShardClaim.take(tmp_path, 1) is None
        child.send_signal(signal.SIGKILL)
        child.wait()
        claim = ShardClaim.take(tmp_path, 1)
        assert claim is not None
        claim.release()
    finally:
        child.kill()
        child.communicate()


def test_leftovers_of_a_killed_writer_are_removed(features: FeatureSet, write_set: WriteSet) -> None:
    leftover = features.path / "vit/c/1/0/0/0.1234.partial"
    leftover.write_bytes(b"half")
    reset_shard(features.path, 1)
    write_set(10, shards=[1])
    assert not leftover.exists()


def test_features_of_another_shape_are_refused(features: FeatureSet) -> None:
    writer = FeatureWriter(features.path)
    with writer.claim(0) as claim, pytest.raises(InputError, match=r"'slow' has shape \[3, 6, 2, 3\]; the shard needs"):
        writer.write_shard(claim, make_features(3))
