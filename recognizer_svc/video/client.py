"""Client of RecognizeVideo: sends the frames that clips need, and goes on after a lost connection. No torch."""

import asyncio
import io
import logging
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import grpc
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cache.spec import ClipSpec
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.people import People
from recognizer_svc.video.timeline import VideoTime, reach_ms
from recognizer_svc.video.unanswered import Unanswered
from stal_data.errors import ConflictError, InputError, StalError
from stal_data.keyframes import KeyFrame, ScoredKeyFrame
from stal_data.media.images import MAX_FILE_BYTES, MAX_FILE_PIXELS, decode_image
from stal_data.preprocess import resize_frame
from svc_common.client import RetryPolicy, is_retryable, next_answer, pause_s
from svc_common.errors import DeadlineError, ServiceError, error_of

if TYPE_CHECKING:
    from protos.generated import recognizer_pb2_grpc as pb_grpc

log = logging.getLogger(__name__)

SERVICE = "recognizer"
JPEG_QUALITY = 95
# A wrong address should show at once; a service that was there a moment ago gets the time to restart.
_FIRST_CONTACT = RetryPolicy(retries=2)
_RESTART = RetryPolicy(retries=12)

Sending = Literal["resized", "png", "jpeg"]
"""How pictures travel. resized: scaled here to what the backbones see, as raw pixels: exact, and of large pictures the
fewest bytes. png: exact. jpeg: of quality 95."""


@dataclass(frozen=True, kw_only=True)
class VideoRequest:
    """What to score, and with which head.

    checkpoint: best, latest, or "" for best where there is one.
    time: the video's name and its clock. Where it lacks num_frames, the last frame is the end of the video.
    sending: of pictures; encoded files go as they are, unless it is `resized`.
    keep: what the features are kept as, see protos/recognizer.proto; not of frames that are sent as JPEG.
    answered_ms: key frames up to this time have their answers; they get no other, but the head sees those within its
        reach. So the items begin with the frames of the first key frame in reach of the one after it.
    """

    run_id: str
    checkpoint: str = ""
    time: VideoTime = field(default_factory=lambda: VideoTime(video="video"))
    sending: Sending = "resized"
    keep: pb.KeptFeatures | None = None
    answered_ms: int | None = None

    def __post_init__(self) -> None:
        if self.keep is not None and self.sending == "jpeg":
            raise InputError("sending is jpeg, which changes features, so they cannot be kept; send png or resized.")


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoPicture:
    """A frame of the 25 fps time line. number: from 1. picture: RGB [H, W, 3], or the bytes of an image file."""

    number: int
    picture: NDArray[np.uint8] | bytes


@dataclass(frozen=True, kw_only=True, eq=False)
class PeopleAt:
    """A key frame and all people in it; there may be none."""

    time_ms: int
    people: People


VideoItem: TypeAlias = VideoPicture | PeopleAt


