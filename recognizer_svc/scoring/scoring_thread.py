"""Scores from trained heads: everything that computes runs in one thread."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from prometheus_client import CollectorRegistry

from cache.store import Store
from recognizer_svc.scoring.loading import Loading
from recognizer_svc.scoring.metrics import ScoringMetrics
from recognizer_svc.scoring.micro_batch import MAX_CALLS, Scored, recognize_batches
from recognizer_svc.scoring.model_list import ModelInfo
from recognizer_svc.scoring.queries import Prediction, PredictQuery, RecognizeQuery
from recognizer_svc.scoring.served_models import ServedModels
from recognizer_svc.video.video_scoring import MAX_STREAMS, VideoScoring
from stal_data.keyframes import ScoredKeyFrame
from svc_common.errors import BusyError, DeadlineError
from svc_common.fair_queue import Flow
from svc_common.watched_pool import WatchedPool

if TYPE_CHECKING:
    from recognizer_svc.scoring.engine import Engine
    from recognizer_svc.scoring.models import LoadedModel

T = TypeVar("T")
KEY_FRAMES_PER_BATCH = 64
BOXES_PER_BATCH = 4096  # with 100 classes 1.6 MB, far below the message limit
HUNG_S = 600.0  # the slowest sound job fetches a run from a slow bucket, or scores 64 crowded key frames
CLOSE_AFTER_S = 31.0  # a little longer than opened feature sets are used


class Scoring:
    """The event loop's side of the scoring thread."""

    def __init__(
        self,
        store: Store,
        *,
        device: str,
        max_requests: int,
        max_batch: int = MAX_CALLS,
        max_streams: int = MAX_STREAMS,
        metrics: ScoringMetrics | None = None,
        hung_s: float = HUNG_S,
    ) -> None:
        """max_requests: how many calls may be in progress at once, waiting ones included; more are refused.

        max_batch: Recognize calls that may share a pass. max_streams: videos that may be scored at once.
        hung_s: a job of the thread that takes longer has hung.
        """
        self._store = store
        self.device = device
        """What the heads compute on, as torch names it; `auto` may stay until the thread has begun."""
        self.max_requests = max_requests
        self.requests = 0
        """Calls in progress, waiting ones included."""
        self._metrics = metrics or ScoringMetrics(CollectorRegistry())
        self._thread = WatchedPool(name="scoring", hung_s=hung_s, threads=1)
        self._batches = recognize_batches(
            self._thread, lambda queries: self._engine.recognize(queries), self._metrics, max_calls=max_batch
        )
        self.video = VideoScoring(self._thread, lambda: self._engine, self._metrics, max_streams=max_streams)
        self._closing: asyncio.TimerHandle | None = None
        self._loading = Loading()
        self.served = ServedModels()
        """Heads that were loaded by name."""

    @cached_property
    def _engine(self) -> "Engine":
        """Made in the thread and at first use: a service that only runs jobs never imports torch."""
        from recognizer_svc.scoring.engine import Engine
        from recognizer_svc.scoring.predict import name_of_device

        self.device = name_of_device(self.device)
        return Engine(self._store, device=self.device, served=self.served, counted=self._metrics.count_model)

    def warm_up(self) -> None:
        """Begin with what would hold up the first call."""
        self._thread.submit(lambda: self._engine)

    def watch(self) -> list[asyncio.Task[None]]:
        """Return tasks that end with an error once a thread hangs; the caller cancels them."""
        return [asyncio.create_task(self._thread.watch(), name="scoring"), self.video.watch()]

    def close(self) -> None:
        """Let the thread finish what it is at; what waits is dropped."""
        self._loading.close()
        self.video.close()
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def predict(self, query: PredictQuery, deadline: float) -> AsyncGenerator[Prediction | list[ScoredKeyFrame]]:
        """First what the scores come from, then batches of them; key frames without boxes are left out.

        deadline: on the clock of time.monotonic().
        """
        with self._place():
            prediction = await self._run(deadline, "prepare", lambda: self._engine.prepare(query))
            try:
                yield prediction
                while batch := await self._run(deadline, "predict", lambda: _take(prediction.scored)):
                    self._metrics.batch_size.observe(sum(len(item.boxes_N4) for item in batch))
                    yield batch
            finally:
                # Closed where it runs; its reader threads end with it.
                with suppress(RuntimeError):  # the service stops
                    self._thread.submit(prediction.scored.close)

    async def recognize(self, query: RecognizeQuery, deadline: float, flow: Flow) -> Scored:
        """The head, and scores [N, classes] of the boxes. flow: with whose calls it waits."""
        with self._place():
            scored = await asyncio.wrap_future(self._batches.add(query, deadline, flow))
        self._close_features_later()
        return scored

    async def load_model(self, run_id: str, checkpoint: str, deadline: float) -> ModelInfo:
        """Load a head as its file is now, beside the scoring thread, and let Recognize keep to it.

        deadline: on the clock of time.monotonic(); a head that is whole only later is not put in place.
        """

        def load() -> "LoadedModel":
            from recognizer_svc.scoring.models import load_run

            model = load_run(self._store, run_id, checkpoint, device=self.device)
            if time.monotonic() > deadline:
                raise DeadlineError("the deadline passed while the head was being loaded")
            return model

        return await self._loading.run(lambda: self.served.load(run_id, checkpoint, load), deadline)

    async def unload_model(self, run_id: str, checkpoint: str, deadline: float) -> bool:
        """Forget a head after the loads that were ordered before; whether there was one."""
        return await self._loading.run(lambda: self.served.unload(run_id, checkpoint), deadline)

    def _close_features_later(self) -> None:
        if self._closing is None:
            self._closing = asyncio.get_running_loop().call_later(CLOSE_AFTER_S, self._close_features)

    def _close_features(self) -> None:
        self._closing = None
        with suppress(RuntimeError):  # the service stops
            self._thread.submit(lambda: self._engine.close_old())

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self.requests >= self.max_requests:
            raise BusyError(f"{self.requests} scoring calls are in progress, more than --max-requests allows")
        self.requests += 1
        try:
            with self._metrics.running.track_inprogress():
                yield
        finally:
            self.requests -= 1

    async def _run(self, deadline: float, name: str, work: Callable[[], T]) -> T:
        """Do the work in the thread, unless nobody waits for it any more when its turn comes."""
        queued_at = time.monotonic()

        def in_time() -> T:
            now = time.monotonic()
            self._metrics.queue_s.observe(now - queued_at)
            if now > deadline:
                raise DeadlineError("the deadline passed while the call waited for its turn")
            with self._metrics.compute_s.labels(name).time():
                return work()

        return await asyncio.get_running_loop().run_in_executor(self._thread, in_time)


def _take(scored: Iterator[ScoredKeyFrame]) -> list[ScoredKeyFrame]:
    taken: list[ScoredKeyFrame] = []
    boxes = 0
    while len(taken) < KEY_FRAMES_PER_BATCH and boxes < BOXES_PER_BATCH and (item := next(scored, None)) is not None:
        taken.append(item)
        boxes += len(item.boxes_N4)
    return taken
