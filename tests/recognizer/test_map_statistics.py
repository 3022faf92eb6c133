"""Statistics of maps beside the mean: stored by precompute, given to the heads that ask for them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray

import stal
from cache.backbones import BACKBONES
from cache.backbones.load import load_backbone
from cache.backbones.registry import Statistics
from cache.feature_store import FeatureSet
from cache.precompute import PrecomputeOptions, precompute
from cache.spec import FeatureDtype
from cache.statistics import STATISTICS, StatisticName
from cache.store import Store
from cli.workflow.feature_stage import as_trained
from cli.workflow.labelling import ranking
from recognizer_svc.batching import head_batch
from recognizer_svc.heads import build_head
from recognizer_svc.heads.batch import FeatureShapes, HeadBatch
from recognizer_svc.heads.roi import actor_regions
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.scoring.predict import BoxesOfKeyFrame, Predictor
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.inputs import open_inputs
from recognizer_svc.training.recipe import Recipe, load_recipe
from recognizer_svc.training.run import train_run
from stal_data.dataset import Dataset
from stal_data.errors import ConflictError, InputError
from tests.recognizer.joint_store import write_dataset

KEPT: Statistics = {"slow": ("mean", "slope"), "fast": ("mean", "max")}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The set of KEPT of both splits."""
    folder = tmp_path_factory.mktemp("statistics")
    (folder / "data").mkdir()
    write_dataset(folder / "data")
    store = Store.open(folder / "store", create=True)
    for split in ("train", "test"):
        fill(store, split, KEPT)
    return store


def fill(store: Store, split: str, kept: Statistics, dtype: FeatureDtype = "float32") -> FeatureSet:
    slowfast = load_backbone("slowfast", weights="random:1", preset="tiny", statistics=kept)
    data = Dataset.open(store.root.parent / "data").split(split)
    [features] = precompute(data, store, PrecomputeOptions(backbones=[slowfast], dtype=dtype))
    return features


def of_same_data(store: Store, folder: Path, kept: Statistics) -> Store:
    (folder / "data").symlink_to(store.root.parent / "data")
    other = Store.open(folder / "store", create=True)
    for split in ("train", "test"):
        fill(other, split, kept)
    return other


def recipe(store: Store, kind: str, *changes: str) -> Recipe:
    [features] = [path.name for path in (store.root / "features/noise/train").iterdir() if path.name[0] != "."]
    settings = ["data.dataset=noise", f"data.feature_set={features}", "validation.split=null", "training.epochs=1"]
    return load_recipe(kind, [*settings, "data.streams=null", *changes])


def test_precompute_stores_what_was_asked_for(store: Store, tmp_path: Path) -> None:
    (path,) = (path for path in (store.root / "features/noise/test").iterdir() if path.name[0] != ".")
    found = FeatureSet(path)
    assert dict(found.shapes) == {
        "slow": (16, 4, 6),
        "slow_slope": (16, 4, 6),
        "fast": (4, 4, 6),
        "fast_max": (4, 4, 6),
    }
    (tmp_path / "data").symlink_to(store.root.parent / "data")
    whole = fill(Store.open(tmp_path / "store", create=True), "test", BACKBONES["slowfast"].all_time_steps())
    rows = range(len(found.key_frames))
    features, steps = found.read(rows), whole.read(rows)
    for name, statistic in (("slow", "slope"), ("fast", "max")):
        expected = STATISTICS[statistic].compute(torch.from_numpy(steps[name]))
        np.testing.assert_allclose(features[f"{name}_{statistic}"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "changes", "arrays"),
    [
        ("relation", (), ["slow", "slow_slope", "fast", "fast_max"]),
        ("relation", ("data.statistics=[mean]",), ["slow", "fast"]),
        ("relation", ("data.statistics=[slope]",), ["slow_slope"]),
        ("linear", (), ["slow", "fast"]),
        ("linear", ("data.statistics=[mean, slope]",), ["slow", "slow_slope", "fast"]),
    ],
)
def test_a_head_is_given_what_it_or_the_recipe_names(
    store: Store, kind: str, changes: tuple[str, ...], arrays: list[str]
) -> None:
    inputs = open_inputs(recipe(store, kind, *changes), store)
    assert list(inputs.shapes.arrays) == arrays
    batch = inputs.train.load([0, 1]).head
    assert list(batch.features) == arrays


POOLED: Statistics = {"slow": ("mean", "slope"), "fast": ("mean", "slope/2x2/int8", "max/int8")}


