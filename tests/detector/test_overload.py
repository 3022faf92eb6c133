"""Beyond capacity: calls are refused with a time to come back at, clients keep to it, and nothing piles up."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import grpc
import pytest

from protos.generated import detector_pb2 as pb
from svc_common.client import RetryPolicy, call_with_retries
from svc_common.errors import RETRY_TRAILER, BusyError
from svc_common.server import ServiceServer
from tests.detector.samples import encoded, make_client, numbered, picture, serving
from tests.services.echo import EchoService, calling
from tests.services.echo import serving as echo_serving

QUEUE = 4


def hold_model(server: ServiceServer) -> threading.Event:
    """Keep the model's thread busy until the event is set."""
    (service,) = server._services
    release = threading.Event()
    service._batcher._model_thread.submit(release.wait)
    return release


async def pending(server: ServiceServer) -> int:
    async with calling(server.port) as stub:
        return (await stub.GetInfo(pb.GetInfoRequest())).pending_frames


async def send(server: ServiceServer, frames: int, released: asyncio.Event) -> list[str]:
    """The ids of the answers to so many frames on a stream of its own, which is not closed before `released`."""

    async def requests() -> AsyncIterator[pb.DetectRequest]:
        for number in range(frames):
            yield pb.DetectRequest(frame_id=str(number), image=encoded(picture(number)))
        await released.wait()

    async with calling(server.port) as stub:
        return [answer.frame_id async for answer in stub.Detect(requests())]


async def test_a_full_queue_is_refused_with_a_time_to_come_back_and_does_not_grow(weights: Path) -> None:
    released = asyncio.Event()
    async with serving(weights, max_batch=2, queue_size=QUEUE) as server:
        release = hold_model(server)
        try:
            holder = asyncio.create_task(send(server, QUEUE, released))
            async with asyncio.timeout(60):
                while await pending(server) < QUEUE:
                    pass  # each question is a call
            for _ in range(4):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await send(server, 1, released)  # a second write to the ended stream would hide its status
                assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert 50 <= int(dict(caught.value.trailing_metadata())[RETRY_TRAILER]) <= 10_000
                assert await pending(server) == QUEUE
        finally:
            release.set()
            released.set()
        assert len(await holder) == QUEUE
        assert await pending(server) == 0


async def test_clients_beyond_capacity_all_get_their_answers(weights: Path) -> None:
    images = {str(number): encoded(picture(number)) for number in range(12)}
    async with serving(weights, max_batch=2, queue_size=QUEUE) as server:
        retry = RetryPolicy(retries=50, first_s=0.01, max_s=0.1)
        one, two = make_client(server.port, window=8, retry=retry), make_client(server.port, retry=retry)
        answers = await asyncio.gather(*(names(client, images) for client in (one, two, one, two)))
        assert all(sorted(found) == sorted(images) for found in answers)
        assert await pending(server) == 0


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
