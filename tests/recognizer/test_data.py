"""What a batch holds: the right rows, mirrored together with their boxes, the same on every machine."""

import threading
from dataclasses import replace
from functools import partial
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.feature_store import FeatureSet, open_feature_set
from cache.split_store import load_split
from cache.store import Store
from recognizer_svc.batching import clip_groups, epoch_plan, head_batch, read_ahead
from recognizer_svc.boxes import check_boxes, jitter_boxes
from recognizer_svc.data import Augmentation, LabelledFeatures, labelled_key_frames
from recognizer_svc.heads.batch import FeatureShapes
from recognizer_svc.training.seeds import seed_of
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame
from tests.recognizer.feature_maps import feature_shapes
from tests.recognizer.toy_store import LABELS, VIT_FRAMES, make_scene, make_store, toy_spec

TRAIN = 42


def open_train(store: Store, **options: object) -> tuple[LabelledFeatures, FeatureSet]:
    identity = open_feature_set(store, "toy", "train")
    hflip = open_feature_set(store, "toy", "train", view="hflip")
    items = labelled_key_frames(load_split(store, "toy", "train"), LABELS)
    shapes = FeatureShapes.of(identity.spec, identity.shapes)
    return LabelledFeatures(items, shapes, identity=identity, hflip=hflip, **options), identity


def test_key_frames_without_people_are_left_out(toy_store):
    split = load_split(toy_store, "toy", "train")
    items = labelled_key_frames(split, LABELS)
    assert len(split.key_frames) == TRAIN
    assert len(items) == sum(len(item.boxes_N4) > 0 for item in split.key_frames) == TRAIN - TRAIN // 7


def test_targets_follow_the_label_map(toy_store):
    split = load_split(toy_store, "toy", "train")
    by_key = {item.key: item for item in split.key_frames}
    for item in labelled_key_frames(split, LABELS):
        for person, ids in enumerate(by_key[item.key].labels):
            assert {LABELS.ids[index] for index in np.flatnonzero(item.targets_NC[person])} == ids


def test_a_batch_holds_the_rows_that_were_asked_for(toy_store):
    data, _ = open_train(toy_store)
    indices = [17, 3, 30, 3]
    batch = data.load(indices)
    scenes = {scene.key_frame.key: scene for scene in (make_scene(index, seed=0) for index in range(TRAIN))}
    wanted = [scenes[data.items[index].key] for index in indices]
    assert batch.keys == tuple(scene.key_frame.key for scene in wanted)
    for clip, scene in enumerate(wanted):
        # Stored as float16: 11 bits of about 3.
        np.testing.assert_allclose(batch.head.features["slow"][clip], scene.slow, atol=4e-3)
        np.testing.assert_allclose(batch.head.features["vit"][clip], scene.vit, atol=4e-3)
        np.testing.assert_allclose(batch.head.features["vit_moments"][clip], scene.moments, rtol=1e-6)
        mine = batch.head.clip_of_N.numpy() == clip
        np.testing.assert_array_equal(batch.head.boxes_N4[mine], scene.key_frame.boxes_N4)
        np.testing.assert_array_equal(batch.targets_NC[mine], data.items[indices[clip]].targets_NC)
    assert batch.head.features["slow"].dtype.is_floating_point
    assert batch.head.features["slow"].element_size() == 4


def tensors(batch):
    head = batch.head
    return [
        head.features["slow"],
        head.features["fast"],
        head.features["vit"],
        head.features["vit_moments"],
        head.boxes_N4,
        batch.targets_NC,
    ]


def test_a_batch_keeps_its_features_while_later_ones_are_read_into_the_same_buffers(toy_store):
    data, _ = open_train(toy_store)
    batch = data.load([0, 5, 9])
    before = [tensor.clone() for tensor in tensors(batch)]
    data.load([20, 21])
    data.load([1, 2, 3, 4, 6])
    assert all(torch.equal(now, then) for now, then in zip(tensors(batch), before, strict=True))


def test_maps_that_stay_as_stored_are_converted_when_they_move(toy_store):
    data, identity = open_train(toy_store)
    indices, cpu = [4, 2], torch.device("cpu")
    items = [data.items[index] for index in indices]
    features = identity.read([identity.row_of(item.key) for item in items])
    shapes = FeatureShapes.of(identity.spec, identity.shapes)
    kept = head_batch(features, [item.boxes_N4 for item in items], shapes, [item.key for item in items], convert=False)
    assert kept.features["slow"].dtype == torch.float16
    expected, moved = data.load(indices).head, kept.to(cpu)
    assert moved.features["slow"].dtype == torch.float32
    assert torch.equal(moved.features["slow"], expected.features["slow"])
    assert torch.equal(moved.features["vit_moments"], expected.features["vit_moments"])


