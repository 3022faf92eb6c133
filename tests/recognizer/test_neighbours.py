"""What a head sees of the key frames around: the right rows, the same people, and nothing where there is none."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cache.feature_store import FeatureSet, open_feature_set
from cache.split_store import PublishedSplit, load_split
from cache.store import Store
from recognizer_svc.data import Augmentation, LabelledFeatures, labelled_key_frames
from recognizer_svc.heads.batch import FeatureShapes
from recognizer_svc.heads.relation.config import RelationConfig
from recognizer_svc.heads.relation.model import RelationHead
from recognizer_svc.neighbours import Neighbourhood
from recognizer_svc.people import People
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame
from tests.recognizer.toy_store import LABELS

ONE = People.of(np.array([[0.1, 0.1, 0.5, 0.9]], dtype=np.float32))
COUNT = 2


def times_around(times: list[int], at: int, *, count: int, step_ms: int) -> list[int | None]:
    people = {KeyFrame("v", time): ONE for time in times} | {KeyFrame("w", at + step_ms): ONE}
    found = Neighbourhood(people, count=count, step_ms=step_ms).around(KeyFrame("v", at))
    return [None if key is None else key.time_ms for key in found]


def test_neighbours_are_the_key_frames_one_step_apart_and_missing_ones_leave_gaps() -> None:
    around = Neighbourhood({KeyFrame("v", t): ONE for t in (1000, 2000, 4000)}, count=2, step_ms=1000).around
    assert around(KeyFrame("v", 2000)) == (None, KeyFrame("v", 1000), None, KeyFrame("v", 4000))
    assert around(KeyFrame("v", 1000)) == (None, None, KeyFrame("v", 2000), None)
    assert around(KeyFrame("elsewhere", 2000)) == (None,) * 4


def test_of_denser_key_frames_the_nearest_to_a_step_counts() -> None:
    assert times_around([0, 200, 400, 600, 800, 1000, 1200], 0, count=1, step_ms=1000) == [None, 1000]
    assert times_around([0, 500, 1001, 1502, 2002], 500, count=2, step_ms=500) == [None, 0, 1001, 1502]


@given(
    st.lists(st.integers(0, 6000), max_size=12, unique=True),
    st.integers(0, 6000),
    st.integers(1, 3),
    st.integers(1, 1500),
)
def test_neighbours_are_the_nearest_within_half_a_step(times: list[int], at: int, count: int, step_ms: int) -> None:
    found = times_around(times, at, count=count, step_ms=step_ms)
    for place, time in zip((*range(-count, 0), *range(1, count + 1)), found, strict=True):
        off = [(abs(other - at - place * step_ms), other) for other in times]
        near = [(distance, other) for distance, other in off if 2 * distance < step_ms]
        assert time == (min(near)[1] if near else None)
    present = [time for time in found if time is not None]
    assert present == sorted(set(present))


@pytest.fixture(scope="module")
def split(toy_store: Store) -> PublishedSplit:
    return load_split(toy_store, "toy", "train")


@pytest.fixture(scope="module")
def load(toy_store: Store, split: PublishedSplit) -> Callable[..., LabelledFeatures]:
    """Make the training data of the toy store, with COUNT neighbours unless told otherwise."""

    def make(*, count: int = COUNT, only: KeyFrame | None = None, **options: object) -> LabelledFeatures:
        identity = open_feature_set(toy_store, "toy", "train")
        hflip = open_feature_set(toy_store, "toy", "train", view="hflip")
        shapes = FeatureShapes.of(identity.spec, identity.shapes, neighbours=count)
        around = Neighbourhood.of_split(split.key_frames, count=count, step_ms=1000) if count else None
        items = [item for item in labelled_key_frames(split, LABELS) if only in (None, item.key)]
        return LabelledFeatures(items, shapes, identity=identity, hflip=hflip, neighbourhood=around, **options)

    return make


def check_neighbours(data: LabelledFeatures, indices: list[int], split: PublishedSplit, features: FeatureSet) -> int:
    """Compare a batch with what the split and the feature set say, person by person; returns how many are there."""
    batch, known, there = data.load(indices).head, {item.key: item for item in split.key_frames}, 0
    assert batch.neighbour_boxes_NK4 is not None
    assert batch.neighbour_row_NK is not None
    owners = [(data.items[index].key, person) for index in indices for person in range(len(data.items[index].boxes_N4))]
    read = set()
    for (key, person), boxes, rows in zip(owners, batch.neighbour_boxes_NK4, batch.neighbour_row_NK, strict=True):
        name = known[key].persons[person]
        for offset, box, row in zip((-2, -1, 1, 2), boxes, rows.tolist(), strict=True):
            time_ms = key.time_ms + 1000 * offset
            other = known.get(KeyFrame(key.video, time_ms)) if time_ms >= 0 else None
            if other is None or name not in other.persons:
                assert row == -1
                continue
            there += 1
            read.add(row)
            np.testing.assert_array_equal(box, other.boxes_N4[other.persons.index(name)])
            stored = features.read([features.row_of(other.key)])
            np.testing.assert_array_equal(batch.features["slow"][row], stored["slow"][0].astype(np.float32))
    assert read | set(range(len(indices))) == set(range(len(batch.features["slow"])))
    return there


def test_a_batch_holds_each_person_in_the_key_frames_around(toy_store, load, split) -> None:
    """At both ends of videos, beside key frames without people, and for people who are not in all of them."""
    data, features = load(), open_feature_set(toy_store, "toy", "train")
    everything = list(range(len(data)))
    assert check_neighbours(data, everything, split, features) > len(everything)
    assert check_neighbours(data, [0], split, features) > 0
    for index in everything:
        check_neighbours(data, [index], split, features)


def test_each_row_is_read_once(load, monkeypatch) -> None:
    data, read = load(), []
    read_into = FeatureSet.read_into

    def counting(self, rows, out, places=None):
        read.extend(rows)
        return read_into(self, rows, out, places)

    monkeypatch.setattr(FeatureSet, "read_into", counting)
    data.load([1, 2, 0, 3, 20])
    assert len(read) == len(set(read)) > 5


def test_neighbours_change_nothing_else(load) -> None:
    options = {"augmentation": Augmentation(hflip_probability=0.5, box_jitter=0.075), "seed": 3}
    indices = list(range(12))
    plain, seeing = (load(count=count, **options).load(indices, epoch=2) for count in (0, COUNT))
    assert plain.head.neighbour_boxes_NK4 is None
    assert plain.keys == seeing.keys
    assert torch.equal(plain.targets_NC, seeing.targets_NC)
    assert torch.equal(plain.head.boxes_N4, seeing.head.boxes_N4)
    assert torch.equal(plain.head.clip_of_N, seeing.head.clip_of_N)
    for name, values in plain.head.features.items():
        assert torch.equal(values, seeing.head.features[name][: len(indices)])


def test_a_mirrored_clip_has_mirrored_neighbours(load) -> None:
    plain, mirrored = load().load([2]).head, load(augmentation=Augmentation(hflip_probability=1.0)).load([2]).head
    assert torch.equal(mirrored.neighbour_row_NK, plain.neighbour_row_NK)
    assert (plain.neighbour_row_NK > 0).any()
    assert torch.equal(mirrored.features["slow"], plain.features["slow"].flip(-1))
    there = plain.neighbour_row_NK >= 0
    x1, y1, x2, y2 = plain.neighbour_boxes_NK4[there].T
    torch.testing.assert_close(mirrored.neighbour_boxes_NK4[there], torch.stack([1 - x2, y1, 1 - x1, y2], dim=1))


def test_a_neighbour_of_two_views_in_one_batch_is_read_in_both(load) -> None:
    data = load(augmentation=Augmentation(hflip_probability=0.5), seed=1)
    batch = data.load(list(range(12)), epoch=1).head
    alone = [data.load([index], epoch=1).head for index in range(12)]
    start = 0
    for clip in alone:
        rows = slice(start, start := start + len(clip.boxes_N4))
        assert torch.equal(batch.neighbour_boxes_NK4[rows], clip.neighbour_boxes_NK4)
        for together, single in zip(
            batch.neighbour_row_NK[rows].flatten(), clip.neighbour_row_NK.flatten(), strict=True
        ):
            assert (together >= 0) == (single >= 0)
            if single >= 0:
                assert torch.equal(batch.features["slow"][together], clip.features["slow"][single])


def test_boxes_of_neighbours_are_jittered_on_their_own(load) -> None:
    plain, moved = load().load([2]).head, load(augmentation=Augmentation(box_jitter=0.075)).load([2]).head
    there = plain.neighbour_row_NK >= 0
    shifts = (moved.neighbour_boxes_NK4 - plain.neighbour_boxes_NK4)[there]
    assert (shifts != 0).any()
    sides = (plain.neighbour_boxes_NK4[..., 2:] - plain.neighbour_boxes_NK4[..., :2])[there].repeat(1, 2)
    assert (shifts.abs() <= 0.075 * sides + 1e-6).all()
    assert (moved.neighbour_boxes_NK4[~there] == 0).all()


def test_an_empty_part_of_a_step_has_the_same_form(load) -> None:
    batch = load().load([]).head
    assert batch.neighbour_boxes_NK4.shape == (0, 4, 4)
    assert batch.neighbour_row_NK.shape == (0, 4)
    assert make_head().train()(batch).shape == (0, 4)


def test_a_neighbour_that_is_not_computed_is_an_error(load, split, monkeypatch) -> None:
    """A row that the split has is needed; only key frames that the split does not have are missing to the head."""
    clip, around = KeyFrame("video0", 0), KeyFrame("video0", 2000)
    done = FeatureSet.done.fget

    def without(self):
        marks = done(self)
        marks[self.row_of(around)] = False
        return marks

    monkeypatch.setattr(FeatureSet, "done", property(without))
    load(count=1, only=clip)
    with pytest.raises(InputError, match="lacks 1 of 3 key frames, the first is video0,0002"):
        load(only=clip)


def make_head(**options: object) -> RelationHead:
    torch.manual_seed(0)
    shapes = FeatureShapes(
        arrays={"slow": (6, 8, 12), "fast": (3, 8, 12), "vit": (5, 8, 12)}, time_steps={}, neighbours=COUNT
    )
    return RelationHead(RelationConfig(channels=8, dropout=0.0, **options), shapes, 4)


def test_a_clip_s_logits_do_not_depend_on_the_other_clips(load) -> None:
    data, head = load(), make_head().eval()
    together, start = head(data.load(list(range(10))).head), 0
    for index in range(10):
        alone = head(data.load([index]).head)
        torch.testing.assert_close(alone, together[start : start + len(alone)])
        start += len(alone)


def test_the_head_takes_neighbours_normalised_as_the_actors_are(load) -> None:
    """Against the vector of each person and neighbour, put together one by one."""
    batch, head = load().load(list(range(8))).head, make_head(relation="none")
    seen = []
    head.own.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    head.train()(batch)
    own = head._pooled(batch.features, batch.boxes_N4, batch.clip_of_N).double()
    mean, scale = own.mean(dim=0), (own.var(dim=0, unbiased=False) + head.norm.eps).rsqrt()
    expected = []
    for person in range(len(own)):
        parts, flags = [(own[person] - mean) * scale], []
        for box, row in zip(batch.neighbour_boxes_NK4[person], batch.neighbour_row_NK[person].tolist(), strict=True):
            flags.append(float(row >= 0))
            one = torch.zeros_like(mean)
            if row >= 0:
                one = (head._pooled(batch.features, box[None], torch.tensor([row]))[0].double() - mean) * scale
            parts.append(one)
        expected.append(torch.cat([*parts, torch.tensor(flags, dtype=torch.float64)]))
    torch.testing.assert_close(seen[0].double(), torch.stack(expected), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(head.norm.running_mean.double(), 0.1 * mean)


def test_what_is_not_there_does_not_count(load) -> None:
    batch, head = load().load(list(range(8))).head, make_head().eval()
    other = batch.neighbour_boxes_NK4.clone()
    other[batch.neighbour_row_NK < 0] = torch.tensor([0.2, 0.1, 0.9, 0.8])
    assert torch.equal(head(batch), head(replace(batch, neighbour_boxes_NK4=other)))
    nobody = head(replace(batch, neighbour_row_NK=torch.full_like(batch.neighbour_row_NK, -1)))
    assert not torch.allclose(head(batch), nobody)
