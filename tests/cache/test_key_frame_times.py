"""Key frames within a second in every file of a store, and files of versions that had whole seconds only.

fixtures/whole_seconds.tar.gz is a store as commit 3a1f07f wrote it from tests/cache/samples.py: `make_split`, boxes
of a detector `yolo`, 6 rows of features in shards of 4 of which the first is done, and `export.h5`, an export of them.
"""

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache.feature_store import FeatureSet, FeatureWriter, RowIndex, list_feature_sets
from cache.feature_store.manage.copy import copy_feature_set
from cache.feature_store.manage.diff import diff_feature_sets
from cache.feature_store.manage.hdf5 import export_hdf5, import_hdf5
from cache.feature_store.verify import reset_shard, verify_feature_set
from cache.proposal_store import DetectorSpec, Proposals, open_proposals, write_proposals
from cache.spec import FeatureSpec
from cache.split_store import load_split, publish_split, split_file
from cache.store import Store
from stal_data.dataset import Split
from stal_data.errors import ConflictError
from stal_data.keyframes import KeyFrame
from tests.cache.plain_reader import PlainSet
from tests.cache.samples import SHAPES, make_features, make_index, make_split

FIXTURE = Path(__file__).parent / "fixtures" / "whole_seconds.tar.gz"
ROWS = 6


@pytest.fixture
def old(tmp_path: Path) -> Store:
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(tmp_path / "old", filter="data")
    return Store.open(tmp_path / "old")


def only_set(store: Store) -> FeatureSet:
    (found,) = list_feature_sets(store)
    return FeatureSet(found.path)


def write_pending(features: FeatureSet) -> None:
    """Go on with a set of the samples as precompute would."""
    manifest = features.manifest
    writer = FeatureWriter.open(
        Store.open(features.path.parents[3]),
        dataset=manifest.dataset,
        split=manifest.split,
        spec=manifest.spec,
        index=make_index(ROWS),
        shapes=manifest.shapes,
    )
    arrays = make_features(ROWS)
    for shard in writer.pending():
        rows = writer.manifest.rows_of(shard)
        with writer.claim_or_refuse(shard) as claim:
            writer.write_shard(claim, {n: v[rows.start : rows.stop] for n, v in arrays.items()})


def assert_holds_the_samples(features: FeatureSet) -> None:
    batch = features.read(range(ROWS))
    for name, values in make_features(ROWS).items():
        assert batch[name].tobytes() == values.tobytes()
    assert verify_feature_set(features.path) == []


def version(features: FeatureSet) -> int:
    found: int = json.loads((features.path / "zarr.json").read_text())["attributes"]["version"]
    return found


def test_splits_and_proposals_in_whole_seconds_are_read(old: Store, tmp_path: Path) -> None:
    split = make_split(tmp_path)
    published = load_split(old, "street", "train")
    assert [item.key for item in published.key_frames] == [item.key for item in split.key_frames]
    assert published.exclusions == {KeyFrame("v0", 99_000)}
    proposals = open_proposals(old, "street", "train")
    assert proposals.key_frames == tuple(item.key for item in split.key_frames)
    assert proposals.of(KeyFrame("v1", 2000))[1].tolist() == [np.float32(0.6)]


def test_a_split_of_the_same_content_is_not_published_again(old: Store, tmp_path: Path) -> None:
    content = split_file(old, "street", "train").read_bytes()
    published = publish_split(old, make_split(tmp_path))
    assert split_file(old, "street", "train").read_bytes() == content
    assert load_split(old, "street", "train").digest == published.digest


def test_rows_in_whole_seconds_verify_and_the_set_is_resumed_as_it_is(old: Store) -> None:
    features = only_set(old)
    assert features.key_frames == make_index(ROWS).key_frames
    assert features.done.tolist() == [True] * 4 + [False] * 2
    metadata = (features.path / "zarr.json").read_bytes()
    write_pending(features)
    assert_holds_the_samples(FeatureSet(features.path))
    assert (features.path / "zarr.json").read_bytes() == metadata
    assert version(features) == 2
    plain = PlainSet(features.path)
    assert [KeyFrame(video, int(ms)) for video, ms in zip(plain.videos, plain.times_ms, strict=True)][:ROWS] == list(
        features.key_frames
    )
    assert plain.read(5)["slow"].tobytes() == make_features(ROWS)["slow"][5].tobytes()


def test_a_damaged_shard_of_such_a_set_is_computed_again(old: Store) -> None:
    features = only_set(old)
    shard = features.path / "slow/c/0/0/0/0"
    shard.write_bytes(bytes([shard.read_bytes()[0] ^ 1]) + shard.read_bytes()[1:])
    (damaged,) = verify_feature_set(features.path)
    assert damaged.key_frames == (KeyFrame("vidéo 0", 0),)
    reset_shard(features.path, damaged.shard)
    write_pending(features)
    assert_holds_the_samples(FeatureSet(features.path))
    assert version(features) == 2


