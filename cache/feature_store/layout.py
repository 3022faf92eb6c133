"""The layout of a feature set on disk: which arrays there are, their shapes, and how they are cut into shards.

K rows (key frames), C channels, H, W rows and columns of a map.
"""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
from google_crc32c import value as crc32c
from numpy.typing import NDArray

from cache.feature_store.deleting import how_to_delete
from cache.feature_store.errors import DamagedError
from cache.feature_store.metadata import check_attributes, check_members, read_attributes, read_json
from cache.spec import FeatureSpec
from stal_data.errors import ConflictError
from stal_data.keyframes import KeyFrame

FORMAT = "stal-features"
VERSION = 3
"""Of new sets; those of version 2 are read and filled as they are."""
TIME_COLUMNS = {2: "index/timestamp", 3: "index/time_ms"}
"""Where a set of each version has the times of its key frames: in whole seconds, and in milliseconds."""
COLUMNS = ("digest", "done", "source", "index", "index/video", "index/frame_start", "index/frame_end")
"""What every set has beside its features and the times; `index` is a group."""
FeatureBatch: TypeAlias = Mapping[str, NDArray[Any]]
"""Features of B rows by array: a map's time mean [B,C,H,W] or all its steps [B,C,T,H,W], and other statistics of it.

`FeatureManifest.arrays` says which arrays there are, `FeatureManifest.dtype` their types; those of int8 have scales.
"""
DEFAULT_ROWS_PER_SHARD = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class RowIndex:
    """Which key frame a row is, and what it was made from.

    windows_K2: frame_start, frame_end on the 25 fps time line, from 1, end exclusive.
    sources_K: uint64 digest of the media behind the row's frames.
    """

    key_frames: tuple[KeyFrame, ...]
    windows_K2: NDArray[np.int64]
    sources_K: NDArray[np.uint64]

    def digest(self, row: int, checksums: Sequence[int]) -> int:
        """Return the 64-bit digest of a row, from the crc32c of its arrays in the order of the spec.

        It covers the row's identity, too: a shard copied from elsewhere fails although its own checksums are right.
        """
        tail = struct.pack(f"<{len(checksums)}I", *checksums)
        return int.from_bytes(hashlib.blake2b(self._heads[row] + tail, digest_size=8).digest(), "little")

    @cached_property
    def _heads(self) -> list[bytes]:
        """The identity of every row, made once: it is needed at each read."""
        columns = zip(self.key_frames, self.windows_K2.tolist(), self.sources_K.tolist(), strict=True)
        return [
            struct.pack("<qqqQ", _digested_time(key.time_ms), start, end, source) + key.video.encode()
            for key, (start, end), source in columns
        ]


