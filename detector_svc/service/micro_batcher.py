"""Micro-batching: frames of all streams go through the model together, each stream in its turn.

Frames wait encoded in a fair queue, and a few batches of them decoded. Decoding and scaling run in a thread pool,
inference in one thread of its own; the event loop only passes frames on.
The batcher ends, and with it the service's being live, when the model hangs or fails on everything for a while; so
does the watch over the threads when one of them hangs.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from detector_svc.detections import FrameDetections
from detector_svc.detector_protocol import Detector, PreparedImage
from detector_svc.service.failed_batches import detect_each
from stal_data.errors import InputError, StalError
from stal_data.media.images import decode_image
from svc_common.errors import BusyError, DeadlineError, ServiceUnavailableError
from svc_common.fair_queue import FairQueue, Flow, Priority
from svc_common.watched_pool import WatchedPool

WINDOW = 32
"""Frames of one stream without a written answer; beyond it the service stops reading, which slows the client down."""
_DECODED_BATCHES = 2
"""That wait for the model, or are being decoded."""


@dataclass(frozen=True, kw_only=True)
class BatcherConfig:
    """Limits."""

    max_batch: int = 8
    max_delay_s: float = 0.005
    """How long a frame waits for others to share its batch."""
    max_streams: int = 64
    """Streams at once; more are refused."""
    hung_s: float = 600.0
    """A batch that takes longer has hung: the slowest sound one, of many large images on few CPUs and repeated frame by
    frame after a fault, takes minutes. Loading and warming up are over before the first batch."""
    decode_hung_s: float = 120.0
    """Decoding one frame takes seconds at most, since its size and its parts are bounded."""
    failed_batches: int = 10
    """After so many batches in a row of which nothing got through the model is taken as broken for good ..."""
    failing_s: float = 30.0
    """... but not sooner than this after the first of them: a full queue of frames fails within a moment."""

    def __post_init__(self) -> None:
        if self.max_batch < 1 or self.max_streams < 1:
            raise InputError(
                f"--max-batch {self.max_batch} and --max-streams {self.max_streams} must both be at least 1."
            )
        if not 0 <= self.max_delay_s <= 10:
            raise InputError(f"The batching delay of {self.max_delay_s} s must be 0 to 10 s.")


@dataclass(kw_only=True, eq=False)
class _Item:
    frame_id: str
    data: bytes
    answer: asyncio.Future[FrameDetections]
    deadline: float | None
    queued_at: float = field(default_factory=time.monotonic)


class BatcherMetrics:
    """Prometheus metrics of the queues and the model."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.batch_size = Histogram(
            "stal_detector_batch_size", "Frames in a batch", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self.inference_s = Histogram("stal_detector_inference_seconds", "Time of one batch", registry=registry)
        self.decode_s = Histogram(
            "stal_detector_decode_seconds",
            "Decoding and scaling of a frame",
            registry=registry,
        )
        self.queue_s = Histogram(
            "stal_detector_queue_seconds", "From a frame's acceptance to its batch", registry=registry
        )
        self.streams = Gauge("stal_detector_streams", "In progress", registry=registry)
        self.pending = Gauge("stal_detector_pending_frames", "Accepted and not yet answered", registry=registry)
        self.dropped = Counter("stal_detector_dropped_frames", "Deadline passed in the queue", registry=registry)


class ModelLostError(Exception):
    """The model hangs, or has failed for so long that only another process can help."""


