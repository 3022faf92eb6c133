"""The client's book of frames: which are unanswered, and what to send next, over any number of connections."""

import asyncio
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from protos.generated import detector_pb2 as pb
from stal_data.errors import InputError
from svc_common.errors import ServiceError

_END = object()


class FrameFeed:
    """Use with `async with`; `requests` is consumed by one connection at a time."""

    def __init__(self, source: AsyncIterator[tuple[str, bytes]], *, window: int) -> None:
        """window: frames that may be unanswered at a time."""
        self._source, self._window = source, window
        # Frames wait here between the source and a connection, because grpc cancels the iterator of a broken stream,
        # and a cancelled source could not go on.
        self._ready: asyncio.Queue[tuple[str, bytes] | object] = asyncio.Queue(maxsize=2)
        self._unanswered: dict[str, tuple[bytes, float]] = {}
        self._room = asyncio.Event()
        self._exhausted = False
        self._source_error: Exception | None = None
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

    def waiting_s(self) -> float:
        """How long the oldest unanswered frame has been waiting on this connection; 0 when there is none."""
        oldest = next(iter(self._unanswered.values()), None)
        return 0.0 if oldest is None else time.monotonic() - oldest[1]

    def answered(self, frame_id: str) -> None:
        """Note an answer; one that nobody waits for is the service's mistake."""
        if self._unanswered.pop(frame_id, None) is None:
            raise ServiceError(f"The detector answered frame '{frame_id}', which has no answer outstanding.")
        self._room.set()

    def raise_source_error(self) -> None:
        """Raise what the source of frames raised, if it did."""
        if self._source_error is not None:
            raise self._source_error

    async def requests(self) -> AsyncIterator[pb.DetectRequest]:
        """For one connection: the unanswered frames again, then new ones within the window."""
        for frame_id, (image, _) in list(self._unanswered.items()):
            self._unanswered[frame_id] = (image, time.monotonic())
            yield pb.DetectRequest(frame_id=frame_id, image=image)
        while not self._exhausted:
            while len(self._unanswered) >= self._window:
                self._room.clear()
                await self._room.wait()
            item = await self._ready.get()
            if not isinstance(item, tuple):
                self._exhausted = True
                return
            frame_id, image = item
            if frame_id in self._unanswered:
                self._source_error, self._exhausted = InputError(f"Frame id '{frame_id}' occurs twice."), True
                return
            self._unanswered[frame_id] = (image, time.monotonic())
            yield pb.DetectRequest(frame_id=frame_id, image=image)

    async def _fill(self) -> None:
        try:
            async for item in self._source:
                await self._ready.put(item)
        except Exception as error:  # noqa: BLE001 - raised to the caller once the frames before it are answered
            self._source_error = error
        await self._ready.put(_END)
