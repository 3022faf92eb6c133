"""Frames in, scored key frames out: a detector and a recognizer work on them at once. No torch, no store."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector_svc.client.detector_client import DetectorClient
from detector_svc.detections import FrameDetections
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.client import RecognizerClient
from recognizer_svc.people import People
from recognizer_svc.video.client import PeopleAt, VideoItem, VideoPicture, VideoRequest
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame, ScoredKeyFrame
from stal_data.media.images import picture_to_send

_LATE_FRAMES = 100
"""Frames that go on their way before the people of an earlier one are known. With half a clip it must stay below
`recognizer_svc.video.frame_window.KEPT_FRAMES`."""


class SeenKeyFrame(NamedTuple):
    """A key frame's scores, and the detector's confidence in each of its boxes, float32 in [0,1]."""

    scored: ScoredKeyFrame
    confidence_N: NDArray[np.float32]


async def only_run(recognizer: RecognizerClient) -> str:
    """Return the run of a service that has one alone, where the user names none."""
    runs = sorted({model.run_id for model in await recognizer.list_models()})
    if not runs:
        raise InputError("The recognizer has no trained run: train one in its store, or start it with --model.")
    if len(runs) > 1:
        raise InputError(f"The recognizer has {len(runs)} runs ({', '.join(runs)}); name one with --run.")
    return runs[0]


async def seen_key_frames(
    frames: AsyncIterator[tuple[int, NDArray[np.uint8]]],
    time_of: Callable[[int], int | None],
    *,
    detector: DetectorClient,
    recognizer: RecognizerClient,
    video: VideoRequest,
    known: Mapping[int, FrameDetections] | None = None,
    detected: Callable[[int, FrameDetections], None] = lambda *_: None,
) -> AsyncGenerator[pb.VideoHeader | SeenKeyFrame]:
    """Yield the recognizer's header, then the key frames in their order. While the recognizer is slower than the
    frames, it holds those of 32 key frames or 1 GiB, as they are sent.

    frames: number on the 25 fps time line, ascending, and RGB [H, W, 3]; asked for once the header is there.
    time_of: the time in ms of the key frame whose image a frame is; None where it is that of none.
    video: its `answered_ms` says which key frames get no answer; see there for where the frames then begin.
    known: people of key frames, by time in ms, for which the detector is not asked.
    detected: called with a time in ms and what the detector has found, as soon as it has.
    What the frames or the detector raise is raised after the key frames whose people were sent before.
    """
    people = _People(detector, video.time.video, known or {}, detected)
    confidence: dict[int, NDArray[np.float32]] = {}

    async def items() -> AsyncGenerator[VideoItem]:
        waiting: deque[tuple[int, int]] = deque()

        async def known_people(*, before: int) -> AsyncGenerator[PeopleAt]:
            """Those of the first key frames that are known; what is awaited are those of frames before this one."""
            while waiting and (waiting[0][0] < before or people.answered(waiting[0][1])):
                time_ms = waiting[0][1]
                found = await people.at(time_ms)
                people_there = People.of(found.boxes_N4, found.persons_N)
                confidence[time_ms] = found.scores_N[people_there.with_area]  # the answer leaves out the others
                waiting.popleft()
                yield PeopleAt(time_ms=time_ms, people=people_there)

        last = 0
        async for number, picture_HW3 in frames:
            last = number
            yield VideoPicture(number=number, picture=picture_HW3)
            if (time_ms := time_of(number)) is not None:
                waiting.append((number, time_ms))
                await people.ask(time_ms, picture_HW3)
            async for item in known_people(before=number - _LATE_FRAMES):
                yield item
        people.complete()
        async for item in known_people(before=last + 1):
            yield item

    try:
        async with aclosing(recognizer.recognize_video(video, items())) as answers:
            async for answer in answers:
                if isinstance(answer, ScoredKeyFrame):
                    yield SeenKeyFrame(answer, confidence[answer.key.time_ms])
                    for old in [time_ms for time_ms in confidence if time_ms <= answer.key.time_ms]:
                        del confidence[old]
                else:
                    yield answer
    finally:
        await people.close()


class _People:
    def __init__(
        self,
        detector: DetectorClient,
        video: str,
        known: Mapping[int, FrameDetections],
        detected: Callable[[int, FrameDetections], None],
    ) -> None:
        self._detector, self._video, self._known, self._detected = detector, video, known, detected
        self._asked: dict[str, KeyFrame] = {}
        """By the id that the detector gets, which its errors name."""
        self._images: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue()
        self._found: dict[int, FrameDetections] = {}
        self._changed = asyncio.Event()
        self._detecting: asyncio.Task[None] | None = None

    async def ask(self, time_ms: int, picture_HW3: NDArray[np.uint8]) -> None:
        if (known := self._known.get(time_ms)) is not None:
            self._found[time_ms] = known
            return
        if self._detecting is None:
            self._detecting = asyncio.create_task(self._detect())
            self._detecting.add_done_callback(lambda _: self._changed.set())
        key = KeyFrame(self._video, time_ms)
        self._asked[str(key)] = key
        self._images.put_nowait((str(key), await asyncio.to_thread(picture_to_send, picture_HW3)))

    def answered(self, time_ms: int) -> bool:
        return time_ms in self._found

    async def at(self, time_ms: int) -> FrameDetections:
        """Return the people, once; waits for the detector, and raises what it has failed with."""
        while time_ms not in self._found:
            assert self._detecting is not None
            if self._detecting.done():
                self._detecting.result()
            self._changed.clear()
            await self._changed.wait()
        return self._found.pop(time_ms)

    def complete(self) -> None:
        self._images.put_nowait(None)

    async def close(self) -> None:
        if self._detecting is not None:
            self._detecting.cancel()
            await asyncio.gather(self._detecting, return_exceptions=True)

    async def _detect(self) -> None:
        async def images() -> AsyncGenerator[tuple[str, bytes]]:
            while (image := await self._images.get()) is not None:
                yield image

        async with aclosing(self._detector.detect(images())) as answers:
            async for frame_id, answer in answers:
                if isinstance(answer, str):
                    raise InputError(answer)
                time_ms = self._asked.pop(frame_id).time_ms
                self._detected(time_ms, answer)
                self._found[time_ms] = answer
                self._changed.set()
