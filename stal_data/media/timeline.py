"""The 25 fps time line: which frame of the media is shown by frame n, and which n belongs to a time.

The rule is that of ffmpeg's `fps=25` filter: a media frame goes to the slot nearest to its time (halves up), and a
slot shows the last media frame that went to it or before it. So frames extracted with `ffmpeg -vf fps=25` and frames
read from the video itself are the same frames.
"""

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from stal_data.errors import InputError
from stal_data.media import MediaInfo
from stal_data.times import format_time

FPS = 25
"""Rate of the time line on which windows and clips are numbered."""
MAX_SPAN_S = 7 * 86400
"""Longest video: a number out of place, in a file's name or in its times, must not become millions of key frames."""


START_SLACK_S = 0.2
"""A first frame this late still serves the second before it: encoders delay the start by some frames."""


def slots_of_times(ticks: NDArray[np.int64], time_base: Fraction) -> NDArray[np.int64]:
    """Return the slot (from 0) of each media frame; ticks: times in time_base, counted from the first frame."""
    return (2 * FPS * time_base.numerator * ticks + time_base.denominator) // (2 * time_base.denominator)


def media_frame_at_slot(slot: int, rate: Fraction) -> int:
    """Return the media frame (from 0) that a slot (from 0) shows when media frames come at a constant rate."""
    return max(0, math.ceil((slot + Fraction(1, 2)) * rate / FPS) - 1)


def num_slots(duration_s: Fraction) -> int:
    """Return how many slots media of this duration fill: at least 1."""
    return max(1, math.floor(duration_s * FPS + Fraction(1, 2)))


def frame_at(time_ms: int, video: str, info: MediaInfo) -> int:
    """Return the frame (from 1) nearest to a time in milliseconds; a time outside the media is an error."""
    frame = _nearest_frame(time_ms, info)
    if frame < 1 and time_ms / 1000 >= info.start_s - START_SLACK_S:
        return 1
    if not 1 <= frame <= info.num_frames:
        raise InputError(
            f"Second {format_time(time_ms)} of video '{video}' has no frame: its media run from {info.start_s:g} s to "
            f"{info.start_s + info.duration_s:g} s. Remove or exclude the key frame, or set media.start_s in "
            "dataset.yaml."
        )
    return frame


def whole_seconds(info: MediaInfo) -> range:
    """Return the whole seconds at which the media have a frame, as `frame_at` sees it."""
    first = math.ceil(info.start_s - START_SLACK_S)
    end = math.floor(info.start_s + info.num_frames / FPS) + 1
    # Asked of the very function, since another order of the same sums rounds differently.
    while end > first and _nearest_frame((end - 1) * 1000, info) > info.num_frames:
        end -= 1
    return range(max(0, first), end)


def _nearest_frame(time_ms: int, info: MediaInfo) -> int:
    seconds, rest = divmod(time_ms, 1000)
    # The rest by itself, so that halves of a frame are exact.
    return math.floor((seconds - info.start_s) * FPS + 0.5 + rest * FPS / 1000) + 1