def test_copies_and_imports_of_such_a_set_have_the_same_rows(old: Store, tmp_path: Path) -> None:
    features = only_set(old)
    write_pending(features)
    for name in ("copy", "import", "old-export"):
        store = Store.open(tmp_path / name, create=True)
        if name == "copy":
            copy_feature_set(features.path, store)
        elif name == "import":
            export_hdf5(features.path, tmp_path / "new.h5")
            import_hdf5(tmp_path / "new.h5", store)
        else:
            import_hdf5(old.root / "export.h5", store)
            write_pending(only_set(store))
        made = only_set(store)
        assert version(made) == 3
        assert diff_feature_sets(features.path, made.path).same
        assert_holds_the_samples(made)


def test_files_of_a_later_version_are_refused(old: Store, store: Store, split: Split) -> None:
    publish_split(store, split)
    with h5py.File(split_file(store, "street", "train")) as file:
        assert file.attrs["version"] == 2  # which the program that wrote the fixture refuses
    features = only_set(old)
    group = features.path / "zarr.json"
    group.write_text(group.read_text().replace('"version": 2', '"version": 4'))
    with pytest.raises(ConflictError, match="is stal-features version 4, not stal-features version 2 or 3"):
        FeatureSet(features.path)


def five_a_second(split: Split) -> Split:
    """The split's key frames at 0.2, 0.4, ... s of its videos."""
    items = [
        replace(item, key=KeyFrame(item.key.video, 200 * (number % 3)), window=None)
        for number, item in enumerate(split.key_frames)
    ]
    return replace(split, key_frames=tuple(items), exclusions=frozenset({KeyFrame("v0", 40), KeyFrame("v0", 1240)}))


def test_splits_and_proposals_keep_milliseconds(store: Store, split: Split) -> None:
    split = five_a_second(split)
    publish_split(store, split)
    loaded = load_split(store, "street", "train")
    assert [str(item.key) for item in loaded.key_frames[:3]] == ["v0,0000", "v0,0000.2", "v0,0000.4"]
    assert [item.key for item in loaded.key_frames] == [item.key for item in split.key_frames]
    assert loaded.exclusions == split.exclusions
    keys = tuple(item.key for item in split.key_frames)
    boxes_N4 = np.linspace(0, 1, 4 * len(keys), dtype=np.float32).reshape(-1, 4)
    detector = DetectorSpec(name="yolo", weights="sha256:ab", height=90, width=160, confidence=0.1, library="toy 1")
    proposals = Proposals(
        dataset="street",
        split="train",
        key_frames=keys,
        offsets_K1=np.arange(len(keys) + 1),
        boxes_N4=boxes_N4,
        scores_N=np.full(len(keys), 0.5, np.float32),
        detector=detector,
    )
    write_proposals(store, proposals)
    read = open_proposals(store, "street", "train")
    assert read.key_frames == keys
    assert read.of(KeyFrame("v1", 200))[0].tolist() == boxes_N4[4:5].tolist()


def index_at(times_ms: list[int]) -> RowIndex:
    return replace(make_index(len(times_ms)), key_frames=tuple(KeyFrame("v", time_ms) for time_ms in times_ms))


def test_features_keep_milliseconds(store: Store, spec: FeatureSpec, tmp_path: Path) -> None:
    times_ms = [0, 1, 200, 400, 1000, 1040]
    index = index_at(times_ms)
    writer = FeatureWriter.open(store, dataset="d", split="s", spec=spec, index=index, shapes=SHAPES)
    with writer.claim_or_refuse(0) as claim:
        writer.write_shard(claim, make_features(ROWS))
    features = only_set(store)
    assert [key.time_ms for key in features.key_frames] == times_ms
    assert features.row_of(KeyFrame("v", 400)) == 3
    assert_holds_the_samples(features)
    plain = PlainSet(features.path)
    assert plain.times_ms[:ROWS].tolist() == times_ms
    assert plain.read(5)["vit"].tobytes() == make_features(ROWS)["vit"][5].tobytes()
    export_hdf5(features.path, tmp_path / "set.h5")
    other = Store.open(tmp_path / "other", create=True)
    assert diff_feature_sets(features.path, import_hdf5(tmp_path / "set.h5", other)).same


def test_the_digest_of_a_row_covers_every_millisecond() -> None:
    times_ms = [0, 1, 7, 999, 1000, 1001, 7000, 7200]
    digests = {replace(index_at([ms]), sources_K=np.zeros(1, np.uint64)).digest(0, [1, 2]) for ms in times_ms}
    assert len(digests) == len(times_ms)