class VideoStreams:
    """The streams that score a video, one after another, each at the next service. Use once."""

    def __init__(
        self,
        services: Sequence[tuple[str, "pb_grpc.RecognizerAsyncStub"]],
        video: VideoRequest,
        items: AsyncIterator[VideoItem],
        *,
        metadata: tuple[tuple[str, str], ...],
        timeout_s: float,
    ) -> None:
        """services: addresses and stubs, in the order in which they are tried. metadata: of each call."""
        self._services, self._video, self._items = deque(services), video, items
        self._metadata, self._timeout_s = metadata, timeout_s
        self._header: pb.VideoHeader | None = None
        self._unanswered: Unanswered | None = None
        self._source_error: Exception | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def _address(self) -> str:
        return self._services[0][0]

    async def answers(self) -> AsyncGenerator[pb.VideoHeader | ScoredKeyFrame]:
        """Yield the header, then the key frames; see `RecognizerClient.recognize_video`."""
        found: StalError
        delays, failed = _FIRST_CONTACT.delays(), 0
        try:
            while self._unanswered is None or not self._unanswered.done:
                try:
                    async with aclosing(self._stream()) as answers:
                        async for answer in answers:
                            if isinstance(answer, ScoredKeyFrame):
                                delays, failed = _RESTART.delays(), 0
                            yield answer
                except grpc.aio.AioRpcError as error:
                    found = error_of(error, service=SERVICE, address=self._address)
                    if not is_retryable(error):
                        raise self._source_error or found from error
                except DeadlineError as error:
                    found = error
                else:
                    continue
                failed += 1
                self._services.rotate(-1)
                if failed % len(self._services):
                    log.warning("%s; going on with the one at %s", found, self._address)
                    continue
                if (delay := next(delays, None)) is None:
                    raise found
                delay = pause_s(delay, found)
                log.warning("%s; trying again in %.1f s", found, delay)
                await asyncio.sleep(delay)
            if self._source_error is not None:
                raise self._source_error
        finally:
            if self._reading is not None:
                self._reading.cancel()
                await asyncio.gather(self._reading, return_exceptions=True)

    async def _stream(self) -> AsyncGenerator[pb.VideoHeader | ScoredKeyFrame]:
        opened, ended = asyncio.Event(), asyncio.Event()
        call = self._services[0][1].RecognizeVideo(self._requests(opened, ended), metadata=self._metadata)
        responses = aiter(call)
        try:
            while (response := await self._next(responses)) is not None:
                if response.WhichOneof("response") == "header":
                    first = self._header is None
                    self._open(response.header)
                    opened.set()
                    if first:
                        yield response.header
                    continue
                assert self._header is not None
                assert self._unanswered is not None
                item = scored_key_frame(response.key_frame, len(self._header.model.labels))
                if not self._unanswered.answer(item.key.time_ms):
                    raise ServiceError(f"The {SERVICE} at {self._address} answered {item.key}, which was not due.")
                yield item
            if self._unanswered is None or not self._unanswered.done:
                raise ServiceError(f"The {SERVICE} at {self._address} ended the stream with key frames unanswered.")
        finally:
            cast("grpc.aio.Call", call).cancel()
            for event in (ended, opened):
                event.set()
            if self._unanswered is not None:
                self._unanswered.wake()

    async def _next(self, responses: AsyncIterator[pb.RecognizeVideoResponse]) -> pb.RecognizeVideoResponse | None:
        """The next message; None at the end; DeadlineError when one has been due for too long."""
        return await next_answer(
            responses,
            timeout_s=self._timeout_s,
            waiting_s=lambda: math.inf if self._unanswered is None else self._unanswered.waiting_s(),
            service=SERVICE,
            address=self._address,
        )

    def _open(self, header: pb.VideoHeader) -> None:
        """Take the first header; later ones must be of the same head."""
        if self._header is None:
            self._header, model = header, header.model
            clip = ClipSpec(num_frames=header.clip_span, stride=header.clip_stride)
            reach = reach_ms(model.neighbours, model.neighbour_ms, model.bank_s)
            answered_ms = self._video.answered_ms
            self._unanswered = Unanswered(
                self._video.time, clip, reach_ms=reach, answered_ms=answered_ms, kept=self._video.keep is not None
            )
            # A task: grpc cancels the iterator of a broken stream, and a cancelled source could not go on.
            self._reading = asyncio.create_task(self._read(self._unanswered))
        elif (header.model.digest, list(header.sizes)) != (self._header.model.digest, list(self._header.sizes)):
            raise ConflictError(
                f"The {SERVICE} at {self._address} scores with another head than before: {header.model.run_id} "
                f"{header.model.checkpoint} ({header.model.digest}) instead of {self._header.model.digest}."
            )

    async def _requests(self, opened: asyncio.Event, ended: asyncio.Event) -> AsyncIterator[pb.RecognizeVideoRequest]:
        before = self._unanswered
        time = self._video.time if before is None else before.time
        start = pb.VideoStart(
            run_id=self._video.run_id,
            checkpoint=self._video.checkpoint,
            video=time.video,
            start_s=time.start_s,
            num_frames=time.num_frames or 0,
            answered_ms=self._video.answered_ms if before is None else before.answered_ms,
            keep=self._video.keep,
        )
        yield pb.RecognizeVideoRequest(start=start)
        # grpc may leave the iterator of a broken stream waiting; it ends by itself then.
        await opened.wait()
        if self._unanswered is not None:
            async for request in self._unanswered.requests(time.num_frames, ended.is_set):
                yield request

    async def _read(self, unanswered: Unanswered) -> None:
        assert self._header is not None
        sizes = [(size.height, size.width) for size in self._header.sizes]
        try:
            async for item in self._items:
                if isinstance(item, PeopleAt):
                    unanswered.add_key_frame(item.time_ms, item.people)
                elif unanswered.wanted(item.number):
                    frame = await asyncio.to_thread(_message, item, self._video.sending, sizes)
                    unanswered.add_frame(frame, item.number)
                else:
                    unanswered.add_frame(None, item.number)
                await unanswered.room()
            unanswered.complete(failed=False)
        except Exception as error:  # noqa: BLE001 - raised to the caller once the key frames before it are answered
            self._source_error = error
            unanswered.complete(failed=True)


def _message(item: VideoPicture, sending: Sending, sizes: list[tuple[int, int]]) -> pb.VideoFrame:
    picture = item.picture
    if sending == "resized":
        if isinstance(picture, bytes):
            picture = decode_image(
                picture, f"Frame {item.number}", max_bytes=MAX_FILE_BYTES, max_pixels=MAX_FILE_PIXELS
            )
        scaled = b"".join(resize_frame(picture, *size).tobytes() for size in sizes)
        return pb.VideoFrame(number=item.number, resized=scaled)
    if isinstance(picture, bytes):
        return pb.VideoFrame(number=item.number, image=picture)
    file = io.BytesIO()
    if sending == "png":
        Image.fromarray(picture).save(file, format="png", compress_level=1)
    else:
        Image.fromarray(picture).save(file, format="jpeg", quality=JPEG_QUALITY)
    return pb.VideoFrame(number=item.number, image=file.getvalue())


def scored_key_frame(item: pb.ScoredKeyFrame, num_classes: int) -> ScoredKeyFrame:
    """Return what the message holds."""
    return ScoredKeyFrame(
        key=KeyFrame(item.video, item.time_ms),
        boxes_N4=np.frombuffer(item.boxes, dtype="<f4").reshape(-1, 4),
        scores_NC=np.frombuffer(item.scores, dtype="<f4").reshape(-1, num_classes),
        persons_N=np.array(item.persons, dtype=np.int64) if item.persons else None,
    )
