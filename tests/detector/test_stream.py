"""One stream on the server, without a connection."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from detector_svc.service import detect_stream
from detector_svc.service.detect_stream import DetectStream
from detector_svc.service.micro_batcher import WINDOW, BatcherConfig, BatcherMetrics, MicroBatcher
from detector_svc.yolo.yolo_detector import YoloDetector
from protos.generated import detector_pb2 as pb
from svc_common.errors import BusyError
from svc_common.fair_queue import Flow
from tests.detector.samples import encoded, picture

FLOW = Flow("stream", "batch")


async def test_a_client_that_never_reads_is_not_read_from(detector: YoloDetector) -> None:
    taken = 0
    image = encoded(picture(1))

    async def eager() -> AsyncIterator[pb.DetectRequest]:
        nonlocal taken
        while True:
            taken += 1
            yield pb.DetectRequest(frame_id=str(taken), image=image)

    batcher = MicroBatcher(detector, BatcherConfig(), BatcherMetrics(CollectorRegistry()))
    batcher.start()
    stream = DetectStream(batcher, FLOW, time_remaining_s=None)
    answers = stream.answers(eager())
    try:
        await anext(answers)
        async with asyncio.timeout(60):
            while taken < WINDOW or stream._tasks:
                await asyncio.sleep(0.01)
        assert taken == WINDOW
        await anext(answers)  # written: there is room for one more
        async with asyncio.timeout(60):
            while taken == WINDOW:
                await asyncio.sleep(0.01)
    finally:
        await answers.aclose()
        await stream.close()
        await batcher.stop()


async def test_a_frame_on_its_way_when_a_stream_ends_is_not_cancelled(detector: YoloDetector) -> None:
    """Its memory would be lost inside grpc: 80 kB for every stream that a busy service refuses."""
    arrive, arrived = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[pb.DetectRequest]:
        yield pb.DetectRequest(frame_id="first", image=encoded(picture(1)))
        await arrive.wait()
        arrived.set()
        yield pb.DetectRequest(frame_id="second", image=encoded(picture(2)))

    batcher = MicroBatcher(detector, BatcherConfig(), BatcherMetrics(CollectorRegistry()))
    batcher.start()
    stream = DetectStream(batcher, FLOW, time_remaining_s=None)
    answers = stream.answers(slow())
    try:
        await anext(answers)
        stream.end(BusyError("full"))
        with pytest.raises(BusyError):
            await anext(answers)
    finally:
        await stream.close()
        await batcher.stop()
    arrive.set()
    async with asyncio.timeout(120):
        await arrived.wait()


async def test_of_large_images_fewer_wait(detector: YoloDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    image, taken, release = encoded(picture(1)), 0, threading.Event()
    monkeypatch.setattr(detect_stream, "_WINDOW_BYTES", 2 * len(image))

    async def eager() -> AsyncIterator[pb.DetectRequest]:
        nonlocal taken
        for _ in range(10):
            taken += 1
            yield pb.DetectRequest(frame_id=str(taken), image=image)

    batcher = MicroBatcher(detector, BatcherConfig(), BatcherMetrics(CollectorRegistry()))
    batcher.start()
    batcher._model_thread.submit(release.wait)
    stream = DetectStream(batcher, FLOW, time_remaining_s=None)
    answers = stream.answers(eager())
    try:
        first = asyncio.create_task(anext(answers))
        async with asyncio.timeout(60):
            while batcher.pending < 2:
                await asyncio.sleep(0)
        for _ in range(100):  # turns of the loop
            await asyncio.sleep(0)
        assert taken == 2
        release.set()
        await first
        assert len([answer async for answer in answers]) == 9
    finally:
        release.set()
        await answers.aclose()
        await stream.close()
        await batcher.stop()
