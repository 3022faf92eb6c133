"""Full-time features serve the head like pooled ones: the same training and scores, from a store of each layout."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.backbones import BACKBONES
from cache.backbones.load import load_backbone
from cache.feature_store import FeatureSet, verify_feature_set
from cache.precompute import PrecomputeOptions, precompute
from cache.statistics import time_mean
from cache.store import Store
from recognizer_svc.batching import head_batch
from recognizer_svc.features import check_fits
from recognizer_svc.heads.acar.config import AcarConfig
from recognizer_svc.heads.acar.model import AcarHead
from recognizer_svc.heads.batch import FeatureShapes, HeadBatch
from recognizer_svc.runs.events import read_events
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.scoring.predict import BoxesOfKeyFrame, Predictor
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.inputs import open_inputs
from recognizer_svc.training.recipe import parse_recipe
from recognizer_svc.training.run import train_run
from stal_data.dataset import Dataset
from stal_data.errors import ConflictError
from tests.recognizer.joint_store import write_dataset

LOGITS = 1e-5
"""Of the largest logit, in float32: the mean over time is taken of the same numbers, before or after storing them."""
RECIPE = """
name: either
data: {dataset: noise}
validation: {split: test, keep_best: false}
head: {kind: acar, reduce_channels: 16, context_channels: 12, depth: 1, dropout: 0}
loss: {kind: sigmoid}
optimizer: {kind: sgd, learning_rate: 0.02}
schedule: {kind: steps}
training: {epochs: 1, batch_clips: 3}
"""

Sets = dict[tuple[str, str], FeatureSet]
"""By split and layout, in float32."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(tmp_path_factory.mktemp("layouts") / "store", create=True)


@pytest.fixture(scope="module")
def sets(store: Store) -> Sets:
    root = store.root.parent / "data"
    root.mkdir()
    write_dataset(root)
    found = {}
    for split in ("train", "test"):
        for layout in ("pooled", "full"):
            backbones = [
                load_backbone(
                    kind,
                    weights="random:1",
                    preset="tiny",
                    statistics=BACKBONES[kind].all_time_steps() if layout == "full" else None,
                )
                for kind in ("slowfast", "vit")
            ]
            [found[split, layout]] = precompute(
                Dataset.open(root).split(split),
                store,
                PrecomputeOptions(dtype="float32", decode_threads=1, backbones=backbones),
            )
    return found


def test_a_full_set_holds_every_time_step(sets: Sets) -> None:
    pooled, full = sets["train", "pooled"], sets["train", "full"]
    assert full.spec.diff(pooled.spec) == [
        "slowfast.statistics.fast: full / mean",
        "slowfast.statistics.slow: full / mean",
        "vit.statistics.vit: full, moments / mean, moments",
    ]
    assert dict(full.shapes) == {
        "slow": (16, 8, 4, 6),
        "fast": (4, 32, 4, 6),
        "vit": (16, 2, 6, 8),
        "vit_moments": (2, 16),
    }
    rows = range(full.manifest.num_rows)
    a, b = full.read(rows), pooled.read(rows)
    for name in ("slow", "fast", "vit"):
        steps = a[name]
        np.testing.assert_allclose(time_mean(torch.from_numpy(steps)), b[name], rtol=1e-5, atol=1e-6)
        # A time step alone is something else.
        assert not np.allclose(steps[:, :, 0], b[name], rtol=1e-2)
    assert (a["vit_moments"] == b["vit_moments"]).all()
    grid = a["vit"].astype(np.float64)
    np.testing.assert_allclose(a["vit_moments"][:, 1], np.square(grid).mean(axis=(2, 3, 4)), rtol=1e-5)


def test_a_damaged_time_step_is_found(sets: Sets, tmp_path: Path) -> None:
    path = tmp_path / sets["test", "full"].id
    shutil.copytree(sets["test", "full"].path, path)
    assert verify_feature_set(path) == []
    shard = path / "fast" / "c" / "0" / "0" / "0" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    assert len(verify_feature_set(path)) == 1


