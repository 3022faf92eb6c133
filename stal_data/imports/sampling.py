"""Which frames of annotated videos become key frames."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction

from stal_data.errors import InputError
from stal_data.formats.tracks import PersonBox, VideoAnnotations
from stal_data.media.timeline import MAX_SPAN_S

ANNOTATED = 0
"""In place of a distance: each frame on which somebody drew a box, or each annotated image."""
TRACKS_EVERY_MS = 1000


def nearest_frame(time_ms: int, fps: Fraction) -> int:
    """Return the frame (from 0) nearest to a time, halves up, as the time line has it."""
    return math.floor(time_ms * fps / 1000 + Fraction(1, 2))


def key_frames(
    video: VideoAnnotations, fps: Fraction, every_ms: int | None, dropped: Counter[str]
) -> Iterator[tuple[int, Sequence[PersonBox]]]:
    """Yield time in milliseconds and people of each key frame.

    every_ms: distance of key frames, ANNOTATED, or None: TRACKS_EVERY_MS for tracks, ANNOTATED for images.
    dropped: what lies between key frames is counted in it.
    """
    if video.images:
        for frame, people in sorted(video.images.items()):
            time_ms = _time(frame, fps)
            if every_ms:
                time_ms = round(Fraction(time_ms, every_ms)) * every_ms
                if nearest_frame(time_ms, fps) != frame:
                    dropped["annotated images between key frames"] += 1
                    continue
            yield time_ms, people
        return
    drawn = {point.frame for track in video.tracks for point in track.points if point.visible and point.drawn}
    frames = video.frames or range(min(drawn, default=0), max(drawn, default=-1) + 1)
    if frames and (frames[-1] - frames[0]) / fps > MAX_SPAN_S:
        raise InputError(f"Video '{video.name}' has frames {frames[0]} to {frames[-1]}, more than {MAX_SPAN_S} s.")
    every = TRACKS_EVERY_MS if every_ms is None else every_ms
    if every == ANNOTATED:
        times = {frame: _time(frame, fps) for frame in sorted(drawn)}
    else:
        last = _time(frames[-1], fps) if frames else -1
        grid = range(-(-_time(frames[0], fps) // every) * every if frames else 0, last + 1, every)
        times = {frame: time_ms for time_ms in grid if (frame := nearest_frame(time_ms, fps)) in frames}
    for track in video.tracks:
        between = sum(point.visible and point.drawn and point.frame not in times for point in track.points)
        dropped["drawn boxes between key frames"] += between
    for frame, time_ms in times.items():
        people = [person for track in video.tracks if (person := track.at(frame)) is not None]
        if people or video.frames:
            yield time_ms, people


def _time(frame: int, fps: Fraction) -> int:
    return round(frame * 1000 / fps)
