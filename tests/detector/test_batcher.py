"""The micro-batcher: batches form, limits hold, nobody waits for a dropped frame."""

import asyncio
import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from detector_svc.detections import FrameDetections
from detector_svc.detector_protocol import Detector, PreparedImage
from detector_svc.service.micro_batcher import BatcherConfig, BatcherMetrics, MicroBatcher
from detector_svc.yolo.yolo_detector import YoloDetector
from stal_data.errors import InputError
from svc_common.errors import BusyError, DeadlineError, ServiceUnavailableError
from tests.detector.samples import encoded, picture


def metric(batcher_metrics: CollectorRegistry, name: str) -> float:
    return batcher_metrics.get_sample_value(name) or 0.0


class Running:
    """A started batcher over the tiny detector."""

    def __init__(self, detector: Detector, **config: object) -> None:
        self.registry = CollectorRegistry()
        self.batcher = MicroBatcher(detector, BatcherConfig(**config), BatcherMetrics(self.registry))

    async def detect(self, data: bytes, frame_id: str, **options: float) -> FrameDetections:
        """As the only frame of a stream."""
        with self.batcher.stream("batch") as flow:
            return await self.batcher.detect(data, frame_id, flow, **options)

    async def __aenter__(self) -> "Running":
        self.task = self.batcher.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.batcher.stop()


class Scripted:
    """The tiny detector, with a `detect` of the test's own."""

    def __init__(self, detector: YoloDetector) -> None:
        self.detector = detector

    def prepare(self, image_HW3: NDArray[np.uint8]) -> PreparedImage:
        return self.detector.prepare(image_HW3)

    def detect(self, images: Sequence[PreparedImage]) -> list[FrameDetections]:
        return self.detector.detect(images)


async def test_concurrent_frames_share_batches_and_get_their_own_boxes(detector: YoloDetector) -> None:
    images = {str(seed): encoded(picture(seed)) for seed in range(20)}
    async with Running(detector, max_batch=8, max_delay_s=2.0) as running:
        found = await asyncio.gather(*(running.detect(data, name) for name, data in images.items()))
        batches = metric(running.registry, "stal_detector_batch_size_count")
        frames = metric(running.registry, "stal_detector_batch_size_sum")
    assert frames == 20
    assert batches <= 4
    for seed, together in enumerate(found):
        (alone,) = detector.detect([detector.prepare(picture(seed))])
        np.testing.assert_array_equal(together.boxes_N4, alone.boxes_N4)
    assert metric(running.registry, "stal_detector_pending_frames") == 0


async def test_decoding_and_queueing_are_counted_apart(detector: YoloDetector) -> None:
    async with Running(detector, max_delay_s=0) as running:
        await running.detect(encoded(picture(1)), "a")
        with pytest.raises(InputError):
            await running.detect(b"junk", "b")
        assert metric(running.registry, "stal_detector_decode_seconds_count") == 2
        assert metric(running.registry, "stal_detector_queue_seconds_count") == 1


async def test_too_many_streams_are_refused(detector: YoloDetector) -> None:
    async with Running(detector, max_streams=2) as running:
        with running.batcher.stream("batch"), running.batcher.stream("live"):
            with pytest.raises(BusyError, match="2 streams are in progress, as many as --max-streams"):
                await running.detect(encoded(picture(1)), "a")
            assert metric(running.registry, "stal_detector_streams") == 2
        assert len(await running.detect(encoded(picture(1)), "b")) > 0


async def test_few_frames_are_decoded_before_their_turn(detector: YoloDetector) -> None:
    release = threading.Event()
    async with Running(detector, max_batch=2, max_delay_s=10) as running:
        running.batcher._model_thread.submit(release.wait)
        try:
            with running.batcher.stream("batch") as flow:
                data = encoded(picture(1))
                frames = [asyncio.create_task(running.batcher.detect(data, str(n), flow)) for n in range(20)]
                async with asyncio.timeout(60):
                    # A batch at the model, and two that wait for it.
                    while metric(running.registry, "stal_detector_decode_seconds_count") < 6:
                        await asyncio.sleep(0.001)
                assert len(running.batcher._waiting) == 14
        finally:
            release.set()
        assert len(await asyncio.gather(*frames)) == 20
    assert metric(running.registry, "stal_detector_decode_seconds_count") == 20


