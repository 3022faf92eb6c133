"""What streams of videos share: the backbones and the scoring thread. No torch here."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from cache.spec import BackboneSpec
from recognizer_svc.people import People
from recognizer_svc.scoring.metrics import ScoringMetrics
from recognizer_svc.scoring.micro_batch import MicroBatches
from recognizer_svc.video.key_frames import ComputedRows, Row
from recognizer_svc.video.timeline import reach_ms
from stal_data.amounts import amount
from stal_data.errors import ConflictError
from stal_data.keyframes import KeyFrame, ScoredKeyFrame
from svc_common.errors import BusyError, DeadlineError, ServiceUnavailableError
from svc_common.fair_queue import Flow
from svc_common.watched_pool import WatchedPool

if TYPE_CHECKING:
    from cache.backbones.load import LoadedBackbone
    from recognizer_svc.scoring.engine import Engine
    from recognizer_svc.scoring.models import LoadedModel
    from recognizer_svc.video.extraction import Clip, Extraction, FeatureSource

MAX_STREAMS = 4
_DECODE_HUNG_S = 120.0
"""Decoding one frame takes seconds at most, since its size and its parts are bounded."""

T = TypeVar("T")


class Stream(Protocol):
    """What is known of a stream here."""

    @property
    def frames(self) -> int: ...

    def end(self, error: Exception) -> None: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenVideo:
    """What a stream scores with. rows: its features; arrays: which of them the head reads."""

    model: "LoadedModel"
    source: "FeatureSource"
    rows: ComputedRows
    arrays: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def reach_ms(self) -> int:
        info = self.model.info
        return reach_ms(info.neighbours, info.neighbour_ms, info.bank_s)


class VideoScoring:
    """The event loop's side."""

    def __init__(
        self, thread: Executor, engine: "Callable[[], Engine]", metrics: ScoringMetrics, *, max_streams: int
    ) -> None:
        """thread: owns the engine and the device."""
        self._thread, self._engine, self._metrics = thread, engine, metrics
        self._batches: MicroBatches[tuple[FeatureSource, Clip], Row] = MicroBatches(
            thread,
            lambda batch: batch[0][0].rows([clip for _, clip in batch]),
            metrics,
            name="features",
            fits=lambda taken, new: new[0] is taken[0][0] and len(taken) < new[0].extractor.batch_size,
            observe=lambda batch: metrics.batch_clips.observe(len(batch)),
        )
        self._extraction: Extraction | None = None
        self.decoders = WatchedPool(name="frames", hung_s=_DECODE_HUNG_S)
        self.max_streams = max_streams
        self.streams: set[Stream] = set()
        """In progress."""
        self.held: tuple[BackboneSpec, ...] = ()
        """The backbones on the device."""
        self.thresholds: Mapping[str, Mapping[int, float]] = {}
        """Of packed models, by run id and label id."""
        metrics.video_frames.set_function(lambda: sum(stream.frames for stream in list(self.streams)))

    async def hold(self, loaders: "Sequence[Callable[[], LoadedBackbone]]") -> None:
        """Load backbones to the device."""

        def load() -> "Extraction":
            import torch

            from recognizer_svc.scoring.predict import name_of_device
            from recognizer_svc.video.extraction import Extraction

            return Extraction(loaders, torch.device(name_of_device(self._engine().device)))

        self._extraction = await asyncio.get_running_loop().run_in_executor(self._thread, load)
        self.held = self._extraction.specs

    def watch(self) -> asyncio.Task[None]:
        return asyncio.create_task(self.decoders.watch(), name="decoding")

    def drain(self) -> None:
        """Let the streams answer what they have, and end."""
        for stream in self.streams:
            stream.end(ServiceUnavailableError("the service is stopping"))

    def close(self) -> None:
        self.decoders.shutdown(wait=False, cancel_futures=True)

    @asynccontextmanager
    async def place(self, stream: Stream) -> AsyncIterator[None]:
        """Let a stream be in progress for the time of the block, and close it."""
        try:
            if len(self.streams) >= self.max_streams:
                raise BusyError(
                    f"--max-streams allows {amount(len(self.streams), 'video')} at a time, and as many are being scored"
                )
            self.streams.add(stream)
            yield
        finally:
            self.streams.discard(stream)
            await stream.close()

    async def open(self, run_id: str, checkpoint: str, deadline: float) -> OpenVideo:
        """Find the head and what computes its features. deadline: on the clock of time.monotonic()."""
        extraction = self._extraction
        if extraction is None:
            raise ConflictError(
                "The service holds no backbones, so it scores cached features only. Start it with the weights of the "
                "backbones, for example --slowfast FILE, or with --model of a packed model that holds them."
            )

        def find() -> OpenVideo:
            model = self._engine().head(run_id, checkpoint)
            source = extraction.source(model)
            predictor = model.predictor
            arrays = source.spec.stored_for(predictor.checkpoint.shapes.arrays)
            rows = ComputedRows(source.spec)
            notes = tuple(f"the training had other features: {text}" for text in predictor.check_spec(rows))
            return OpenVideo(model=model, source=source, rows=rows, arrays=tuple(arrays), notes=notes)

        return await self._run(deadline, "open", find)

    async def features(self, video: OpenVideo, clip: "Clip", deadline: float, flow: Flow) -> Row:
        """Compute what the head reads of a clip."""
        row = await asyncio.wrap_future(self._batches.add((video.source, clip), deadline, flow))
        return {name: row[name] for name in video.arrays}

    async def score(
        self, video: OpenVideo, keys: Sequence[KeyFrame], people: Mapping[KeyFrame, People], deadline: float
    ) -> list[ScoredKeyFrame]:
        """Score the people of some key frames. people: theirs, and those around that the head sees."""

        def score() -> list[ScoredKeyFrame]:
            from recognizer_svc.scoring.predict import BoxesOfKeyFrame

            predictor = video.model.predictor
            around = predictor.neighbourhood(people)
            shown = [
                BoxesOfKeyFrame(key=key, boxes_N4=people[key].boxes_N4, persons_N=people[key].persons_N, around=around)
                for key in keys
                if len(people[key].boxes_N4)
            ]
            scores = {item.key: item.scores_NC for item in predictor.predict(video.rows, shown)}
            nobody = np.empty((0, predictor.label_map.num_classes), np.float32)
            return [
                ScoredKeyFrame(
                    key=key,
                    boxes_N4=people[key].boxes_N4,
                    scores_NC=scores.get(key, nobody),
                    persons_N=people[key].persons_N,
                )
                for key in keys
            ]

        return await self._run(deadline, "video", score)

    async def _run(self, deadline: float, name: str, work: Callable[[], T]) -> T:
        def in_time() -> T:
            if time.monotonic() > deadline:
                raise DeadlineError("the deadline passed while the call waited for its turn")
            with self._metrics.compute_s.labels(name).time():
                return work()

        return await asyncio.get_running_loop().run_in_executor(self._thread, in_time)
