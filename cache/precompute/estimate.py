"""How long a run will take and how much it will write, from a few clips of the split."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from cache.feature_store import FeatureManifest, FeatureSet
from cache.feature_store.locate import find_set
from cache.feature_store.writer import balanced_rows_per_shard
from cache.precompute.clips import ClipReader, Size, read_ahead
from cache.precompute.devices import compute_pool
from cache.precompute.extract import Extractor, input_sizes, row_shapes
from cache.precompute.launch import Part
from cache.precompute.options import PrecomputeOptions
from cache.precompute.plan import Plan, make_plan
from cache.spec import View
from cache.store import Store
from stal_data.dataset import Split
from stal_data.errors import InputError

SLOW_S = 10.0
"""A single clip that takes longer is measurement enough."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What is left to do, of one part or of the whole set.

    num_clips: key frames that some view lacks. num_bytes: of the rows of all views that will be written.
    row_bytes: of one key frame and view. free_bytes: on the store's disk; None where it is in a bucket.
    measured_clips: what the seconds a clip rest on; each is for all threads and devices together, without the others.
    overlapped: whether decoding goes on beside computing, as it does where a GPU computes.
    """

    num_clips: int
    num_bytes: int
    row_bytes: int
    free_bytes: int | None
    measured_clips: int
    check_s_per_clip: float
    decode_s_per_clip: float
    compute_s_per_clip: float
    overlapped: bool

    @property
    def total_s(self) -> float:
        both = (self.decode_s_per_clip, self.compute_s_per_clip)
        return self.num_clips * (self.check_s_per_clip + (max(both) if self.overlapped else sum(both)))


def estimate(split: Split, store: Store, options: PrecomputeOptions, *, num_devices: int = 1) -> Estimate:
    """Measure a few clips, spread over the split, as `precompute` would compute them; nothing is written.

    num_devices: like the options' device, each with a process of its own.
    """
    spec, total = options.spec(split), len(split.key_frames)
    if not total:
        raise InputError(f"Split '{split.name}' of '{split.dataset}' has no key frames; there is nothing to estimate.")
    manifest = FeatureManifest(
        dataset=split.dataset,
        split=split.name,
        spec=spec,
        shapes=row_shapes(spec),
        num_rows=total,
        rows_per_shard=options.shard_rows(total) or balanced_rows_per_shard(total),
    )
    missing = [_missing_rows(store, manifest, view, options.part) for view in options.views]
    row_bytes = sum(manifest.row_bytes(name) for name in manifest.arrays)
    extractor, threads, batch_size = options.extractor(), options.threads(), options.batch_size
    start = time.perf_counter()
    plan = _sample(split, manifest, min(total, max(batch_size, threads)), threads)
    check_s = time.perf_counter() - start
    start = time.perf_counter()
    clips = _decode(split, manifest, plan, threads)
    decode_s = time.perf_counter() - start
    num_batches = -(-manifest.rows_per_shard // batch_size)
    compute_s = _compute(extractor, clips, options.views, num_batches=num_batches) / num_devices
    return Estimate(
        num_clips=len(set().union(*missing)),
        num_bytes=row_bytes * sum(map(len, missing)),
        row_bytes=row_bytes,
        free_bytes=store.free_bytes,
        measured_clips=len(plan.clips),
        check_s_per_clip=check_s / len(plan.clips),
        decode_s_per_clip=decode_s / len(plan.clips),
        compute_s_per_clip=compute_s,
        overlapped=extractor.device.type != "cpu",
    )


def _missing_rows(store: Store, new: FeatureManifest, view: View, part: Part | None) -> set[int]:
    """Return the rows of the part that the view's set lacks; `new` is what the set would be if it is not there."""
    path = find_set(store, new.dataset, new.split, new.spec.with_view(view)).path
    found = FeatureSet(path) if path.exists() else None
    manifest = new if found is None else found.manifest
    shards = range(manifest.num_shards) if part is None else part.shards(manifest.num_shards)
    rows = {row for shard in shards for row in manifest.rows_of(shard)}
    return rows if found is None else rows - set(np.flatnonzero(found.done).tolist())


def _sample(split: Split, manifest: FeatureManifest, count: int, threads: int) -> Plan:
    """Check so many key frames, spread evenly over the split, as a run would."""
    places = np.linspace(0, len(split.key_frames) - 1, count).round().astype(int)
    few = replace(split, key_frames=tuple(split.key_frames[place] for place in places))
    return make_plan(few, manifest.spec.clip, rows=range(count), known=None, threads=threads, report=lambda _: None)


def _decode(split: Split, manifest: FeatureManifest, plan: Plan, threads: int) -> dict[Size, Tensor]:
    spec = manifest.spec
    reader = ClipReader(split.media, plan.clips, input_sizes(spec))
    with ThreadPoolExecutor(threads) as pool:
        ((_, clips),) = read_ahead([(None, list(plan.clips))], reader, pool)
    return clips


def _compute(extractor: Extractor, clips: Mapping[Size, Tensor], views: Sequence[View], *, num_batches: int) -> float:
    """Return seconds a clip, with as many batches at once as in a run.

    The first call, which loads code, and the first of a whole batch, which allocates memory, are left out, but where
    they are slow they are all that is measured.
    """
    pool, workers = compute_pool(extractor.device, num_batches, compiled=extractor.compiled)
    available = len(next(iter(clips.values())))

    def seconds(batch_size: int) -> float:
        batch = {size: frames[:batch_size] for size, frames in clips.items()}
        start = time.perf_counter()
        for future in [pool.submit(extractor.launch, batch, views) for _ in range(workers)]:
            future.result().arrays()
        return (time.perf_counter() - start) / (workers * batch_size)

    with pool:
        first = seconds(available if extractor.compiled else 1)
        if first * workers > SLOW_S and not extractor.compiled:
            return first
        size = min(available, extractor.batch_size)
        with_allocations = seconds(size)
        return with_allocations if with_allocations * size > SLOW_S else seconds(size)
