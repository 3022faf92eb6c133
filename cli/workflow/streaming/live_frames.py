"""Live pictures on the time line of 25 frames a second, in a bounded buffer between a thread and an event loop."""

import asyncio
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from cli.workflow.streaming.source import Shot
from stal_data.media.timeline import FPS

MAX_FRAMES = 50
"""Frames that wait to be taken: two seconds."""
MAX_BYTES = 256 << 20
"""256 MiB of them, a bound for large pictures."""
BACK_S = 0.5
"""A clock that goes back by more has jumped."""
LEAP_S = 2.0
"""A longer gap is a leap: the frames in it would show one still picture."""
_LONGEST_S = 86400
"""Then a stream is followed by another, since it may have 7 days of frames only."""
_HALF = Fraction(1, 2)
_STEP_S = Fraction(1, FPS)


@dataclass(frozen=True, kw_only=True, eq=False)
class LiveFrame:
    """stream: from 1; a new one begins where the source is cut or its clock jumps. number: from 1 in the stream.

    key_ms: where this is the picture of a key frame, its time in the stream. source_ms: time on the source's clock.
    arrived_s: when the picture came, on the clock of time.monotonic(); arrived: in UTC. picture: RGB [H, W, 3].
    """

    stream: int
    number: int
    key_ms: int | None
    source_ms: int
    arrived_s: float
    arrived: datetime
    picture: NDArray[np.uint8]


class LiveTimeline:
    """Numbers pictures by the source's clock: a frame shows the last picture whose time is nearest to it or before."""

    def __init__(self, every_ms: int) -> None:
        """every_ms: from one key frame to the next; the first frame of each stream is one."""
        self._every_ms, self.stream = every_ms, 1
        self._held: tuple[Shot, float, datetime] | None = None
        self._size = (0, 0)
        self._first_s: Fraction | float = 0
        self._last_s: Fraction | float = 0
        self._slot = self._keys = 0

    def jump(self, shot: Shot) -> str | None:
        """Return why another stream must begin with a picture; None where it goes on."""
        if self._held is None:
            return None
        time_s, size = self._time(shot), shot.size
        if time_s < self._last_s - BACK_S:
            return f"the source's clock went back by {float(self._last_s - time_s):.1f} s"
        if time_s > self._last_s + LEAP_S:
            return f"the source's clock leapt by {float(time_s - self._last_s):.1f} s"
        if size != self._size:
            return "the pictures are {}x{} instead of {}x{}".format(*size, *self._size)
        return "the stream is a day long" if time_s > self._first_s + _LONGEST_S else None

    def add(self, shot: Shot, arrived_s: float, arrived: datetime) -> Iterator[LiveFrame]:
        """Yield the frames up to a picture, which goes on with the stream."""
        time_s = self._time(shot)
        if self._held is None:
            self._first_s, self._slot, self._keys, self._size = time_s, 0, 0, shot.size
        else:
            slot = int((time_s - self._first_s) * FPS + _HALF)
            if slot > self._slot:
                yield from self._shown(slot)
        self._held, self._last_s = (shot, arrived_s, arrived), time_s

    def restart(self) -> Iterator[LiveFrame]:
        """Yield the last frame; the next picture begins another stream."""
        if self._held is not None:
            yield from self._shown(self._slot + 1)
            self._held = None
            self.stream += 1

    def _time(self, shot: Shot) -> Fraction | float:
        return self._last_s + _STEP_S if shot.time_s is None else shot.time_s

    def _shown(self, end: int) -> Iterator[LiveFrame]:
        assert self._held is not None
        shot, arrived_s, arrived = self._held
        picture = shot.picture()
        while self._slot < end:
            slot, key_ms = self._slot, self._keys * self._every_ms
            is_key = slot == (key_ms * FPS + 500) // 1000
            self._keys += is_key
            self._slot += 1
            yield LiveFrame(
                stream=self.stream,
                number=slot + 1,
                key_ms=key_ms if is_key else None,
                source_ms=round(1000 * (self._first_s + slot * _STEP_S)),
                arrived_s=arrived_s,
                arrived=arrived,
                picture=picture,
            )


class FrameBuffer:
    """Frames on their way from the thread that reads them. Make it in the event loop that takes them."""

    def __init__(self) -> None:
        self._frames: deque[LiveFrame] = deque()
        self._loop, self._came = asyncio.get_running_loop(), asyncio.Event()
        self._changed = threading.Condition()
        self._ended = False
        self._error: Exception | None = None

    def put(self, frame: LiveFrame, *, wait: bool) -> bool:
        """Add a frame; False where there is no room. wait: until there is, or `end` was called."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._room(frame) or self._ended)
            if self._ended or not self._room(frame):
                return self._ended
            self._frames.append(frame)
        self._wake()
        return True

    def clear(self) -> int:
        """Remove all frames; returns how many key frames were among them."""
        with self._changed:
            lost = sum(frame.key_ms is not None for frame in self._frames)
            self._frames.clear()
        return lost

    def end(self, error: Exception | None = None) -> None:
        """Nothing more comes. error: raised once the frames before are taken."""
        with self._changed:
            if not self._ended:
                self._ended, self._error = True, error
            self._changed.notify_all()
        self._wake()

    async def first(self, *, failing: bool = True) -> LiveFrame | None:
        """Wait for a frame and return it, but do not take it; None at the end. failing: raise the error there."""
        while True:
            self._came.clear()
            with self._changed:
                if self._frames:
                    return self._frames[0]
                if self._ended:
                    break
            await self._came.wait()
        if failing and self._error is not None:
            raise self._error
        return None

    def take(self, frame: LiveFrame) -> bool:
        """Take the frame that `first` has returned; False where it is gone."""
        with self._changed:
            if not self._frames or self._frames[0] is not frame:
                return False
            self._frames.popleft()
            self._changed.notify_all()
            return True

    def _room(self, frame: LiveFrame) -> bool:
        held = sum({id(item.picture): item.picture.nbytes for item in self._frames}.values())
        return len(self._frames) < MAX_FRAMES and (not self._frames or held + frame.picture.nbytes <= MAX_BYTES)

    def _wake(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._came.set)
