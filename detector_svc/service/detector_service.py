"""The Detector servicer and its life cycle."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from detector_svc import DETECTORS
from detector_svc.detections import to_message
from detector_svc.detector_protocol import Detector, DetectorConfig
from detector_svc.service.detect_stream import DetectStream
from detector_svc.service.micro_batcher import WINDOW, BatcherConfig, BatcherMetrics, MicroBatcher
from protos.generated import detector_pb2 as pb
from protos.generated import detector_pb2_grpc as rpc
from stal_data.clips import key_frame_image
from stal_data.data_root import dataset_below
from stal_data.dataset import Split
from stal_data.errors import ConflictError, InputError, NotFoundError, did_you_mean
from stal_data.keyframes import AnnotatedKeyFrame
from svc_common.errors import ServiceUnavailableError
from svc_common.fair_queue import Flow
from svc_common.metrics import Metrics
from svc_common.priorities import priority_of
from svc_common.watched_pool import WatchedPool

_OPENING = 2
"""Splits that are opened at a time."""


@dataclass(frozen=True, kw_only=True)
class DetectorServiceConfig:
    """What the service runs."""

    detector: DetectorConfig
    kind: str = "yolo"
    """A key of DETECTORS."""
    batcher: BatcherConfig = field(default_factory=BatcherConfig)
    data_root: Path | None = None
    """Folder below which Propose finds data sets; None turns Propose off."""
    read_hung_s: float = 7200.0
    """Opening a split or reading a frame of it takes no longer, even where whole video files are decoded for it."""

    def __post_init__(self) -> None:
        if self.kind not in DETECTORS:
            raise InputError(f"--kind '{self.kind}' is no detector. {did_you_mean(self.kind, DETECTORS)}")
        if self.data_root is not None and not self.data_root.is_dir():
            raise NotFoundError(f"--data-root '{self.data_root}' is not a folder.")


class DetectorService(rpc.DetectorServicer):
    """A `svc_common.server.Service`."""

    full_name = "stal.detector.v2.Detector"

    def __init__(self, config: DetectorServiceConfig, metrics: Metrics) -> None:
        self._config = config
        self._metrics = BatcherMetrics(metrics.registry)
        self._streams: set[DetectStream] = set()
        self._batcher: MicroBatcher | None = None
        self._openers = WatchedPool(name="split", threads=_OPENING, hung_s=config.read_hung_s)
        self._readers = WatchedPool(name="frame", hung_s=config.read_hung_s)
        self._watches: list[asyncio.Task[None]] = []

    def register(self, server: grpc.aio.Server) -> None:
        rpc.add_DetectorServicer_to_server(self, server)

    async def start(self) -> list[asyncio.Task[None]]:
        detector = await asyncio.to_thread(_load_and_warm_up, self._config)
        self._batcher = MicroBatcher(detector, self._config.batcher, self._metrics)
        self._watches = [
            asyncio.create_task(pool.watch(), name=name)
            for pool, name in ((self._openers, "opening splits"), (self._readers, "reading frames"))
        ]
        return [self._batcher.start(), self._batcher.watch(), *self._watches]

    async def drain(self) -> None:
        for stream in self._streams:
            stream.end(ServiceUnavailableError("the service is stopping"))

    async def stop(self) -> None:
        for watch in self._watches:
            watch.cancel()
        for pool in (self._openers, self._readers):
            pool.shutdown(wait=False, cancel_futures=True)  # a read may hang
        if self._batcher is not None:
            await self._batcher.stop()

    @property
    def _ready(self) -> MicroBatcher:
        assert self._batcher is not None, "the server refuses calls before `start` has returned"
        return self._batcher

    async def Detect(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.DetectRequest], context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncIterator[pb.DetectResponse]:
        with self._ready.stream(priority_of(context)) as flow:
            stream = DetectStream(self._ready, flow, time_remaining_s=context.time_remaining())
            self._streams.add(stream)
            try:
                async for answer in stream.answers(request_iterator):
                    yield answer
            finally:
                self._streams.discard(stream)
                await stream.close()

    async def Propose(  # noqa: N802
        self,
        request: pb.ProposeRequest,
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> AsyncIterator[pb.ProposeResponse]:
        with self._ready.stream(priority_of(context)) as flow:
            async with aclosing(self._proposals(request, flow)) as answers:
                async for answer in answers:
                    yield answer

    async def _proposals(self, request: pb.ProposeRequest, flow: Flow) -> AsyncGenerator[pb.ProposeResponse]:
        loop, batcher = asyncio.get_running_loop(), self._ready
        split = await loop.run_in_executor(
            self._openers, open_split, self._config.data_root, request.dataset, request.split
        )
        header = pb.ProposeHeader(dataset=split.dataset, split=split.name, key_frames=len(split.key_frames))
        yield pb.ProposeResponse(header=header)

        async def detect(item: AnnotatedKeyFrame) -> pb.ProposeResponse:
            image = await loop.run_in_executor(self._readers, key_frame_image, split.media, item)
            found = to_message(await batcher.detect(image, str(item.key), flow))
            key_frame = pb.KeyFrameDetections(video=item.key.video, time_ms=item.key.time_ms, detections=found)
            return pb.ProposeResponse(key_frame=key_frame)

        tasks: deque[asyncio.Task[pb.ProposeResponse]] = deque()
        try:
            for item in split.key_frames:
                if len(tasks) == WINDOW:
                    yield await tasks.popleft()
                tasks.append(asyncio.create_task(detect(item)))
            while tasks:
                yield await tasks.popleft()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def GetInfo(  # noqa: N802
        self,
        request: pb.GetInfoRequest,  # noqa: ARG002
        context: "grpc.aio.ServicerContext[Any, Any]",  # noqa: ARG002
    ) -> pb.GetInfoResponse:
        batcher, detector = self._ready, self._ready.detector
        config = detector.config
        return pb.GetInfoResponse(
            name=config.detector_name,
            weights=detector.weights_digest,
            image_height=config.height,
            image_width=config.width,
            confidence=config.confidence,
            overlap=config.overlap,
            library=detector.library,
            classes=detector.people,
            device=detector.device,
            max_batch=batcher.config.max_batch,
            pending_frames=batcher.pending,
            queue_size=WINDOW * batcher.config.max_streams,
            streams=batcher.streams,
            max_streams=batcher.config.max_streams,
        )


def _load_and_warm_up(config: DetectorServiceConfig) -> Detector:
    """Load the model and run it once, so that the first client does not pay for it and a broken one never serves."""
    detector = DETECTORS[config.kind](config.detector)
    detector.detect([detector.prepare(np.zeros((detector.config.height, detector.config.width, 3), np.uint8))])
    return detector


def open_split(data_root: Path | None, dataset: str, split: str) -> Split:
    """Open a split of a data set below the root; a client's path never leads out of it."""
    if data_root is None:
        raise ConflictError(
            "The detector service has no data root, so it reads no data sets. Start it with --data-root, or let the "
            "client send the images (without --server-side)."
        )
    return dataset_below(data_root, dataset).split(split)