class MicroBatcher:
    """One per model."""

    def __init__(self, detector: Detector, config: BatcherConfig, metrics: BatcherMetrics) -> None:
        self.detector, self.config, self._metrics = detector, config, metrics
        self._waiting = FairQueue[_Item]()  # the windows of the streams bound it
        self._decoded: asyncio.Queue[tuple[_Item, PreparedImage]] = asyncio.Queue()  # `_fill` bounds it
        self._filled = 0
        """Frames that are decoded, or being so."""
        self._decoders = WatchedPool(name="decode", hung_s=config.decode_hung_s)
        self._model_thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._task: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self.streams = 0
        """In progress."""
        self.pending = 0
        """Frames accepted and not yet answered."""
        self._failed_batches, self._failing_since = 0, 0.0

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self.pending += 1
        try:
            with self._metrics.pending.track_inprogress():
                yield
        finally:
            self.pending -= 1

    def start(self) -> asyncio.Task[None]:
        """Return the task that runs until `stop`.

        Should it end sooner, as when the model hangs or fails on everything, frames get ServiceUnavailableError.
        """
        self._task = asyncio.create_task(self._run(), name="batcher")
        return self._task

    def watch(self) -> asyncio.Task[None]:
        """Return a task that runs until `stop`; it ends with an error once a decoding thread hangs."""
        self._watch = asyncio.create_task(self._decoders.watch(), name="decoding")
        return self._watch

    async def stop(self) -> None:
        """Stop after the batch that is running; nobody may be waiting for an answer any more."""
        running = [task for task in (self._task, self._watch) if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        # In another thread: the model may hang, and the event loop must not.
        await asyncio.to_thread(self._shut_down)

    def _shut_down(self) -> None:
        self._decoders.shutdown(cancel_futures=True)
        self._model_thread.shutdown()

    @contextlib.contextmanager
    def stream(self, priority: Priority) -> Iterator[Flow]:
        """Hold the place of a stream, which has at most WINDOW frames waiting; BusyError when there are too many."""
        if self.streams >= self.config.max_streams:
            raise BusyError(f"{self.streams} streams are in progress, as many as --max-streams allows")
        self.streams += 1
        try:
            with self._metrics.streams.track_inprogress():
                yield Flow(object(), priority)
        finally:
            self.streams -= 1

    async def detect(self, data: bytes, frame_id: str, flow: Flow, *, deadline: float | None = None) -> FrameDetections:
        """Detect people in an encoded image, once it is the flow's turn.

        deadline: on the clock of time.monotonic; a frame still queued then is dropped with DeadlineError.
        """
        item = _Item(frame_id=frame_id, data=data, answer=asyncio.get_running_loop().create_future(), deadline=deadline)
        with self._counted():
            self._waiting.add(flow, item)
            try:
                self._fill()
                return await self._answer(item)
            finally:
                self._waiting.discard(flow, item)

    def _fill(self) -> None:
        while self._filled < _DECODED_BATCHES * self.config.max_batch and (item := self._waiting.take()) is not None:
            if self._is_wanted(item):
                self._filled += 1
                decoding = asyncio.get_running_loop().run_in_executor(self._decoders, self._prepare, item)
                decoding.add_done_callback(partial(self._pass_on, item))

    def _pass_on(self, item: _Item, decoding: asyncio.Future[PreparedImage]) -> None:
        if decoding.cancelled():  # the service stops
            return
        if (error := decoding.exception()) is None:
            self._decoded.put_nowait((item, decoding.result()))
            return
        if not item.answer.done():
            item.answer.set_exception(error)
        self._filled -= 1
        self._fill()

    async def _answer(self, item: _Item) -> FrameDetections:
        assert self._task is not None
        try:
            waiting: set[asyncio.Future[Any]] = {item.answer, self._task}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if not item.answer.done():
                raise ServiceUnavailableError("the detector's batcher has ended; the service's log says why")
            return item.answer.result()
        finally:
            item.answer.cancel()  # nobody waits any more, whether it is there or not

    def _prepare(self, item: _Item) -> PreparedImage:
        with self._metrics.decode_s.time():
            return self.detector.prepare(decode_image(item.data, f"Frame '{item.frame_id}'"))

    async def _run(self) -> None:
        while True:
            batch = await self._collect()
            if batch:
                await self._infer(batch)

    async def _collect(self) -> list[tuple[_Item, PreparedImage]]:
        """Wait for a frame, then for others until the batch is full or the delay is over."""
        items = [await self._decoded.get()]
        until = asyncio.get_running_loop().time() + self.config.max_delay_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                while len(items) < self.config.max_batch:
                    items.append(await self._decoded.get())
        self._filled -= len(items)
        self._fill()
        return [(item, image) for item, image in items if self._is_wanted(item)]

    def _is_wanted(self, item: _Item) -> bool:
        if item.answer.done():  # the stream was cancelled
            return False
        if item.deadline is not None and time.monotonic() >= item.deadline:
            self._metrics.dropped.inc()
            item.answer.set_exception(DeadlineError("the deadline passed while the frame was queued"))
            return False
        return True

    async def _infer(self, batch: list[tuple[_Item, PreparedImage]]) -> None:
        start = time.monotonic()
        self._metrics.batch_size.observe(len(batch))
        for item, _ in batch:
            self._metrics.queue_s.observe(start - item.queued_at)
        images, frame_ids = [image for _, image in batch], [item.frame_id for item, _ in batch]
        running = asyncio.get_running_loop().run_in_executor(
            self._model_thread, detect_each, self.detector, images, frame_ids
        )
        try:
            async with asyncio.timeout(self.config.hung_s):
                answers = await running
        except TimeoutError:
            raise ModelLostError(f"the model has been at one batch for {self.config.hung_s:g} s") from None
        self._metrics.inference_s.observe(time.monotonic() - start)
        for (item, _), answer in zip(batch, answers, strict=True):
            if item.answer.done():
                continue
            if isinstance(answer, FrameDetections):
                item.answer.set_result(answer)
            else:
                item.answer.set_exception(answer)
        self._watch_over(answers, start)

    def _watch_over(self, answers: Sequence[FrameDetections | StalError], start: float) -> None:
        """Raise once nothing has got through for so long that it is no passing fault."""
        if not all(isinstance(answer, ServiceUnavailableError) for answer in answers):
            self._failed_batches = 0
            return
        if self._failed_batches == 0:
            self._failing_since = start
        self._failed_batches += 1
        failing_s = time.monotonic() - self._failing_since
        if self._failed_batches >= self.config.failed_batches and failing_s >= self.config.failing_s:
            raise ModelLostError(
                f"the model has failed on the last {self._failed_batches} batches in {failing_s:.0f} s"
            )
