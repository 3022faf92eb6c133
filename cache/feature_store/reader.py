"""Reading a feature set: rows of key frames, never one that is not completely written and verified."""

import errno
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cache.feature_store.deleting import how_to_delete
from cache.feature_store.errors import DamagedError, damaged_shard
from cache.feature_store.layout import TIME_COLUMNS, FeatureBatch, FeatureManifest, RowIndex, shard_path
from cache.feature_store.locate import set_folder
from cache.feature_store.open_files import max_mapped_files
from cache.feature_store.row_status import RowStatus, read_column, read_row_status
from cache.feature_store.set_folder import Pair
from cache.feature_store.set_lock import mark_in_use
from cache.feature_store.shards import ShardFile
from cache.spec import FeatureSpec
from stal_data.errors import InputError, NotFoundError, StalError
from stal_data.keyframes import KeyFrame

MAX_STAGED_SHARDS = 4
"""Where shards are staged: an open file keeps its room on the disk when it is removed to make some."""

PAGE_BYTES = 4096
_Places: TypeAlias = Sequence[NDArray[np.uint8] | None]
"""Where rows of each array go, as [B, bytes of a row]; None for an array that is not wanted."""

_NOT_THE_FILE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM)
"""Why a sound file does not open."""


class FeatureSet:
    """A feature set opened for reading; it is not deleted meanwhile (see `use`).

    Threads may share it; pickled, it opens itself again in the other process. A forked child may not use it: locks and
    threads of zarr do not survive a fork.
    """

    def __init__(self, path: Path) -> None:
        """path: the set's folder, as `list_feature_sets` gives it."""
        self.path = path
        self.folder = set_folder(path)
        self.folder.refresh()
        self._name = self.folder.name
        if path.is_dir():  # a set that does not exist has no locks
            mark_in_use(self, path)
        self._manifest = FeatureManifest.read(path)
        self._process = os.getpid()
        self._lock = threading.RLock()
        # By shard, a file for each array; the one that was used longest ago is closed first.
        self._shards: OrderedDict[int, tuple[ShardFile, ...]] = OrderedDict()
        self._opening: dict[int, threading.Lock] = {}
        # Read on first use, so that opening costs a few small files.
        self._index: RowIndex | None = None
        self._rows: dict[KeyFrame, int] = {}
        self._marks: RowStatus | None = None

    def __reduce__(self) -> tuple[type["FeatureSet"], tuple[Path]]:
        return FeatureSet, (self.path,)

    @property
    def in_bucket(self) -> bool:
        """Whether rows come over the network each time."""
        return self.folder.in_bucket

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

    def rows_of(self, keys: Sequence[KeyFrame]) -> list[int]:
        """Return the row of each key frame, after checking that all of them have been computed."""
        rows = [self.row_of(key) for key in keys]
        done_K = self.done
        missing = [key for key, row in zip(keys, rows, strict=True) if not done_K[row]]
        if missing:
            raise InputError(
                f"Feature set {self.id} of {self.dataset}/{self.split} lacks {len(missing)} of {len(keys)} key frames, "
                f"the first is {missing[0]}; finish it by running 'stal-cli precompute' again."
            )
        return rows

    @property
    def done(self) -> NDArray[np.bool_]:
        """[K]: which rows are safely written, as it is on disk now."""
        return self.marks().done_K.copy()

    @property
    def complete(self) -> bool:
        return bool(self.marks().done_K.all())

    def marks(self) -> RowStatus:
        """Return the done marks and digests as they are on disk now."""
        marks = read_row_status(self.folder, self._manifest)
        with self._lock:
            self._marks = marks
        return marks

    def allocate(self, num_rows: int, arrays: Iterable[str] | None = None) -> FeatureBatch:
        """Return uninitialised arrays for so many rows, as `read_into` fills them fastest. arrays: None = all."""
        manifest, names = self._manifest, self._manifest.arrays if arrays is None else arrays
        return {name: _aligned((num_rows, *manifest.shapes[name]), manifest.dtype(name)) for name in names}

    def read(self, rows: Sequence[int] | NDArray[np.integer[Any]], arrays: Iterable[str] | None = None) -> FeatureBatch:
        """Return the rows in the given order (repeats allowed) in fresh arrays; see `read_into`. arrays: None = all."""
        out = self.allocate(len(rows), arrays)
        self.read_into(rows, out)
        return out

    def read_into(
        self,
        rows: Sequence[int] | NDArray[np.integer[Any]],
        out: FeatureBatch,
        places: Sequence[int] | NDArray[np.integer[Any]] | None = None,
    ) -> None:
        """Read rows (repeats allowed) into arrays of the caller; one that is undone or damaged is an error.

        out: as `allocate` makes them, of all arrays or of those that are wanted; of the others only the checksums are
            read. The caller may use them again and again, which saves the system from clearing fresh memory for each
            batch. After an error their content is undefined.
        places: where in `out` each row goes; default 0, 1, 2, ...

        The files are read in their own order, whatever the order of `rows`. Every row's checksums and digest are
        verified on the copy in `out`.
        """
        if os.getpid() != self._process:
            raise StalError(
                f"The feature set '{self.path}' was opened before this process was forked; start processes with the "
                "'spawn' method, or use threads."
            )
        wanted = np.asarray(rows, dtype=np.int64)
        marks = self._checked(wanted)
        targets = np.arange(len(wanted)) if places is None else np.asarray(places, dtype=np.int64)
        assert targets.shape == wanted.shape
        if unknown := out.keys() - set(self._manifest.arrays):
            raise InputError(
                f"Feature set {self.id} has no array '{min(unknown)}'; it has {', '.join(self._manifest.arrays)}."
            )
        arrays = [self._bytes_of(name, out, targets) if name in out else None for name in self._manifest.arrays]
        order = np.argsort(wanted, kind="stable")
        # Python's own numbers, which are cheaper to count with.
        pairs = list(zip(wanted[order].tolist(), targets[order].tolist(), strict=True))
        self.folder.read_rows(lambda some: self._read_rows(some, arrays, marks), pairs)

    def _read_rows(self, pairs: Sequence[Pair], arrays: _Places, marks: RowStatus) -> None:
        try:
            self._read_verified(pairs, arrays, marks)
        except DamagedError:
            self._forget()
        else:
            return
        # They may be whole on the disk now: repaired since their shards or marks were read.
        marks = self._checked(np.array([row for row, _ in pairs]))
        try:
            self._read_verified(pairs, arrays, marks)
        except DamagedError:
            if not self.folder.staged:
                self._forget()
                raise
            for pair in pairs:
                self._read_staged(pair, arrays, marks)

    def _read_staged(self, pair: Pair, arrays: _Places, marks: RowStatus) -> None:
        """Read a row; where the staged copy is bad, the bucket may be good."""
        try:
            self._read_verified([pair], arrays, marks)
        except DamagedError:
            shard = pair[0] // self._manifest.rows_per_shard
            self.folder.unstage(shard)
            with self._lock:
                self._shards.pop(shard, None)
            self._read_verified([pair], arrays, marks)

    def _read_verified(self, pairs: Sequence[Pair], arrays: _Places, marks: RowStatus) -> None:
        rows_per_shard, index = self._manifest.rows_per_shard, self.index
        for row, place in pairs:
            files = self._files(row // rows_per_shard)
            local = row % rows_per_shard
            checksums = [
                file.checksum(local) if array is None else file.read(local, array[place])
                for file, array in zip(files, arrays, strict=True)
            ]
            if index.digest(row, checksums) != marks.digests_K[row]:
                raise DamagedError(
                    f"Row {row} ({self.key_frames[row]}) of '{self._name}' is not what was written: its digest "
                    "differs. Run 'stal-cli cache verify --repair' on the store, then precompute again."
                )

    def _bytes_of(self, name: str, out: FeatureBatch, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the bytes of an array of `out` as [B, bytes of a row], after checking that it has all places."""
        values, manifest = out[name], self._manifest
        if (values.shape[1:], values.dtype) != (manifest.shapes[name], manifest.dtype(name)) or not (
            values.flags.c_contiguous and values.flags.writeable
        ):
            raise InputError(
                f"The buffer for '{name}' must be a writable, C-contiguous {manifest.dtype(name).name} array of shape "
                f"[B, {', '.join(map(str, manifest.shapes[name]))}]; FeatureSet.allocate makes one."
            )
        if ((places < 0) | (places >= len(values))).any():
            raise InputError(
                f"Places {places.tolist()} are not among 0 to {len(values) - 1} of the buffer for '{name}'."
            )
        return np.asarray(values).reshape(len(values), math.prod(values.shape[1:])).view(np.uint8)

    def _checked(self, rows_B: NDArray[np.int64]) -> RowStatus:
        """Return the marks, after checking that all these rows are done."""
        bad = rows_B[(rows_B < 0) | (rows_B >= self._manifest.num_rows)]
        if rows_B.ndim != 1 or bad.size:
            raise InputError(f"Rows {bad.tolist()} are not among 0 to {self._manifest.num_rows - 1} of '{self._name}'.")
        marks = self._marks
        if marks is not None and marks.done_K[rows_B].all():
            return marks
        marks = self.marks()
        undone = rows_B[~marks.done_K[rows_B]]
        if undone.size:
            row = int(undone[0])
            if reason := marks.damaged.get(row // self._manifest.rows_per_shard):
                raise DamagedError(f"Row {row} ({self.key_frames[row]}) of '{self._name}' is damaged: {reason}")
            raise InputError(
                f"Row {row} ({self.key_frames[row]}) of '{self._name}' is not computed yet, like "
                f"{int((~marks.done_K).sum())} of {self._manifest.num_rows} rows; run precompute again, it resumes."
            )
        return marks

    def _forget(self) -> None:
        """Look at the disk again at the next read: what is damaged now may be repaired then."""
        with self._lock:
            self._shards.clear()
            self._marks = None

    def _files(self, shard: int) -> tuple[ShardFile, ...]:
        found = self._shards.get(shard)
        if found is None:
            return self._open_shard(shard)
        with suppress(KeyError):  # another thread closed it meanwhile; it stays readable here
            self._shards.move_to_end(shard)
        return found

    def _open_shard(self, shard: int) -> tuple[ShardFile, ...]:
        with self._lock:
            opening = self._opening.setdefault(shard, threading.Lock())
        with opening:  # not the other lock, since they may have to be fetched
            opened = self._shards.get(shard) or tuple(self._open(name, shard) for name in self._manifest.arrays)
        with self._lock:
            self._opening.pop(shard, None)
            self._shards[shard] = opened
            # A thread that still reads evicted files keeps them open.
            while len(self._shards) > self._max_shards:
                self._shards.popitem(last=False)
        return opened

    @cached_property
    def _max_shards(self) -> int:
        if self.folder.staged:
            return MAX_STAGED_SHARDS
        return max(1, max_mapped_files() // len(self._manifest.arrays))

    def _open(self, name: str, shard: int) -> ShardFile:
        manifest = self._manifest
        path = shard_path(self.path, manifest, name, shard)
        try:
            return ShardFile(
                self.folder.open_shard(path), rows=manifest.rows_per_shard, row_bytes=manifest.row_bytes(name)
            )
        except OSError as error:
            if error.errno in _NOT_THE_FILE:
                raise StalError(f"The shard '{path}' could not be opened: {error}.") from error
            raise damaged_shard(str(path), f"it does not open ({error})") from error
        except EOFError as error:
            raise damaged_shard(str(path), str(error)) from error


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an uninitialised array that starts where a page does.

    In a shard, rows start a few bytes after one. Some processors copy to a place that is a little further into its page
    than the source is into its own at a third to a seventh of their speed; NumPy's arrays start 16 bytes into one.
    """
    size = math.prod(shape) * dtype.itemsize
    room = np.empty(size + PAGE_BYTES, np.uint8)
    start = -room.ctypes.data % PAGE_BYTES
    return room[start : start + size].view(dtype).reshape(shape)


def read_index(path: Path, manifest: FeatureManifest) -> RowIndex:
    """Read the columns that were written when the set was made."""
    way_out = f"To make it anew, {how_to_delete(path)} and precompute again."
    times = TIME_COLUMNS[manifest.version]
    for name in ("source", "index/video", times, "index/frame_start", "index/frame_end"):
        if not (path / name / "c" / "0").is_file():  # zarr would give the fill value
            raise DamagedError(f"The array '{path / name}' has lost its file 'c/0'. {way_out}")
    rows = range(manifest.num_rows)
    videos, starts_K, ends_K, times_K = (
        read_column(path, name, rows, way_out)
        for name in ("index/video", "index/frame_start", "index/frame_end", times)
    )
    unit_ms = 1000 if manifest.version == 2 else 1
    return RowIndex(
        key_frames=tuple(KeyFrame(str(v), int(t) * unit_ms) for v, t in zip(videos, times_K, strict=True)),
        windows_K2=np.stack([starts_K, ends_K], axis=1),
        sources_K=read_column(path, "source", rows, way_out),
    )
