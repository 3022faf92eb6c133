"""Size, write and read time of a real feature set under Zarr's codecs, to choose whether to compress.

Every codec gets the same rows in the same layout (a row a chunk, in shards) and its bytes are compared. CPU time is
given because it is what a loader pays and what other programs disturb least.

    python -m benchmarks.cache_compression store/features/synthetic/train/ID --rows 256 --folder /tmp
"""

import argparse
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ZstdCodec

from cache.feature_store import FeatureSet

REPEATS = 3
CODECS: dict[str, list[Any]] = {
    "none": [],
    "zstd 1": [ZstdCodec(level=1)],
    "zstd 5": [ZstdCodec(level=5)],
    "blosc zstd 1 shuffle": [BloscCodec(cname="zstd", clevel=1, shuffle="shuffle")],
    "blosc zstd 5 shuffle": [BloscCodec(cname="zstd", clevel=5, shuffle="shuffle")],
    "blosc zstd 5 bitshuffle": [BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle")],
    "blosc lz4 5 shuffle": [BloscCodec(cname="lz4", clevel=5, shuffle="shuffle")],
}


def write(folder: Path, arrays: dict[str, NDArray[Any]], rows_per_shard: int, codecs: list[Any]) -> None:
    group = zarr.create_group(folder, zarr_format=3, overwrite=True)
    for name, values in arrays.items():
        array = group.create_array(
            name,
            shape=values.shape,
            chunks=(1, *values.shape[1:]),
            shards=(rows_per_shard, *values.shape[1:]),
            dtype=values.dtype,
            filters=None,
            serializer=BytesCodec(endian="little"),
            compressors=[*codecs, Crc32cCodec()],
            fill_value=0,
        )
        for start in range(0, len(values), rows_per_shard):
            array[start : start + rows_per_shard] = values[start : start + rows_per_shard]


def read(folder: Path, names: Sequence[str], rows_per_shard: int) -> dict[str, NDArray[Any]]:
    """Read shard by shard, the best case for zarr-python; random rows cost it far more than any codec."""
    found = {}
    for name in names:
        array = zarr.open_array(folder / name, mode="r")
        parts = [array[start : start + rows_per_shard] for start in range(0, array.shape[0], rows_per_shard)]
        found[name] = np.concatenate([np.asarray(part) for part in parts])
    return found


def cpu_s(call: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return median(times)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path, help="Folder of a feature set.")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--folder", type=Path, help="Where the files go; default: the temporary folder.")
    options = parser.parse_args(arguments)
    features = FeatureSet(options.set)
    manifest = features.manifest
    batch = features.read(np.flatnonzero(features.done)[: options.rows])
    arrays = {name: np.asarray(batch[name]) for name in manifest.arrays}
    count, rows_per_shard = len(next(iter(arrays.values()))), manifest.rows_per_shard
    arrays = {name: values[: count - count % rows_per_shard] for name, values in arrays.items()}
    total = sum(values.nbytes for values in arrays.values())
    print(f"{platform.machine()}, Python {platform.python_version()}, zarr {zarr.__version__}, ", end="")
    print(f"numcodecs {version('numcodecs')}, numpy {np.__version__}")
    shapes = ", ".join(f"{name} {values.dtype.name} {values.shape}" for name, values in arrays.items())
    print(f"{shapes}: {total / 1e6:.1f} MB, shards of {rows_per_shard} rows; set {features.id}")
    print(f"{'codec':24} {'size':>6}  {'write':>12}  {'read':>12}   size by array")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        for codec, codecs in CODECS.items():
            write_s = cpu_s(lambda codecs=codecs: write(folder, arrays, rows_per_shard, codecs))
            found = read(folder, list(arrays), rows_per_shard)
            assert all(found[key].tobytes() == values.tobytes() for key, values in arrays.items()), codec
            read_s = cpu_s(lambda: read(folder, list(arrays), rows_per_shard))
            sizes = {
                key: sum(file.stat().st_size for file in (folder / key / "c").rglob("*") if file.is_file())
                for key in arrays
            }
            by_array = ", ".join(f"{key} {size / arrays[key].nbytes:.3f}" for key, size in sizes.items())
            size = sum(sizes.values()) / total
            speeds = f"{total / write_s / 1e6:7.0f} MB/s  {total / read_s / 1e6:7.0f} MB/s"
            print(f"{codec:24} {size:6.3f}  {speeds}   {by_array}")


if __name__ == "__main__":
    main()
