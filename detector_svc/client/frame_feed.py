"""The client's book of frames: which wait, which are unanswered and with whom, over any number of connections.

Frames go to whichever connection has room. What a connection leaves unanswered goes to the next one that has room,
before new frames; an answer is taken only from the connection that has the frame. So no frame is lost or doubled.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType
from typing import Generic, Self, TypeVar

from protos.generated import detector_pb2 as pb
from stal_data.errors import InputError
from svc_common.errors import ServiceError

_READ_AHEAD = 2
"""Frames read from the source before a connection has room for them."""

A = TypeVar("A")


class FrameFeed(Generic[A]):
    """Use with `async with`: iterate over `answers` while each connection takes a `ReplicaShare`.

    A: what an answer says.
    """

    def __init__(self, source: AsyncIterator[tuple[str, bytes]], *, window: int) -> None:
        """window: frames that a connection may have unanswered at a time; also answers that may wait to be read."""
        self._source, self.window = source, window
        # Frames wait here between the source and a connection, because grpc cancels the iterator of a broken stream,
        # and a cancelled source could not go on.
        self._ready: deque[tuple[str, bytes]] = deque()
        self._unanswered: set[str] = set()  # those in `_ready` and those of all connections
        self._answers: deque[tuple[str, A]] = deque()
        self._exhausted = False
        self._source_error: Exception | None = None
        self._failure: Exception | None = None
        self._changed = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._pump = asyncio.create_task(self._fill())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._pump is not None
        self._pump.cancel()
        await asyncio.gather(self._pump, return_exceptions=True)

    @property
    def done(self) -> bool:
        """True when the source is exhausted and every frame has its answer."""
        return self._exhausted and not self._unanswered

    def fail(self, error: Exception) -> None:
        """Let `answers` raise the error after the answers that there are; the first one counts."""
        self._failure = self._failure or error
        self._changed.set()

    async def answers(self) -> AsyncGenerator[tuple[str, A]]:
        """Yield each frame's answer as it comes; raise what the source raised after the answers to what came before."""
        while True:
            while self._answers:
                yield self._answers.popleft()
                self._changed.set()
            if self.done:
                break
            if self._failure is not None:
                raise self._failure
            await self.next_change()
        if self._source_error is not None:
            raise self._source_error

    def take(self) -> tuple[str, bytes] | None:
        """The next frame; None when there is none now, or too many answers wait to be read."""
        if not self._ready or len(self._answers) >= self.window:
            return None
        self._changed.set()
        return self._ready.popleft()

    def give_back(self, frames: list[tuple[str, bytes]]) -> None:
        """Frames that a connection leaves unanswered; they are the next to be taken."""
        self._ready.extendleft(reversed(frames))
        self._changed.set()

    def answer(self, frame_id: str, answer: A) -> None:
        """Note the answer to a frame that is no longer with its connection."""
        self._unanswered.discard(frame_id)
        self._answers.append((frame_id, answer))
        self._changed.set()

    async def _fill(self) -> None:
        try:
            async for frame_id, image in self._source:
                while len(self._ready) >= _READ_AHEAD:
                    await self.next_change()
                if frame_id in self._unanswered:
                    raise InputError(f"Frame id '{frame_id}' occurs twice among the frames that have no answer yet.")
                self._unanswered.add(frame_id)
                self._ready.append((frame_id, image))
                self._changed.set()
        except Exception as error:  # noqa: BLE001 - raised to the caller once the frames before it are answered
            self._source_error = error
        self._exhausted = True
        self._changed.set()

    def wake(self) -> None:
        """Let everybody who waits for a change look again."""
        self._changed.set()

    async def next_change(self) -> None:
        """Wait until the book changes; a caller checks its condition, calls this without a pause, checks again."""
        self._changed.clear()
        await self._changed.wait()


class ReplicaShare(Generic[A]):
    """The frames of one connection. Use with `with`: at its end the feed gets back what is unanswered."""

    def __init__(self, feed: FrameFeed[A], *, address: str) -> None:
        self._feed, self._address = feed, address
        self._unanswered: dict[str, tuple[bytes, float]] = {}
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # grpc may leave the iterator of a broken connection waiting; it must not take a frame any more.
        self.end()
        self._feed.give_back([(frame_id, image) for frame_id, (image, _) in self._unanswered.items()])
        self._unanswered.clear()

    def __len__(self) -> int:
        return len(self._unanswered)

    def end(self) -> None:
        """Take no more frames; those that were taken may still be answered."""
        self._ended = True
        self._feed.wake()

    @property
    def ended(self) -> bool:
        return self._ended

    def waiting_s(self) -> float:
        """How long the oldest unanswered frame has been waiting on this connection; 0 when there is none."""
        oldest = next(iter(self._unanswered.values()), None)
        return 0.0 if oldest is None else time.monotonic() - oldest[1]

    def answered(self, frame_id: str, answer: A) -> None:
        """Pass an answer on; one that nobody waits for is the service's mistake."""
        if self._unanswered.pop(frame_id, None) is None:
            raise ServiceError(
                f"The detector at {self._address} answered frame '{frame_id}', which has no answer outstanding there."
            )
        self._feed.answer(frame_id, answer)

    async def requests(self) -> AsyncIterator[pb.DetectRequest]:
        """Frames within the window, until all frames of the feed have their answers or the share has ended.

        Not only until the source is exhausted: frames of another connection may come back.
        """
        while not (self._ended or self._feed.done):
            frame = self._feed.take() if len(self._unanswered) < self._feed.window else None
            if frame is None:
                await self._feed.next_change()
                continue
            frame_id, image = frame
            self._unanswered[frame_id] = (image, time.monotonic())
            yield pb.DetectRequest(frame_id=frame_id, image=image)
