"""The precompute run: shards are handed to devices, decoded ahead, computed and written."""

import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache.backbones.load import LoadedBackbone
from cache.feature_store import FeatureBatch, FeatureSet, FeatureWriter, ShardClaim, open_feature_set
from cache.feature_store.values import checked_cast
from cache.precompute.clips import ClipReader, Size, read_ahead
from cache.precompute.extract import Extractor, compute_pool, input_sizes, resolve_devices, row_shapes
from cache.precompute.plan import Plan, Progress, make_plan
from cache.spec import ClipSpec, FeatureDtype, FeatureSpec, View
from cache.split_store import publish_split
from cache.store import Store
from stal_data.dataset import Split
from stal_data.errors import ConflictError, InputError


def precompute(
    split: Split,
    store: Store,
    *,
    slowfast: LoadedBackbone | None,
    vit: LoadedBackbone | None,
    views: Sequence[View] = ("identity",),
    dtype: FeatureDtype = "float16",
    devices: str | None = None,
    batch_size: int = 8,
    rows_per_shard: int | None = None,
    decode_threads: int | None = None,
    progress: Progress | None = None,
) -> list[FeatureSet]:
    """Publish the split, fill one feature set for each view, and return them in the order of `views`.

    Shards that are done are skipped, so a run that was stopped resumes, and several processes share the work.
    devices: `auto` (default) is every visible CUDA device, else the CPU; or a list such as `cuda:0,cuda:1`.
    rows_per_shard: key frames computed and written at once, at most lost by a kill; default at most 64.
    decode_threads: default one for each CPU core, at most 8.
    """
    if not views or len(set(views)) < len(views):
        raise InputError(f"--view is {list(views)}; name one or both of identity and hflip, each once.")
    if batch_size < 1:
        raise InputError(f"--batch-size is {batch_size}; it must be at least 1.")
    spec = FeatureSpec(
        slowfast=None if slowfast is None else slowfast.spec,
        vit=None if vit is None else vit.spec,
        clip=ClipSpec(),
        decoder=split.media.decoder,
        dtype=dtype,
    )
    shapes = row_shapes(spec.slowfast, spec.vit, spec.clip.num_frames // spec.clip.stride)
    threads = decode_threads or min(8, os.cpu_count() or 1)
    total = len(split.key_frames)

    def checked(done: int) -> None:
        if progress:
            progress("check", done, total)

    plan = make_plan(split, spec.clip, threads=threads, report=checked)
    targets = resolve_devices(devices)
    publish_split(store, split)
    writers: dict[View, FeatureWriter] = {}
    for view in views:
        writers[view] = FeatureWriter.open(
            store,
            dataset=split.dataset,
            split=split.name,
            spec=spec.with_view(view),
            index=plan.index,
            shapes=shapes,
            rows_per_shard=rows_per_shard,
        )
        rows_per_shard = writers[view].manifest.rows_per_shard
    if len({writer.manifest.rows_per_shard for writer in writers.values()}) > 1:
        raise ConflictError("The views' feature sets have shards of different sizes; precompute each --view by itself.")
    work = _Work(split=split, plan=plan, writers=writers, batch_size=batch_size, progress=progress)
    work.run([Extractor(slowfast, vit, device) for device in targets], threads)
    return [
        open_feature_set(store, split.dataset, split.name, spec=writer.manifest.spec) for writer in writers.values()
    ]


_ViewArrays = Mapping[View, Mapping[str, NDArray[Any]]]
"""The arrays of one batch, for each view, in the stored types."""


@dataclass(kw_only=True)
class _Job:
    """One claimed shard. views: those that lack it. parts: the arrays of the batches so far, in order."""

    shard: int
    views: tuple[View, ...]
    claims: dict[View, ShardClaim]
    parts: list[_ViewArrays] = field(default_factory=list)


class _LastWrite:
    """At most one shard is being written, so that a slow disk slows the run instead of filling the memory."""

    def __init__(self) -> None:
        self._write: Future[None] | None = None

    def then(self, write: Future[None] | None) -> None:
        """Wait for the write before, then keep this one."""
        before, self._write = self._write, write
        if before is not None:
            before.result()


class _Work:
    """The shards of one run, shared by one thread for each device."""

    def __init__(
        self,
        *,
        split: Split,
        plan: Plan,
        writers: dict[View, FeatureWriter],
        batch_size: int,
        progress: Progress | None,
    ) -> None:
        self._split, self._plan, self._writers = split, plan, writers
        self._batch_size, self._progress = batch_size, progress
        self._manifest = next(iter(writers.values())).manifest
        self._lock = threading.Lock()
        self._stop = threading.Event()
        missing = {view: set(writer.pending()) for view, writer in writers.items()}
        self._pending = sorted(set().union(*missing.values()))
        self._done = sum(
            len(self._manifest.rows_of(shard))
            for shard in range(self._manifest.num_shards)
            if shard not in self._pending
        )

    def run(self, extractors: Sequence[Extractor], threads: int) -> None:
        self._report(0)
        intra_op_threads = torch.get_num_threads()
        with ThreadPoolExecutor(len(extractors), thread_name_prefix="device") as pool:
            futures = [pool.submit(self._drive, extractor, threads) for extractor in extractors]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:  # also on Ctrl-C: devices stop after the batches they are at
                self._stop.set()
        torch.set_num_threads(intra_op_threads)  # compute_pool changed what new threads start with
        for future in futures:
            future.result()
        held = {writer.owner(shard): shard for writer in self._writers.values() for shard in writer.pending()}
        if held:
            raise ConflictError(
                f"Some shards are being written by {', '.join(sorted(held))}; all others are done. Run the same "
                "command again when that run has ended: it fills what is left, if anything."
            )

    def _drive(self, extractor: Extractor, threads: int) -> None:
        """Compute shards on one device until none is left; the last one is written while the next is computed."""
        spec, writes = self._manifest.spec, _LastWrite()
        reader = ClipReader(self._split.media, self._plan.clips, input_sizes(spec.slowfast, spec.vit))
        compute, workers = compute_pool(extractor.device, -(-self._manifest.num_rows // self._batch_size))
        in_flight: deque[tuple[_Job, range, Future[_ViewArrays]]] = deque()
        # Left from the last to the first: a claim outlives the write that it allows.
        with (
            ExitStack() as claims,
            ThreadPoolExecutor(1, thread_name_prefix="write") as writing,
            compute,
            ThreadPoolExecutor(threads, thread_name_prefix="decode") as decoders,
            closing(read_ahead(self._batches(claims), reader, decoders)) as batches,
        ):

            def collect() -> None:
                job, rows, future = in_flight.popleft()
                job.parts.append(future.result())
                if rows[-1] == self._manifest.rows_of(job.shard)[-1]:
                    writes.then(writing.submit(self._write, job))
                self._report(len(rows))

            for (job, rows), clips in batches:
                if self._stop.is_set():
                    break
                in_flight.append((job, rows, compute.submit(self._compute, extractor, clips, job.views, rows)))
                if len(in_flight) > workers:  # one more than run at once, so that none waits for this thread
                    collect()
            while in_flight and not self._stop.is_set():
                collect()
            writes.then(None)

    def _compute(
        self, extractor: Extractor, clips: Mapping[Size, torch.Tensor], views: Sequence[View], rows: range
    ) -> _ViewArrays:
        keys = [self._plan.index.key_frames[row] for row in rows]
        return {
            view: {
                name: checked_cast(name, values, self._manifest.dtype(name), keys)
                for name, values in extractor(clips, view).items()
            }
            for view in views
        }

    def _write(self, job: _Job) -> None:
        for view in job.views:
            parts = [part[view] for part in job.parts]
            features = FeatureBatch(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
            with job.claims[view] as claim:
                self._writers[view].write_shard(claim, features)

    def _batches(self, held: ExitStack) -> Iterator[tuple[tuple[_Job, range], range]]:
        """Yield the batches of one shard after another. How a shard is cut never depends on what was done before."""
        while (job := self._next_job(held)) is not None:
            rows = self._manifest.rows_of(job.shard)
            for start in range(0, len(rows), self._batch_size):
                batch = rows[start : start + self._batch_size]
                yield (job, batch), batch

    def _next_job(self, held: ExitStack) -> _Job | None:
        """Claim the next shard that some view lacks and nobody else holds."""
        while not self._stop.is_set():
            with self._lock:
                if not self._pending:
                    return None
                shard = self._pending.pop(0)
            claims: dict[View, ShardClaim] = {}
            for view, writer in self._writers.items():
                claim = writer.claim(shard) if writer.is_pending(shard) else None
                if claim is None:
                    continue
                held.push(claim)
                if writer.is_pending(shard):  # nobody finished it between the look and the claim
                    claims[view] = claim
                else:
                    claim.release()
            if claims:
                return _Job(shard=shard, views=tuple(claims), claims=claims)
            self._report(len(self._manifest.rows_of(shard)))
        return None

    def _report(self, rows: int) -> None:
        with self._lock:
            self._done += rows
            if self._progress:
                self._progress("extract", self._done, self._manifest.num_rows)
