"""What the client sends is what the service takes: whatever the clock, the key frames and the delay, clips are those of
precompute."""

import asyncio
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.spec import ClipSpec
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.people import People
from recognizer_svc.video.frame_window import KEPT_FRAMES, FrameWindow
from recognizer_svc.video.timeline import VideoTime
from recognizer_svc.video.unanswered import Unanswered
from stal_data.clips import clip_frames, resolve_window
from stal_data.errors import InputError
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame
from stal_data.media import MediaInfo

SOMEBODY = People.of(np.array([[0.1, 0.1, 0.5, 0.5]], np.float32))
SPEC = ClipSpec()


def planned(time_ms: int, start_s: float, num_frames: int) -> list[int]:
    """The frames that precompute reads."""
    info = MediaInfo(width=1, height=1, rate=25, num_frames=num_frames, start_s=start_s, duration_s=num_frames / 25)
    key_frame = AnnotatedKeyFrame(
        key=KeyFrame("v", time_ms), window=None, boxes_N4=SOMEBODY.boxes_N4, labels=(frozenset(),), persons=(-1,)
    )
    return clip_frames(resolve_window(key_frame, info))


@st.composite
def videos(draw: st.DrawFn) -> tuple[int, float, list[int], int, bool]:
    """Length, start, times of key frames that have a frame, delay in frames, and whether the length is said first."""
    num_frames = draw(st.integers(1, 400))
    start_s = draw(st.integers(0, 250)) / 25
    numbers = draw(st.lists(st.integers(1, num_frames), min_size=1, max_size=8, unique=True))
    times = sorted(round(1000 * start_s) + 40 * (number - 1) for number in numbers)
    return num_frames, start_s, times, draw(st.integers(0, 120)), draw(st.booleans())


async def requests_for(num_frames: int, start_s: float, times: list[int], late: int, known: bool) -> list:
    """All that one stream sends."""
    time = VideoTime(video="v", start_s=start_s, num_frames=num_frames if known else None)
    unanswered, waiting = Unanswered(time, SPEC, reach_ms=0), list(times)
    for number in range(1, num_frames + 1):
        unanswered.add_frame(pb.VideoFrame(number=number) if unanswered.wanted(number) else None, number)
        while waiting and waiting[0] <= 1000 * start_s + 40 * (number - 1 - late):
            unanswered.add_key_frame(waiting.pop(0), SOMEBODY)
    for time_ms in waiting:
        unanswered.add_key_frame(time_ms, SOMEBODY)
    unanswered.complete(failed=False)
    assert unanswered.answered_ms is None
    return [request async for request in unanswered.requests(time.num_frames, lambda: False)]


@settings(deadline=None)
@given(videos())
def test_the_service_finds_the_clips_of_precompute(video: tuple[int, float, list[int], int, bool]) -> None:
    num_frames, start_s, times, _, known = video
    time = VideoTime(video="v", start_s=start_s, num_frames=num_frames if known else None)
    window, found = FrameWindow[int](), []
    for request in asyncio.run(requests_for(*video)):
        kind = request.WhichOneof("request")
        if kind == "frame":
            number = request.frame.number
            window.add(number, lambda number=number: number)
        elif kind == "num_frames":
            time = VideoTime(video="v", start_s=start_s, num_frames=request.num_frames)
        else:
            key = KeyFrame("v", request.key_frame.time_ms)
            found.append(window.clip(key, time.clip_of(key.time_ms, SPEC)))
        assert len(window) <= KEPT_FRAMES
    assert found == [planned(time_ms, start_s, num_frames) for time_ms in times]


@given(st.lists(st.integers(1, 1000), unique=True))
def test_a_window_has_a_bound_whatever_comes(numbers: list[int]) -> None:
    window = FrameWindow[int]()
    for number in numbers:
        with suppress(InputError):  # too late, or twice
            window.add(number, lambda number=number: number)
        assert len(window) <= KEPT_FRAMES


async def test_a_key_frame_whose_frames_are_gone_is_named() -> None:
    unanswered = Unanswered(VideoTime(video="v"), SPEC, reach_ms=0)
    for number in range(1, 300):
        unanswered.add_frame(pb.VideoFrame(number=number), number)
    with pytest.raises(InputError, match=r"v,0004 needs frame 69, .* at most 191 frames after the first of its clip"):
        unanswered.add_key_frame(4000, SOMEBODY)


@pytest.mark.parametrize("late", [0, 60])
@pytest.mark.parametrize("reach_ms", [0, 2500])
async def test_while_an_answer_is_due_no_more_bytes_are_taken(
    reach_ms: int, late: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a key frame a second, whose people are known `late` frames after; answers come whenever no more frames do."""
    frame, seconds = pb.VideoFrame(number=1000, resized=bytes(1000)), 40
    most = 400 * frame.ByteSize()  # above what one answer needs, below what 32 answers need
    monkeypatch.setattr("recognizer_svc.video.unanswered._MOST_BYTES", most)
    unanswered, came, held = Unanswered(VideoTime(video="v"), SPEC, reach_ms=reach_ms), list[int](), list[int]()

    async def read() -> None:
        for number in range(1, 25 * seconds + 1):
            unanswered.add_frame(frame if unanswered.wanted(number) else None, number)
            held.append(unanswered.num_bytes)
            await unanswered.room()
            if number > late and (number - late) % 25 == 1:
                unanswered.add_key_frame(40 * (number - late - 1), SOMEBODY)
                await unanswered.room()
        unanswered.complete(failed=False)

    async def serve() -> None:
        async for request in unanswered.requests(None, lambda: False):
            if request.HasField("key_frame"):
                came.append(request.key_frame.time_ms)

    reading, serving = asyncio.create_task(read()), asyncio.create_task(serve())
    num_answered = 0
    async with asyncio.timeout(60):
        while not unanswered.done:
            await asyncio.sleep(0)
            last_ms = came[-1] - (reach_ms + 1 if reach_ms and not serving.done() else 0) if came else -1
            if num_answered < len(came) and came[num_answered] <= last_ms:
                assert unanswered.answer(came[num_answered])
                num_answered += 1
    await asyncio.gather(reading, serving)
    assert most < max(held) <= most + frame.ByteSize()
    assert num_answered == len(came) == seconds - late // 25


async def test_frames_and_key_frames_out_of_order_are_refused() -> None:
    unanswered = Unanswered(VideoTime(video="v"), SPEC, reach_ms=0)
    unanswered.add_frame(pb.VideoFrame(number=5), 5)
    with pytest.raises(InputError, match="Frame 5 comes after frame 5"):
        unanswered.wanted(5)
    unanswered.add_key_frame(1000, SOMEBODY)
    with pytest.raises(InputError, match="v,0001 comes after one at 1000 ms"):
        unanswered.add_key_frame(1000, SOMEBODY)


async def test_an_end_that_comes_while_frames_are_sent_is_not_missed() -> None:
    """The window from frame 19 on is cut at the odd frame 69, so that the clip needs frames of the other parity."""
    unanswered = Unanswered(VideoTime(video="v"), SPEC, reach_ms=0)
    for number in range(1, 70):
        unanswered.add_frame(pb.VideoFrame(number=number), number)
    unanswered.add_key_frame(2000, SOMEBODY)
    requests = unanswered.requests(None, lambda: False)
    found = [await anext(requests)]
    unanswered.complete(failed=False)
    async with asyncio.timeout(60):
        found += [request async for request in requests]
    assert {request.frame.number for request in found if request.HasField("frame")} >= set(planned(2000, 0, 69))
    assert [request.WhichOneof("request") for request in found][-2:] == ["num_frames", "key_frame"]
