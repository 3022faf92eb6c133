"""The micro-batcher: batches form, limits hold, nobody waits for a dropped frame."""

import asyncio
import time

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from detector_svc.batcher import BatcherConfig, BatcherMetrics, MicroBatcher
from detector_svc.yolo import YoloDetector
from stal_data.errors import InputError
from svc_common.errors import BusyError, DeadlineError
from tests.detector.samples import encoded, picture


def metric(batcher_metrics: CollectorRegistry, name: str) -> float:
    return batcher_metrics.get_sample_value(name) or 0.0


class Running:
    """A started batcher over the tiny detector."""

    def __init__(self, detector: YoloDetector, **config: object) -> None:
        self.registry = CollectorRegistry()
        self.batcher = MicroBatcher(detector, BatcherConfig(**config), BatcherMetrics(self.registry))

    async def __aenter__(self) -> "Running":
        self.batcher.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.batcher.stop()


async def test_concurrent_frames_share_batches_and_get_their_own_boxes(detector: YoloDetector) -> None:
    images = {str(seed): encoded(picture(seed)) for seed in range(20)}
    async with Running(detector, max_batch=8, max_delay_s=2.0) as running:
        found = await asyncio.gather(*(running.batcher.detect(data, name) for name, data in images.items()))
        batches = metric(running.registry, "stal_detector_batch_size_count")
        frames = metric(running.registry, "stal_detector_batch_size_sum")
    assert frames == 20
    assert batches <= 4
    for seed, together in enumerate(found):
        (alone,) = detector.detect([detector.prepare(picture(seed))])
        np.testing.assert_allclose(together.boxes_N4, alone.boxes_N4, atol=1e-4)
    assert metric(running.registry, "stal_detector_pending_frames") == 0


async def test_a_full_queue_refuses_or_waits(detector: YoloDetector) -> None:
    data = encoded(picture(1))
    async with Running(detector, max_batch=2, queue_size=2) as running:
        first = [asyncio.create_task(running.batcher.detect(data, str(n))) for n in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="queue of 2 frames is full"):
            await running.batcher.detect(data, "c")
        waiting = await running.batcher.detect(data, "d", wait=True)
        assert len(waiting) == len((await asyncio.gather(*first))[0])


async def test_passed_deadlines_are_dropped_before_inference(detector: YoloDetector) -> None:
    data = encoded(picture(1))
    async with Running(detector) as running:
        with pytest.raises(DeadlineError):
            await running.batcher.detect(data, "late", deadline=time.monotonic() - 1)
        assert len(await running.batcher.detect(data, "in time", deadline=time.monotonic() + 60)) > 0
        assert metric(running.registry, "stal_detector_dropped_frames_total") == 1
        assert metric(running.registry, "stal_detector_batch_size_sum") == 1


async def test_cancelled_frames_free_their_place(detector: YoloDetector) -> None:
    data = encoded(picture(1))
    async with Running(detector, max_batch=1, queue_size=1, max_delay_s=0) as running:
        task = asyncio.create_task(running.batcher.detect(data, "gone"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(await running.batcher.detect(data, "next")) > 0


async def test_a_bad_image_does_not_hurt_its_batch(detector: YoloDetector) -> None:
    async with Running(detector, max_delay_s=1.0) as running:
        good, bad = await asyncio.gather(
            running.batcher.detect(encoded(picture(1)), "good"),
            running.batcher.detect(b"junk", "bad"),
            return_exceptions=True,
        )
    assert len(good) > 0
    assert isinstance(bad, InputError)


def test_bad_limits_are_refused() -> None:
    with pytest.raises(InputError, match="--max-batch 8"):
        BatcherConfig(max_batch=8, queue_size=4)
