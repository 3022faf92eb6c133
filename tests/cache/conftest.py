"""Fixtures of the cache tests: a store, sets written into it, and a split whose frames are PNG files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cache.feature_store import FeatureSet, FeatureWriter, open_feature_set
from cache.spec import FeatureSpec
from cache.store import Store
from stal_data.dataset import Split
from tests.cache.samples import SHAPES_OF, SLOWFAST, VIT, layout_of, make_features, make_index, make_split

WriteSet = Callable[..., FeatureSet]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", create=True)


@pytest.fixture(scope="session")
def spec() -> FeatureSpec:
    return FeatureSpec(backbones=(SLOWFAST, VIT), decoder="pillow-1", dtype="float32")


def write_rows(
    store: Store,
    spec: FeatureSpec,
    num_rows: int,
    *,
    rows_per_shard: int = 4,
    shards: list[int] | None = None,
    seed: int = 0,
    split: str = "train",
    moved: float = 0,
) -> FeatureSet:
    """moved: by what fraction every value is another."""
    arrays = {
        name: values * np.float32(1 + moved) for name, values in make_features(num_rows, seed, layout_of(spec)).items()
    }
    writer = FeatureWriter.open(
        store,
        dataset="street",
        split=split,
        spec=spec,
        index=make_index(num_rows),
        shapes=SHAPES_OF[layout_of(spec)],
        rows_per_shard=rows_per_shard,
    )
    for shard in range(writer.manifest.num_shards) if shards is None else shards:
        rows = writer.manifest.rows_of(shard)
        claim = writer.claim(shard)
        assert claim is not None
        with claim:
            writer.write_shard(claim, {n: v[rows.start : rows.stop] for n, v in arrays.items()})
    return open_feature_set(store, "street", split, spec=spec)


@pytest.fixture
def write_set(store: Store, spec: FeatureSpec) -> WriteSet:
    """Return a function that writes a set of the samples and opens it; `shards`: which ones, default all."""

    def write(num_rows: int, *, of: FeatureSpec = spec, **options: Any) -> FeatureSet:
        return write_rows(store, of, num_rows, **options)

    return write


@pytest.fixture(scope="session")
def ten_rows(spec: FeatureSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a complete set of 10 rows in shards of 4, to read or to copy."""
    return write_rows(Store.open(tmp_path_factory.mktemp("ten")), spec, 10).path


FRAMES_A_VIDEO = 75


@pytest.fixture(scope="session")
def frames_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos of 75 small frames, each with a moving bar on its own noise."""
    root = tmp_path_factory.mktemp("frames")
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 200, (36, 64, 3), dtype=np.uint8)
        folder = root / f"v{number}"
        folder.mkdir()
        for frame in range(1, FRAMES_A_VIDEO + 1):
            picture = noise.copy()
            picture[:, frame % 64] = 255
            Image.fromarray(picture).save(folder / f"v{number}_{frame:06d}.png", compress_level=1)
    return root


@pytest.fixture
def split(frames_root: Path) -> Split:
    return make_split(frames_root)
