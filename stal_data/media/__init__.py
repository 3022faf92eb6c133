"""Where frames come from: a folder of images per video, or the video file itself.

All media show the same 25 fps time line: frame n (from 1) is what the video shows at start_s + (n - 1) / 25 seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

READING = "rules-3"
"""Part of every decoder's name: changes with the rules by which a file becomes the pictures of its frames."""

DEFAULT_PATTERN = "{video}/{video}_{frame:06d}.png"
"""Of the image files of folders of frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaInfo:
    """What one video is, taken from the media.

    width, height: pixels, as shown (after the turn that a phone writes into the file).
    rate: frames a second of the media themselves; an average where it varies.
    num_frames: frames on the 25 fps time line, numbered 1 to num_frames.
    start_s: time of frame 1 on the clock that key frames use (0 unless the data set says otherwise).
    duration_s: time from frame 1 to the end.
    notes: what is unusual about the media and changes what key frames show, each a clause about the video.
    """

    width: int
    height: int
    rate: Fraction
    num_frames: int
    start_s: float
    duration_s: float
    notes: tuple[str, ...] = ()


class Media(Protocol):
    """Frames of many videos, by video id and frame number (from 1) on the 25 fps time line. Safe with threads."""

    @property
    def decoder(self) -> str:
        """Name and version of what decodes: part of the feature spec."""

    def videos(self) -> tuple[str, ...]:
        """The ids of the videos that exist, sorted."""

    def left_out(self) -> Sequence[tuple[Path, str]]:
        """Return what lies in the folder of the videos and is none of them, each with the reason."""

    def info(self, video: str) -> MediaInfo: ...

    def read(self, video: str, frames: Sequence[int]) -> NDArray[np.uint8]:
        """Return the frames in the given order (repeats allowed) as THW3 RGB."""

    def encoded(self, video: str, frame: int) -> bytes:
        """Return one frame as image file bytes: the file itself for folders, PNG for video files.

        Of what is too large to be sent, a smaller picture as PNG (see `picture_to_send`).
        """

    def missing(self, video: str, frames: Sequence[int]) -> list[Path]:
        """Return the files that `read` would not find, each once; none for a video file, which holds all its frames."""

    def digest(self, video: str, frames: Sequence[int]) -> int:
        """Return an unsigned 64-bit digest of the data behind the frames; it changes when they are extracted anew."""