@pytest.fixture(scope="module")
def pooled(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of the same data with POOLED of both splits."""
    return of_same_data(store, tmp_path_factory.mktemp("pooled"), POOLED)


@pytest.mark.parametrize(
    ("changes", "read"),
    [
        ((), ["slow", "slow_slope", "fast", "fast_max", "fast_max_scale"]),
        (("data.statistics=[slope/2x2]",), ["fast_slope_2x2", "fast_slope_2x2_scale"]),
        (("data.statistics=[mean, slope]",), ["slow", "slow_slope", "fast"]),
    ],
)
def test_of_pooled_and_int8_statistics_a_head_reads_what_is_named(
    pooled: Store, monkeypatch: pytest.MonkeyPatch, changes: tuple[str, ...], read: list[str]
) -> None:
    inputs = open_inputs(recipe(pooled, "relation", *changes), pooled)
    said = "the head is not given slope/2x2; data.statistics names pooled statistics"
    assert (said in inputs.notes) == (not changes)
    buffers: list[list[str]] = []
    read_into = FeatureSet.read_into

    def noting(features: FeatureSet, rows: Any, out: Any, places: Any = None) -> None:
        buffers.append(list(out))
        read_into(features, rows, out, places)

    monkeypatch.setattr(FeatureSet, "read_into", noting)
    batch = inputs.train.load([0, 1]).head
    assert set(map(tuple, buffers)) == {tuple(read)}
    assert list(batch.features) == [name for name in read if not name.endswith("_scale")]
    assert {values.dtype for values in batch.features.values()} == {torch.float32}
    inputs.train.keep(torch.device("cpu"), 1)
    kept = inputs.train.load([0, 1]).head.features
    assert all(torch.equal(kept[name].float(), values) for name, values in batch.features.items())


def test_other_readers_get_float32(pooled: Store) -> None:
    features = stal.open_store(str(pooled.root)).features("noise", "test")
    assert features.shapes.keys() == {"slow", "slow_slope", "fast", "fast_slope_2x2", "fast_max"}
    batch, stored = features.batch([0, 2]), features.feature_set.read([0, 2])
    assert batch.features.keys() == features.shapes.keys()
    found, scale = batch.features["fast_slope_2x2"], stored["fast_slope_2x2_scale"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, stored["fast_slope_2x2"].astype(np.float64) * scale[..., None, None], rtol=1e-6)
    means = [values.mean(axis=(2, 3), dtype=np.float64) for values in batch.features.values()]
    vectors = np.concatenate([mean / np.linalg.norm(mean, axis=1, keepdims=True) for mean in means], axis=1)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    keys = [features.key_frames[place] for place in (0, 2)]
    np.testing.assert_allclose(ranking.pooled(features.feature_set, keys), unit, atol=1e-5)


def test_a_region_is_cut_out_of_the_coarser_grid_by_the_same_share_of_the_frame(pooled: Store) -> None:
    batch = open_inputs(recipe(pooled, "relation", "data.statistics=[slope/2x2]"), pooled).train.load([0, 1]).head
    assert isinstance(batch, HeadBatch)
    map_BCHW = batch.features["fast_slope_2x2"]
    assert map_BCHW.shape[2:] == (2, 3)
    pixels_N4 = batch.boxes_N4 * torch.tensor([48.0, 32, 48, 32])  # the frame has 16 x 16 pixels a cell
    rois_N5 = torch.cat([batch.clip_of_N[:, None].float(), pixels_N4], dim=1)
    expected = torchvision.ops.roi_align(map_BCHW, rois_N5, 7, spatial_scale=1 / 16)
    torch.testing.assert_close(actor_regions(map_BCHW, batch.boxes_N4, batch.clip_of_N, 7), expected)


def test_a_run_on_a_pooled_slope_is_trained_and_predicts(pooled: Store, store: Store) -> None:
    run = RunDir(pooled.runs_dir / "pooled")
    run.root.mkdir(parents=True)
    run.recipe.write_text(recipe(pooled, "relation", "data.statistics=[mean, slope/2x2]").to_yaml())
    assert train_run(run, Ranks())
    assert scores_of(run, pooled).std() > 0
    assert as_trained(run, ["slowfast"]) == [
        *("--statistics", "slow=mean,slope", "--statistics", "fast=mean,slope/2x2/int8,max/int8")
    ]
    with pytest.raises(ConflictError, match=r"slowfast.statistics.fast: mean, slope/2x2/int8, max/int8 / mean, max"):
        scores_of(run, store)


def test_a_head_on_one_grid_says_so_where_it_is_given_two(pooled: Store) -> None:
    given = recipe(pooled, "acar", "data.statistics=[mean, slope/2x2]")
    with pytest.raises(InputError, match="ACAR head needs maps of one size"):
        build_head(given.head, open_inputs(given, pooled).shapes, 3)


@pytest.mark.parametrize("name", ["median", "slope/2x2/int8", "slope/1x1"])
def test_a_recipe_names_statistics_and_blocks_alone(store: Store, name: str) -> None:
    with pytest.raises(InputError, match=f"data.statistics.* is '{name}'"):
        recipe(store, "relation", f"data.statistics=[{name}]")


def test_a_statistic_that_no_map_has_is_refused(store: Store) -> None:
    with pytest.raises(InputError, match=r"data.statistics names moments, .* has max, mean, slope: leave it out, or"):
        open_inputs(recipe(store, "linear", "data.statistics=[mean, moments]"), store)


ALL: tuple[StatisticName, ...] = ("mean", "max", "slope", "moments")
WHOLE = BACKBONES["slowfast"].all_time_steps()


def batch_of(features: FeatureSet) -> HeadBatch:
    """What a recipe that names all statistics gives a head, without boxes."""
    shapes = FeatureShapes.of(features.spec, features.shapes, statistics=ALL, computed=True)
    stored = features.read(range(len(features.key_frames)), features.spec.stored_for(shapes.arrays))
    return head_batch(stored, [], shapes, features.key_frames)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_statistics_of_all_time_steps_are_those_that_precompute_stores(
    store: Store, tmp_path: Path, dtype: FeatureDtype
) -> None:
    (tmp_path / "data").symlink_to(store.root.parent / "data")
    own = Store.open(tmp_path / "store", create=True)
    stored, whole = fill(own, "test", {"slow": ALL, "fast": ALL}, dtype), fill(own, "test", WHOLE, dtype)
    expected, found = batch_of(stored).features, batch_of(whole).features
    assert list(found) == list(expected)
    assert len(found) == 8
    steps = whole.read(range(len(whole.key_frames)))
    for name in found:
        largest = float(np.abs(steps[name.partition("_")[0]]).max())
        # Each step is rounded, and so is what is stored of them: both by half of 2^-10. Squares are off by twice that.
        off = 1e-6 if dtype == "float32" else 2**-10 * (max(largest, 1) if name.endswith("_moments") else 1)
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=off * largest)


@pytest.fixture(scope="module")
def whole(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of the same data with all time steps of both splits."""
    return of_same_data(store, tmp_path_factory.mktemp("whole"), WHOLE)


@pytest.mark.parametrize(
    ("changes", "arrays"),
    [
        ((), ["slow", "fast"]),
        (("data.statistics=[mean, slope]",), ["slow", "slow_slope", "fast", "fast_slope"]),
        (("data.statistics=[max]",), ["slow_max", "fast_max"]),
    ],
)
def test_of_all_time_steps_a_head_is_given_what_the_recipe_names(
    whole: Store, changes: tuple[str, ...], arrays: list[str]
) -> None:
    inputs = open_inputs(recipe(whole, "relation", *changes), whole)
    assert list(inputs.shapes.arrays) == list(inputs.train.load([0, 1]).head.features) == arrays


def scores_of(run: RunDir, store: Store) -> NDArray[np.float32]:
    predictor = Predictor.load(run.root, device="cpu")
    features = predictor.open_features(store, "noise", "test")
    box = np.array([[0.1, 0.1, 0.6, 0.9], [0.5, 0.1, 0.9, 0.9]], np.float32)
    people = [BoxesOfKeyFrame(key=key, boxes_N4=box) for key in features.key_frames]
    return np.concatenate([item.scores_NC for item in predictor.predict(features, people)])


def test_a_run_on_slopes_is_trained_and_predicts_from_either_set(store: Store, whole: Store) -> None:
    run = RunDir(store.runs_dir / "slopes")
    run.root.mkdir(parents=True)
    run.recipe.write_text(recipe(store, "relation").to_yaml())
    assert train_run(run, Ranks())
    scores = scores_of(run, store)
    assert np.isfinite(scores).all()
    assert scores.std() > 0
    np.testing.assert_allclose(scores_of(run, whole), scores, atol=1e-5)


def test_a_run_on_slopes_of_all_time_steps_refuses_a_set_that_lacks_one(store: Store, whole: Store) -> None:
    run = RunDir(whole.runs_dir / "whole")
    run.root.mkdir(parents=True)
    run.recipe.write_text(recipe(whole, "relation", "data.statistics=[slope]").to_yaml())
    assert train_run(run, Ranks())
    assert scores_of(run, whole).std() > 0
    with pytest.raises(ConflictError, match=r"slowfast.statistics.fast: full / mean, max"):
        scores_of(run, store)