async def test_passed_deadlines_are_dropped_before_inference(detector: YoloDetector) -> None:
    data = encoded(picture(1))
    async with Running(detector) as running:
        with pytest.raises(DeadlineError):
            await running.detect(data, "late", deadline=time.monotonic() - 1)
        assert len(await running.detect(data, "in time", deadline=time.monotonic() + 60)) > 0
        assert metric(running.registry, "stal_detector_dropped_frames_total") == 1
        assert metric(running.registry, "stal_detector_batch_size_sum") == 1


async def test_cancelled_frames_free_their_place(detector: YoloDetector) -> None:
    data = encoded(picture(1))
    async with Running(detector, max_batch=1, max_delay_s=0) as running:
        task = asyncio.create_task(running.detect(data, "gone"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(await running.detect(data, "next")) > 0


async def test_a_bad_image_does_not_hurt_its_batch(detector: YoloDetector) -> None:
    async with Running(detector, max_delay_s=1.0) as running:
        good, bad = await asyncio.gather(
            running.detect(encoded(picture(1)), "good"),
            running.detect(b"junk", "bad"),
            return_exceptions=True,
        )
    assert len(good) > 0
    assert isinstance(bad, InputError)


async def test_frames_do_not_wait_for_a_batcher_that_has_ended(detector: YoloDetector) -> None:
    class Fault(BaseException):
        """Nothing that the batcher expects."""

    class Ending(Scripted):
        def detect(self, images: Sequence[PreparedImage]) -> list[FrameDetections]:
            raise Fault

    async with Running(Ending(detector), max_delay_s=0.1) as running:
        names = [str(number) for number in range(5)]
        data = encoded(picture(1))
        frames = [asyncio.create_task(running.detect(data, name)) for name in names]
        found = await asyncio.wait_for(asyncio.gather(*frames, return_exceptions=True), 120)
        assert [type(error) for error in found] == [ServiceUnavailableError] * 5
        with pytest.raises(ServiceUnavailableError, match="batcher has ended"):
            await asyncio.wait_for(running.detect(data, "later"), 120)
    assert metric(running.registry, "stal_detector_pending_frames") == 0


class Broken(Scripted):
    """Fails, and so does each batch with it, on images of these widths; None: on all."""

    widths: tuple[int, ...] | None = None

    def detect(self, images: Sequence[PreparedImage]) -> list[FrameDetections]:
        if self.widths is None or any(image.width in self.widths for image in images):
            raise RuntimeError("secret")
        return super().detect(images)


async def test_a_frame_that_breaks_the_model_does_not_hurt_its_batch(
    detector: YoloDetector, caplog: pytest.LogCaptureFixture
) -> None:
    model = Broken(detector)
    model.widths = (161,)
    images = {"good": encoded(picture(1)), "bad": encoded(picture(2, 161)), "good, too": encoded(picture(3))}
    async with Running(model, max_batch=3, max_delay_s=2) as running:
        frames = (running.detect(data, name) for name, data in images.items())
        good, bad, too = await asyncio.gather(*frames, return_exceptions=True)
        with pytest.raises(InputError, match="Frame 'lone': the model fails on this image of 161x90 pixels"):
            await running.detect(encoded(picture(2, 161)), "lone")
    for found, seed in ((good, 1), (too, 3)):
        (alone,) = detector.detect([detector.prepare(picture(seed))])
        np.testing.assert_array_equal(found.boxes_N4, alone.boxes_N4)
    assert isinstance(bad, InputError)
    assert "'bad'" in str(bad)
    assert "secret" not in str(bad)
    assert "the model fails on frame 'bad'" in caplog.text
    assert "RuntimeError: secret" in caplog.text


async def test_a_model_that_fails_on_every_image_is_no_fault_of_the_frames(detector: YoloDetector) -> None:
    model = Broken(detector)
    async with Running(model) as running:
        with pytest.raises(ServiceUnavailableError, match="fails on every image"):
            await running.detect(encoded(picture(1)), "a")
        model.widths = ()
        assert len(await running.detect(encoded(picture(1)), "b")) > 0


class Stumbling(Scripted):
    """Raises these errors one after the other, whatever it is given, and then works."""

    def __init__(self, detector: YoloDetector, *errors: Exception) -> None:
        super().__init__(detector)
        self.errors = list(errors)

    def detect(self, images: Sequence[PreparedImage]) -> list[FrameDetections]:
        if self.errors:
            raise self.errors.pop(0)
        return super().detect(images)


async def test_a_frame_on_which_the_model_fails_for_a_moment_gets_its_boxes(detector: YoloDetector) -> None:
    # With others, and alone; the blank image gets through.
    async with Running(Stumbling(detector, RuntimeError("a hiccup"), RuntimeError("a hiccup"))) as running:
        assert len(await running.detect(encoded(picture(1)), "a")) > 0


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
async def test_a_lack_of_memory_is_no_fault_of_the_frame(detector: YoloDetector, error: Exception) -> None:
    class Scarce(Scripted):
        """Has memory for all but some frames."""

        def detect(self, images: Sequence[PreparedImage]) -> list[FrameDetections]:
            if any(image.width == 161 for image in images):
                raise error
            return super().detect(images)

    async with Running(Scarce(detector), max_batch=2, max_delay_s=10) as running:
        good, bad = await asyncio.gather(
            running.detect(encoded(picture(1)), "good"),
            running.detect(encoded(picture(2, 161)), "bad"),
            return_exceptions=True,
        )
    assert len(good) > 0
    assert isinstance(bad, ServiceUnavailableError)  # which clients take as a reason to try again


async def test_a_model_that_fails_on_everything_for_long_ends_the_batcher(detector: YoloDetector) -> None:
    data = encoded(picture(1))
    async with Running(Broken(detector), failed_batches=3, failing_s=0) as running:
        for _ in range(3):
            with pytest.raises(ServiceUnavailableError, match="fails on every image"):
                await running.detect(data, "a")
        with pytest.raises(ServiceUnavailableError, match="batcher has ended"):
            await running.detect(data, "a")
        assert "failed on the last 3 batches" in str(running.task.exception())


@pytest.mark.parametrize("what", ["some get through", "it is over soon"])
async def test_failures_that_pass_do_not_end_the_batcher(detector: YoloDetector, what: str) -> None:
    model, data = Broken(detector), encoded(picture(1))
    limits = {"failing_s": 0} if what == "some get through" else {"failing_s": 600}
    async with Running(model, failed_batches=3, **limits) as running:
        for number in range(8):
            model.widths = () if what == "some get through" and number % 3 == 2 else None
            found = await asyncio.gather(running.detect(data, "a"), return_exceptions=True)
            assert isinstance(found[0], FrameDetections if model.widths == () else ServiceUnavailableError)
        model.widths = ()
        assert len(await running.detect(data, "b")) > 0


async def test_a_model_that_loses_answers_fails_and_the_batcher_goes_on(detector: YoloDetector) -> None:
    class Forgetful(Scripted):
        def detect(self, images: Sequence[PreparedImage]) -> list[FrameDetections]:
            return super().detect(images)[:1]

    async with Running(Forgetful(detector), max_batch=3, max_delay_s=10) as running:
        data = encoded(picture(1))
        frames = (running.detect(data, str(number)) for number in range(3))
        assert all(len(found) > 0 for found in await asyncio.gather(*frames))


async def test_a_hanging_model_does_not_hold_up_the_event_loop_while_it_stops(detector: YoloDetector) -> None:
    entered, release = threading.Event(), threading.Event()

    class Hanging(Scripted):
        def detect(self, images: Sequence[PreparedImage]) -> list[FrameDetections]:
            entered.set()
            release.wait(60)
            return super().detect(images)

    async with Running(Hanging(detector)) as running:
        frame = asyncio.create_task(running.detect(encoded(picture(1)), "a"))
        await asyncio.to_thread(entered.wait, 60)
        frame.cancel()
        stopping = asyncio.create_task(running.batcher.stop())
        for _ in range(100):  # turns of the loop
            await asyncio.sleep(0.001)
        assert not stopping.done()  # it waits for the batch
        release.set()
        await asyncio.wait_for(stopping, 60)


def test_bad_limits_are_refused() -> None:
    with pytest.raises(InputError, match="--max-streams 0"):
        BatcherConfig(max_batch=8, max_streams=0)
