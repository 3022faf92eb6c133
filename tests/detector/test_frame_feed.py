"""The book of frames, under any order of connections that come, answer and break."""

import asyncio
from collections.abc import AsyncIterator, Awaitable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector_svc.client.frame_feed import FrameFeed, ReplicaShare
from protos.generated import detector_pb2 as pb
from stal_data.errors import InputError
from svc_common.errors import ServiceError

WINDOW = 3


async def source(count: int) -> AsyncIterator[tuple[str, bytes]]:
    for number in range(count):
        yield str(number), b"image"


async def connect(feed: FrameFeed[str], name: str, lives: list[tuple[int, int]]) -> None:
    """Connections one after the other: each answers so many frames, takes so many more, and breaks. The last stays."""
    for answer, hold in lives:
        with ReplicaShare(feed, address=name) as share:
            requests = share.requests()
            for number in range(answer + hold):
                request = await soon(anext(requests))
                if request is None:
                    break
                if number < answer:
                    share.answered(request.frame_id, name)
            assert len(share) <= WINDOW
    with ReplicaShare(feed, address=name) as share:
        async for request in share.requests():
            share.answered(request.frame_id, name)
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


@settings(deadline=None, max_examples=80)
@given(
    count=st.integers(0, 30),
    connections=st.lists(
        st.lists(st.tuples(st.integers(0, 6), st.integers(0, WINDOW)), max_size=4), min_size=1, max_size=3
    ),
)
async def test_no_frame_is_lost_or_doubled(count: int, connections: list[list[tuple[int, int]]]) -> None:
    async with asyncio.timeout(120), FrameFeed[str](source(count), window=WINDOW) as feed:
        running = [asyncio.create_task(connect(feed, str(number), lives)) for number, lives in enumerate(connections)]
        answered = [frame_id async for frame_id, _ in feed.answers()]
        await asyncio.gather(*running)
    assert sorted(answered, key=int) == [str(number) for number in range(count)]


async def test_frames_that_come_back_are_the_next_to_be_taken() -> None:
    async with FrameFeed[str](source(10), window=2) as feed:
        with ReplicaShare(feed, address="first") as first:
            requests = first.requests()
            taken = [(await anext(requests)).frame_id for _ in range(2)]
        with ReplicaShare(feed, address="second") as second:
            requests = second.requests()
            assert [(await anext(requests)).frame_id for _ in range(2)] == taken == ["0", "1"]
            with pytest.raises(ServiceError, match="first answered frame '0'"):
                first.answered("0", "late")


async def test_answers_that_nobody_reads_stop_the_sending() -> None:
    async with FrameFeed[str](source(10), window=2) as feed:
        with ReplicaShare(feed, address="only") as share:
            requests = share.requests()
            for _ in range(2):
                share.answered((await anext(requests)).frame_id, "found")
            waiting = asyncio.ensure_future(anext(requests))
            done, _ = await asyncio.wait({waiting}, timeout=0.05)
            assert not done
            answers = feed.answers()
            assert await anext(answers) == ("0", "found")
            assert await anext(answers) == ("1", "found")
            assert (await waiting).frame_id == "2"
            await answers.aclose()


async def test_repeated_ids_and_failures_come_after_the_answers() -> None:
    async def twice() -> AsyncIterator[tuple[str, bytes]]:
        for _ in range(2):
            yield "a", b"image"

    async with FrameFeed[str](twice(), window=2) as feed:
        with ReplicaShare(feed, address="only") as share:
            share.answered((await anext(share.requests())).frame_id, "found")
            answers = feed.answers()
            assert await anext(answers) == ("a", "found")
            with pytest.raises(InputError, match="occurs twice"):
                await anext(answers)
    async with FrameFeed[str](source(3), window=2) as feed:
        feed.fail(ServiceError("first"))
        feed.fail(ServiceError("second"))
        with pytest.raises(ServiceError, match="first"):
            await anext(feed.answers())
