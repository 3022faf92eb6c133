"""Which frames the clip of a key frame has, alike for the service and its client. No torch here."""

import math
from dataclasses import dataclass
from fractions import Fraction

from cache.spec import ClipSpec
from stal_data.clips import clip_frames, window_at
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame
from stal_data.media import MediaInfo
from stal_data.media.timeline import FPS, MAX_SPAN_S

MAX_FRAMES = MAX_SPAN_S * FPS
KEPT_TOGETHER = 16
"""Key frames, at most, that are answered together where features are kept; fewer than may be without an answer."""
_MAX_NAME = 512
_MAX_START_S = 10 * MAX_SPAN_S


def reach_ms(neighbours: int, neighbour_ms: int, bank_s: int) -> int:
    """Return how far before and after a key frame a head looks; see `recognizer_svc.neighbours.Neighbourhood`."""
    near_ms = neighbours * neighbour_ms + neighbour_ms // 2 if neighbours else 0
    return max(near_ms, 1000 * bank_s)


@dataclass(frozen=True, kw_only=True)
class VideoTime:
    """The frames of a video, numbered from 1 at 25 a second.

    start_s: time of frame 1 on the clock of the key frames. num_frames: None = not known yet.
    """

    video: str
    start_s: float = 0.0
    num_frames: int | None = None

    def __post_init__(self) -> None:
        if not 0 < len(self.video) <= _MAX_NAME:
            raise InputError(f"video has {len(self.video)} characters; it must have 1 to {_MAX_NAME}.")
        if not (math.isfinite(self.start_s) and abs(self.start_s) <= _MAX_START_S):
            raise InputError(f"start_s is {self.start_s:g}, but must be from -{_MAX_START_S} to {_MAX_START_S}.")
        if self.num_frames is not None and not 0 < self.num_frames <= MAX_FRAMES:
            raise InputError(
                f"num_frames is {self.num_frames}, but must be 1 to {MAX_FRAMES}; leave it out where it is not known."
            )

    def window_of(self, time_ms: int) -> tuple[int, int]:
        """Return the window around a key frame, end exclusive; a time outside the video is an error.

        As long as the number of frames is not known, the video is taken to go on.
        """
        frames = self.num_frames or MAX_FRAMES
        rate = Fraction(FPS)
        info = MediaInfo(width=1, height=1, rate=rate, num_frames=frames, start_s=self.start_s, duration_s=frames / FPS)
        return window_at(KeyFrame(self.video, time_ms), info)

    def clip_of(self, time_ms: int, spec: ClipSpec) -> tuple[int, ...]:
        """Return the clip's frames as precompute takes them, of the window's."""
        return tuple(clip_frames(self.window_of(time_ms), spec.num_frames, spec.stride))
