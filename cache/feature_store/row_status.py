"""The columns `done` and `digest`: which rows are safely written, and what they must be.

They are written shard by shard, so damage in one chunk concerns the rows of one shard.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cache.feature_store.errors import DamagedError
from cache.feature_store.layout import FeatureManifest
from cache.feature_store.set_folder import SetFolder

_REPAIR = "Run 'stal-cli cache verify --repair' on the store, then precompute again."


@dataclass(frozen=True, kw_only=True, eq=False)
class RowStatus:
    """done_K: bool; digests_K: uint64. damaged: shards whose marks do not read, with the reason; not done here."""

    done_K: NDArray[np.bool_]
    digests_K: NDArray[np.uint64]
    damaged: Mapping[int, str]


def read_row_status(folder: SetFolder, manifest: FeatureManifest) -> RowStatus:
    """Read the marks of all rows of a set."""
    folder.refresh_marks()
    whole = range(manifest.num_rows)
    try:
        done_K, digests_K = _read(folder.path, whole)
    except DamagedError:
        return _read_by_shard(folder.path, manifest)
    return RowStatus(done_K=done_K, digests_K=digests_K, damaged={})


def shard_is_done(folder: SetFolder, manifest: FeatureManifest, shard: int) -> bool:
    """Tell whether all rows of a shard are done, as it is in the store now; damaged marks count as not done."""
    folder.refresh_marks(shard)
    try:
        done, _ = _read(folder.path, manifest.rows_of(shard))
    except DamagedError:
        return False
    return bool(done.all())


def read_column(path: Path, name: str, rows: range, way_out: str) -> NDArray[Any]:
    """Read rows of a one-dimensional array of the set through zarr. way_out: of the error, where it does not read."""
    try:
        return np.asarray(zarr.open_array(path / name, mode="r", zarr_format=3)[rows.start : rows.stop])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"The array '{path / name}' does not read: {error}. {way_out}") from error


def _read(path: Path, rows: range) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
    # In this order: a digest is on disk before its row is done.
    done = read_column(path, "done", rows, _REPAIR)
    digests = read_column(path, "digest", rows, _REPAIR)
    return done.astype(np.bool_), digests


def _read_by_shard(path: Path, manifest: FeatureManifest) -> RowStatus:
    done_K, digests_K = np.zeros(manifest.num_rows, np.bool_), np.zeros(manifest.num_rows, np.uint64)
    damaged = {}
    for shard in range(manifest.num_shards):
        rows = manifest.rows_of(shard)
        try:
            done_K[rows.start : rows.stop], digests_K[rows.start : rows.stop] = _read(path, rows)
        except DamagedError as error:
            damaged[shard] = str(error)
    return RowStatus(done_K=done_K, digests_K=digests_K, damaged=damaged)