def test_time_means_that_stay_in_memory_are_those_of_each_batch(store: Store, sets: Sets) -> None:
    words = [f"data.feature_set={sets['train', 'full'].id}", "data.hflip_probability=0"]
    data = open_inputs(parse_recipe(RECIPE, words), store).train
    plan = [[0, 2], [1], list(range(len(data)))]
    read = [data.load(part).head.features for part in plan]
    data.keep(torch.device("cpu"), threads=1)
    assert data.num_bytes == sum(values.nbytes for values in read[-1].values())  # without time steps
    for part, expected in zip(plan, read, strict=True):
        found = data.load(part).head.features
        assert all(torch.equal(found[name], values) for name, values in expected.items())


def batch_of(features: FeatureSet) -> tuple[HeadBatch, FeatureShapes]:
    random = np.random.default_rng(0)
    keys = features.key_frames
    corners = [random.uniform(0, 0.5, (1 + place % 3, 2)) for place in range(len(keys))]
    boxes = [np.concatenate([corner, corner + 0.4], axis=1).astype(np.float32) for corner in corners]
    shapes = FeatureShapes.of(features.spec, features.shapes)
    return head_batch(features.read(range(len(keys))), boxes, shapes, keys), shapes


@pytest.mark.parametrize("training", [False, True])
def test_the_head_gives_the_same_logits_from_both(sets: Sets, training: bool) -> None:
    (pooled, shapes), (full, full_shapes) = (batch_of(sets["train", layout]) for layout in ("pooled", "full"))
    assert full_shapes == shapes
    torch.manual_seed(0)
    head = AcarHead(AcarConfig(reduce_channels=16, context_channels=12, depth=1, dropout=0), shapes, 4).train(training)
    start = {name: value.clone() for name, value in head.state_dict().items()}
    logits = []
    for batch in (pooled, full):
        head.load_state_dict(start)
        logits.append(head(batch).detach())
    assert (logits[0] - logits[1]).abs().max() <= LOGITS * logits[0].abs().max()
    # Other features give other logits.
    changed = replace(full, features={name: values.flip(0) for name, values in full.features.items()})
    head.load_state_dict(start)
    assert (logits[0] - head(changed)).abs().max() > 100 * LOGITS * logits[0].abs().max()


@pytest.fixture(scope="module")
def runs(store: Store, sets: Sets) -> dict[str, RunDir]:
    found = {}
    for layout in ("pooled", "full"):
        found[layout] = RunDir(store.runs_dir / layout)
        found[layout].root.mkdir(parents=True)
        recipe = parse_recipe(RECIPE, [f"data.feature_set={sets['train', layout].id}"])
        found[layout].recipe.write_text(recipe.to_yaml())
        train_run(found[layout], Ranks())
    return found


def test_training_from_a_full_set_is_the_same_training(runs: dict[str, RunDir]) -> None:
    losses = {
        layout: [event.values["loss"] for event in read_events(run.events) if "loss" in event.values]
        for layout, run in runs.items()
    }
    assert losses["pooled"]
    np.testing.assert_allclose(losses["full"], losses["pooled"], rtol=1e-4)


def test_a_head_scores_sets_of_either_layout_and_says_so(store: Store, sets: Sets, runs: dict[str, RunDir]) -> None:
    predictor = Predictor.load(runs["pooled"].root, device="cpu")
    box = np.array([[0.1, 0.1, 0.6, 0.9]], np.float32)
    people = [BoxesOfKeyFrame(key=key, boxes_N4=box) for key in sets["test", "full"].key_frames]
    scores = {}
    for layout in ("pooled", "full"):
        features = predictor.open_features(store, "noise", "test", sets["test", layout].id)
        scores[layout] = np.concatenate([item.scores_NC for item in predictor.predict(features, people)])
    np.testing.assert_allclose(scores["full"], scores["pooled"], atol=1e-5)
    assert predictor.check_spec(sets["test", "full"]) == (
        "slowfast.statistics.fast: mean / full",
        "slowfast.statistics.slow: mean / full",
        "vit.statistics.vit: mean, moments / full, moments",
    )


def test_features_of_another_precision_are_refused(sets: Sets, runs: dict[str, RunDir]) -> None:
    predictor = Predictor.load(runs["pooled"].root, device="cpu")
    other = replace(sets["test", "pooled"].spec, autocast="bf16")
    with pytest.raises(ConflictError, match="autocast: none / bf16"):
        check_fits(predictor.feature_spec, predictor.checkpoint.shapes, other)
