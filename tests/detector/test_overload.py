"""Beyond capacity: streams get their turns, live ones first; more streams are refused with a time to come back at."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from pathlib import Path

import grpc
import numpy as np
import pytest

from detector_svc import DETECTORS
from detector_svc.detections import FrameDetections
from detector_svc.detector_protocol import DetectorConfig, PreparedImage
from protos.generated import detector_pb2 as pb
from svc_common.client import RetryPolicy, call_with_retries
from svc_common.errors import RETRY_TRAILER, BusyError
from svc_common.fair_queue import LIVE_SHARE
from svc_common.server import ServiceServer
from tests.detector.samples import encoded, make_client, numbered, picture, serving
from tests.detector.toy_detector import ToyDetector
from tests.services.echo import EchoService, calling
from tests.services.echo import serving as echo_serving

WINDOW = 24
BATCH = 2
EARLY = 3 * BATCH
"""Frames that are decoded as they come: a batch at the model, and two that wait for it."""


class RecordingDetector(ToyDetector):
    """Notes whose the images are, in the order in which the model gets them; an image is filled with its owner."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__(config)
        self.seen: list[int] = []

    def detect(self, images: Sequence[PreparedImage]) -> list[FrameDetections]:
        self.seen += [int(image.pixels_HW3[0, 0, 0]) for image in images]
        return super().detect(images)


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Options of a service that runs a RecordingDetector."""
    monkeypatch.setitem(DETECTORS, "recording", RecordingDetector)
    return {"weights": Path("none"), "kind": "recording", "max_batch": BATCH, "max_delay_s": 10}


def images_of(owner: int, count: int) -> dict[str, bytes]:
    image = encoded(np.full((8, 8, 3), owner, np.uint8))
    return {f"{owner}-{number}": image for number in range(count)}


def hold_model(server: ServiceServer) -> threading.Event:
    """Keep the model's thread busy until the event is set."""
    (service,) = server._services
    release = threading.Event()
    service._batcher._model_thread.submit(release.wait)
    return release


async def info(server: ServiceServer) -> pb.GetInfoResponse:
    async with calling(server.port) as stub:
        return await stub.GetInfo(pb.GetInfoRequest())


async def answered(server: ServiceServer, streams: dict[int, int], **options: str) -> tuple[list[list[str]], list[int]]:
    """Send so many frames of each owner at once, and let the model begin when all windows are full.

    options: of the client of owner 1. Returns the ids of the answers, and whose frames the model got one after another.
    """
    (service,) = server._services
    release = hold_model(server)
    try:
        clients = {
            owner: make_client(
                server.port, window=WINDOW, retry=RetryPolicy(retries=0), **(options if owner == 1 else {})
            )
            for owner in streams
        }
        calls = [
            asyncio.create_task(names(clients[owner], images_of(owner, count))) for owner, count in streams.items()
        ]
        async with asyncio.timeout(120):
            while (await info(server)).pending_frames < sum(min(count, WINDOW) for count in streams.values()):
                pass  # each question is a call
    finally:
        release.set()
    found = await asyncio.gather(*calls)
    return found, [owner for owner in service._batcher.detector.seen if owner]


async def test_sixteen_streams_at_six_times_the_capacity_are_served_alike(recording: dict[str, object]) -> None:
    streams = dict.fromkeys(range(1, 17), 2 * WINDOW)
    async with serving(**recording) as server:
        found, seen = await answered(server, streams)
        assert (await info(server)).pending_frames == 0
    for owner, count in streams.items():
        assert sorted(found[owner - 1]) == sorted(images_of(owner, count))
    served = Counter[int]()
    # As long as every stream has frames waiting. Frames of a round may overtake each other while they are decoded.
    for owner in seen[EARLY : EARLY + len(streams) * (WINDOW - EARLY)]:
        served[owner] += 1
        assert served[owner] - min(served[each] for each in streams) <= 2


