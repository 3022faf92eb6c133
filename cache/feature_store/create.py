"""Making an empty feature set: metadata and the columns that never change."""

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.core.array_spec import ArrayConfigParams

from cache.feature_store.layout import FeatureManifest, RowIndex
from cache.feature_store.metadata import seal
from cache.feature_store.set_folder import SetFolder
from cache.statistics import SCALE
from stal_data.files import temporary_name

KEEP_ZEROS: ArrayConfigParams = {"write_empty_chunks": True}
"""A row of zeros is data; left out, it could not be told from a row that was never written."""


def create_set(folder: SetFolder, manifest: FeatureManifest, index: RowIndex) -> None:
    """Make an empty set: complete under a temporary name, then renamed."""
    partial = temporary_name(folder.path)
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        group = zarr.create_group(partial, zarr_format=3)
        padded, rows = manifest.padded_rows, manifest.rows_per_shard
        for name in manifest.arrays:
            shape = manifest.shapes[name]
            group.create_array(
                name,
                shape=(padded, *shape),
                chunks=(1, *shape),
                shards=(rows, *shape),
                dtype=manifest.dtype(name),
                filters=None,
                serializer=BytesCodec(endian="little"),
                compressors=Crc32cCodec(),
                fill_value=0,
                dimension_names=dimension_names(name, shape),
            )
        for name, dtype in (("digest", "uint64"), ("done", "uint8")):
            _create_column(group, name, dtype, padded, rows)
        # Written once, here, so one chunk holds all rows.
        starts_K, ends_K = index.windows_K2.T
        times_K = np.array([key.time_ms for key in index.key_frames], np.int64)
        _create_column(group, "source", "uint64", padded, padded)[: manifest.num_rows] = index.sources_K
        table = group.create_group("index")
        for name, values in (("time_ms", times_K), ("frame_start", starts_K), ("frame_end", ends_K)):
            _create_column(table, name, "int64", padded, padded)[: manifest.num_rows] = values
        videos = table.create_array(
            "video",
            shape=(padded,),
            chunks=(padded,),
            dtype=str,
            compressors=Crc32cCodec(),
            fill_value="",
            dimension_names=("row",),
        )
        videos[: manifest.num_rows] = np.array([key.video for key in index.key_frames], np.dtypes.StringDType())
        group.update_attributes(seal(partial, manifest.to_attributes(), manifest.members))
        folder.create(partial)
    except OSError:
        # Another writer may have been faster; its set is checked like any that exists.
        if not folder.path.exists():
            raise
    finally:
        _remove(partial)


def _remove(partial: Path) -> None:
    """Remove what is left of an unfinished set. Zarr's other writes may still be on their way when one has failed."""
    for _ in range(100):
        shutil.rmtree(partial, ignore_errors=True)
        if not partial.exists():
            return
        time.sleep(0.02)


def dimension_names(name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Names of an array's axes, without which xarray does not open it. shape: of one row."""
    if len(shape) == 2:
        return "row", "moment", f"{name.removesuffix('_moments')}_channel"
    if len(shape) == 1:
        return "row", f"{name.removesuffix(SCALE)}_channel"
    axes = ("channel", "y", "x") if len(shape) == 3 else ("channel", "time", "y", "x")
    return "row", *(f"{name}_{axis}" for axis in axes)


def _create_column(group: zarr.Group, name: str, dtype: str, padded: int, rows: int) -> zarr.Array[Any]:
    return group.create_array(
        name,
        shape=(padded,),
        chunks=(rows,),
        dtype=dtype,
        filters=None,
        compressors=Crc32cCodec(),
        fill_value=0,
        dimension_names=("row",),
        config=KEEP_ZEROS,
    )
