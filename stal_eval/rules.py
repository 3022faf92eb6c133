"""What a row of a predictions, ground-truth or exclusions file must look like, one row at a time.

Files are read column by column for speed; these rules name what is wrong once such a read has failed.
"""

import math
import re
from collections.abc import Sequence
from typing import Literal

from stal_data.csv_lines import as_number, broken_header_rule
from stal_data.errors import InputError
from stal_data.rows import BOX_SLACK
from stal_data.times import parse_time

Kind = Literal["predictions", "ground truth"]

PREDICTION_COLUMNS = ("video", "timestamp", "x1", "y1", "x2", "y2", "label", "score", "person")
GROUND_TRUTH_COLUMNS = ("video", "timestamp", "x1", "y1", "x2", "y2", "label", "person")

LABEL_MAX = 2**31 - 1
PERSON = re.compile(r"-1|[0-9]{1,15}|")
"""The id of a prediction's person; -1 or nothing where it is unknown."""
_PIXELS = 2.0  # a coordinate this large is no rounding error


def columns_of(kind: Kind) -> tuple[str, ...]:
    return PREDICTION_COLUMNS if kind == "predictions" else GROUND_TRUTH_COLUMNS


def broken_rule(fields: Sequence[str], kind: Kind) -> str | None:
    """Return the first rule that the fields of a row break, as a sentence; None when they keep all."""
    header = broken_header_rule(fields)
    if header is not None:
        return header
    count = len(fields)
    if kind == "predictions" and count not in (8, 9):
        return f"the line has {count} columns, but predictions have 8 or 9: {','.join(PREDICTION_COLUMNS)}."
    if kind == "ground truth" and count not in (7, 8):
        return f"the line has {count} columns, but ground truth has 7 or 8: {','.join(GROUND_TRUTH_COLUMNS)}."
    if not fields[0]:
        return "the video id is empty."
    return (
        _timestamp(fields[1])
        or _box(fields[2:6], kind)
        or _label_id(fields[6])
        or (_score(fields[7]) or _person(fields[8:]) if kind == "predictions" else None)
    )


def broken_exclusion_rule(fields: Sequence[str], line: int) -> str | None:
    """Return the first rule that the fields of a line of exclusions break, as a sentence; None when they keep all."""
    header = broken_header_rule(fields, line)
    if header is not None:
        return header
    if len(fields) != 2:
        return f"the line has {len(fields)} columns, but exclusions have 2: video,timestamp."
    if not fields[0]:
        return "the video id is empty."
    return _timestamp(fields[1])


def _timestamp(text: str) -> str | None:
    try:
        parse_time(text)
    except InputError as error:
        return str(error)
    return None


def _label_id(text: str) -> str | None:
    value = as_number(text)
    if value is None or not math.isfinite(value) or value != int(value):
        return f"the label id is '{text}', but must be a whole number."
    if not 1 <= value <= LABEL_MAX:
        hint = ": ids from 0 are one too low, add 1 to all" if value == 0 else ""
        return f"the label id is {text}, but must be from 1 to {LABEL_MAX}{hint}."
    return None


def _box(fields: Sequence[str], kind: Kind) -> str | None:
    values = []
    for name, text in zip(("x1", "y1", "x2", "y2"), fields, strict=True):
        value = as_number(text)
        if value is None or not math.isfinite(value):
            return f"{name} is '{text}', but must be a finite number."
        values.append(value)
    shown = ",".join(fields)
    if min(values) < -BOX_SLACK or max(values) > 1 + BOX_SLACK:
        hint = "it looks like pixels: divide x by the frame's width and y by its height"
        if max(values) < _PIXELS:
            hint = "cut it at the frame's edge"
        return f"the box {shown} leaves [0,1]: {hint}."
    x1, y1, x2, y2 = values
    if x1 > x2 or y1 > y2:
        return (
            f"the box {shown} is inverted: the order is x1,y1,x2,y2 with x1 < x2 and y1 < y2; of x,y,width,height "
            "write x,y,x+width,y+height."
        )
    if kind == "ground truth" and (x1 == x2 or y1 == y2):
        return f"the box {shown} is empty, so that no prediction can match it: give it a width and a height."
    return None


def _score(text: str) -> str | None:
    value = as_number(text)
    if value is None or not math.isfinite(value):
        return f"the score is '{text}', but must be a finite number."
    return None


def _person(fields: Sequence[str]) -> str | None:
    if fields and not PERSON.fullmatch(fields[0]):
        return f"the person is '{fields[0]}', but must be an id of at most 15 digits, or -1 where it is unknown."
    return None