@pytest.mark.gpu
def test_page_locked_batches_are_the_same_on_the_device(toy_store):
    data, _ = open_train(toy_store)
    device = torch.device("cuda")
    plan = [[index, index + 1] for index in range(0, 20, 2)]
    for part, batch in zip(plan, read_ahead(partial(data.load, pinned=True), plan, 2), strict=True):
        assert batch.head.features["slow"].is_pinned()
        moved, expected = batch.head.to(device), data.load(part).head
        assert torch.equal(moved.features["slow"].cpu(), expected.features["slow"])
        assert torch.equal(moved.features["vit"].cpu(), expected.features["vit"])


def test_a_mirrored_clip_has_mirrored_features_and_boxes(toy_store):
    plain, _ = open_train(toy_store)
    mirrored, _ = open_train(toy_store, augmentation=Augmentation(hflip_probability=1.0))
    indices = list(range(6))
    before, after = plain.load(indices), mirrored.load(indices)
    np.testing.assert_array_equal(after.head.features["slow"], before.head.features["slow"].flip(-1))
    x1, y1, x2, y2 = before.head.boxes_N4.numpy().T
    np.testing.assert_allclose(after.head.boxes_N4, np.stack([1 - x2, y1, 1 - x1, y2], axis=1), atol=1e-6)
    np.testing.assert_array_equal(after.targets_NC, before.targets_NC)


def test_a_mixed_batch_mirrors_each_clip_or_not(toy_store):
    plain, _ = open_train(toy_store)
    mixed, _ = open_train(toy_store, augmentation=Augmentation(hflip_probability=0.5))
    indices = list(range(12))
    before, after = plain.load(indices), mixed.load(indices, epoch=1)
    views = set()
    for clip in indices:
        mine = before.head.clip_of_N == clip
        same = bool((after.head.features["slow"][clip] == before.head.features["slow"][clip]).all())
        assert same or bool((after.head.features["slow"][clip] == before.head.features["slow"][clip].flip(-1)).all())
        assert same == bool((after.head.boxes_N4[mine] == before.head.boxes_N4[mine]).all())
        views.add(same)
    assert views == {True, False}


def test_augmentation_depends_on_the_key_frame_and_epoch_not_on_the_batch(toy_store):
    options = {"augmentation": Augmentation(hflip_probability=0.5, box_jitter=0.075), "seed": 3}
    data, _ = open_train(toy_store, **options)
    again, _ = open_train(toy_store, **options)
    whole, alone = data.load([4, 9, 20], epoch=2), again.load([9], epoch=2)
    mine = whole.head.clip_of_N == 1
    np.testing.assert_array_equal(whole.head.boxes_N4[mine], alone.head.boxes_N4)
    np.testing.assert_array_equal(whole.head.features["slow"][1], alone.head.features["slow"][0])
    next_epoch = data.load([9], epoch=3)
    assert (next_epoch.head.boxes_N4 != alone.head.boxes_N4).any()


def test_jitter_stays_within_its_bounds_and_the_frame():
    boxes = np.array([[0.0, 0.5, 0.4, 1.0]], dtype=np.float32)
    random = np.random.default_rng(0)
    moved = np.concatenate([jitter_boxes(boxes, 0.075, random) for _ in range(500)])
    assert moved.min() >= 0
    assert moved.max() <= 1
    shifts = np.abs(moved - boxes)
    assert (shifts.max(axis=0) <= np.array([0.03, 0.0375, 0.03, 0.0375]) + 1e-6).all()
    assert (shifts.max(axis=0) > 0.02).all()


def test_a_rank_without_clips_gets_an_empty_batch(toy_store):
    data, _ = open_train(toy_store)
    batch = data.load([])
    assert batch.head.features["slow"].shape == (0, 6, 8, 12)
    assert batch.targets_NC.shape == (0, 4)


def test_shapes_of_a_choice_of_streams(toy_store):
    features = open_feature_set(toy_store, "toy", "train")
    shapes = FeatureShapes.of(features.spec, features.shapes, ["vit"])
    assert shapes == feature_shapes(slow=None, fast=None, vit=(5, 10, 14), vit_frames=VIT_FRAMES)
    assert FeatureShapes.from_dict(shapes.to_dict()) == shapes
    with pytest.raises(InputError, match=r"data.streams is \['vit'\], but feature set \w+ holds \['slowfast'\]"):
        FeatureShapes.of(toy_spec(vit=False), {"slow": (6, 8, 12), "fast": (3, 8, 12)}, ["vit"])


