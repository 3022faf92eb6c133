"""The shards of a run, handed to devices: decoded, computed and written, each step in threads of its own."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass

import torch

from cache.feature_store import FeatureWriter
from cache.feature_store.shard_writer import ShardWriter
from cache.precompute.clips import ClipReader, read_ahead
from cache.precompute.devices import compute_pool
from cache.precompute.extract import Extractor, Outputs, input_sizes
from cache.precompute.plan import Plan, Progress
from cache.spec import View
from stal_data.errors import ConflictError
from stal_data.media import Media

_WAIT_S = 2.0  # between two looks at the shards that other processes hold


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One claimed shard. outputs: where its rows go, for each view that lacks it."""

    shard: int
    outputs: Mapping[View, ShardWriter]


class ShardQueue:
    """Some shards of a set for each view, computed on one device."""

    def __init__(
        self,
        *,
        media: Media,
        plan: Plan,
        writers: Mapping[View, FeatureWriter],
        shards: range,
        batch_size: int,
        decode_threads: int,
        progress: Progress | None,
        must_stop: Callable[[], bool] | None = None,
        wait: bool = False,
        others: Callable[[int], None] | None = None,
    ) -> None:
        """shards: those that this run may write; the plan holds their clips.

        must_stop: asked before each shard; once it says so, no other shard is begun.
        wait: for shards that other processes hold, and compute those that they leave undone; else that is an error.
        others: told how many rows they have computed since the begin, before these count as progress.
        """
        self._media, self._plan, self._writers, self._shards = media, plan, writers, shards
        self._batch_size, self._decode_threads, self._progress = batch_size, decode_threads, progress
        self._manifest = next(iter(writers.values())).manifest
        self._must_stop, self._wait = must_stop or (lambda: False), wait
        self._others = others or (lambda _: None)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._total = sum(len(self._manifest.rows_of(shard)) for shard in shards)
        self._look()

    def _look(self) -> None:
        """See which shards are not done."""
        missing = {shard for writer in self._writers.values() for shard in writer.pending()}
        self._pending = [shard for shard in self._shards if shard in missing]
        self._done = self._total - sum(len(self._manifest.rows_of(shard)) for shard in self._pending)

    def run(self, extractor: Extractor) -> None:
        """Compute on a device until no shard is left."""
        self._report(0)
        intra_op_threads = torch.get_num_threads()
        try:
            self._drive(extractor)
            while self._wait and not self._must_stop():
                before = self._done
                self._look()
                self._others(self._done - before)
                self._report(0)
                if not self._pending:
                    break
                time.sleep(_WAIT_S)
                self._drive(extractor)
        except BaseException:
            self._stop.set()
            raise
        finally:
            torch.set_num_threads(intra_op_threads)  # compute_pool changed what new threads start with
        held = {
            writer.owner(shard)
            for writer in self._writers.values()
            for shard in writer.pending()
            if shard in self._shards
        }
        if held and not self._must_stop():
            raise ConflictError(
                f"Some shards are being written by {', '.join(sorted(held))}; all others are done. Run the same "
                "command again when that run has ended: it fills what is left, if anything."
            )

    def _drive(self, extractor: Extractor) -> None:
        """Compute shards on one device until none is left.

        Rows are written while the next ones are computed, also those of the next shard. So a kill loses one shard at
        most and the batches that are under way.
        """
        manifest = self._manifest
        reader = ClipReader(self._media, self._plan.clips, input_sizes(manifest.spec))
        num_batches = -(-manifest.rows_per_shard // self._batch_size)
        compute, workers = compute_pool(extractor.device, num_batches, compiled=extractor.compiled)
        pinned = extractor.device.type == "cuda"
        under_way: deque[Future[None]] = deque()
        # Left from the last to the first: a claim outlives the write that it allows.
        with (
            ExitStack() as held,
            ThreadPoolExecutor(1, thread_name_prefix="write") as writing,
            compute,
            ThreadPoolExecutor(self._decode_threads, thread_name_prefix="decode") as decoders,
            closing(read_ahead(self._batches(held), reader, decoders, pinned=pinned)) as batches,
        ):
            for (job, rows), clips in batches:
                if self._stop.is_set():
                    break
                outputs = compute.submit(extractor.launch, clips, tuple(job.outputs))
                under_way.append(writing.submit(self._write, job, rows, outputs))
                # One more than are computed at once, so that none waits for this thread, and one that is written.
                # A slow disk thus slows the run and does not fill the memory.
                if len(under_way) > workers + 1:
                    under_way.popleft().result()
            for write in under_way:
                write.result()

    def _write(self, job: _Job, rows: range, outputs: Future[Outputs]) -> None:
        """Wait for a batch and write it. After an error nothing more is written."""
        try:
            found = outputs.result()
            arrays, finite = found.arrays(), found.finite()
            if self._stop.is_set():
                return
            for view, output in job.outputs.items():
                output.write(rows, output.convert(rows, arrays[view], finite=finite))
            if rows.stop == self._manifest.rows_of(job.shard).stop:
                for output in job.outputs.values():
                    with output.claim:
                        output.finish()
        except BaseException:
            self._stop.set()
            raise
        self._report(len(rows))

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
            if not self._pending or self._must_stop():
                return None
            shard = self._pending.pop(0)
            outputs: dict[View, ShardWriter] = {}
            for view, writer in self._writers.items():
                claim = writer.claim(shard) if writer.is_pending(shard) else None
                if claim is None:
                    continue
                held.push(claim)
                if writer.is_pending(shard):  # nobody finished it between the look and the claim
                    outputs[view] = held.enter_context(writer.output(claim))
                else:
                    claim.release()
            if outputs:
                return _Job(shard=shard, outputs=outputs)
            if not (self._wait and any(writer.is_pending(shard) for writer in self._writers.values())):
                rows = len(self._manifest.rows_of(shard))
                self._others(rows)
                self._report(rows)
        return None

    def _report(self, rows: int) -> None:
        with self._lock:
            self._done += rows
            if self._progress:
                self._progress("extract", self._done, self._total)
