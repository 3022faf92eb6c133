"""Rows a second of the feature store's reader, np.memmap and zarr-python, on the same rows in the same run.

The set has the published shapes (1.6 MB a row, float16). The readers' bytes are compared first. Each is measured twice,
on one thread and on two: with fresh arrays for every batch, where each reader allocates as it does by itself, and into
arrays that each thread uses again, where both get the same ones, from `FeatureSet.allocate`. A share is of np.memmap
under the same policy. Warm: the files are in the page cache. Run on a quiet machine:

    python -m benchmarks.cache_read --rows 512 --batch 8 --folder /tmp
"""

import argparse
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray

from cache.backbones.registry import Statistics
from cache.feature_store import FeatureBatch, FeatureSet, FeatureWriter, RowIndex, layout
from cache.spec import BackboneSpec, FeatureSpec
from cache.statistics import STATISTICS
from cache.store import Store
from stal_data.keyframes import KeyFrame

MAPS = {"slow": (2048, 8, 14, 14), "fast": (256, 32, 14, 14), "vit": (1408, 16, 16, 16)}
KEPT: Statistics = {"slow": ("mean",), "fast": ("mean",), "vit": ("mean", "moments")}
SECONDS = 0.1  # of each measurement
REPEATS = 40
SLOW_REPEATS = 3  # of zarr-python

Batch = dict[str, NDArray[np.generic]]
Read = Callable[[NDArray[np.int64]], Batch]


def write_set(
    store: Store, num_rows: int, rows_per_shard: int = layout.DEFAULT_ROWS_PER_SHARD, kept: Statistics = KEPT
) -> FeatureSet:
    """Write random features of the published shapes. kept: the statistics of each map."""
    random = {"weights": "random:0", "trained": False, "height": 224, "width": 224}
    slowfast = BackboneSpec(
        kind="slowfast", preset="r50", config={}, statistics={name: kept[name] for name in ("slow", "fast")}, **random
    )
    tokens = {"num_frames": 32, "tubelet": [2, 14, 14]}
    vit = BackboneSpec(kind="vit", preset="giant", config=tokens, statistics={"vit": kept["vit"]}, **random)
    index = RowIndex(
        key_frames=tuple(KeyFrame("video", 1000 * row) for row in range(num_rows)),
        windows_K2=np.ones((num_rows, 2), np.int64),
        sources_K=np.zeros(num_rows, np.uint64),
    )
    spec = FeatureSpec(backbones=(slowfast, vit), decoder="none")
    shapes = {array.name: STATISTICS[array.statistic].row_shape(MAPS[array.map]) for array in spec.arrays}
    writer = FeatureWriter.open(
        store,
        dataset="benchmark",
        split="all",
        spec=spec,
        index=index,
        shapes=shapes,
        rows_per_shard=rows_per_shard,
    )
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    for shard in writer.pending():
        rows = len(writer.manifest.rows_of(shard))
        arrays = {name: rng.standard_normal((rows, *shape), dtype=np.float32) for name, shape in shapes.items()}
        claim = writer.claim(shard)
        assert claim is not None
        with claim:
            writer.write_shard(claim, arrays)
    print(f"written in {time.perf_counter() - start:.1f} s, random numbers and fsync included")
    return FeatureSet(writer.path)


def memmaps(features: FeatureSet, folder: Path) -> Batch:
    """Plain files with the same rows: no checksums, no done marks; the speed to come near to."""
    maps = {}
    for name, shape in features.shapes.items():
        path, rows = folder / f"{name}.raw", features.manifest.num_rows
        copy = np.memmap(path, features.manifest.dtype(name), "w+", shape=(rows, *shape))
        for row in range(rows):
            copy[row] = features.read([row])[name][0]
        copy.flush()
        maps[name] = np.memmap(path, features.manifest.dtype(name), "r", shape=(rows, *shape))
    return maps


class Reused:
    """Readers into arrays that each thread keeps."""

    def __init__(self, features: FeatureSet, maps: Batch, batch: int) -> None:
        self._features, self._maps, self._batch, self._held = features, maps, batch, threading.local()

    def _buffer(self) -> FeatureBatch:
        if not hasattr(self._held, "buffer"):
            self._held.buffer = self._features.allocate(self._batch)
        return self._held.buffer

    def memmap(self, rows: NDArray[np.int64]) -> Batch:
        out = dict(self._buffer())
        for name, values in self._maps.items():
            np.take(values, rows, axis=0, out=out[name], mode="clip")  # other modes copy through a buffer
        return out

    def features(self, rows: NDArray[np.int64]) -> Batch:
        self._features.read_into(rows, self._buffer())
        return dict(self._buffer())


