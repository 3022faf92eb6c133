"""One RecognizeVideo stream on the server: reads while there is room, answers in the order of the key frames."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from protos.generated import recognizer_pb2 as pb
from recognizer_svc.people import People
from recognizer_svc.service import messages
from recognizer_svc.video.frame_window import KEPT_FRAMES, FrameWindow
from recognizer_svc.video.kept_features import KeptFeatures
from recognizer_svc.video.key_frames import KeyFrames
from recognizer_svc.video.timeline import MAX_FRAMES, VideoTime
from recognizer_svc.video.video_scoring import OpenVideo, VideoScoring
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame
from stal_data.media.images import decode_image
from stal_data.preprocess import resize_frame
from svc_common.fair_queue import Flow
from svc_common.request_stream import IDLE_S, RequestStream

if TYPE_CHECKING:
    from cache.precompute.clips import Frame, Size

_DECODING = 16
"""Frames of a stream that are not decoded yet. Beyond this, or any number below, the service stops reading."""
_COMPUTING = 8
"""Clips of a stream whose features are not computed yet."""
_UNANSWERED = 32
"""Key frames of a stream that have all that they need but a written answer."""

Keep: TypeAlias = Callable[[pb.KeptFeatures, VideoTime, OpenVideo, int | None], KeptFeatures]


class VideoStream:
    """Use once: iterate over `answers`, then `close` in any case."""

    def __init__(
        self, scoring: VideoScoring, flow: Flow, *, deadline: float, keep: Keep, idle_s: float = IDLE_S
    ) -> None:
        """flow: with what the stream's clips wait. deadline: on the clock of time.monotonic()."""
        self._scoring, self._flow, self._deadline, self._keep = scoring, flow, deadline, keep
        self._requests = RequestStream[pb.RecognizeVideoRequest](idle_s=idle_s)
        self._window: FrameWindow[asyncio.Future[Frame]] = FrameWindow()
        self._computing: dict[KeyFrame, list[asyncio.Future[Frame]]] = {}
        self._decoding = self._unwritten = 0
        self._answers: asyncio.Queue[pb.RecognizeVideoResponse | None] = asyncio.Queue()
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._kept: KeptFeatures | None = None

    @property
    def frames(self) -> int:
        """Frames in memory."""
        clips = (frame for clip in list(self._computing.values()) for frame in clip)
        return len({id(frame) for frame in (*self._window.values(), *clips)})

    def end(self, error: Exception) -> None:
        """Read nothing more, answer the key frames that can be answered, then end with the error."""
        self._requests.end(error)
        self._changed.set()

    async def answers(
        self, requests: AsyncIterator[pb.RecognizeVideoRequest]
    ) -> AsyncIterator[pb.RecognizeVideoResponse]:
        """Yield the header and the key frames; raises what ended the stream early after those before it."""
        self._start(self._work(requests))
        while (answer := await self._answers.get()) is not None:
            yield answer
            self._unwritten -= 1
            self._changed.set()
        if self._requests.error is not None:
            raise self._requests.error

    async def close(self) -> None:
        """Cancel what is still running."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _work(self, requests: AsyncIterator[pb.RecognizeVideoRequest]) -> None:
        try:
            first = await self._requests.next(requests)
            if first is not None:
                await self._score_video(first, requests)
        except Exception as error:  # noqa: BLE001 - raised to the client by `answers`
            self.end(error)
        self._answers.put_nowait(None)

    async def _score_video(
        self, first: pb.RecognizeVideoRequest, requests: AsyncIterator[pb.RecognizeVideoRequest]
    ) -> None:
        if first.WhichOneof("request") != "start":
            raise InputError("The first message must be start, which names the run and the video.")
        start = first.start
        self._time = VideoTime(video=start.video, start_s=start.start_s, num_frames=start.num_frames or None)
        self._video = video = await self._scoring.open(start.run_id, start.checkpoint, self._deadline)
        answered_ms = start.answered_ms if start.HasField("answered_ms") else None
        if start.HasField("keep"):
            self._kept = await asyncio.to_thread(self._keep, start.keep, self._time, video, answered_ms)
            self._video = video = replace(video, arrays=tuple(video.source.shapes))
        self._key_frames = KeyFrames(video.rows, reach_ms=video.reach_ms, answered_ms=answered_ms)
        self._put(pb.RecognizeVideoResponse(header=_header(video, self._scoring.thresholds)))
        reading = self._start(self._read(requests))
        while True:
            self._changed.clear()
            if ready := (await self._ready())[:_UNANSWERED]:
                people = dict(self._key_frames.people)
                for item in await self._scoring.score(video, ready, people, self._deadline):
                    self._put(pb.RecognizeVideoResponse(key_frame=messages.from_scored(item)))
                self._key_frames.answered(ready)
                self._changed.set()
            elif reading.done() and not self._computing and not self._decoding:
                if self._kept is not None and not self._kept.complete:
                    raise InputError("The video ended before the last key frame of keep.times_ms; send it to its end.")
                return
            else:
                await self._changed.wait()

    async def _ready(self) -> list[KeyFrame]:
        """Key frames that can be answered now; where features are kept, once they are written."""
        if self._kept is None:
            return self._key_frames.ready()
        # What changes while a shard is written shows in the next look: `_room` may have taken the event for itself.
        while self._kept.due(self._key_frames.rows):
            await asyncio.to_thread(self._kept.write, self._key_frames.rows)
        return [key for key in self._key_frames.ready() if self._kept.may_answer(key)]

    def _put(self, answer: pb.RecognizeVideoResponse) -> None:
        self._unwritten += 1
        self._answers.put_nowait(answer)

    async def _read(self, requests: AsyncIterator[pb.RecognizeVideoRequest]) -> None:
        try:
            while True:
                await self._room()
                request = await self._requests.next(requests)
                if request is None:
                    break
                self._take(request)
                del request  # not held while there is no room
            if self._requests.error is None:
                self._key_frames.complete()
        except Exception as error:  # noqa: BLE001 - as above
            self.end(error)
        asyncio.get_running_loop().call_soon(self._changed.set)  # when this task is done

    async def _room(self) -> None:
        """Wait until the client is not too far ahead."""
        while self._requests.error is None and (
            self._decoding >= _DECODING
            or len(self._computing) >= _COMPUTING
            or self._unwritten + len(self._key_frames.due()) >= _UNANSWERED
        ):
            changed = self._changed
            changed.clear()
            await changed.wait()

    def _take(self, request: pb.RecognizeVideoRequest) -> None:
        kind = request.WhichOneof("request")
        if kind == "frame":
            number, last = request.frame.number, self._time.num_frames or MAX_FRAMES
            if not 0 < number <= last:
                raise InputError(f"frame.number is {number}, but must be 1 to {last}.")
            self._window.add(number, lambda: self._decode(request.frame))
        elif kind == "key_frame":
            self._take_key_frame(request.key_frame)
        elif kind == "num_frames":
            if self._time.num_frames is not None:
                raise InputError(f"num_frames is {request.num_frames}, but {self._time.num_frames} was said before.")
            self._time = VideoTime(video=self._time.video, start_s=self._time.start_s, num_frames=request.num_frames)
        else:
            raise InputError(f"A message has {kind or 'nothing'} after the start; send frame, key_frame or num_frames.")

    def _take_key_frame(self, given: pb.KeyFramePeople) -> None:
        if len(given.boxes) > messages.MAX_BOXES_PER_CALL:
            raise InputError(
                f"Key frame {given.time_ms} ms has {len(given.boxes)} boxes, but may have "
                f"{messages.MAX_BOXES_PER_CALL} at most."
            )
        key = KeyFrame(self._time.video, given.time_ms)
        everybody = messages.to_people(given.boxes)
        people: People = self._key_frames.add(key, everybody)
        wanted = self._kept is not None and self._kept.take(key, everybody.boxes_N4)
        if wanted or len(people.boxes_N4):
            numbers = self._time.clip_of(key.time_ms, self._video.source.spec.clip)
            self._computing[key] = self._window.clip(key, numbers)
            self._start(self._compute(key))
        self._changed.set()

    def _decode(self, frame: pb.VideoFrame) -> "asyncio.Future[Frame]":
        self._decoding += 1
        work = partial(_prepare, frame, f"Frame {frame.number} of '{self._time.video}'", self._video.source.sizes)
        decoding = asyncio.get_running_loop().run_in_executor(self._scoring.decoders, work)
        decoding.add_done_callback(self._decoded)
        return decoding

    def _decoded(self, decoding: "asyncio.Future[Frame]") -> None:
        self._decoding -= 1
        self._changed.set()
        if not decoding.cancelled() and (error := decoding.exception()) is not None:
            self.end(error if isinstance(error, Exception) else RuntimeError(repr(error)))

    async def _compute(self, key: KeyFrame) -> None:
        try:
            frames = [await frame for frame in self._computing[key]]
            clip = (key, frames)
            row = await self._scoring.features(self._video, clip, self._deadline, self._flow)
            self._key_frames.rows.add(key, row)
        except Exception as error:  # noqa: BLE001 - as above
            self.end(error)
        finally:
            del self._computing[key]
            self._changed.set()


def _header(video: OpenVideo, thresholds: Mapping[str, Mapping[int, float]]) -> pb.VideoHeader:
    clip = video.source.spec.clip
    return pb.VideoHeader(
        model=messages.from_model(video.model.info),
        notes=video.notes,
        clip_span=clip.num_frames,
        clip_stride=clip.stride,
        sizes=[pb.FrameSize(height=height, width=width) for height, width in video.source.sizes],
        kept_frames=KEPT_FRAMES,
        thresholds=thresholds.get(video.model.info.run_id, {}),
    )


def _prepare(frame: pb.VideoFrame, name: str, sizes: "tuple[Size, ...]") -> "Frame":
    """Return a frame at each size; it is decoded and scaled as precompute does, unless the client has done so."""
    kind = frame.WhichOneof("pixels")
    if kind == "image":
        picture_HW3 = decode_image(frame.image, name)
        return {size: resize_frame(picture_HW3, *size) for size in sizes}
    lengths = [3 * height * width for height, width in sizes]
    if kind is None or len(frame.resized) != sum(lengths):
        listed = ", ".join(f"{height}x{width}" for height, width in sizes)
        raise InputError(
            f"{name} has {len(frame.resized)} bytes of pixels, but RGB of the sizes {listed} (height x width) has "
            f"{sum(lengths)}; send an image file, or scale the frame to each of VideoHeader.sizes."
        )
    ends = np.cumsum(lengths)
    parts = np.split(np.frombuffer(frame.resized, np.uint8), ends[:-1])
    return {size: part.reshape(*size, 3) for size, part in zip(sizes, parts, strict=True)}
