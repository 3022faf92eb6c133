"""Frames through a detector and recognizers at once: each key frame once, whichever of them fails."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cli.workflow.streaming.pipeline import SeenKeyFrame, seen_key_frames
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.client import RecognizerClient
from recognizer_svc.people import People
from recognizer_svc.video.client import PeopleAt
from svc_common.config import ClientConfig
from svc_common.errors import ServiceUnavailableError
from tests.detector.replica import ReplicaService, client_of, replicas, until
from tests.services.test_recognize_video import EXACT
from tests.services.video_case import FRAMES, VideoCase, serving

TIMES_MS = range(0, 6801, 1000)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


async def pictures(case: VideoCase, first: int = 1) -> AsyncIterator[tuple[int, NDArray[np.uint8]]]:
    for number in range(first, FRAMES + 1):
        yield number, case.picture("v0", number)


def time_of(number: int) -> int | None:
    return 40 * (number - 1) if number % 25 == 1 else None


def box(time_ms: int) -> PeopleAt:
    """What the replica finds in every image."""
    return PeopleAt(time_ms=time_ms, people=People.of(np.array([[0, 0, 0.5, 0.5]], np.float32)))


async def expected(case: VideoCase, run_id: str) -> dict:
    async def items():
        people = [box(time_ms) for time_ms in TIMES_MS]
        async for item in case.items():
            if not isinstance(item, PeopleAt):
                yield item
                if time_of(item.number) is not None:
                    yield people.pop(0)

    async with serving(case) as it:
        return await case.scores(it.client, case.request(run_id), items())


async def test_every_key_frame_is_scored_once_whichever_recognizer_fails(video_case: VideoCase) -> None:
    """The free one is taken; it is killed, then the other while the first is there again."""
    found, detected, killed, service = {}, list[int](), list[int](), ReplicaService()

    async def frames() -> AsyncIterator[tuple[int, NDArray[np.uint8]]]:
        """Those of the clips at 2 s and 5 s let the first and the fourth be answered; the next wait for the kills."""
        async for number, picture_HW3 in pictures(video_case):
            if number in (99, 159):
                await until(lambda wanted=1 + number // 25: len(detected) == wanted)
            elif number in (100, 160):
                await until(lambda wanted=number // 80: len(killed) == wanted)
            yield number, picture_HW3

    async with AsyncExitStack() as stack:
        (replica,) = await stack.enter_async_context(replicas(service))
        its = [await stack.enter_async_context(serving(video_case)) for _ in range(2)]
        both = [ClientConfig(address=f"127.0.0.1:{it.server.port}") for it in its]
        recognizer = await stack.enter_async_context(RecognizerClient(*both))
        other = its[0].client.recognize_video(video_case.request("plain"), video_case.items())
        await anext(other)
        answers = seen_key_frames(
            frames(),
            time_of,
            detector=client_of(replica.address),
            recognizer=recognizer,
            video=video_case.request("seeing"),
            detected=lambda time_ms, _: detected.append(time_ms),
        )
        assert isinstance(await anext(answers), pb.VideoHeader)
        await other.aclose()
        async for item in answers:
            assert isinstance(item, SeenKeyFrame)
            assert item.scored.key not in found
            assert item.confidence_N.tolist() == [0.5]
            found[item.scored.key] = item.scored.scores_NC
            if len(found) in (1, 4):
                it = its.pop()
                assert it.service._scoring.video.streams
                if killed:
                    await stack.enter_async_context(serving(video_case, port=killed[0]))
                await it.server.stop(0)
                killed.append(it.server.port)
    wanted = await expected(video_case, "seeing")
    assert found.keys() == wanted.keys()
    assert max(float(np.abs(found[key] - wanted[key]).max()) for key in wanted) <= EXACT
    assert detected == list(TIMES_MS)


async def test_a_detector_that_stays_away_is_an_error_after_the_key_frames_before(video_case: VideoCase) -> None:
    found, detected = [], list[int]()
    async with AsyncExitStack() as stack:
        (replica,) = await stack.enter_async_context(replicas(ReplicaService()))
        it = await stack.enter_async_context(serving(video_case))

        async def frames() -> AsyncIterator[tuple[int, NDArray[np.uint8]]]:
            async for number, picture_HW3 in pictures(video_case):
                if number == 100:
                    await until(lambda: len(detected) == 4)
                    await replica.stop()
                yield number, picture_HW3

        answers = seen_key_frames(
            frames(),
            time_of,
            detector=client_of(replica.address),
            recognizer=it.client,
            video=video_case.request("plain"),
            detected=lambda time_ms, _: detected.append(time_ms),
        )

        async def drained() -> None:
            async for answer in answers:
                found.extend([answer.scored.key.time_ms] if isinstance(answer, SeenKeyFrame) else [])

        with pytest.raises(ServiceUnavailableError, match=f"detector service at {replica.address} does not answer"):
            await drained()
    assert found == detected == [0, 1000, 2000, 3000]
