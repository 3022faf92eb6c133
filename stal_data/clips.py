"""From a key frame to the frame numbers of its clip and of its image. Numbers are from 1 on the 25 fps time line."""

from stal_data.errors import InputError
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame
from stal_data.media import Media, MediaInfo
from stal_data.media.timeline import frame_at

CLIP_SPAN = 64
"""Frames of the time line that a clip spans; every second of them is in the clip."""


def clip_frames(window: tuple[int, int], num_frames: int = CLIP_SPAN, stride: int = 2) -> list[int]:
    """Return the clip's frame numbers: every `stride`-th of the window's central `num_frames` frames.

    window: first frame and the frame after the last one. A shorter window is repeated from its beginning.
    """
    start, end = window
    length = end - start
    if length < 1:
        raise InputError(f"The window is {start} to {end}, but frame_end (exclusive) must be greater than frame_start.")
    begin = max(0, length // 2 - num_frames // 2)
    available = min(length - begin, num_frames)
    return [start + begin + offset % available for offset in range(0, num_frames, stride)]


def resolve_window(key_frame: AnnotatedKeyFrame, info: MediaInfo) -> tuple[int, int]:
    """Return the annotated window, or else the 64 frames around the key frame, cut at the video's ends."""
    if key_frame.window is not None:
        return key_frame.window
    return window_at(key_frame.key, info)


def window_at(key: KeyFrame, info: MediaInfo) -> tuple[int, int]:
    """Return the 64 frames around a key frame without a window of its own, cut at the video's ends."""
    centre = frame_at(key.time_ms, key.video, info)
    return max(1, centre - CLIP_SPAN // 2), min(info.num_frames + 1, centre + CLIP_SPAN // 2)


def key_image_frame(key_frame: AnnotatedKeyFrame, info: MediaInfo) -> int:
    """Return the frame that stands for the key frame: the middle of the annotated window, or the one at its time."""
    if key_frame.window is not None:
        start, end = key_frame.window
        return start + (end - start) // 2
    return frame_at(key_frame.key.time_ms, key_frame.key.video, info)


def key_frame_image(media: Media, key_frame: AnnotatedKeyFrame) -> bytes:
    """Return the encoded image that stands for the key frame (see `Media.encoded`)."""
    video = key_frame.key.video
    return media.encoded(video, key_image_frame(key_frame, media.info(video)))
