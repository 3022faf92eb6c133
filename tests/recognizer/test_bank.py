"""The long-term feature bank: whose vectors a clip is given, and what the head makes of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cache.feature_store import FeatureSet, open_feature_set
from cache.split_store import PublishedSplit, load_split
from cache.store import Store
from recognizer_svc.bank import Bank
from recognizer_svc.boxes import mirrored_boxes
from recognizer_svc.data import Augmentation, LabelledFeatures, labelled_key_frames
from recognizer_svc.heads.batch import FeatureShapes
from recognizer_svc.heads.regions import Regions
from recognizer_svc.heads.relation.config import RelationConfig
from recognizer_svc.heads.relation.model import RelationHead
from recognizer_svc.heads.roi import POOLINGS, actor_regions
from recognizer_svc.neighbours import Neighbourhood
from recognizer_svc.people import People
from recognizer_svc.runs.events import read_events
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.head_file import HeadInfo
from recognizer_svc.training.initial_head import check_head_fits
from recognizer_svc.training.inputs import open_inputs
from recognizer_svc.training.recipe import parse_recipe
from recognizer_svc.training.run import train_run
from stal_data.errors import ConflictError, InputError
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame
from tests.recognizer.conftest import make_run
from tests.recognizer.toy_store import ACAR, COLUMNS, LABELS, PLACES, ROWS, Scene, write_split

REACH_S = 2
ONE = People.of(np.array([[0.1, 0.1, 0.5, 0.9]], dtype=np.float32))
NOBODY = People.of(np.empty((0, 4), dtype=np.float32))
REGIONS = Regions(roi_size=7, pooling="mean_max")
BANKED = ["head={kind: relation, channels: 8}", f"data.bank_s={REACH_S}"]


def test_a_window_ends_with_the_video_and_has_gaps_where_nobody_is() -> None:
    line = np.array([[1, 0.2, 1, 0.6]], dtype=np.float32)
    people = {KeyFrame("v", time_ms): ONE for time_ms in (0, 1000, 2000, 5000)} | {
        KeyFrame("v", 3000): NOBODY,
        KeyFrame("v", 4000): People.of(np.concatenate([line, ONE.boxes_N4])),
        KeyFrame("w", 1000): ONE,
        KeyFrame("alone", 7000): ONE,
    }
    around = Neighbourhood(people, count=0, step_ms=1000, bank_ms=2000)

    def times(key: KeyFrame) -> list[int]:
        assert all(other.video == key.video and np.array_equal(boxes, ONE.boxes_N4) for other, boxes in window(key))
        return [other.time_ms for other, _ in window(key)]

    window = around.window
    assert times(KeyFrame("v", 0)) == [1000, 2000]
    assert times(KeyFrame("v", 2000)) == [0, 1000, 4000]  # a box without area is nobody
    assert times(KeyFrame("v", 5000)) == [4000]
    assert times(KeyFrame("v", 3400)) == [2000, 4000, 5000]  # the key frame itself need not be known
    assert times(KeyFrame("alone", 7000)) == times(KeyFrame("elsewhere", 0)) == []


@given(st.sets(st.integers(0, 9000), max_size=12), st.integers(0, 9000), st.integers(0, 4000))
def test_a_window_has_all_other_key_frames_within_its_reach(times: set[int], at: int, reach_ms: int) -> None:
    people = {KeyFrame("v", time_ms): ONE for time_ms in times}
    around = Neighbourhood(people, count=0, step_ms=1, bank_ms=reach_ms)
    found = [key.time_ms for key, _ in around.window(KeyFrame("v", at))]
    assert found == sorted(time_ms for time_ms in times if 0 < abs(time_ms - at) <= reach_ms)


@pytest.fixture(scope="module")
def split(toy_store: Store) -> PublishedSplit:
    return load_split(toy_store, "toy", "train")


@pytest.fixture(scope="module")
def shapes(toy_store: Store) -> FeatureShapes:
    identity = open_feature_set(toy_store, "toy", "train")
    return FeatureShapes.of(identity.spec, identity.shapes, bank=REGIONS)


@pytest.fixture(scope="module")
def load(toy_store: Store, split: PublishedSplit, shapes: FeatureShapes) -> Callable[..., LabelledFeatures]:
    """Make the training data of the toy store, with a bank unless told otherwise."""

    def make(*, banked: bool = True, max_bytes: int = 2**30, **options: object) -> LabelledFeatures:
        identity = open_feature_set(toy_store, "toy", "train")
        hflip = open_feature_set(toy_store, "toy", "train", view="hflip")
        around = Neighbourhood.of_split(split.key_frames, count=0, step_ms=1000, bank_ms=1000 * REACH_S)
        seen = {"neighbourhood": around, "bank": Bank(shapes, REGIONS, max_bytes=max_bytes)}
        read = shapes if banked else replace(shapes, bank_channels=0)
        items = labelled_key_frames(split, LABELS)
        return LabelledFeatures(items, read, identity=identity, hflip=hflip, **(seen if banked else {}), **options)

    return make


def plain_vectors(
    split: PublishedSplit, features: FeatureSet, key: KeyFrame, *, mirrored: bool = False
) -> torch.Tensor:
    """The vectors around a key frame, person by person, in the order of time."""
    found = []
    for item in split.key_frames:
        if item.key.video != key.video or not 0 < abs(item.key.time_ms - key.time_ms) <= 1000 * REACH_S:
            continue
        stored = features.read([features.row_of(item.key)])
        for box in mirrored_boxes(item.boxes_N4) if mirrored else item.boxes_N4:
            parts = []
            for name in ("slow", "fast", "vit"):
                values = torch.from_numpy(stored[name].astype(np.float32))
                region = actor_regions(values, torch.from_numpy(box[None]), torch.tensor([0]), 7)
                parts += [pool(region)[0] for pool in POOLINGS["mean_max"]]
            found.append(torch.cat(parts))
    return torch.stack(found) if found else torch.empty(0, 28)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("max_bytes", [2**30, 1000])
def test_a_clip_is_given_everybody_around_it_once(toy_store, split, load, monkeypatch, mirrored, max_bytes) -> None:
    """Also where most vectors are dropped again; boxes are mirrored and never jittered."""
    monkeypatch.setattr(Bank, "check_room", lambda *_, **__: None)
    data = load(max_bytes=max_bytes, augmentation=Augmentation(hflip_probability=float(mirrored), box_jitter=0.07))
    features = open_feature_set(toy_store, "toy", "train", view="hflip" if mirrored else "identity")
    indices = list(range(len(data)))
    batch = data.load(indices).head
    assert len(batch.bank_VC.unique(dim=0)) == len(batch.bank_VC)
    assert batch.bank_seen_BV.any(dim=0).all()
    assert not batch.bank_seen_BV.any(dim=1).all()  # somebody is alone
    for index, seen_V in zip(indices, batch.bank_seen_BV, strict=True):
        expected = plain_vectors(split, features, data.items[index].key, mirrored=mirrored)
        alone = data.load([index]).head
        assert alone.bank_seen_BV.all()
        torch.testing.assert_close(alone.bank_VC, expected)
        mine = batch.bank_VC[seen_V]
        torch.testing.assert_close(mine[mine[:, 0].argsort()], expected[expected[:, 0].argsort()])


def test_a_batch_of_both_views_has_both(load) -> None:
    data = load(augmentation=Augmentation(hflip_probability=0.5), seed=1)
    batch = data.load(list(range(12)), epoch=1).head
    for index, seen_V in enumerate(batch.bank_seen_BV):
        alone = data.load([index], epoch=1).head
        mine = batch.bank_VC[seen_V]
        assert torch.equal(mine[mine[:, 0].argsort()], alone.bank_VC[alone.bank_VC[:, 0].argsort()])


def test_the_bank_changes_nothing_else(load) -> None:
    options = {"augmentation": Augmentation(hflip_probability=0.5, box_jitter=0.075), "seed": 3}
    plain, seeing = (load(banked=banked, **options).load(list(range(12)), epoch=2) for banked in (False, True))
    assert plain.head.bank_VC is plain.head.bank_seen_BV is None
    assert torch.equal(plain.targets_NC, seeing.targets_NC)
    assert torch.equal(plain.head.boxes_N4, seeing.head.boxes_N4)
    for name, values in plain.head.features.items():
        assert torch.equal(values, seeing.head.features[name])


def test_a_key_frame_around_that_is_not_computed_is_an_error(load, monkeypatch) -> None:
    done = FeatureSet.done.fget

    def without(self):
        marks = done(self)
        marks[self.row_of(KeyFrame("video0", 2000))] = False
        return marks

    load(banked=False)
    monkeypatch.setattr(FeatureSet, "done", property(without))
    with pytest.raises(InputError, match=r"lacks 1 of \d+ key frames, the first is video0,0002"):
        load()


def test_vectors_that_do_not_fit_are_refused(load, shapes) -> None:
    with pytest.raises(
        InputError, match=r"vectors of \d+ people in \d+ key frames, 28 channels .* views: 2, .* GiB at"
    ):
        load(max_bytes=1000)
    assert shapes.bank_channels == 28


def test_a_bank_that_no_clip_has_is_refused(toy_store, monkeypatch) -> None:
    assert open_inputs(parse_recipe(ACAR, BANKED), toy_store).shapes.bank_channels == 28
    monkeypatch.setattr(Neighbourhood, "within", lambda *_: [])
    with pytest.raises(InputError, match=r"data\.bank_s is 2, but no key frame of toy/train .* mostly 1000 ms lie"):
        open_inputs(parse_recipe(ACAR, BANKED), toy_store)


@pytest.mark.parametrize(
    ("held", "wanted", "text"),
    [
        (28, 0, "has a feature bank, and the recipe wants none: set data.bank_s to the seconds of its training"),
        (0, 28, "has no feature bank, and the recipe wants one: set data.bank_s=0"),
    ],
)
def test_a_head_file_of_the_other_kind_is_refused(shapes, held, wanted, text) -> None:
    section = RelationConfig()
    of_file, of_recipe = (replace(shapes, bank_channels=channels) for channels in (held, wanted))
    info = HeadInfo(section=section, shapes=of_file, num_classes=4, backbones={}, epoch=None, provenance={})
    with pytest.raises(ConflictError, match=text):
        check_head_fits("head.safetensors", info, section, of_recipe)


def make_head(shapes: FeatureShapes, *, started: bool = True, **options: object) -> RelationHead:
    """A relation head; started: its attention answers something, as after some training."""
    torch.manual_seed(0)
    head = RelationHead(RelationConfig(channels=8, dropout=0.0, **options), shapes, 4)
    if started:
        torch.nn.init.normal_(head.bank.out.weight, std=0.5)
        torch.nn.init.normal_(head.bank.out.bias)
    return head


def test_without_a_bank_the_head_is_as_before_and_training_starts_from_it(load, shapes) -> None:
    plain, banked = make_head(replace(shapes, bank_channels=0), started=False), make_head(shapes, started=False)
    state, started = plain.state_dict(), banked.state_dict()
    assert not any(name.startswith("bank") for name in state)
    assert all(torch.equal(values, started[name]) for name, values in state.items())
    batch = load().load(list(range(8))).head
    assert torch.equal(plain(batch), banked(batch))
    assert not torch.allclose(plain(batch), make_head(shapes)(batch))


def test_attention_equals_a_plain_computation_actor_by_actor(load, shapes) -> None:
    batch, head = load().load(list(range(8))).head, make_head(shapes)
    seen = []
    head.bank.register_forward_hook(lambda _, inputs, answer: seen.append((*inputs, answer)))
    head.eval()(batch)
    (own_ND, bank_VC, _, answer_ND), part = seen[0], head.bank
    torch.testing.assert_close(bank_VC, head.norm(batch.bank_VC))
    for own_D, clip, answer_D in zip(own_ND, batch.clip_of_N, answer_ND, strict=True):
        vectors = torch.relu(part.vector(bank_VC[batch.bank_seen_BV[clip]]))
        key, value = part.key_value(vectors).chunk(2, dim=1)
        weight = torch.softmax(key @ part.query(own_D) / 8**0.5, dim=0)
        torch.testing.assert_close(answer_D, part.out(torch.relu(part.norm(weight @ value))))


@pytest.mark.parametrize("relation", ["pairs", "attention", "none"])
def test_a_clip_s_logits_do_not_depend_on_the_other_clips(load, shapes, relation) -> None:
    data, head, start = load(), make_head(shapes, relation=relation).eval(), 0
    together = head(data.load(list(range(10))).head)
    for index in range(10):
        alone = head(data.load([index]).head)
        torch.testing.assert_close(alone, together[start : start + len(alone)])
        start += len(alone)


def test_who_has_nobody_around_is_scored_as_without_a_bank(load, shapes) -> None:
    batch, head = load().load(list(range(8))).head, make_head(shapes).eval()
    plain = RelationHead(RelationConfig(channels=8, dropout=0.0), replace(shapes, bank_channels=0), 4).eval()
    plain.load_state_dict(head.state_dict(), strict=False)
    alone = replace(batch, bank_seen_BV=batch.bank_seen_BV & (torch.arange(8) != 2)[:, None])
    lonely = batch.clip_of_N == 2
    expected = torch.where(lonely[:, None], plain(batch), head(batch))
    torch.testing.assert_close(head(alone), expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(head(alone)[lonely], head(batch)[lonely])


def test_every_batch_gives_every_parameter_a_gradient(load, shapes) -> None:
    """Else a rank without actors, or with nobody around, would leave the others waiting."""
    empty = {"bank_VC": torch.empty(0, 28), "bank_seen_BV": torch.empty(1, 0, dtype=torch.bool)}
    for batch in (load().load([]).head, load().load([0]).head, replace(load().load([0]).head, **empty)):
        head = make_head(shapes).train()
        head(batch).sum().backward()
        assert all(parameter.grad is not None for parameter in head.parameters())
        assert all(torch.isfinite(parameter.grad).all() for parameter in head.parameters())


def distant_scenes(videos: int, seed: int) -> list[Scene]:
    """One person in each of five key frames; who does not wave watches if somebody waves in another key frame."""
    random, scenes = np.random.default_rng(seed), []
    for video in range(videos):
        waving = int(random.integers(5)) if video % 2 else -1
        for second in range(5):
            x1, y1, x2, y2 = box = PLACES[int(random.integers(3))]
            slow = random.normal(0, 0.3, (6, ROWS, COLUMNS))
            rows, columns = slice(int(y1 * ROWS), int(y2 * ROWS)), slice(int(x1 * COLUMNS), int(x2 * COLUMNS))
            slow[int(second == waving), rows, columns] += 3
            label = 2 if second == waving else 3 if waving >= 0 else 4
            key_frame = AnnotatedKeyFrame(
                key=KeyFrame(f"video{video:03}", 1000 * second),
                window=(1, 65),
                boxes_N4=np.array([box], dtype=np.float32),
                labels=(frozenset({label}),),
                persons=(second,),
            )
            fast = np.zeros((3, ROWS, COLUMNS))
            scenes.append(Scene(key_frame=key_frame, slow=slow, fast=fast, vit=fast, moments=fast))
    return scenes


def test_training_learns_what_only_the_bank_shows(tmp_path: Path) -> None:
    """Two of three classes differ in a person of another key frame alone."""
    store = Store.open(tmp_path / "store", create=True)
    for name, seed in (("train", 0), ("test", 1)):
        write_split(store, name, distant_scenes(24, seed), views=("identity",), vit=False)
    found = {}
    for bank_s in (0, 4):
        overrides = ["head={kind: relation}", f"data.bank_s={bank_s}", "training.epochs=4"]
        run_dir = make_run(store.root, f"bank{bank_s}", overrides)
        assert train_run(run_dir, Ranks())
        found[bank_s] = [event.values["map"] for event in read_events(run_dir.events) if event.type == "validation"][-1]
    assert found[0] < 0.8
    assert found[4] > 0.95