def zarr_reader(features: FeatureSet) -> Read:
    arrays = {name: zarr.open_array(features.path / name, mode="r") for name in features.shapes}
    return lambda rows: {name: np.asarray(array.oindex[rows]) for name, array in arrays.items()}


@dataclass(frozen=True, kw_only=True)
class Rate:
    """rows_per_s: by the clock. cpu_us: processor time a row in microseconds, which other programs disturb less."""

    rows_per_s: float
    cpu_us: float


def measure(read: Read, num_rows: int, batch: int, threads: int, seed: int) -> Rate:
    """Read random batches without repeats for SECONDS, with `threads` threads."""

    def work(thread: int) -> int:
        rng, count, end = np.random.default_rng((seed, thread)), 0, time.perf_counter() + SECONDS
        while time.perf_counter() < end:
            read(rng.choice(num_rows, batch, replace=False))
            count += batch
        return count

    start, cpu_start = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        count = sum(pool.map(work, range(threads)))
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return Rate(rows_per_s=count / seconds, cpu_us=cpu_seconds / count * 1e6)


def same(a: Batch, b: Batch) -> bool:
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rows-per-shard", type=int, default=layout.DEFAULT_ROWS_PER_SHARD, help="Fewer: more files.")
    parser.add_argument("--folder", type=Path, help="Where the files go; default: the temporary folder.")
    options = parser.parse_args(arguments)
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {os.cpu_count()} cores, {platform.system()} {platform.release()}")
    print(f"Python {platform.python_version()}, numpy {np.__version__}, zarr {zarr.__version__}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        features = write_set(Store.open(folder), options.rows, options.rows_per_shard)
        row_bytes = sum(features.manifest.row_bytes(name) for name in features.shapes)
        maps = memmaps(features, Path(folder))
        reused = Reused(features, maps, options.batch)
        readers: dict[str, Read] = {
            "np.memmap, fresh arrays": lambda rows: {name: values[rows] for name, values in maps.items()},
            "FeatureSet.read, fresh arrays": lambda rows: dict(features.read(rows)),
            "zarr-python, fresh arrays": zarr_reader(features),
            "np.memmap, reused arrays": reused.memmap,
            "FeatureSet.read_into, reused arrays": reused.features,
        }
        probe = np.random.default_rng(1).choice(options.rows, options.batch, replace=False)
        expected = {name: np.array(values) for name, values in readers["np.memmap, fresh arrays"](probe).items()}
        for name, read in readers.items():
            assert same(read(probe), expected), name
        shards = f"{features.manifest.num_shards} shards of {features.manifest.rows_per_shard}"
        print(f"{options.rows} rows of {row_bytes / 1e6:.2f} MB in {shards}, batches of {options.batch}")
        for threads in (1, 2):
            compare(readers, options.rows, options.batch, threads, row_bytes)


def compare(readers: dict[str, Read], num_rows: int, batch: int, threads: int, row_bytes: int) -> None:
    rates: dict[str, list[Rate]] = {name: [] for name in readers}
    for seed in range(REPEATS):  # in turn, so that a busy moment does not hit one reader alone
        for name, read in readers.items():
            if not name.startswith("zarr") or seed < SLOW_REPEATS:
                rates[name].append(measure(read, num_rows, batch, threads, seed))
    print(f"{threads} threads: the best tenth of the measurements, and the share of np.memmap's")
    base = (1.0, 1.0)
    for name, measured in rates.items():
        best = len(measured) // 10
        rate = sorted((r.rows_per_s for r in measured), reverse=True)[best]
        cpu_us = sorted(r.cpu_us for r in measured)[best]
        if name.startswith("np.memmap"):
            base = (rate, cpu_us)
        print(
            f"{name:36} {rate:7.0f} rows/s {rate * row_bytes / 1e9:5.2f} GB/s {rate / base[0]:5.0%} "
            f"{cpu_us:8.0f} us CPU a row {base[1] / cpu_us:5.0%}"
        )


if __name__ == "__main__":
    main()
