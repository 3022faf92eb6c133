"""A line of an annotation file as a row, and how its fields are read."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from stal_data.csv_lines import as_number
from stal_data.errors import InputError, shown
from stal_data.keyframes import KeyFrame
from stal_data.names import check_video_id
from stal_data.times import parse_time

LARGEST = 2**53  # up to which a float has every whole number


class Row(NamedTuple):  # a dataclass costs twice the time, and AVA has 837 000 rows
    """One person with one action, as one line of a file says it.

    line: from 1. time_s: seconds; in the Chaotic World format as written, and the key frame is at its whole part.
    window: frames from 1 on the 25 fps time line, end exclusive. box: x1,y1,x2,y2.
    label: as in the label map (from 1). box and label are None on a line that only names a key frame.
    """

    line: int
    key: KeyFrame
    time_s: float
    window: tuple[int, int] | None
    box: tuple[float, float, float, float] | None
    label: int | None
    person: int


class BadFieldError(Exception):
    """A rule that a line breaks. rule: a short name; the text has the value, the rule and the way out."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


@lru_cache(maxsize=4096)  # the rows of a key frame follow each other
def parse_key(video: str, time: str) -> KeyFrame:
    """Return the key frame of a video and a time in seconds."""
    video = parse_video(video)
    try:
        return KeyFrame(video, parse_time(time))
    except InputError as error:
        raise BadFieldError("time", str(error)) from None


def parse_video(text: str) -> str:
    try:
        return check_video_id("the video", text)
    except InputError as error:
        raise BadFieldError("video", str(error)) from None


def parse_box(fields: Sequence[str]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = fields
    return number("x1", x1), number("y1", y1), number("x2", x2), number("y2", y2)


def number(field: str, text: str) -> float:
    value = as_number(text)
    if value is None:
        raise BadFieldError("number", f"{field} is {shown(text)}, but must be a number.")
    if not math.isfinite(value):
        raise BadFieldError("number", f"{field} is {shown(text)}, but must be finite.")
    if abs(value) > LARGEST:
        raise BadFieldError("number", f"{field} is {shown(text)}, but must be at most {LARGEST}.")
    return value


def integer(field: str, text: str) -> int:
    value = number(field, text)
    if value != int(value):
        raise BadFieldError("number", f"{field} is {shown(text)}, but must be a whole number.")
    return int(value)
