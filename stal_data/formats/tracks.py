"""The one form into which the files of annotation tools are read: boxes of people on the frames of videos."""

import math
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import PurePosixPath

from stal_data.errors import InputError, shown
from stal_data.formats.fields import LARGEST

Box = tuple[float, float, float, float]

MILLISECONDS = Fraction(1000)
"""The `fps` of a file that gives times: its frame numbers are milliseconds."""

_NUMBERED = re.compile(r"(?P<name>.*?)[_-]?(?P<number>\d{1,12})")
_NO_VIDEO = {"", "frame", "frames", "img", "image"}


@dataclass(frozen=True, slots=True)
class PersonBox:
    """A person on one frame. person: -1 where unknown. actions: names. interpolated: nobody drew this box."""

    person: int
    box: Box
    actions: tuple[str, ...]
    interpolated: bool = False


@dataclass(frozen=True, slots=True)
class Point:
    """A person's box from a frame on. drawn: by somebody. visible: else the person is gone from this frame on."""

    frame: int
    box: Box
    actions: tuple[str, ...]
    visible: bool = True
    drawn: bool = True


class Track:
    """A person over time; between two points the box moves linearly, as the tools show it."""

    def __init__(self, person: int, points: Iterable[Point], where: str) -> None:
        self.person, self.points = person, sorted(points, key=lambda point: point.frame)
        for before, after in pairwise(self.points):
            if before.frame == after.frame:
                raise InputError(f"{where} has two boxes at frame {after.frame}, but may have one: remove one.")

    def at(self, frame: int) -> PersonBox | None:
        index = bisect_right(self.points, frame, key=lambda point: point.frame) - 1
        if index < 0 or not self.points[index].visible:
            return None
        point, box = self.points[index], self.points[index].box
        if frame > point.frame and index + 1 < len(self.points):
            after = self.points[index + 1]
            share = (frame - point.frame) / (after.frame - point.frame)
            x1, y1, x2, y2 = (a + share * (b - a) for a, b in zip(box, after.box, strict=True))
            box = (x1, y1, x2, y2)
        return PersonBox(self.person, box, point.actions, frame > point.frame or not point.drawn)


@dataclass(frozen=True, kw_only=True)
class VideoAnnotations:
    """What a file says of one video. Frames count from 0.

    name: in the file, perhaps with folders and an extension. fps: None where the file does not say it.
    size: (width, height) in pixels, likewise. pixels: whether boxes are in pixels, else in [0,1].
    tracks: with `frames`, the range in which everybody has one; empty where the file has only people with an action,
        or does not say it. Or images: each annotated frame with its people.
    splits: to which the file assigns the video; None where it knows no splits.
    """

    name: str
    fps: Fraction | None = None
    size: tuple[int, int] | None = None
    pixels: bool = True
    tracks: Sequence[Track] = ()
    frames: range = range(0)
    images: Mapping[int, Sequence[PersonBox]] = field(default_factory=dict)
    splits: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class FileAnnotations:
    """A whole file. actions: names that it declares, in its order. left_out: what is no box of a person, counted."""

    videos: Sequence[VideoAnnotations]
    actions: Sequence[str] = ()
    left_out: Mapping[str, int] = field(default_factory=Counter)


class NumberedImages:
    """Annotated images by video and frame, each with its people; the images of a video have one size."""

    def __init__(self) -> None:
        self.sizes: dict[str, tuple[int, int]] = {}
        self.videos: dict[str, dict[int, list[PersonBox]]] = {}

    def add(self, video: str, frame: int, size: tuple[int, int], where: str) -> list[PersonBox]:
        """Return the list for the people of one more image. size: (width, height)."""
        if self.sizes.setdefault(video, size) != size:
            raise InputError(f"{where} is {size[0]}x{size[1]}, but video '{video}' has images of {self.sizes[video]}.")
        if frame in self.videos.setdefault(video, {}):
            raise InputError(f"{where} is frame {frame} of video '{video}' once more: keep one of the images.")
        self.videos[video][frame] = []
        return self.videos[video][frame]


def checked_box(where: str, x1: float, y1: float, x2: float, y2: float) -> Box:
    """Return the box as floats; InputError for one that is inverted, empty or not of usual numbers."""
    sides = (x1, y1, x2, y2)
    if not all(math.isfinite(side) and abs(side) <= LARGEST for side in sides) or x1 >= x2 or y1 >= y2:
        text = ",".join(f"{side:g}" for side in sides)
        raise InputError(f"{where}: the box x1,y1,x2,y2 is {text}, but must have x1 < x2 and y1 < y2: correct it.")
    return float(x1), float(y1), float(x2), float(y2)


def numbered_image(path: str, first_frame: int, where: str) -> tuple[str, int]:
    """Return video and frame (from 0) of an image `VIDEO/000001.png`, `VIDEO_000001.png` or both together.

    first_frame: number of a video's first image.
    """
    image = PurePosixPath(path.replace("\\", "/"))
    match = _NUMBERED.fullmatch(image.stem)
    name = match["name"] if match else ""
    video = image.parent.name if name.lower() in _NO_VIDEO else name
    if match is None or not video or int(match["number"]) < first_frame:
        raise InputError(
            f"{where} is the image {shown(path)}, but its name must hold the video and the number of the frame, at "
            f"least {first_frame}: VIDEO/000001.png or VIDEO_000001.png. Rename the images, or give --first-frame."
        )
    return video, int(match["number"]) - first_frame
