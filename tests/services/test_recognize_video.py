"""RecognizeVideo: the scores of precompute and predict, without either."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import torch

from recognizer_svc.video.client import VideoItem
from stal_data.errors import InputError
from tests.services.video_case import RUNS, TIMES_MS, VideoCase, serving, worst

EXACT = 1e-6
JPEG_DIFFERENCE = 0.1
"""Measured: 0.034; see docs/recognizer-service.md."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """So that sums are added in the same order here and in the service."""
    torch.set_num_threads(1)


async def of(case: VideoCase, run_id: str, video: str = "v0") -> dict:
    return {key: scores for key, scores in (await case.expected(run_id)).items() if key.video == video}


@pytest.mark.parametrize("sending", ["resized", "png"])
@pytest.mark.parametrize("run_id", RUNS)
async def test_scores_are_those_of_precompute_and_predict(video_case: VideoCase, run_id: str, sending: str) -> None:
    async with serving(video_case) as it:
        found = await video_case.scores(it.client, video_case.request(run_id, sending=sending))
        assert it.metric("stal_video_frames") == 0
    assert worst(found, await of(video_case, run_id)) <= EXACT
    assert [key.time_ms for key in found] == list(TIMES_MS)


@pytest.mark.parametrize("run_id", RUNS)
async def test_people_that_are_found_late_in_a_video_without_an_end_get_the_same_scores(
    video_case: VideoCase, run_id: str
) -> None:
    async with serving(video_case) as it:
        request = video_case.request(run_id, known=False)
        found = await video_case.scores(it.client, request, video_case.items(late=60))
    assert worst(found, await of(video_case, run_id)) <= EXACT


@pytest.mark.parametrize("late", [0, 60])
@pytest.mark.parametrize("run_id", RUNS)
async def test_a_client_that_may_hold_nothing_while_it_waits_gets_the_same_scores(
    video_case: VideoCase, run_id: str, late: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recognizer_svc.video.unanswered._MOST_BYTES", 0)
    async with serving(video_case) as it:
        request = video_case.request(run_id, known=False)
        found = await video_case.scores(it.client, request, video_case.items(late=late))
    assert worst(found, await of(video_case, run_id)) <= EXACT


async def test_jpeg_changes_scores_by_little(video_case: VideoCase) -> None:
    async with serving(video_case) as it:
        found = await video_case.scores(it.client, video_case.request("plain", sending="jpeg"))
    difference = worst(found, await of(video_case, "plain"))
    print(f"JPEG of quality 95 changes scores by at most {difference:.4f}")
    assert EXACT < difference < JPEG_DIFFERENCE


async def test_streams_share_batches_and_none_of_them_notices(video_case: VideoCase) -> None:
    async with serving(video_case) as it:
        requests = [video_case.request("plain", video) for video in ("v0", "v1")]
        answers = [it.client.recognize_video(request, video_case.items(request.time.video)) for request in requests]
        for header in answers:
            await anext(header)
        with it.thread_held():
            async with asyncio.timeout(120):
                while len(it.service._scoring.video._batches._waiting) < 12:  # six of each
                    await asyncio.sleep(0)
        found = [{item.key: item.scores_NC async for item in rest} for rest in answers]
        clips = it.metric("stal_scoring_batch_clips_sum")
        assert clips == 2 * sum(bool(len(item.people.boxes_N4)) for item in video_case.people("v0"))
        assert it.metric("stal_scoring_batch_clips_count") <= clips / 2
    for video, scores in zip(("v0", "v1"), found, strict=True):
        assert worst(scores, await of(video_case, "plain", video)) <= EXACT


async def test_what_the_source_raises_comes_after_the_answers_before_it(video_case: VideoCase) -> None:
    async def broken() -> AsyncIterator[VideoItem]:
        async for item in video_case.items():
            if getattr(item, "number", 0) == 100:
                raise OSError("the camera is gone")
            yield item

    async with serving(video_case) as it:
        answers = it.client.recognize_video(video_case.request("plain"), broken())
        await anext(answers)
        # Frame 99 shows 3.92 s. In the key frame at 3 s nobody is seen; the clip of the next one goes on to 5.2 s.
        assert [(await anext(answers)).key.time_ms for _ in range(5)] == [0, 440, 1000, 2000, 3000]
        with pytest.raises(OSError, match="the camera is gone"):
            await anext(answers)


async def test_frames_that_the_source_lacks_are_named(video_case: VideoCase) -> None:
    async def gappy() -> AsyncIterator[VideoItem]:
        async for item in video_case.items():
            if getattr(item, "number", 0) != 71:
                yield item

    async with serving(video_case) as it:
        with pytest.raises(InputError, match=r"v0,0002 needs frame 71, .* \(up to 171\)"):
            async for _ in it.client.recognize_video(video_case.request("plain"), gappy()):
                pass


async def test_only_frames_of_clips_are_sent(video_case: VideoCase) -> None:
    async def one_key_frame() -> AsyncIterator[VideoItem]:
        async for item in video_case.items(late=40):
            if getattr(item, "time_ms", 4000) == 4000:
                yield item

    sent = []
    async with serving(video_case) as it:
        taken = it.service._scoring.video.decoders.submit

        def counting(work, *rest):
            sent.append(work.args[0].number)
            return taken(work, *rest)

        it.service._scoring.video.decoders.submit = counting
        found = await video_case.scores(it.client, video_case.request("plain"), one_key_frame())
    assert [key.time_ms for key in found] == [4000]
    assert sent == list(range(69, 133, 2))
