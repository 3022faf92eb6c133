"""The frames and key frames of a video on their way to a service: those without an answer can be sent again. No torch.

Each stream to the service has an iterator of its own over the same frames.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from itertools import takewhile

from cache.spec import ClipSpec
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.people import People
from recognizer_svc.video.frame_window import KEPT_FRAMES
from recognizer_svc.video.timeline import KEPT_TOGETHER, VideoTime
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame

_WINDOW = 32
"""Key frames that have all that they need but the answer; more only wait in buffers."""
_MOST_BYTES = 1 << 30
"""Of frames, while an answer is due. Beyond it frames are taken only as far as the next answer needs them."""


@dataclass(kw_only=True, eq=False)
class _KeyFrame:
    key: KeyFrame
    message: pb.KeyFramePeople
    seen: bool
    """Whether the clip is computed, as it is for people."""
    clip: tuple[int, ...] = ()
    missing: set[int] = field(default_factory=set)
    """Frames of the clip that have not come yet."""


class Unanswered:
    """Holds the latest frames, and those of key frames without an answer and of what a head sees around these."""

    def __init__(
        self, video: VideoTime, clip: ClipSpec, *, reach_ms: int, answered_ms: int | None = None, kept: bool = False
    ) -> None:
        """reach_ms: how far before and after a key frame the head looks.

        answered_ms: key frames up to this time have got their answers from streams before.
        kept: whether features are kept: clips without people are sent, too, and answers come together.
        """
        self.time, self._clip, self._reach_ms, self._kept = video, clip, reach_ms, kept
        self._frames: dict[int, pb.VideoFrame] = {}
        self.num_bytes = 0
        """Of the frames that are held."""
        self._needed = Counter[int]()
        self._newest = 0
        self._key_frames: list[_KeyFrame] = []
        self._newest_ms = -1
        self._answered_ms = -1 if answered_ms is None else answered_ms
        self._complete = False
        self._changed = asyncio.Event()
        self._waiting_since = time.monotonic()

    @property
    def answered_ms(self) -> int | None:
        """Time of the last key frame that was answered."""
        return None if self._answered_ms < 0 else self._answered_ms

    @property
    def done(self) -> bool:
        return self._complete and not self._without_answer()

    def wanted(self, number: int) -> bool:
        """Whether a frame that comes now may be needed: by a key frame that is known or by a later one."""
        if number <= self._newest:
            raise InputError(f"Frame {number} comes after frame {self._newest}; frames must be in the order of time.")
        last = self._key_frames[-1].clip if self._key_frames else ()
        return number in self._needed or not last or number > last[0]

    def add_frame(self, frame: pb.VideoFrame | None, number: int) -> None:
        """frame: None where it is not wanted."""
        self._newest = number
        if frame is not None:
            self._frames[number] = frame
            self.num_bytes += frame.ByteSize()
            for item in self._key_frames:
                item.missing.discard(number)
        self._let_go()
        oldest = number - KEPT_FRAMES
        late = next((item for item in self._key_frames if item.missing and min(item.missing) <= oldest), None)
        if late is not None:
            raise self._lacks(late)
        self.wake()

    def add_key_frame(self, time_ms: int, people: People) -> None:
        key = KeyFrame(self.time.video, time_ms)
        if time_ms <= self._newest_ms:
            raise InputError(f"Key frame {key} comes after one at {self._newest_ms} ms; they must be in order of time.")
        message, persons = pb.KeyFramePeople(time_ms=time_ms), people.persons_N.tolist()
        for (x1, y1, x2, y2), person in zip(people.boxes_N4.tolist(), persons, strict=True):
            box = message.boxes.add(x1=x1, y1=y1, x2=x2, y2=y2)
            if person >= 0:
                box.person = person
        self._newest_ms = time_ms
        item = _KeyFrame(key=key, message=message, seen=self._kept or bool(people.with_area.any()))
        self._key_frames.append(item)
        self._plan(item)
        if item.missing and min(item.missing) <= self._newest - KEPT_FRAMES:
            raise self._lacks(item)
        self.wake()

    def complete(self, *, failed: bool) -> None:
        """Nothing more comes. failed: so that key frames whose frames have not come are given up."""
        if failed:
            self._key_frames = [item for item in self._key_frames if not item.missing]
        elif self.time.num_frames is None and self._newest:
            self.time = replace(self.time, num_frames=self._newest)
            for item in self._key_frames:
                self._plan(item)
        lacking = next((item for item in self._key_frames if item.missing), None)
        if lacking is not None:
            self._key_frames = [item for item in self._key_frames if not item.missing]
        self._complete = True
        self.wake()
        if lacking is not None:
            raise self._lacks(lacking)

    def answer(self, time_ms: int) -> bool:
        """Take note of an answer; whether one was due."""
        without = self._without_answer()
        if not without or without[0].key.time_ms != time_ms:
            return False
        self._answered_ms = time_ms
        following_ms = without[1].key.time_ms if len(without) > 1 else self._newest_ms + 1
        first_ms = following_ms - self._reach_ms
        for item in [item for item in self._key_frames if item.key.time_ms < first_ms]:
            self._key_frames.remove(item)
            self._needed -= Counter(set(item.clip))
        self._let_go()
        self._waiting_since = time.monotonic()
        self.wake()
        return True

    async def room(self) -> None:
        """Wait while answers are due for which too many key frames, or too many bytes of frames, are held."""
        while len(due := self._due()) >= _WINDOW or (due and self.num_bytes > _MOST_BYTES):
            await self._change()

    def waiting_s(self) -> float:
        """How long an answer has been due; 0 when none is."""
        return time.monotonic() - self._waiting_since if self._due() else 0.0

    def wake(self) -> None:
        """Let everybody who waits for a change look again."""
        self._changed.set()

    async def requests(self, told: int | None, ended: Callable[[], bool]) -> AsyncIterator[pb.RecognizeVideoRequest]:
        """Yield what a stream sends after its start, until the last key frame is sent or the stream has ended.

        told: the number of frames that the start said. ended: `wake` has it asked again.
        """
        sent, last_ms = set[int](), -1
        while not ended():
            item = next((item for item in self._key_frames if item.key.time_ms > last_ms), None)
            if item is None:
                if self._complete:
                    return
                await self._change()
                continue
            for number in sorted(set(item.clip) - sent):
                if (frame := self._frames.get(number)) is not None:
                    sent.add(number)
                    yield pb.RecognizeVideoRequest(frame=frame)
            if missing := set(item.clip) - sent:
                # Something may have changed while frames were sent: that was not waited for.
                if not (ended() or self._complete or missing & self._frames.keys()):
                    await self._change()
                continue
            if told is None and (told := self.time.num_frames) is not None:
                yield pb.RecognizeVideoRequest(num_frames=told)
            if not self._due():
                self._waiting_since = time.monotonic()
            last_ms = item.key.time_ms
            yield pb.RecognizeVideoRequest(key_frame=item.message)

    def _without_answer(self) -> list[_KeyFrame]:
        return [item for item in self._key_frames if item.key.time_ms > self._answered_ms]

    def _due(self) -> list[_KeyFrame]:
        """Those that the service can answer with what it gets, whatever comes after."""
        whole = list(takewhile(lambda item: not item.missing, self._key_frames))
        reach_ms = self._reach_ms + 1 if self._reach_ms and not self._complete else 0
        last_ms = whole[-1].key.time_ms - reach_ms if whole else -1
        due = [item for item in whole if self._answered_ms < item.key.time_ms <= last_ms]
        return due if not self._kept or len(due) >= KEPT_TOGETHER or self._complete else []

    def _let_go(self) -> None:
        for number in [number for number in self._frames if number <= self._newest - KEPT_FRAMES]:
            if number not in self._needed:
                self.num_bytes -= self._frames.pop(number).ByteSize()

    def _plan(self, item: _KeyFrame) -> None:
        """Find the frames that a key frame needs."""
        clip = self.time.clip_of(item.key.time_ms, self._clip) if item.seen else ()
        self._needed -= Counter(set(item.clip))
        self._needed += Counter(set(clip))
        item.clip, item.missing = clip, set(clip) - self._frames.keys()

    def _lacks(self, item: _KeyFrame) -> InputError:
        return InputError(
            f"Key frame {item.key} needs frame {min(item.missing)}, which the frames given so far (up to "
            f"{self._newest}) do not have any more, or never had. Give every frame of a video, and each key frame at "
            f"most {KEPT_FRAMES - 1} frames after the first of its clip."
        )

    async def _change(self) -> None:
        """Wait for a change. A caller checks its condition and calls this without a pause."""
        self._changed.clear()
        await self._changed.wait()
