"""What a store promises wherever it is: in a folder, in a bucket, in a bucket whose shards are kept on the disk."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache.feature_store import (
    DamagedError,
    FeatureWriter,
    list_feature_sets,
    open_feature_set,
    reset_shard,
    verify_feature_set,
)
from cache.feature_store.manage.copy import copy_feature_set
from cache.proposal_store import DetectorSpec, Proposals, list_proposals, open_proposals, write_proposals
from cache.spec import FeatureSpec
from cache.split_store import list_splits, load_split, publish_split
from cache.store import Store
from stal_data.dataset import Split
from stal_data.errors import ConflictError, InputError, NotFoundError
from stal_data.keyframes import KeyFrame
from tests.cache.conftest import write_rows
from tests.cache.object_store.conftest import OpenStore, machine, proxy  # noqa: F401 - fixtures
from tests.cache.samples import SHAPES, make_features, make_index

SHARD = "features/street/train/{}/vit/c/1/0/0/0"
DETECTOR = DetectorSpec(name="person", weights="sha256:ab", height=180, width=320, confidence=0.3, library="8")


@pytest.fixture(params=["folder", "bucket", "staged bucket"])
def at(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Store]:
    """Open the store as a machine of this name."""
    if request.param == "folder":
        return lambda name: Store.open(tmp_path / "store", create=True)
    open_bucket: OpenStore = request.getfixturevalue("machine")
    stage_bytes = 10**6 if request.param == "staged bucket" else None
    return lambda name: open_bucket(name, stage_bytes)


def change(store: Store, name: str, edit: Callable[[bytes], bytes]) -> None:
    """Change a file or an object behind everybody's back."""
    if store.mirror is None:
        (store.root / name).write_bytes(edit((store.root / name).read_bytes()))
        return
    found = store.mirror.bucket.get(name)
    assert found is not None
    store.mirror.bucket.put(name, edit(found.content))


def test_rows_are_read_as_they_were_written_and_undone_ones_never(
    at: Callable[[str], Store], spec: FeatureSpec
) -> None:
    arrays = make_features(10)
    write_rows(at("one"), spec, 10, shards=[0, 2])
    features = open_feature_set(at("other"), "street", "train")
    assert features.done.tolist() == [True] * 4 + [False] * 4 + [True] * 2
    batch = features.read([9, 0, 3, 0])
    assert all((batch[name] == values[[9, 0, 3, 0]]).all() for name, values in arrays.items())
    assert (features.read([9, 0], ["vit"])["vit"] == arrays["vit"][[9, 0]]).all()
    with pytest.raises(InputError, match=r"Row 5 \(vidéo 1,0001\) of .* is not computed yet, like 4 of 10"):
        features.read([0, 5])
    write_rows(at("one"), spec, 10, shards=[1])
    assert (features.read([5])["slow"] == arrays["slow"][5]).all()
    assert features.complete


def test_a_shard_has_one_writer(at: Callable[[str], Store], spec: FeatureSpec) -> None:
    one, other = (FeatureWriter(write_rows(at(name), spec, 10, shards=[]).path) for name in ("one", "other"))
    claim = one.claim(0)
    assert claim is not None
    with claim:
        assert other.claim(0) is None
        with pytest.raises(ConflictError, match=r"Shard 0 of .* is being written by process \d+ on host"):
            other.claim_or_refuse(0)
        with other.claim_or_refuse(1):
            pass
    with other.claim_or_refuse(0):
        assert other.is_pending(0)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sources_K": np.arange(10, dtype=np.uint64)}, "source"),
        ({"windows_K2": np.ones((10, 2), np.int64)}, "window of 10 key frames"),
        ({"key_frames": (KeyFrame("a", 0), *make_index(10).key_frames[1:])}, "key frames: 10 / 10, for example a,0000"),
    ],
)
def test_rows_of_other_frames_are_not_mixed_in(
    at: Callable[[str], Store], spec: FeatureSpec, change: dict[str, object], field: str
) -> None:
    write_rows(at("one"), spec, 10, shards=[0])
    index = replace(make_index(10), **change)
    with pytest.raises(ConflictError, match=field):
        FeatureWriter.open(at("other"), dataset="street", split="train", spec=spec, index=index, shapes=SHAPES)


def test_another_spec_lies_beside_and_reading_it_by_mistake_names_the_fields(
    at: Callable[[str], Store], spec: FeatureSpec
) -> None:
    flipped, store = spec.with_view("hflip"), at("other")
    plain, mirrored = write_rows(at("one"), spec, 10), write_rows(at("one"), flipped, 10, seed=1)
    assert open_feature_set(store, "street", "train").id == plain.id
    assert open_feature_set(store, "street", "train", view="hflip").id == mirrored.id
    assert open_feature_set(store, "street", "train", set_id=mirrored.id).spec == flipped
    other = replace(spec, decoder="pillow-2")
    with pytest.raises(ConflictError, match=rf"{plain.id}: decoder: pillow-2 / pillow-1;"):
        open_feature_set(store, "street", "train", spec=other)
    write_rows(at("one"), other, 10)
    with pytest.raises(InputError, match=r"several feature sets of view identity.*decoder: pillow-\d / pillow-\d"):
        open_feature_set(store, "street", "train")


