"""Rows of annotation files, with every rule they must keep; used by the strict readers and by `dataset validate`."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from stal_data.csv_lines import as_number, broken_header_rule, read_csv
from stal_data.errors import InputError, shown
from stal_data.keyframes import KeyFrame
from stal_data.labels import LabelMap
from stal_data.names import check_video_id
from stal_data.times import parse_seconds, parse_time

AnnotationFormat = Literal["chaotic_world", "ava"]

BOX_SLACK = 1e-6
"""Boxes this far outside [0,1] count as rounding and are clipped."""

_LARGEST = 2**53  # up to which a float has every whole number
CHAOTIC_WORLD_COLUMNS = 13
AVA_COLUMNS = 8


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


@dataclass(frozen=True, slots=True, kw_only=True)
class RowProblem:
    """A rule that a line breaks. rule: a short name; message: the value, the rule and the way out."""

    line: int
    rule: str
    message: str


class _BadFieldError(Exception):
    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


def read_rows(path: Path, annotation_format: AnnotationFormat) -> Iterator[Row | RowProblem]:
    """Yield every line of a file, as a row or as what keeps it from being one. Other values are not checked yet.

    Rows of one key frame have one time: people of two instants are not in one picture.
    """
    parse = _PARSERS[annotation_format]
    first_rows: dict[KeyFrame, Row] = {}
    for line, fields in read_csv(path):
        try:
            _refuse_first_header(fields, line)
            row = parse(fields, line)
            first = first_rows.setdefault(row.key, row)
            if row.time_s != first.time_s:
                raise _BadFieldError(
                    "time",
                    f"the time is {row.time_s}, but {first.time_s} in line {first.line} of the same key frame "
                    f"{row.key}: a key frame is one instant, and this format has one a second. Keep the rows of one "
                    "instant.",
                )
            yield row
        except _BadFieldError as error:
            yield _problem(fields, line, error)


def _problem(fields: Sequence[str], line: int, error: _BadFieldError) -> RowProblem:
    header = broken_header_rule(fields, line)
    if header is not None:
        return RowProblem(line=line, rule="header", message=header)
    return RowProblem(line=line, rule=error.rule, message=str(error))


def check_row(row: Row, label_map: LabelMap) -> list[RowProblem]:
    """Return the rules that the values of a row break."""
    problems = []

    def report(rule: str, message: str) -> None:
        problems.append(RowProblem(line=row.line, rule=rule, message=message))

    if row.box is not None:
        x1, y1, x2, y2 = row.box
        if min(row.box) < -BOX_SLACK or max(row.box) > 1 + BOX_SLACK:
            report(
                "box",
                f"the box {_text(row.box)} leaves [0,1]: divide x by the frame's width and y by its height, and "
                "cut the box at the frame's edge.",
            )
        if x1 >= x2 or y1 >= y2:
            report("box", f"the box {_text(row.box)} is inverted or empty: write x1,y1,x2,y2 with x1 < x2 and y1 < y2.")
    if row.label is not None and row.label not in label_map:
        report("label", f"label id {row.label} is not in {label_map.source}, {label_map.describe_ids()}.")
    if row.window is not None and row.window[0] >= row.window[1]:
        start, end = row.window
        report(
            "window",
            f"frame_start {start} and frame_end {end} enclose no frame: frame_end (exclusive) must be greater.",
        )
    return problems


def _text(box: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in box)


def _refuse_first_header(fields: Sequence[str], line: int) -> None:
    """Look for a header before numbers are read: the column positions of one are numbers, too."""
    rule = broken_header_rule(fields, line) if line == 1 else None
    if rule is not None:
        raise _BadFieldError("header", rule)


@lru_cache(maxsize=4096)  # the rows of a key frame follow each other
def _parse_key(video: str, time: str) -> KeyFrame:
    video = _parse_video(video)
    try:
        return KeyFrame(video, parse_time(time))
    except InputError as error:
        raise _BadFieldError("time", str(error)) from None


@lru_cache(maxsize=4096)
def _parse_chaotic_world_key(video: str, time: str) -> tuple[KeyFrame, float]:
    """Return the key frame and the time in seconds. The published code makes `%04d` of int(time) the key."""
    video = _parse_video(video)
    try:
        seconds = parse_seconds(time)
    except InputError as error:
        raise _BadFieldError("time", str(error)) from None
    return KeyFrame(video, 1000 * int(seconds)), seconds


def _parse_video(text: str) -> str:
    try:
        return check_video_id("the video", text)
    except InputError as error:
        raise _BadFieldError("video", str(error)) from None


def read_keys(path: Path, annotation_format: AnnotationFormat | None) -> Iterator[tuple[int, KeyFrame | RowProblem]]:
    """Yield the key frames of a two-column file (video,time) with their lines.

    annotation_format: of the data set. All but AVA's have key frames at whole seconds, so that another time would
        name none.
    """
    for line, fields in read_csv(path):
        try:
            _refuse_first_header(fields, line)
            if len(fields) != 2:
                raise _BadFieldError("columns", f"the line has {len(fields)} columns, but needs 2: video,time.")
            key = _parse_key(*fields)
            if key.time_ms % 1000 and annotation_format != "ava":
                raise _BadFieldError(
                    "time",
                    f"the time is {fields[1]}, but must be whole seconds, as the key frames of this data set are: "
                    "write the second, or remove the line.",
                )
            yield line, key
        except _BadFieldError as error:
            yield line, _problem(fields, line, error)


def _parse_chaotic_world(fields: Sequence[str], line: int) -> Row:
    if len(fields) < CHAOTIC_WORLD_COLUMNS:
        raise _BadFieldError(
            "columns",
            f"the line has {len(fields)} columns, but the Chaotic World format has {CHAOTIC_WORLD_COLUMNS}: video, "
            "key-frame number, x1, y1, x2, y2, label (from 0), person, frame_start, frame_end, time in seconds, 0, 0.",
        )
    start, end = _integer("frame_start", fields[-5]), _integer("frame_end", fields[-4])
    key, time_s = _parse_chaotic_world_key(fields[0], fields[-3])
    return Row(
        line=line,
        key=key,
        time_s=time_s,
        window=(start, end),
        box=_box(fields[2:6]),
        label=_integer("label", fields[6]) + 1,
        person=_integer("person", fields[7]),
    )


def _parse_ava(fields: Sequence[str], line: int) -> Row:
    if len(fields) not in (2, AVA_COLUMNS - 1, AVA_COLUMNS):
        raise _BadFieldError(
            "columns",
            f"the line has {len(fields)} columns, but the AVA format has {AVA_COLUMNS}: video, time, x1, y1, x2, y2, "
            "label, person (or only video, time for a key frame without people).",
        )
    key = _parse_key(fields[0], fields[1])
    time_s = key.time_ms / 1000
    if not any(fields[2:]):
        return Row(line=line, key=key, time_s=time_s, window=None, box=None, label=None, person=-1)
    return Row(
        line=line,
        key=key,
        time_s=time_s,
        window=None,
        box=_box(fields[2:6]),
        label=_integer("label", fields[6]) if fields[6] else None,
        person=_integer("person", fields[7]) if len(fields) == AVA_COLUMNS and fields[7] else -1,
    )


_PARSERS: dict[AnnotationFormat, Callable[[Sequence[str], int], Row]] = {
    "chaotic_world": _parse_chaotic_world,
    "ava": _parse_ava,
}


def _box(fields: Sequence[str]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = fields
    return _number("x1", x1), _number("y1", y1), _number("x2", x2), _number("y2", y2)


def _number(field: str, text: str) -> float:
    value = as_number(text)
    if value is None:
        raise _BadFieldError("number", f"{field} is {shown(text)}, but must be a number.")
    if not math.isfinite(value):
        raise _BadFieldError("number", f"{field} is {shown(text)}, but must be finite.")
    if abs(value) > _LARGEST:
        raise _BadFieldError("number", f"{field} is {shown(text)}, but must be at most {_LARGEST}.")
    return value


def _integer(field: str, text: str) -> int:
    value = _number(field, text)
    if value != int(value):
        raise _BadFieldError("number", f"{field} is {shown(text)}, but must be a whole number.")
    return int(value)
