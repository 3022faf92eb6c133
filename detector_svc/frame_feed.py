"""The client's book of frames: which are unanswered, and what to send next, over any number of connections."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from protos.generated import detector_pb2 as pb
from stal_data.errors import InputError
from svc_common.errors import ServiceError

_READ_AHEAD = 2
"""Frames read from the source before a connection has room for them."""


class FrameFeed:
    """Use with `async with`; only the iterator of the newest connection gets frames."""

    def __init__(self, source: AsyncIterator[tuple[str, bytes]], *, window: int) -> None:
        """window: frames that may be unanswered at a time."""
        self._source, self._window = source, window
        # Frames wait here between the source and a connection, because grpc cancels the iterator of a broken stream,
        # and a cancelled source could not go on.
        self._ready: deque[tuple[str, bytes]] = deque()
        self._unanswered: dict[str, tuple[bytes, float]] = {}
        self._exhausted = False
        self._source_error: Exception | None = None
        self._connection = 0
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
        return self._exhausted and not self._ready and not self._unanswered

    def waiting_s(self) -> float:
        """How long the oldest unanswered frame has been waiting on this connection; 0 when there is none."""
        oldest = next(iter(self._unanswered.values()), None)
        return 0.0 if oldest is None else time.monotonic() - oldest[1]

    def answered(self, frame_id: str) -> None:
        """Note an answer; one that nobody waits for is the service's mistake."""
        if self._unanswered.pop(frame_id, None) is None:
            raise ServiceError(f"The detector answered frame '{frame_id}', which has no answer outstanding.")
        self._changed.set()

    def raise_source_error(self) -> None:
        """Raise what the source of frames raised, if it did."""
        if self._source_error is not None:
            raise self._source_error

    async def requests(self) -> AsyncIterator[pb.DetectRequest]:
        """For one connection: the unanswered frames again, then new ones within the window."""
        self._connection = connection = self._connection + 1
        self._changed.set()
        for frame_id, (image, _) in list(self._unanswered.items()):
            self._unanswered[frame_id] = (image, time.monotonic())
            yield pb.DetectRequest(frame_id=frame_id, image=image)
        # grpc may leave the iterator of a broken connection waiting here; it must not take a frame any more.
        while connection == self._connection and (self._ready or not self._exhausted):
            if self._ready and len(self._unanswered) < self._window:
                frame_id, image = self._ready.popleft()
                self._changed.set()
                self._unanswered[frame_id] = (image, time.monotonic())
                yield pb.DetectRequest(frame_id=frame_id, image=image)
            else:
                await self._next_change()

    async def _fill(self) -> None:
        try:
            async for frame_id, image in self._source:
                while len(self._ready) >= _READ_AHEAD:
                    await self._next_change()
                if frame_id in self._unanswered or any(frame_id == other for other, _ in self._ready):
                    raise InputError(f"Frame id '{frame_id}' occurs twice among the frames that have no answer yet.")
                self._ready.append((frame_id, image))
                self._changed.set()
        except Exception as error:  # noqa: BLE001 - raised to the caller once the frames before it are answered
            self._source_error = error
        self._exhausted = True
        self._changed.set()

    async def _next_change(self) -> None:
        """Wait until the book changes; a caller checks its condition, calls this without a pause, checks again."""
        self._changed.clear()
        await self._changed.wait()