@dataclass(frozen=True, kw_only=True)
class FeatureManifest:
    """What a set is; stored as the attributes of its Zarr group.

    shapes: shape of one row of each feature array, without K: {"slow": (C,H,W), ..., "vit_moments": (2,C)}.
    num_rows: K, the key frames of the split. The arrays are longer: padded to whole shards.
    rows_per_shard: rows that are written at once by one writer, in every array.
    version: of the format.
    """

    dataset: str
    split: str
    spec: FeatureSpec
    shapes: Mapping[str, tuple[int, ...]] = field(hash=False)
    num_rows: int
    rows_per_shard: int
    version: int = VERSION

    @property
    def num_shards(self) -> int:
        return -(-self.num_rows // self.rows_per_shard)

    @property
    def padded_rows(self) -> int:
        return self.num_shards * self.rows_per_shard

    @property
    def arrays(self) -> tuple[str, ...]:
        """The feature arrays of this set, in the order of its spec."""
        return tuple(self._dtypes)

    @property
    def members(self) -> tuple[str, ...]:
        """Every array and group of the set."""
        return (*self.arrays, *COLUMNS, TIME_COLUMNS[self.version])

    def rows_of(self, shard: int) -> range:
        """Return the rows of a shard, without the padding."""
        start = shard * self.rows_per_shard
        return range(start, min(start + self.rows_per_shard, self.num_rows))

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the little-endian dtype of a feature array."""
        return self._dtypes[name]

    @cached_property
    def _dtypes(self) -> dict[str, np.dtype[Any]]:
        stored = (item for array in self.spec.arrays for item in array.stored(self.spec.dtype).items())
        return {name: np.dtype(dtype).newbyteorder("<") for name, dtype in stored}

    def row_bytes(self, name: str) -> int:
        return int(np.prod(self.shapes[name])) * self.dtype(name).itemsize

    def to_attributes(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": self.version,
            "dataset": self.dataset,
            "split": self.split,
            "spec_id": self.spec.id,
            "spec": self.spec.to_dict(),
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "num_rows": self.num_rows,
            "rows_per_shard": self.rows_per_shard,
        }

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the manifest of the set in folder `path` and check that this version can read its arrays."""
        attributes = read_attributes(path)
        found = (attributes.get("format"), attributes.get("version"))
        if found not in [(FORMAT, version) for version in TIME_COLUMNS]:
            known = " or ".join(map(str, TIME_COLUMNS))
            raise ConflictError(
                f"'{path}' is {found[0]} version {found[1]}, not {FORMAT} version {known}; {how_to_delete(path)} and "
                "precompute again."
            )
        check_attributes(path, attributes)
        manifest = cls.from_attributes(attributes, f"{path}/zarr.json")
        if manifest.spec.id != attributes.get("spec_id"):
            raise ConflictError(
                f"The spec in '{path}/zarr.json' was edited: its id is no longer {attributes.get('spec_id')}."
            )
        if set(manifest.shapes) != set(manifest.arrays):
            raise DamagedError(
                f"The manifest in '{path}/zarr.json' gives shapes of {', '.join(sorted(manifest.shapes))}, but its "
                f"spec makes {', '.join(manifest.arrays)}; {how_to_delete(path)} and precompute again."
            )
        for name in manifest.arrays:
            _check_array(path / name, manifest, name)
        check_members(path, attributes, manifest.members)
        return manifest

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any], where: str) -> Self:
        """The inverse of `to_attributes`. where: for messages."""
        try:
            return cls(
                dataset=attributes["dataset"],
                split=attributes["split"],
                spec=FeatureSpec.from_dict(attributes["spec"]),
                shapes={name: tuple(shape) for name, shape in attributes["shapes"].items()},
                num_rows=attributes["num_rows"],
                rows_per_shard=attributes["rows_per_shard"],
                version=attributes["version"],
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DamagedError(f"The manifest in '{where}' is not complete: {error!r}.") from None


def shard_path(root: Path, manifest: FeatureManifest, name: str, shard: int) -> Path:
    """Return the file of one shard of a feature array: one key of Zarr's default encoding, `c/<shard>/0/0`."""
    return root.joinpath(name, "c", str(shard), *("0" for _ in manifest.shapes[name]))


def _digested_time(time_ms: int) -> int:
    """Return what stands for a time in digests: the second, as since version 2, or milliseconds below zero."""
    return -time_ms if time_ms % 1000 else time_ms // 1000


def checksum(row: NDArray[Any]) -> int:
    """Return the crc32c of a C-contiguous array's bytes, as Zarr's codec of that name appends it."""
    found: int = crc32c(row)
    return found


def _check_array(path: Path, manifest: FeatureManifest, name: str) -> None:
    metadata, shape = read_json(path / "zarr.json"), manifest.shapes[name]
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    values = little if manifest.dtype(name).itemsize > 1 else {"name": "bytes"}  # single bytes have no order
    expected = {
        "shape": [manifest.padded_rows, *shape],
        "data_type": manifest.dtype(name).name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [manifest.rows_per_shard, *shape]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": [1, *shape],
                    "codecs": [values, {"name": "crc32c"}],
                    "index_codecs": [little, {"name": "crc32c"}],
                    "index_location": "end",
                },
            }
        ],
    }
    for key, value in expected.items():
        if metadata.get(key) != value:
            raise ConflictError(
                f"'{path}' is stored with {key} {metadata.get(key)}, not {value}; only sets written by precompute "
                f"can be read. To make it anew, {how_to_delete(path.parent)} and precompute again."
            )
