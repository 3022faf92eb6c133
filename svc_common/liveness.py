"""Whether the process still gets on: the event loop turns, and what must run in the background runs."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from functools import partial

log = logging.getLogger(__name__)

STALLED_S = 30.0
"""An event loop that does not turn for so long is taken as hung. The longest pauses of a sound one, such as imports
while the service loads, are a few seconds."""
_BEATS = 20
"""Of the event loop within STALLED_S."""


class Liveness:
    """Use `start` and `stop` in the event loop; any thread may ask for the `trouble`."""

    def __init__(self, on_failure: Callable[[], None]) -> None:
        """on_failure: called in the event loop when a background task has ended."""
        self._on_failure = on_failure
        self._failure: str | None = None
        self._beat_at = time.monotonic()
        self._heart: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._heart = asyncio.create_task(self._beat(), name="heartbeat")

    def stop(self) -> None:
        if self._heart is not None:
            self._heart.cancel()

    def require(self, tasks: Iterable[asyncio.Task[None]], *, service: str) -> None:
        """The process is not live any more once one of the tasks ends in any way but by being cancelled."""
        for task in tasks:
            task.add_done_callback(partial(self._ended, service))

    def trouble(self) -> str | None:
        """Why the process is not live; None while it is."""
        if self._failure is not None:
            return self._failure
        age_s = time.monotonic() - self._beat_at
        return f"the event loop has not turned for {age_s:.0f} s" if age_s > STALLED_S else None

    def _ended(self, service: str, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        log.critical("%s: the task '%s' has ended", service, task.get_name(), exc_info=task.exception())
        self._failure = f"the task '{task.get_name()}' of {service} has ended; the service's log says why"
        self._on_failure()

    async def _beat(self) -> None:
        while True:
            self._beat_at = time.monotonic()
            await asyncio.sleep(STALLED_S / _BEATS)