def test_sets_that_do_not_exist_are_errors_that_help(at: Callable[[str], Store], spec: FeatureSpec) -> None:
    with pytest.raises(NotFoundError, match="run 'stal-cli precompute'"):
        open_feature_set(at("one"), "street", "train")
    features = write_rows(at("one"), spec, 10)
    with pytest.raises(NotFoundError, match=f"Did you mean '{features.id}'"):
        open_feature_set(at("other"), "street", "train", set_id=features.id[:-1] + "x")
    with pytest.raises(NotFoundError, match="precompute with --view hflip"):
        open_feature_set(at("other"), "street", "train", view="hflip")


def test_the_list_tells_coverage(at: Callable[[str], Store], spec: FeatureSpec) -> None:
    write_rows(at("one"), spec, 10, shards=[1])
    write_rows(at("one"), spec, 3, split="test")
    test, train = sorted(list_feature_sets(at("other")), key=lambda info: info.split)
    assert (train.split, train.num_done, train.num_rows, train.complete) == ("train", 4, 10, False)
    assert (test.split, test.num_done, test.complete) == ("test", 3, True)
    assert train.num_bytes > test.num_bytes > 0
    assert [info.split for info in list_feature_sets(at("other"), "street", "test")] == ["test"]
    assert list_feature_sets(at("other"), "elsewhere") == []


def test_damage_is_noticed_and_repaired(at: Callable[[str], Store], spec: FeatureSpec) -> None:
    write_rows(at("one"), spec, 10)
    change(at("one"), SHARD.format(spec.id), lambda content: bytes([content[0] ^ 1]) + content[1:])
    features = open_feature_set(at("other"), "street", "train")
    with pytest.raises(DamagedError, match="the checksum of row 0 of the shard does not match"):
        features.read([4])
    (found,) = verify_feature_set(features.path)
    assert found.shard == 1
    reset_shard(features.path, 1)
    with pytest.raises(InputError, match="is not computed yet, like 4 of 10 rows"):
        open_feature_set(at("third"), "street", "train").read([4])
    write_rows(at("one"), spec, 10, shards=[1])
    assert verify_feature_set(features.path) == []
    assert (features.read([4])["vit"] == make_features(10)["vit"][4]).all()


def test_a_copy_goes_on_where_it_was_left(at: Callable[[str], Store], spec: FeatureSpec, tmp_path: Path) -> None:
    source = write_rows(Store.open(tmp_path / "source", create=True), spec, 10).path
    write_rows(at("one"), spec, 10, shards=[1])
    result = copy_feature_set(source, at("one"))
    assert (result.copied, result.present) == (6, 4)
    back = Store.open(tmp_path / "back", create=True)
    result = copy_feature_set(open_feature_set(at("other"), "street", "train").path, back)
    assert (result.copied, result.present) == (10, 0)
    assert verify_feature_set(back.features_dir("street", "train") / spec.id) == []


def test_a_published_split_is_there_for_all(at: Callable[[str], Store], split: Split) -> None:
    published = publish_split(at("one"), split)
    assert load_split(at("other"), "street", "train").digest == published.digest
    assert list_splits(at("other")) == [("street", "train")]
    with pytest.raises(NotFoundError, match="street/test is not published in"):
        load_split(at("other"), "street", "test")
    change(at("one"), "annotations/street/train/split.h5", lambda content: content[: len(content) // 2])
    with pytest.raises(InputError, match=r"split\.h5"):
        load_split(at("other"), "street", "train")
    assert publish_split(at("one"), split).digest == published.digest
    assert load_split(at("other"), "street", "train").digest == published.digest


def test_proposals_are_there_for_all_and_replaced_as_a_whole(at: Callable[[str], Store]) -> None:
    with pytest.raises(NotFoundError, match=r"no proposals for street/train in"):
        open_proposals(at("other"), "street", "train")
    for score in (0.5, 0.75):
        write_proposals(at("one"), proposals(score))
        assert open_proposals(at("other"), "street", "train").scores_N.tolist() == [score]
    assert [info.name for info in list_proposals(at("other"))] == ["person"]


def proposals(score: float) -> Proposals:
    return Proposals(
        dataset="street",
        split="train",
        key_frames=(KeyFrame("v0", 0),),
        offsets_K1=np.array([0, 1]),
        boxes_N4=np.array([[0.1, 0.2, 0.5, 0.9]], np.float32),
        scores_N=np.array([score], np.float32),
        detector=DETECTOR,
    )


def test_weights_are_found_and_none_outside_their_folder(at: Callable[[str], Store]) -> None:
    store = at("one")
    path = store.weights_dir / "backbones" / "w.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    store.backend.publish(path)
    other = at("other")
    assert other.weights_file("weights", "backbones/w.safetensors").read_bytes() == b"weights"
    assert [found.name for found in other.find_weights()] == ["w.safetensors"]
    with pytest.raises(NotFoundError, match=r"Did you mean 'backbones/w\.safetensors'"):
        other.weights_file("weights", "backbones/v.safetensors")
    with pytest.raises(InputError, match="is outside"):
        other.weights_file("weights", "../runs/w.safetensors")
