"""A step of joint training against the same step with both backbones live and nothing cached."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from cache.backbones import BACKBONES
from cache.backbones.load import load_backbone
from cache.feature_store import FeatureSet, open_feature_set
from cache.precompute import PrecomputeOptions, precompute
from cache.store import Store
from recognizer_svc.data import LabelledBatch
from recognizer_svc.heads.acar.config import AcarConfig
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.joint.model import JointBatch
from recognizer_svc.training.run import Run
from stal_data.dataset import Dataset
from tests.recognizer.all_live import LiveStep, all_live_step, read_clip
from tests.recognizer.joint_store import VIT_WEIGHTS, JointStore, make_joint_store
from tests.recognizer.plain_head import PlainHead

# Float32 against float64: a dozen layers, each with sums of up to 10^5 terms whose roundings (6e-8 relative) largely
# cancel, forward and backward. One clip with the wrong view moves losses and gradients by percents.
TOLERANCE = 1e-5
INDICES = list(range(9))


@dataclass(frozen=True)
class Case:
    """mirrored: found by comparing each clip with the files, not asked from the code under test."""

    run: Run
    batch: LabelledBatch
    mirrored: list[bool]
    expected: LiveStep


@pytest.fixture(scope="module")
def joint_store(tmp_path_factory) -> JointStore:
    return make_joint_store(tmp_path_factory.mktemp("step"))


def new_run(joint_store: JointStore) -> Run:
    return Run(joint_store.run("step", "training.batch_clips=9"), Ranks(), data_root=joint_store.data_root)


@pytest.fixture(scope="module")
def case(joint_store) -> Case:
    run = new_run(joint_store)
    batch = run.inputs.train.load(INDICES, epoch=1)
    split = Dataset.open(joint_store.dataset).split("train")
    windows = [item.window for item in split.key_frames]
    frames = joint_store.dataset / "frames"
    mirrored = []
    for key, window, clip_3THW in zip(batch.keys, windows, batch.head.clips_B3THW, strict=True):
        plain, flipped = (read_clip(frames, key, window, height=32, width=48, flip=flip) for flip in (False, True))
        same = [torch.allclose(clip_3THW.double(), other, atol=1e-6) for other in (plain, flipped)]
        assert sum(same) == 1
        mirrored.append(same[1])
    cached = batch.head.cached
    expected = all_live_step(
        run.trainer.head,
        PlainHead(AcarConfig(reduce_channels=16, context_channels=12, depth=1, dropout=0.0), run.inputs.shapes, 4),
        frames,
        keys=batch.keys,
        windows=windows,
        mirrored=mirrored,
        rois_N5=torch.cat([cached.clip_of_N[:, None].float(), cached.boxes_N4], dim=1),
        targets_NC=batch.targets_NC,
    )
    return Case(run=run, batch=batch, mirrored=mirrored, expected=expected)


def differences(run: Run, batch: LabelledBatch, expected: LiveStep) -> dict[str, float]:
    """Take a step; return how far the loss and each gradient are off, relative to the largest of its network."""
    totals, _ = run.trainer.step(batch, 0.02)
    found = {name: parameter.grad for name, parameter in run.trainer.head.named_parameters()}
    assert found.keys() == expected.gradients.keys()
    off = {"loss": abs(totals.loss - expected.loss) / expected.loss}
    for part in ("backbone", "head"):
        names = [name for name in found if name.startswith(f"{part}.")]
        largest = max(expected.gradients[name].abs().max().item() for name in names)
        off |= {name: (found[name].double() - expected.gradients[name]).abs().max().item() / largest for name in names}
    return off


def test_a_step_equals_that_of_the_all_live_network(case):
    assert 0 < sum(case.mirrored) < len(case.mirrored)
    off = differences(case.run, case.batch, case.expected)
    assert max(off.values()) < TOLERANCE, sorted(off.items(), key=lambda item: -item[1])[:5]


def test_the_boxes_follow_the_flip_and_are_jittered(case, joint_store):
    moved = []
    for position, (item, flip) in enumerate(zip(case.run.inputs.train.items, case.mirrored, strict=True)):
        boxes_N4 = item.boxes_N4
        if flip:
            boxes_N4 = np.stack([1 - boxes_N4[:, 2], boxes_N4[:, 1], 1 - boxes_N4[:, 0], boxes_N4[:, 3]], axis=1)
        cached = case.batch.head.cached
        found_N4 = cached.boxes_N4[cached.clip_of_N == position].numpy()
        sizes_N2 = boxes_N4[:, 2:] - boxes_N4[:, :2]
        moved.append(np.abs(found_N4 - boxes_N4) / np.concatenate([sizes_N2, sizes_N2], axis=1))
    assert max(shift.max() for shift in moved) <= 0.075 + 1e-5
    assert min(shift.max() for shift in moved) > 0.005


def test_the_wrong_vit_view_fails_the_same_check(case, joint_store):
    """The check sees a mirrored clip whose ViT features are those of the clip as it is, and the other way round."""
    run = new_run(joint_store)
    right = run.inputs.train.load(INDICES, epoch=1)
    sets: dict[bool, FeatureSet] = {
        False: run.inputs.feature_sets["train"],
        True: run.inputs.feature_sets["train_hflip"],
    }
    wrong = right.head.cached.features["vit"].clone()
    for position, (key, flip) in enumerate(zip(right.keys, case.mirrored, strict=True)):
        features = sets[not flip]
        wrong[position] = torch.from_numpy(features.read([features.row_of(key)])["vit"][0])
    head = JointBatch(
        clips_B3THW=right.head.clips_B3THW,
        cached=replace(right.head.cached, features={**right.head.cached.features, "vit": wrong}),
    )
    off = differences(run, replace(right, head=head), case.expected)
    assert off["loss"] > 10 * TOLERANCE
    assert max(off[name] for name in off if name.startswith("backbone.")) > 100 * TOLERANCE


def test_full_time_vit_features_serve_as_well(joint_store, tmp_path):
    store = Store.open(tmp_path, create=True)
    all_steps = BACKBONES["vit"].all_time_steps()
    vit = load_backbone("vit", weights=VIT_WEIGHTS, preset="tiny", statistics=all_steps)
    split = Dataset.open(joint_store.dataset).split("train")
    precompute(
        split,
        store,
        PrecomputeOptions(backbones=[vit], views=("identity", "hflip"), dtype="float32", decode_threads=1),
    )
    full = JointStore(store=store, data_root=joint_store.data_root)
    recipe = full.run("full", "training.batch_clips=9", "validation.split=null")
    heads = [
        run.inputs.train.load(INDICES, epoch=1).head
        for run in (new_run(joint_store), Run(recipe, Ranks(), data_root=full.data_root))
    ]
    assert torch.equal(heads[0].clips_B3THW, heads[1].clips_B3THW)
    torch.testing.assert_close(heads[0].cached.features["vit"], heads[1].cached.features["vit"])


def test_statistics_and_the_vit_stay_as_they_are(joint_store):
    run = new_run(joint_store)
    slowfast = run.trainer.head.backbone
    before = {name: value.clone() for name, value in slowfast.state_dict().items()}
    features = run.inputs.feature_sets["train"]
    cached = features.read(range(9))["vit"]
    for epoch in (1, 2):
        run.trainer.step(run.inputs.train.load(INDICES, epoch=epoch), 0.02)
    after = slowfast.state_dict()
    trained = {name for name, _ in slowfast.named_parameters()}
    assert {name for name in before if not torch.equal(before[name], after[name])} == trained
    assert {name for name in before if "running" in name or "tracked" in name} == before.keys() - trained
    assert any("bn" in name and name.endswith("weight") for name in trained)
    names = [name for name, _ in run.trainer.head.named_parameters()]
    assert all(name.startswith(("backbone.", "head.")) for name in names)
    again = open_feature_set(joint_store.store, "noise", "train", set_id=features.id)
    assert np.array_equal(cached, again.read(range(9))["vit"])
