"""Reading a feature set: rows of key frames, never one that is not completely written and verified."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cache.feature_store.layout import FeatureManifest, RowIndex, shard_path
from cache.feature_store.shards import MappedShard
from cache.spec import FeatureSpec
from stal_data.errors import InputError, NotFoundError
from stal_data.keyframes import KeyFrame

MAX_MAPS = 256
"""Shards kept mapped at once; each holds a file descriptor, of which a process often has 1024."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureBatch:
    """Features of B rows; an array whose backbone is not in the spec is None.

    slow, fast: [B,C,H,W] time means of SlowFast's pathways, in the set's dtype.
    vit: [B,C,H,W] time mean of the ViT grid, in the set's dtype.
    vit_moments: [B,2,C] float32, mean and mean square of each channel over T,H,W of the ViT grid, before rounding.
    """

    slow: NDArray[Any] | None = None
    fast: NDArray[Any] | None = None
    vit: NDArray[Any] | None = None
    vit_moments: NDArray[np.float32] | None = None


class FeatureSet:
    """A feature set opened for reading. Threads may share it; pickled, it opens itself again in the other process."""

    def __init__(self, path: Path) -> None:
        """path: the set's folder, as `list_feature_sets` gives it."""
        self.path = path
        self._manifest = FeatureManifest.read(path)
        self._lock = threading.RLock()
        self._maps: OrderedDict[tuple[str, int], MappedShard] = OrderedDict()
        # Read on first use, so that opening costs a few small files.
        self._index: RowIndex | None = None
        self._rows: dict[KeyFrame, int] = {}
        self._done_K = np.zeros(self._manifest.num_rows, np.bool_)
        self._digests_K = np.zeros(self._manifest.num_rows, np.uint64)

    def __reduce__(self) -> tuple[type["FeatureSet"], tuple[Path]]:
        return FeatureSet, (self.path,)

    @property
    def manifest(self) -> FeatureManifest:
        return self._manifest

    @property
    def spec(self) -> FeatureSpec:
        return self._manifest.spec

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def dataset(self) -> str:
        return self._manifest.dataset

    @property
    def split(self) -> str:
        return self._manifest.split

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of one row of each array present: {"slow": (C,H,W), ...}."""
        return self._manifest.shapes

    @property
    def index(self) -> RowIndex:
        """Key frame, window and source digest of every row."""
        with self._lock:
            if self._index is None:
                self._index = read_index(self.path, self._manifest)
                self._rows = {key: row for row, key in enumerate(self._index.key_frames)}
            return self._index

    @property
    def key_frames(self) -> tuple[KeyFrame, ...]:
        """The key frame of each row; sorted."""
        return self.index.key_frames

    def row_of(self, key: KeyFrame) -> int:
        row = self._rows.get(key) if self.index else None
        if row is None:
            raise NotFoundError(
                f"Key frame {key} is not in the feature set {self.id} of {self.dataset}/{self.split}, which has "
                f"{self._manifest.num_rows} rows; run precompute on a split that holds it."
            )
        return row

    @property
    def done(self) -> NDArray[np.bool_]:
        """[K]: which rows are safely written, as it is on disk now."""
        self._refresh()
        return self._done_K.copy()

    @property
    def complete(self) -> bool:
        return bool(self.done.all())

    def read(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> FeatureBatch:
        """Return the rows in the given order (repeats allowed); one that is undone or damaged is an error.

        The files are read in their own order, whatever the order of `rows`. Every row's checksums and digest are
        verified on the copy that is returned.
        """
        wanted = np.asarray(rows, dtype=np.int64)
        self._check_rows(wanted)
        manifest, index = self._manifest, self.index
        out = {name: np.empty((len(wanted), *manifest.shapes[name]), manifest.dtype(name)) for name in manifest.arrays}
        for position in np.argsort(wanted, kind="stable").tolist():
            row = int(wanted[position])
            shard, local_row = divmod(row, manifest.rows_per_shard)
            checksums = [
                self._shard(name, shard).read_into(local_row, values[position]) for name, values in out.items()
            ]
            if index.digest(row, checksums) != int(self._digests_K[row]):
                raise InputError(
                    f"Row {row} ({index.key_frames[row]}) of '{self.path}' is not what was written: "
                    "its digest differs. Run 'stal-cli cache verify --repair' on the set, then precompute again."
                )
        return FeatureBatch(**out)

    def _check_rows(self, rows_B: NDArray[np.int64]) -> None:
        bad = rows_B[(rows_B < 0) | (rows_B >= self._manifest.num_rows)]
        if rows_B.ndim != 1 or bad.size:
            raise InputError(f"Rows {bad.tolist()} are not among 0 to {self._manifest.num_rows - 1} of '{self.path}'.")
        if not self._done_K[rows_B].all():
            self._refresh()
        undone = rows_B[~self._done_K[rows_B]]
        if undone.size:
            raise InputError(
                f"Row {undone[0]} ({self.key_frames[int(undone[0])]}) of '{self.path}' is not computed yet, like "
                f"{int((~self._done_K).sum())} of {self._manifest.num_rows} rows; run precompute again, it resumes."
            )

    def _refresh(self) -> None:
        # In this order: a digest is on disk before its row is done.
        rows = range(self._manifest.num_rows)
        done = read_column(self.path, "done", rows).astype(np.bool_)
        digests = read_column(self.path, "digest", rows)
        with self._lock:
            self._digests_K, self._done_K = digests, done

    def _shard(self, name: str, shard: int) -> MappedShard:
        key = (name, shard)
        with self._lock:
            found = self._maps.get(key)
            if found is None:
                manifest = self._manifest
                found = self._maps[key] = MappedShard(
                    shard_path(self.path, manifest, name, shard),
                    rows=manifest.rows_per_shard,
                    row_bytes=manifest.row_bytes(name),
                )
                # A thread that still reads an evicted map keeps it alive.
                if len(self._maps) > MAX_MAPS:
                    self._maps.popitem(last=False)
            self._maps.move_to_end(key)
            return found


def read_column(path: Path, name: str, rows: range) -> NDArray[Any]:
    """Read rows of a one-dimensional array of the set through zarr."""
    try:
        return np.asarray(zarr.open_array(path / name, mode="r", zarr_format=3)[rows.start : rows.stop])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"The array '{path / name}' does not read: {error}. Delete the set and precompute again."
        ) from error


def read_index(path: Path, manifest: FeatureManifest) -> RowIndex:
    rows = range(manifest.num_rows)
    columns = {name: read_column(path / "index", name, rows) for name in ("timestamp", "frame_start", "frame_end")}
    videos = read_column(path / "index", "video", rows)
    return RowIndex(
        key_frames=tuple(KeyFrame(str(v), int(t)) for v, t in zip(videos, columns["timestamp"], strict=True)),
        windows_K2=np.stack([columns["frame_start"], columns["frame_end"]], axis=1),
        sources_K=read_column(path, "source", rows),
    )