@settings(max_examples=60)
@given(st.integers(1, 60), st.integers(1, 6), st.integers(1, 4), st.integers(0, 5))
def test_every_clip_once_an_epoch_in_the_same_steps_whatever_the_number_of_ranks(clips, per_rank, ranks, epoch):
    batch = per_rank * ranks
    plans = [epoch_plan(clips, batch, seed=1, epoch=epoch, rank=rank, world_size=ranks) for rank in range(ranks)]
    alone = epoch_plan(clips, batch, seed=1, epoch=epoch, rank=0, world_size=1)
    assert {len(plan) for plan in plans} == {len(alone)} == {-(-clips // batch)}
    for step, whole in enumerate(alone):
        parts = [plan[step] for plan in plans]
        assert sorted(chain.from_iterable(parts)) == sorted(whole)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert len(whole) <= batch
    assert sorted(chain.from_iterable(alone)) == list(range(clips))


def test_epochs_have_different_orders():
    first, second = (epoch_plan(50, 50, seed=0, epoch=epoch, rank=0, world_size=1) for epoch in (1, 2))
    assert first != second


def test_seeds_are_the_same_on_every_machine():
    assert seed_of(0, "order", 1) == 3560704936019802908
    assert seed_of(1, 23) != seed_of(12, 3)


def test_groups_respect_both_limits_and_a_crowd_stands_alone():
    counts = [3, 0, 4, 9, 1, 1, 1, 1]
    groups = clip_groups(counts, max_clips=3, max_actors=7)
    assert groups == [[0, 1, 2], [3], [4, 5, 6], [7]]


def test_read_ahead_keeps_the_order_and_stays_close():
    started, lock = [], threading.Lock()

    def load(part):
        with lock:
            started.append(part[0])
        return part[0]

    results = read_ahead(load, [[i] for i in range(50)], threads=3)
    assert next(results) == 0
    assert len(started) <= 4
    assert list(results) == list(range(1, 50))


def test_an_error_while_reading_reaches_the_consumer():
    def load(part):
        raise InputError(f"row {part[0]}")

    with pytest.raises(InputError, match="row 0"):
        next(read_ahead(load, [[0], [1], [2]], threads=2))


@pytest.mark.parametrize(
    "box", [[0.1, 0.1, np.nan, 0.5], [0.5, 0.1, 0.2, 0.5], [-0.1, 0, 0.5, 0.5], [0, 0, 1.01, 1], [0, 0, np.inf, 1]]
)
def test_impossible_boxes_are_refused(box):
    with pytest.raises(InputError, match=r"Box .* of v,0003 must be x1,y1,x2,y2"):
        check_boxes(KeyFrame("v", 3000), np.array([[0, 0, 1, 1], box], dtype=np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused_by_key_frame(value):
    slow = np.ones((2, 6, 8, 12), dtype=np.float16)
    slow[1, 2, 3, 4] = value
    features = {"slow": slow, "fast": np.ones((2, 3, 8, 12), dtype=np.float16)}
    shapes = feature_shapes(slow=(6, 8, 12), fast=(3, 8, 12), vit=None, vit_frames=0)
    boxes = [np.empty((0, 4), np.float32)] * 2
    with pytest.raises(InputError, match="features 'slow' of v,0008 hold NaN or infinity"):
        head_batch(features, boxes, shapes, [KeyFrame("v", 7000), KeyFrame("v", 8000)])


def test_an_unfinished_feature_set_is_refused(tmp_path):
    store = make_store(tmp_path / "store", train=20, test=7, views=("identity",))
    features = open_feature_set(store, "toy", "train")
    (features.path / "done" / "c" / "1").unlink()
    items = labelled_key_frames(load_split(store, "toy", "train"), LABELS)
    shapes = FeatureShapes.of(features.spec, features.shapes)
    with pytest.raises(InputError, match=r"lacks 4 of 18 key frames.*finish it by running 'stal-cli precompute' again"):
        LabelledFeatures(items, shapes, identity=open_feature_set(store, "toy", "train"))


def test_a_split_without_annotations_or_actions_is_refused(toy_store):
    split = load_split(toy_store, "toy", "train")
    with pytest.raises(InputError, match="has no annotations"):
        labelled_key_frames(replace(split, annotated=False), LABELS)
    empty = tuple(item for item in split.key_frames if not len(item.boxes_N4))
    with pytest.raises(InputError, match="nobody performs an action"):
        labelled_key_frames(replace(split, key_frames=empty), LABELS)
