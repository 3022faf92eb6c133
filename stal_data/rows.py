"""Rows of annotation files, with every rule they must keep; used by the strict readers and by `dataset validate`."""

import csv
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from stal_data.errors import InputError, NotFoundError, shown
from stal_data.keyframes import KeyFrame
from stal_data.labels import LabelMap
from stal_data.names import check_video_id
from stal_data.user_files import bounded_lines, open_regular

Number = TypeVar("Number", int, float)
AnnotationFormat = Literal["chaotic_world", "ava"]

BOX_SLACK = 1e-6
"""Boxes this far outside [0,1] count as rounding and are clipped."""

_LARGEST = 2**53
CHAOTIC_WORLD_COLUMNS = 13
AVA_COLUMNS = 8


class Row(NamedTuple):  # a dataclass costs twice the time, and AVA has 837 000 rows
    """One person with one action, as one line of a file says it.

    line: from 1. window: frames from 1 on the 25 fps time line, end exclusive. box: x1,y1,x2,y2.
    label: as in the label map (from 1). box and label are None on a line that only names a key frame.
    """

    line: int
    key: KeyFrame
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
    """Yield every line of a file, as a row or as what keeps it from being one. Values are not checked yet."""
    parse = _PARSERS[annotation_format]
    for line, fields in read_csv(path):
        try:
            yield parse(fields, line)
        except _BadFieldError as error:
            yield RowProblem(line=line, rule=error.rule, message=str(error))


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


def read_csv(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield line number (from 1) and fields of every line that is not empty."""
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(bounded_lines(file, path))
            for fields in reader:
                if fields:
                    yield reader.line_num, fields
    except FileNotFoundError:
        raise NotFoundError(f"The file {path} does not exist.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV: {error}.") from error


@lru_cache(maxsize=4096)  # the rows of a key frame follow each other
def parse_key(video: str, time: str) -> KeyFrame:
    """Return the key frame of a video id and a time in seconds, of which the integer part counts."""
    try:
        check_video_id("the video", video)
    except InputError as error:
        raise _BadFieldError("video", str(error)) from None
    seconds = _number("time", time)
    if seconds < 0:
        raise _BadFieldError("time", f"the time is {time}, but seconds count from 0.")
    return KeyFrame(video, int(seconds))


def read_keys(path: Path) -> Iterator[tuple[int, KeyFrame | RowProblem]]:
    """Yield the key frames of a two-column file (video,time) with their lines."""
    for line, fields in read_csv(path):
        try:
            if len(fields) != 2:
                raise _BadFieldError("columns", f"the line has {len(fields)} columns, but needs 2: video,time.")
            yield line, parse_key(*fields)
        except _BadFieldError as error:
            yield line, RowProblem(line=line, rule=error.rule, message=str(error))


def _parse_chaotic_world(fields: Sequence[str], line: int) -> Row:
    if len(fields) < CHAOTIC_WORLD_COLUMNS:
        raise _BadFieldError(
            "columns",
            f"the line has {len(fields)} columns, but the Chaotic World format has {CHAOTIC_WORLD_COLUMNS}: video, "
            "key-frame number, x1, y1, x2, y2, label (from 0), person, frame_start, frame_end, time in seconds, 0, 0.",
        )
    start, end = _integer("frame_start", fields[-5]), _integer("frame_end", fields[-4])
    return Row(
        line=line,
        key=parse_key(fields[0], fields[-3]),
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
    key = parse_key(fields[0], fields[1])
    if not any(fields[2:]):
        return Row(line=line, key=key, window=None, box=None, label=None, person=-1)
    return Row(
        line=line,
        key=key,
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
    try:
        value = float(text)
    except ValueError:
        hint = ": annotation files have no header line, remove it" if text.strip().lower().startswith(field[:4]) else ""
        raise _BadFieldError("number", f"{field} is {shown(text)}, but must be a number{hint}.") from None
    if not math.isfinite(value):
        raise _BadFieldError("number", f"{field} is '{text}', but must be finite.")
    return _bounded(field, text, value)


def _bounded(field: str, text: str, value: Number) -> Number:
    if abs(value) > _LARGEST:
        raise _BadFieldError("number", f"{field} is '{text[:100]}', but must be at most {_LARGEST}.")
    return value


def _integer(field: str, text: str) -> int:
    try:
        return _bounded(field, text, int(text))
    except ValueError:
        value = _number(field, text)
    if value != int(value):
        raise _BadFieldError("number", f"{field} is '{text}', but must be a whole number.")
    return int(value)
