"""Writing one shard: its rows go to the disk as they come, and get their names and their done mark at the end."""

import os
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import NDArray

from cache.feature_store.claim import ShardClaim
from cache.feature_store.create import KEEP_ZEROS
from cache.feature_store.layout import FeatureBatch, FeatureManifest, RowIndex, checksum, shard_path
from cache.feature_store.set_folder import SetFolder
from cache.feature_store.shards import CHECKSUM
from cache.feature_store.values import checked_cast
from cache.files import explaining_full_disk
from stal_data.errors import InputError
from stal_data.files import temporary_name


class SetFiles:
    """Where a writer puts the files of a set: at their place, or in a scratch folder from which they go to a bucket."""

    def __init__(self, place: SetFolder, manifest: FeatureManifest) -> None:
        self.path, self.manifest = place.path, manifest
        self._place, self._folder = place, place.write_folder(self)

    def open_array(self, name: str, shard: int) -> "ArrayFile":
        """Begin the file of one shard of a feature array."""
        path = shard_path(self._folder, self.manifest, name, shard)
        _remove_stale(path)
        rows, row_bytes = self.manifest.rows_per_shard, self.manifest.row_bytes(name)
        return ArrayFile(path, rows=rows, row_bytes=row_bytes, sync=self._place.syncs)

    def write_column(self, name: str, shard: int, values: NDArray[Any]) -> Path:
        """Write one shard of `digest` or `done`, padded with zeros; not yet durable."""
        path, size = self._folder / name / "c" / str(shard), self.manifest.rows_per_shard
        _remove_stale(path)
        block = np.zeros(size, values.dtype)
        block[: len(values)] = values
        array = zarr.open_array(self._folder / name, mode="r+", zarr_format=3).with_config(KEEP_ZEROS)
        array[shard * size : (shard + 1) * size] = block
        return path

    def settle(self, claim: ShardClaim, files: Sequence[Path]) -> None:
        """Make written files durable, or send them to the bucket."""
        self._place.settle(self._folder, files, claim)


class ArrayFile:
    """One shard of a feature array in the bytes of Zarr's sharding codec, under a temporary name until `finish`."""

    def __init__(self, path: Path, *, rows: int, row_bytes: int, sync: bool) -> None:
        """sync: send rows on their way to the disk as they come, so that little is left to wait for at the end."""
        self.path, self._rows, self._row_bytes, self._sync = path, rows, row_bytes, sync
        path.parent.mkdir(parents=True, exist_ok=True)
        self._partial = temporary_name(path)
        self._file = self._partial.open("xb")
        self._count = 0

    def add(self, rows_B: NDArray[Any]) -> list[int]:
        """Append rows, C-contiguous and in the stored type; return the crc32c of each."""
        checksums = []
        for row in rows_B:
            checksums.append(checksum(row))
            self._file.write(row.data)
            self._file.write(CHECKSUM.pack(checksums[-1]))
        self._count += len(rows_B)
        if self._sync:
            self._file.flush()
            os.fdatasync(self._file.fileno())
        return checksums

    def finish(self) -> Path:
        """Pad with rows of zeros, add the index and give the file its name; not yet durable."""
        if padding := self._rows - self._count:
            self.add(np.zeros((padding, self._row_bytes), np.uint8))
        whole = self._row_bytes + CHECKSUM.size
        index = b"".join(struct.pack("<2Q", row * whole, whole) for row in range(self._rows))
        self._file.write(index + CHECKSUM.pack(checksum(np.frombuffer(index, np.uint8))))
        self._file.close()
        self._partial.rename(self.path)
        return self.path

    def discard(self) -> None:
        """Leave nothing behind, unless it is finished."""
        with suppress(OSError):  # what was not written yet may not fit the disk
            self._file.close()
        self._partial.unlink(missing_ok=True)


class ShardWriter:
    """The rows of a claimed shard on their way to the store; use it in a `with` block.

    No reader sees any of them before `finish` has marked them done. Left without it, nothing remains.
    """

    def __init__(self, files: SetFiles, index: RowIndex, claim: ShardClaim) -> None:
        assert claim.held
        self.claim = claim
        self._files, self._index, self._manifest = files, index, files.manifest
        self._rows = files.manifest.rows_of(claim.shard)
        self._arrays: dict[str, ArrayFile] = {}
        self._digests: list[int] = []

    def add(self, rows: range, features: FeatureBatch) -> None:
        """Append the next rows of the shard: `write` what `convert` makes of the features."""
        self.write(rows, self.convert(rows, features))

    def write(self, rows: range, blocks: Mapping[str, NDArray[Any]]) -> None:
        """Append the next rows of the shard, as `convert` returned them."""
        assert self.claim.held
        assert rows.start == self._rows.start + len(self._digests)
        with explaining_full_disk(self._files.path):
            for name in blocks:
                if name not in self._arrays:
                    self._arrays[name] = self._files.open_array(name, self.claim.shard)
            checksums = [self._arrays[name].add(block) for name, block in blocks.items()]
        self._digests += [
            self._index.digest(row, found) for row, found in zip(rows, zip(*checksums, strict=True), strict=True)
        ]

    def finish(self) -> None:
        """Make the rows durable, then mark them done."""
        assert self.claim.held
        assert len(self._digests) == len(self._rows)
        shard = self.claim.shard
        with explaining_full_disk(self._files.path):
            written = [array.finish() for array in self._arrays.values()]
            written.append(self._files.write_column("digest", shard, np.array(self._digests, np.uint64)))
            self._files.settle(self.claim, written)
            done = self._files.write_column("done", shard, np.ones(len(self._rows), np.uint8))
            self._files.settle(self.claim, [done])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for array in self._arrays.values():
            array.discard()

    def convert(self, rows: range, features: FeatureBatch, *, finite: bool = False) -> Mapping[str, NDArray[Any]]:
        """Check the features and return them in the stored types, in the order of the set.

        features: these rows in order, with exactly the set's arrays, float32 or in the stored types.
        finite: whether they are in the stored types and known to be finite.
        """
        manifest = self._manifest
        keys = [self._index.key_frames[row] for row in rows]
        blocks = {}
        if strange := sorted(features.keys() ^ set(manifest.arrays)):
            what = "not part of the set" if strange[0] in features else "missing"
            raise InputError(f"The array '{strange[0]}' is {what}.")
        for name in manifest.arrays:
            values, expected = features[name], [len(rows), *manifest.shapes[name]]
            if list(values.shape) != expected:
                raise InputError(f"The array '{name}' has shape {list(values.shape)}; the shard needs {expected}.")
            dtype = manifest.dtype(name)
            blocks[name] = np.ascontiguousarray(values, dtype) if finite else checked_cast(name, values, dtype, keys)
        return blocks


def _remove_stale(path: Path) -> None:
    """Remove what a killed writer left. Zarr would read an old shard before it replaces it, and fail on a torn one."""
    for pattern in (path.name, f"{path.name}.*.partial", f".{path.name}.*.partial"):
        for stale in path.parent.glob(pattern):
            stale.unlink(missing_ok=True)