async def test_live_streams_go_first_and_the_others_do_not_starve(recording: dict[str, object]) -> None:
    live, streams = 1, {2: WINDOW, 3: WINDOW, 1: WINDOW}
    async with serving(**recording) as server:
        _, seen = await answered(server, streams, priority="live")
    last = max(place for place, owner in enumerate(seen) if owner == live)
    others = last + 1 - WINDOW
    assert WINDOW // LIVE_SHARE - 1 <= others <= EARLY + WINDOW // LIVE_SHARE + 2 * BATCH


async def open_stream(server: ServiceServer, ended: asyncio.Event, **metadata: str) -> int:
    """The number of answers on a stream with one frame, which is not closed before the event."""

    async def requests() -> AsyncIterator[pb.DetectRequest]:
        yield pb.DetectRequest(frame_id="a", image=encoded(picture(1)))
        await ended.wait()

    async with calling(server.port) as stub:
        sent = tuple((name.replace("_", "-"), value) for name, value in metadata.items())
        return len([answer async for answer in stub.Detect(requests(), metadata=sent)])


async def test_more_streams_are_refused_with_a_time_to_come_back(recording: dict[str, object]) -> None:
    ended = asyncio.Event()
    async with serving(**recording | {"max_streams": 2, "max_delay_s": 0}) as server:
        open_ones = [asyncio.create_task(open_stream(server, ended)) for _ in range(2)]
        async with asyncio.timeout(60):
            while (await info(server)).streams < 2:
                pass
        for method in ("Detect", "Propose"):
            async with calling(server.port) as stub:
                call = getattr(stub, method)(pb.ProposeRequest() if method == "Propose" else no_frames())
                with pytest.raises(grpc.aio.AioRpcError, match="as many as --max-streams allows") as caught:
                    await anext(aiter(call))
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert int(dict(caught.value.trailing_metadata())[RETRY_TRAILER]) > 0
        ended.set()
        assert await asyncio.gather(*open_ones) == [1, 1]
        assert await open_stream(server, ended) == 1
        assert ((await info(server)).streams, (await info(server)).max_streams) == (0, 2)


async def no_frames() -> AsyncIterator[pb.DetectRequest]:
    await asyncio.Event().wait()
    yield pb.DetectRequest()


async def test_an_unknown_priority_is_refused(recording: dict[str, object]) -> None:
    async with serving(**recording) as server:
        with pytest.raises(grpc.aio.AioRpcError, match="stal-priority is 'livee', but must be live or batch") as caught:
            await open_stream(server, asyncio.Event(), stal_priority="livee")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_clients_beyond_the_limit_all_get_their_answers(weights: Path) -> None:
    images = {str(number): encoded(picture(number)) for number in range(12)}
    async with serving(weights, max_batch=2, max_streams=2) as server:
        retry = RetryPolicy(retries=50, first_s=0.01, max_s=0.1)
        one, two = make_client(server.port, window=8, retry=retry), make_client(server.port, retry=retry)
        answers = await asyncio.gather(*(names(client, images) for client in (one, two, one, two)))
        assert all(sorted(found) == sorted(images) for found in answers)
        assert (await info(server)).pending_frames == 0


async def names(client, images: dict[str, bytes]) -> list[str]:
    return [name async for name, _ in client.detect(numbered(images))]


async def test_a_client_waits_as_long_as_it_is_told() -> None:
    busy = EchoService(BusyError("full", retry_after_s=0.3))
    async with echo_serving(busy) as (server, _), calling(server.port) as stub:

        async def call() -> pb.GetInfoResponse:
            times.append(time.monotonic())
            return await stub.GetInfo(pb.GetInfoRequest())

        times: list[float] = []
        with pytest.raises(BusyError) as caught:
            await call_with_retries(
                call, service="detector", address="here:1", policy=RetryPolicy(retries=2, first_s=0.001)
            )
        assert caught.value.retry_after_s == 0.3
        assert len(times) == 3
        assert all(later - earlier >= 0.3 for earlier, later in pairwise(times))
