"""The thread that reads a live source, and opens it again when it is cut."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction

import av

from cli.workflow.streaming.live_frames import FrameBuffer, LiveFrame, LiveTimeline
from cli.workflow.streaming.source import Feed, Opener, Shot
from svc_common.errors import ServiceUnavailableError

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 15.0
_STALL_S = 2.0
"""What a camera sends after so long without a picture may be old ones, which a buffer on the way has kept."""
_PARTING_S = 1.0
"""How long the thread gets to end; it may be waiting for the network."""


@dataclass(frozen=True, kw_only=True)
class LiveClock:
    """now: seconds that never go back. utc: the time of day. wait: until an event or for so many seconds."""

    now: Callable[[], float] = time.monotonic
    utc: Callable[[], datetime] = lambda: datetime.now(UTC)
    wait: Callable[[threading.Event, float], object] = threading.Event.wait


class LiveReader:
    """Fills a buffer; where a camera's pictures find no room in it, it is emptied and another stream begins."""

    def __init__(
        self,
        open_source: Opener,
        buffer: FrameBuffer,
        *,
        every_ms: int,
        give_up_after_s: float,
        note: Callable[[str], None],
        clock: LiveClock,
    ) -> None:
        """note: told of cuts and jumps, in the thread. give_up_after_s: without a picture, then the buffer ends."""
        self._open, self._buffer, self._note, self._clock = open_source, buffer, note, clock
        self._give_up_after_s, self._every_ms = give_up_after_s, every_ms
        self._timeline = LiveTimeline(every_ms)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="source", daemon=True)
        self._latest_s = 0.0
        self._came: tuple[float, Fraction | float] | None = None
        """When the latest picture came, and its time on the source's clock."""
        self._backlog_from_s: Fraction | float | None = None
        self.dropped = 0
        """Key frames that found no room."""
        self.cuts = self.jumps = 0

    def start(self) -> None:
        """Begin to read; once is enough."""
        if self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        """Nothing more is read; what is in the buffer may still be taken."""
        self._stop.set()
        self._buffer.end()

    def close(self) -> None:
        self.stop()
        if self._thread.is_alive():
            self._thread.join(_PARTING_S)

    def _run(self) -> None:
        error: Exception | None = None
        try:
            self._read_until_the_end()
        except Exception as found:  # noqa: BLE001 - raised to whoever takes the frames
            error = found
        self._buffer.end(error)

    def _read_until_the_end(self) -> None:
        self._latest_s, pause_s = self._clock.now(), _FIRST_PAUSE_S
        while not self._stop.is_set():
            began_s, reason, paced = self._latest_s, "it ended", False
            try:
                feed = self._open()
                paced = feed.paced
                try:
                    last_s = self._read(feed)
                finally:
                    feed.close()
                if last_s is not None and feed.ends(last_s):
                    self._deliver(*self._timeline.restart(), wait=paced)
                    return
            except (av.FFmpegError, OSError) as error:
                # The rest of an error may show a password.
                reason = "it is silent" if isinstance(error, av.error.ExitError) else error.strerror or "it fails"
            self._deliver(*self._timeline.restart(), wait=paced)
            silent_s = self._clock.now() - self._latest_s
            if silent_s >= self._give_up_after_s:
                raise ServiceUnavailableError(
                    f"The source sent no picture for {silent_s:.0f} s ({reason}). Is it switched on, and its address "
                    "right? --give-up-after-s sets how long to try."
                )
            self.cuts += 1
            pause_s = _FIRST_PAUSE_S if self._latest_s > began_s else min(2 * pause_s, _LONGEST_PAUSE_S)
            if not self._stop.is_set():
                self._note(f"the source is cut ({reason}); opening it again in {pause_s:g} s")
                self._clock.wait(self._stop, pause_s)

    def _read(self, feed: Feed) -> Fraction | float | None:
        """Deliver pictures until no more come; returns the time of the last one on the source's clock."""
        begun_s, first_s, last_s = self._clock.now(), None, None
        if self._came is not None:
            self._end_backlog(self._came[1])
            self._came = None
        for shot in feed.shots:
            if self._stop.is_set():
                break
            last_s = shot.time_s if shot.time_s is not None else last_s
            if not feed.paced and self._old(shot):
                self._latest_s = self._clock.now()
                continue
            if (reason := self._timeline.jump(shot)) is not None:
                self.jumps += 1
                self._note(f"{reason}; another stream begins")
                self._deliver(*self._timeline.restart(), wait=feed.paced)
                begun_s, first_s = self._clock.now(), None
            if feed.paced and shot.time_s is not None:
                first_s = shot.time_s if first_s is None else first_s
                self._clock.wait(self._stop, max(0.0, begun_s + float(shot.time_s - first_s) - self._clock.now()))
            self._latest_s = self._clock.now()
            self._deliver(*self._timeline.add(shot, self._latest_s, self._clock.utc()), wait=feed.paced)
        return last_s

    def _old(self, shot: Shot) -> bool:
        """Whether a camera's picture is one of a backlog: after a stall, all that come faster than they were taken."""
        if shot.time_s is None:
            return False
        before, self._came = self._came, (self._clock.now(), shot.time_s)
        if before is None:
            return False
        gap_s, taken_s = self._came[0] - before[0], shot.time_s - before[1]
        if self._backlog_from_s is not None:
            if 2 * gap_s < taken_s:
                return True
            self._end_backlog(shot.time_s)
        elif gap_s > _STALL_S and 0 <= 2 * taken_s < gap_s:
            self._deliver(*self._timeline.restart())
            self._backlog_from_s = shot.time_s
            return True
        return False

    def _end_backlog(self, time_s: Fraction | float) -> None:
        if self._backlog_from_s is not None:
            lost = math.ceil(1000 * max(0, time_s - self._backlog_from_s) / self._every_ms)
            self.dropped += lost
            self._note(f"the source stalled and sent old pictures: {lost} key frames dropped; another stream begins")
            self._backlog_from_s = None

    def _deliver(self, *frames: LiveFrame, wait: bool = False) -> None:
        for place, frame in enumerate(frames):
            if not self._buffer.put(frame, wait=wait):
                rest = (*frames[place:], *self._timeline.restart())
                lost = self._buffer.clear() + sum(frame.key_ms is not None for frame in rest)
                self.dropped += lost
                self._note(
                    f"frames are not taken as fast as they come: {lost} key frames dropped; another stream begins"
                )
                return
