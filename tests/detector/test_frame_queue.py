"""The queue of frames, under any order of replicas that come, answer and break."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector_svc.client.frame_queue import FrameQueue, FrameShare
from protos.generated import detector_pb2 as pb
from stal_data.errors import InputError
from svc_common.errors import ServiceError

WINDOW = 3


async def source(count: int) -> AsyncIterator[tuple[str, bytes]]:
    for number in range(count):
        yield str(number), b"image"


async def connect(queue: FrameQueue, name: str, lives: list[tuple[int, int]]) -> None:
    """Streams one after the other: each answers so many frames, takes so many more, and breaks. The last stays."""
    for answer, hold in lives:
        with FrameShare(queue, name) as share:
            requests = share.requests()
            for number in range(answer + hold):
                request = await soon(anext(requests))
                if request is None:
                    break
                if number < answer:
                    share.answer(request.frame_id, name)
            assert len(share) <= WINDOW
    with FrameShare(queue, name) as share:
        async for request in share.requests():
            share.answer(request.frame_id, name)
            await asyncio.sleep(0)  # others run


async def soon(frame: Awaitable[pb.DetectRequest]) -> pb.DetectRequest | None:
    """A frame, unless there is none after the others have run a few times."""
    waiting = asyncio.ensure_future(frame)
    for _ in range(8):
        await asyncio.sleep(0)
    if waiting.done() and waiting.exception() is None:
        return waiting.result()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    return None


@settings(max_examples=80)
@given(
    count=st.integers(0, 30),
    connections=st.lists(
        st.lists(st.tuples(st.integers(0, 6), st.integers(0, WINDOW)), max_size=4), min_size=1, max_size=3
    ),
)
async def test_no_frame_is_lost_or_doubled(count: int, connections: list[list[tuple[int, int]]]) -> None:
    async with asyncio.timeout(120):
        queue = FrameQueue(source(count), window=WINDOW)
        running = [asyncio.create_task(connect(queue, str(number), lives)) for number, lives in enumerate(connections)]
        answered = [frame_id async for frame_id, _ in queue.answers()]
        await asyncio.gather(*running)
    assert sorted(answered, key=int) == [str(number) for number in range(count)]


@asynccontextmanager
async def read(queue: FrameQueue) -> AsyncIterator["asyncio.Task[tuple[str, object]]"]:
    """The first answer, for which a task waits."""
    answers = queue.answers()
    first = asyncio.create_task(anext(answers))
    yield first
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await answers.aclose()


async def test_frames_that_come_back_are_the_next_to_be_taken() -> None:
    queue = FrameQueue(source(10), window=2)
    async with read(queue):
        with FrameShare(queue, "first") as first:
            requests = first.requests()
            taken = [(await anext(requests)).frame_id for _ in range(2)]
        with FrameShare(queue, "second") as second:
            requests = second.requests()
            assert [(await anext(requests)).frame_id for _ in range(2)] == taken == ["0", "1"]
            with pytest.raises(ServiceError, match="first answered frame '0'"):
                first.answer("0", "late")


async def test_a_replica_that_may_not_have_more_frames_takes_none_and_answers_what_it_has() -> None:
    queue, wanted = FrameQueue(source(10), window=5), True
    async with read(queue) as first:
        with FrameShare(queue, "leaving", takes=lambda: wanted) as share:
            requests = share.requests()
            await anext(requests)
            wanted = False
            queue.wake()
            assert await anext(requests, None) is None
            share.answer("0", "found")
            assert await first == ("0", "found")


async def test_answers_that_nobody_reads_stop_the_sending() -> None:
    queue = FrameQueue(source(10), window=2)
    answers = queue.answers()
    first = asyncio.create_task(anext(answers))
    with FrameShare(queue, "only") as share:
        requests = share.requests()
        for _ in range(3):
            share.answer((await anext(requests)).frame_id, "found")
            assert await first == ("0", "found")
        waiting = asyncio.create_task(anext(requests))
        assert await soon(asyncio.shield(waiting)) is None
        assert await anext(answers) == ("1", "found")
        assert (await waiting).frame_id == "3"
    await answers.aclose()


async def test_repeated_ids_and_failures_come_after_the_answers() -> None:
    async def twice() -> AsyncIterator[tuple[str, bytes]]:
        for _ in range(2):
            yield "a", b"image"

    queue = FrameQueue(twice(), window=2)
    answers = queue.answers()
    first = asyncio.create_task(anext(answers))
    with FrameShare(queue, "only") as share:
        share.answer((await anext(share.requests())).frame_id, "found")
        assert await first == ("a", "found")
        with pytest.raises(InputError, match="occurs twice"):
            await anext(answers)
    queue = FrameQueue(source(3), window=2)
    queue.fail(ServiceError("first"))
    queue.fail(ServiceError("second"))
    with pytest.raises(ServiceError, match="first"):
        await anext(queue.answers())
