"""The frames of one `detect`: a single queue from which all replicas take, and to which the unanswered ones return.

What returns is the next to be taken, and an answer counts only from the replica that has the frame. So no frame is lost
or doubled.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from types import TracebackType
from typing import Self

from detector_svc.detections import FrameDetections
from protos.generated import detector_pb2 as pb
from stal_data.errors import InputError
from svc_common.errors import ServiceError

log = logging.getLogger(__name__)

Answer = FrameDetections | str
"""What was found in an image, or what is wrong with it."""
_READ_AHEAD = 2
"""Frames read from the source before a replica has room for them."""


class FrameQueue:
    """Iterate over `answers` while each replica takes frames through a `FrameShare`."""

    def __init__(self, source: AsyncIterator[tuple[str, bytes]], *, window: int) -> None:
        """window: frames that a replica may have unanswered at a time; also answers that may wait to be read."""
        self._source, self.window = source, window
        self.waiting: deque[tuple[str, bytes]] = deque()
        """Frames that no replica has."""
        self.unanswered: set[str] = set()
        """Those, and those of all replicas."""
        self.unread: deque[tuple[str, Answer]] = deque()
        """Answers that wait to be read."""
        self._exhausted = False
        self._source_error: Exception | None = None
        self._failure: BaseException | None = None
        self._changed = asyncio.Event()

    @property
    def done(self) -> bool:
        """True when the source is exhausted and every frame has its answer."""
        return self._exhausted and not self.unanswered

    def fail(self, error: BaseException) -> None:
        """Let `answers` raise the error after the answers that there are; the first one counts."""
        self._failure = self._failure or error
        self.wake()

    def wake(self) -> None:
        """Let everybody who waits for a change look again."""
        self._changed.set()

    async def next_change(self) -> None:
        """Wait until something changes; a caller checks its condition, calls this without a pause, checks again."""
        self._changed.clear()
        await self._changed.wait()

    async def answers(self) -> AsyncGenerator[tuple[str, Answer]]:
        """Read the source and yield each frame's answer as it comes. What the source raises is raised after those to
        the frames before."""
        # A task: grpc cancels the iterator of a broken stream, and a cancelled source could not go on.
        reading = asyncio.create_task(self._read())
        try:
            while True:
                while self.unread:
                    yield self.unread.popleft()
                    self.wake()
                if self.done:
                    break
                if self._failure is not None:
                    raise self._failure
                await self.next_change()
            if self._source_error is not None:
                raise self._source_error
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self) -> None:
        try:
            async for frame_id, image in self._source:
                while len(self.waiting) >= _READ_AHEAD:
                    await self.next_change()
                if frame_id in self.unanswered:
                    raise InputError(f"Frame id '{frame_id}' occurs twice among the frames that have no answer yet.")
                self.unanswered.add(frame_id)
                self.waiting.append((frame_id, image))
                self.wake()
        except Exception as error:  # noqa: BLE001 - raised to the caller once the frames before it are answered
            self._source_error = error
        self._exhausted = True
        self.wake()


class FrameShare:
    """The frames that one stream to a replica has. Use with `with`: at its end the queue gets back those unanswered."""

    def __init__(self, queue: FrameQueue, address: str, *, takes: Callable[[], bool] = lambda: True) -> None:
        """takes: whether the replica may have more frames; `FrameQueue.wake` has it asked again."""
        self._queue, self._address, self._takes = queue, address, takes
        self._unanswered: dict[str, tuple[bytes, float]] = {}
        self._ended = False
        self.answered = 0
        """Frames that got their answers here."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # grpc may leave the iterator of a broken stream waiting; it must not take a frame any more.
        self._ended = True
        if self._unanswered and isinstance(error, Exception):
            log.warning("The detector at %s fails; its %d unanswered frames are sent again", self._address, len(self))
        for frame_id, (image, _) in reversed(self._unanswered.items()):
            self._queue.waiting.appendleft((frame_id, image))
        self._unanswered.clear()
        self._queue.wake()

    def __len__(self) -> int:
        return len(self._unanswered)

    def waiting_s(self) -> float:
        """How long the oldest unanswered frame has been waiting; 0 when there is none."""
        oldest = next(iter(self._unanswered.values()), None)
        return 0.0 if oldest is None else time.monotonic() - oldest[1]

    def answer(self, frame_id: str, answer: Answer) -> None:
        """Pass an answer on; one that nobody waits for is the service's mistake."""
        if self._unanswered.pop(frame_id, None) is None:
            raise ServiceError(
                f"The detector at {self._address} answered frame '{frame_id}', which has no answer outstanding there."
            )
        self.answered += 1
        self._queue.unanswered.discard(frame_id)
        self._queue.unread.append((frame_id, answer))
        self._queue.wake()

    async def requests(self) -> AsyncIterator[pb.DetectRequest]:
        """Frames within the window, for as long as the replica takes any and until all have their answers.

        Not only until the source is exhausted: frames of another replica may come back.
        """
        while self._takes() and not (self._ended or self._queue.done):
            if not self._queue.waiting or max(len(self), len(self._queue.unread)) >= self._queue.window:
                await self._queue.next_change()
                continue
            frame_id, image = self._queue.waiting.popleft()
            self._queue.wake()
            self._unanswered[frame_id] = (image, time.monotonic())
            yield pb.DetectRequest(frame_id=frame_id, image=image)
