"""Statistics that are pooled over space and stored in a type of their own."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from cache.backbones.load import load_backbone
from cache.backbones.registry import Statistics
from cache.feature_store import FeatureSet, FeatureWriter, verify_feature_set
from cache.feature_store.manage.copy import copy_feature_set
from cache.feature_store.manage.diff import diff_feature_sets
from cache.feature_store.manage.hdf5 import export_hdf5, import_hdf5
from cache.precompute import PrecomputeOptions, precompute
from cache.spec import FeatureDtype, FeatureSpec
from cache.statistics import SCALE, STATISTICS, array_name, dequantised, quantise, split_word, statistic_of
from cache.store import Store
from stal_data.dataset import Split
from stal_data.errors import InputError
from tests.cache.object_store.conftest import OpenStore, machine, proxy  # noqa: F401 - fixtures
from tests.cache.samples import SLOWFAST

KEPT: Statistics = {"slow": ("mean",), "fast": ("mean", "slope", "slope/2x4/int8")}
POOLED, SCALES = "fast_slope_2x4", "fast_slope_2x4_scale"


def pooled_slowly(values_BCHW: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float64]:
    """Each cell of the coarser grid is the mean of the cells that its share of the frame touches."""
    *lead, height, width = values_BCHW.shape
    coarse_rows, coarse_columns = -(-height // rows), -(-width // columns)
    found = np.empty((*lead, coarse_rows, coarse_columns))
    for y in range(coarse_rows):
        for x in range(coarse_columns):
            top, bottom = y * height // coarse_rows, -(-(y + 1) * height // coarse_rows)
            left, right = x * width // coarse_columns, -(-(x + 1) * width // coarse_columns)
            found[..., y, x] = values_BCHW[..., top:bottom, left:right].mean(axis=(-2, -1), dtype=np.float64)
    return found


@given(
    shape=st.tuples(*[st.integers(1, 9)] * 2),
    blocks=st.tuples(*[st.integers(1, 12)] * 2).filter(lambda found: found != (1, 1)),
    name=st.sampled_from(["mean", "max", "slope"]),
)
def test_a_pooled_statistic_is_the_mean_over_blocks(shape: tuple[int, int], blocks: tuple[int, int], name: str) -> None:
    grid = torch.randn(2, 3, 4, *shape, generator=torch.Generator().manual_seed(0))
    pooled = statistic_of(f"{name}/{blocks[0]}x{blocks[1]}")
    found, whole = pooled.compute(grid), STATISTICS[name].compute(grid)
    assert found.dtype == torch.float32
    assert tuple(found.shape[1:]) == pooled.row_shape((3, 4, *shape))
    np.testing.assert_allclose(found, pooled_slowly(whole.numpy(), *blocks), rtol=1e-5, atol=1e-6)
    # A mirrored view is pooled like the map of mirrored frames.
    torch.testing.assert_close(pooled.compute(grid.flip(-1)), found.flip(-1))


finite = st.floats(-(2.0**20), 2.0**20, width=32)


@given(values=arrays(np.float32, st.tuples(*[st.integers(1, 4)] * 4), elements=finite))
def test_int8_is_off_by_half_a_scale_at_most(values: NDArray[np.float32]) -> None:
    stored, scale = (found.numpy() for found in quantise(torch.from_numpy(values)))
    assert (stored.dtype, scale.dtype, scale.shape) == (np.int8, np.float16, values.shape[:2])
    assert (np.abs(stored.astype(int)) <= 127).all()
    half = scale.astype(np.float64)[..., None, None] / 2
    found = dequantised({"a": stored, "a_scale": scale})
    assert found.keys() == {"a"}
    assert found["a"].dtype == np.float32
    # A division and a product in float32 round, too.
    assert (np.abs(found["a"].astype(np.float64) - values) <= half + np.abs(values) * 2.0**-22).all()
    # A scale is no larger than it must be: by one step of float16.
    least = np.abs(values).max(axis=(2, 3)).astype(np.float64) / 127
    assert (scale <= least * (1 + 2.0**-10) + 2.0**-24).all()


@pytest.mark.parametrize(
    ("word", "expected", "name"),
    [
        ("slope", ("slope", None), "fast_slope"),
        ("mean/float32", ("mean", "float32"), "fast"),
        ("mean/2x3", ("mean/2x3", None), "fast_2x3"),
        ("slope/2x2/int8", ("slope/2x2", "int8"), "fast_slope_2x2"),
        ("full/int8", ("full", "int8"), "fast"),
    ],
)
def test_words_name_a_statistic_its_blocks_and_its_type(word: str, expected: tuple[str, str | None], name: str) -> None:
    assert split_word(word) == expected
    assert array_name("fast", expected[0]) == name


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("slope/int8/2x2", "must be one of mean, max, slope, moments, full, pooled as in 'slope/2x2'"),
        ("slope/02x2", "must be one of"),
        ("slope/100x2", "must be one of"),
        ("slope/int4", "must be one of"),
        ("slope/1x1", "blocks of at least 1x2"),
        ("full/2x2", "mean, max and slope can be pooled"),
        ("moments/int8", "moments are always float32: leave the type out"),
    ],
)
def test_other_words_are_refused(word: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"statistic of the map 'fast' is '{word}'; .*{message}"):
        replace(SLOWFAST, statistics={"fast": (word,)})


def test_a_spec_names_them_and_is_read_again() -> None:
    spec = FeatureSpec(backbones=(replace(SLOWFAST, statistics=KEPT),), decoder="pillow-1")
    again = FeatureSpec.from_dict(json.loads(spec.canonical()))
    assert (again, again.id) == (spec, spec.id)
    assert again.stored_for(["fast_slope"]) == ["fast_slope"]
    assert again.stored_for([POOLED]) == [POOLED, SCALES]
    other = replace(SLOWFAST, statistics=KEPT | {"fast": ("mean", "slope", "slope/2x4")})
    assert spec.diff(replace(spec, backbones=(other,))) == [
        "slowfast.statistics.fast: mean, slope, slope/2x4/int8 / mean, slope, slope/2x4"
    ]
    with pytest.raises(InputError, match="array 'fast_slope' 2 times"):
        replace(spec, backbones=(replace(SLOWFAST, statistics={"fast": ("slope", "slope/int8")}),))


def computed(store: Store, split: Split, kept: Statistics = KEPT, dtype: FeatureDtype = "float16") -> list[FeatureSet]:
    """The sets of both views."""
    backbone = load_backbone("slowfast", weights="random:0", preset="tiny", statistics=kept)
    return precompute(split, store, PrecomputeOptions(backbones=[backbone], views=("identity", "hflip"), dtype=dtype))


def content(features: FeatureSet) -> dict[str, bytes]:
    return {name: values.tobytes() for name, values in features.read(range(len(features.key_frames))).items()}


def test_a_set_holds_int8_and_scales(store: Store, split: Split, tmp_path: Path) -> None:
    (plain, _) = computed(Store.open(tmp_path / "plain", create=True), split, KEPT | {"fast": ("slope",)}, "float32")
    for features in (sets := computed(store, split)):
        manifest = features.manifest
        assert dict(features.shapes) == {
            "slow": (16, 4, 6),
            "fast": (4, 4, 6),
            "fast_slope": (4, 4, 6),
            POOLED: (4, 2, 2),
            SCALES: (4,),
        }
        assert [manifest.dtype(name).name for name in manifest.arrays] == ["float16"] * 3 + ["int8", "float16"]
        assert manifest.row_bytes(POOLED) + manifest.row_bytes(SCALES) == 4 * 2 * 2 + 2 * 4
        assert verify_feature_set(features.path) == []
        stored = features.read(range(len(features.key_frames)), [POOLED, SCALES])
        group = zarr.open_group(features.path, mode="r")
        for name, values in stored.items():
            array: Any = group[name]
            np.testing.assert_array_equal(array[: len(values)], values)
    exact = pooled_slowly(plain.read(range(len(plain.key_frames)))["fast_slope"], 2, 4)
    found: Mapping[str, NDArray[Any]] = sets[0].read(range(len(plain.key_frames)), [POOLED, SCALES])
    assert found[SCALES].all()
    limit = found[SCALES].astype(np.float32)[..., None, None] * 0.501
    assert (np.abs(dequantised(found)[POOLED] - exact) <= limit).all()


def test_copies_and_exports_hold_the_same_bytes(
    store: Store,
    split: Split,
    tmp_path: Path,
    machine: OpenStore,  # noqa: F811
) -> None:
    (features, _) = computed(store, split)
    bucket = machine("one", None)
    assert copy_feature_set(features.path, bucket).copied == len(features.key_frames)
    in_bucket = FeatureSet(bucket.features_dir("street", "train") / features.id)
    assert content(in_bucket) == content(features)
    assert verify_feature_set(in_bucket.path) == []
    export_hdf5(features.path, tmp_path / "set.h5")
    imported = FeatureSet(import_hdf5(tmp_path / "set.h5", Store.open(tmp_path / "other", create=True)))
    assert content(imported) == content(features)


def test_a_step_of_int8_is_rounding(store: Store, split: Split, tmp_path: Path) -> None:
    (features, _) = computed(store, split)
    rows = range(len(features.key_frames))
    changed = []
    for step in (1, 2):
        values = {name: array.copy() for name, array in features.read(rows).items()}
        values[POOLED] += np.where(values[POOLED] > 0, -step, step).astype(np.int8)
        manifest = features.manifest
        writer = FeatureWriter.open(
            Store.open(tmp_path / str(step), create=True),
            dataset=manifest.dataset,
            split=manifest.split,
            spec=manifest.spec,
            index=features.index,
            shapes=manifest.shapes,
            rows_per_shard=len(rows),
        )
        with writer.claim_or_refuse(0) as claim:
            with pytest.raises(InputError, match=f"'{POOLED}' is float32; int8 is written with its scales"):
                writer.write_shard(claim, values | {POOLED: values[POOLED].astype(np.float32)})
            writer.write_shard(claim, values)
        changed.append(diff_feature_sets(features.path, writer.path))
    assert [(len(found.rounded), len(found.different)) for found in changed] == [(len(rows), 0), (0, len(rows))]


def test_a_value_that_is_not_finite_is_named_by_its_scale(store: Store, split: Split) -> None:
    backbone = load_backbone("slowfast", weights="random:0", preset="tiny", statistics={"fast": ("mean/int8",)})
    with torch.no_grad():
        for parameter in backbone.model.parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(InputError, match=f"Array 'fast{SCALE}', channel 0 of key frame v0,0000 is nan"):
        precompute(split, store, PrecomputeOptions(backbones=[backbone]))
