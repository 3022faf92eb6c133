"""A feature set as one HDF5 file, to keep or to hand on; checksums, digests and done marks travel with it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from cache import h5
from cache.feature_store.layout import FeatureBatch, FeatureManifest, RowIndex, checksum
from cache.feature_store.reader import FeatureSet
from cache.feature_store.writer import FeatureWriter
from cache.files import replacing
from cache.store import Store
from stal_data.errors import ConflictError, InputError

KIND = h5.Kind(name="feature-set", version=2, way_out="Export the set again.")
Report = Callable[[int, int], None]


def export_hdf5(path: Path, output: Path, report: Report | None = None) -> int:
    """Write the rows of the set in folder `path` that are done to the file `output`; return their number.

    The file appears when it is complete. report: told rows done and rows in all.
    """
    features = FeatureSet(path)
    manifest, index, marks = features.manifest, features.index, features.marks()
    with replacing(output) as partial, h5.creating(partial, KIND) as file:
        file.create_dataset("manifest", data=json.dumps(manifest.to_attributes()), dtype=h5py.string_dtype())
        h5.write_keys(file.create_group("key_frames"), index.key_frames)
        columns = {
            "windows": index.windows_K2,
            "source": index.sources_K,
            "done": marks.done_K.astype(np.uint8),
            "digest": marks.digests_K,
        }
        for name, values in columns.items():
            file.create_dataset(name, data=values, chunks=True, fletcher32=True)
        arrays = {
            name: file.create_dataset(
                name,
                shape=(manifest.num_rows, *shape),
                dtype=manifest.dtype(name),
                chunks=(1, *shape),
                fletcher32=True,
            )
            for name, shape in manifest.shapes.items()
        }
        buffer = features.allocate(1)
        for row in range(manifest.num_rows):
            if marks.done_K[row]:
                features.read_into([row], buffer)
                for name, dataset in arrays.items():
                    dataset[row] = buffer[name][0]
                file.check()
            if report:
                report(row + 1, manifest.num_rows)
    return int(marks.done_K.sum())


def import_hdf5(source: Path, store: Store, report: Report | None = None) -> Path:
    """Write the set of an exported file into the store and return its folder; run again, it goes on.

    Every row is checked against its digest first. A set of the same spec but of other frames is refused.
    """
    with h5.opened(source, KIND, old=True) as file:
        with h5.complete(source, KIND):
            exported = _Exported.open(file, source)
        manifest = exported.manifest
        writer = FeatureWriter.open(
            store,
            dataset=manifest.dataset,
            split=manifest.split,
            spec=manifest.spec,
            index=exported.index,
            shapes=manifest.shapes,
            rows_per_shard=manifest.rows_per_shard,
        )
        for shard in writer.pending():
            rows = writer.manifest.rows_of(shard)
            if not exported.done_K[rows.start : rows.stop].all():
                continue
            with writer.claim_or_refuse(shard) as claim:
                if writer.is_pending(shard):  # nobody finished it between the look and the claim
                    writer.write_shard(claim, exported.read(rows))
            if report:
                report(rows.stop, manifest.num_rows)
    return writer.path


@dataclass(frozen=True, kw_only=True, eq=False)
class _Exported:
    """An exported file that is open; `arrays` are datasets that are read by row."""

    source: Path
    manifest: FeatureManifest
    index: RowIndex
    done_K: NDArray[np.bool_]
    digests: list[int]
    arrays: dict[str, Any]

    @classmethod
    def open(cls, file: h5py.File, source: Path) -> Self:
        manifest = _manifest(file, source)
        count = manifest.num_rows
        keys = h5.read_keys(file, "key_frames")
        if len(keys) != count:
            raise InputError(f"'{source}' names {len(keys)} key frames, but its manifest says {count}.")
        return cls(
            source=source,
            manifest=manifest,
            index=RowIndex(
                key_frames=keys,
                windows_K2=_dataset(file, source, "windows", (count, 2), "int64")[:],
                sources_K=_dataset(file, source, "source", (count,), "uint64")[:],
            ),
            done_K=_dataset(file, source, "done", (count,), "uint8")[:].astype(bool),
            digests=_dataset(file, source, "digest", (count,), "uint64")[:].tolist(),
            arrays={
                name: _dataset(file, source, name, (count, *shape), manifest.dtype(name).name)
                for name, shape in manifest.shapes.items()
            },
        )

    def read(self, rows: range) -> FeatureBatch:
        """Return these rows, checked against their digests."""
        with h5.complete(self.source, KIND):
            features = {name: values[rows.start : rows.stop] for name, values in self.arrays.items()}
        for place, row in enumerate(rows):
            checksums = [checksum(features[name][place]) for name in self.manifest.arrays]
            if self.index.digest(row, checksums) != self.digests[row]:
                raise InputError(
                    f"Row {row} ({self.index.key_frames[row]}) in '{self.source}' is damaged: its digest differs. "
                    "Export the set again."
                )
        return features


def _manifest(file: h5py.File, source: Path) -> FeatureManifest:
    try:
        attributes = json.loads(_dataset(file, source, "manifest", (), "object").asstr()[()])
    except ValueError as error:
        raise InputError(f"The manifest in '{source}' is not JSON: {error}.") from None
    manifest = FeatureManifest.from_attributes(attributes, str(source))
    if manifest.spec.id != attributes.get("spec_id"):
        raise ConflictError(f"The spec in '{source}' was edited: its id is no longer {attributes.get('spec_id')}.")
    return manifest


def _dataset(file: h5py.File, source: Path, name: str, shape: tuple[int, ...], dtype: str) -> Any:
    """Return a dataset of exactly this shape and type that lies in the file itself, not behind a link to another."""
    found = h5.dataset(file, name)
    if (found.shape, found.dtype.name) != (shape, dtype):
        raise InputError(f"'{name}' in '{source}' is {found.dtype.name} {found.shape}; it must be {dtype} {shape}.")
    return found
