"""The requests of a stream on the server, read until they end, somebody ends the stream, or none comes any more."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Generic, TypeVar

from svc_common.errors import ServiceUnavailableError

T = TypeVar("T")
IDLE_S = 600.0
"""A stream without requests for so long is ended: its client may be gone without a word. A living one comes back."""


class RequestStream(Generic[T]):
    """Of one call. `end` may be called before the first request is read."""

    def __init__(self, *, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self._end: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    @property
    def error(self) -> Exception | None:
        """What has ended the stream early."""
        return self._end.result() if self._end.done() else None

    def end(self, error: Exception) -> None:
        """Read nothing more. The first error counts."""
        if not self._end.done():
            self._end.set_result(error)

    async def next(self, requests: AsyncIterator[T]) -> T | None:
        """The next request; None at the end, an early one too."""
        if self._end.done():
            return None
        # Never cancelled: grpc.aio would lose the memory of a message that is on its way. The end of the call ends it.
        reading = asyncio.ensure_future(anext(requests, None))
        reading.add_done_callback(_look_at)
        waiting: set[asyncio.Future[Any]] = {reading, self._end}
        done, _ = await asyncio.wait(waiting, timeout=self._idle_s, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            raise ServiceUnavailableError(f"no frame came for {self._idle_s:g} s; open another stream for the next")
        return None if self._end.done() else reading.result()


def _look_at(reading: "asyncio.Future[Any]") -> None:
    """Take notice of how a reading ended that nobody waits for; asyncio would complain."""
    if not reading.cancelled():
        reading.exception()
