"""Boxes that other detectors found, with their key frames: mmaction2's proposals pickles, AVA's CSV of person boxes."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stal_data.csv_lines import read_csv
from stal_data.errors import InputError, shown
from stal_data.formats.fields import BadFieldError, number, parse_box, parse_key
from stal_data.formats.sources import Source
from stal_data.formats.tracks import Box
from stal_data.keyframes import KeyFrame
from stal_data.rows import BOX_SLACK


class ScoredBox(NamedTuple):
    """box: x1,y1,x2,y2 in [0,1]. score: the confidence, NaN where unknown. track: from 1, -1 where unknown."""

    box: Box
    score: float
    track: int = -1


Scored = tuple[KeyFrame, list[ScoredBox]]
"""A key frame with its boxes."""


def read_detections(path: Path) -> list[Scored] | None:
    """Return the key frames of the file; None for a pickle of another kind.

    An error names the first bad key or line.
    """
    source = Source(path)
    if source.kind == "pickle" and not isinstance(source.pickle, dict):
        return None
    found: dict[KeyFrame, list[ScoredBox]] = {}
    for where, video, time, boxes in _pickled(source) if source.kind == "pickle" else _lines(path):
        try:
            key = parse_key(video, time)
        except BadFieldError as error:
            raise InputError(f"{where}: {error}") from None
        for (x1, y1, x2, y2), score, _ in boxes:
            inside = all(-BOX_SLACK <= side <= 1 + BOX_SLACK for side in (x1, y1, x2, y2))  # which NaN is not
            if not inside or x1 > x2 or y1 > y2 or score < 0 or score > 1:
                raise InputError(
                    f"{where}: the box is {x1:g},{y1:g},{x2:g},{y2:g} with confidence {score:g}, but must be "
                    "x1,y1,x2,y2 in [0,1] with x1 <= x2 and y1 <= y2, and the confidence in [0,1]."
                )
        found.setdefault(key, []).extend(boxes)
    return list(found.items())


def _pickled(source: Source) -> Iterator[tuple[str, str, str, list[ScoredBox]]]:
    for name, boxes in source.pickle.items():
        where = f"{source.path}, {shown(name)}"
        if not isinstance(boxes, np.ndarray) or boxes.ndim != 2 or boxes.shape[1] not in (4, 5):
            raise InputError(f"{where} must be an array [boxes, 5] of x1, y1, x2, y2 and confidence.")
        video, _, time = str(name).rpartition(",")
        rows = np.pad(boxes.astype(float), ((0, 0), (0, 5 - boxes.shape[1])), constant_values=math.nan).tolist()
        yield where, video, time, [ScoredBox((x1, y1, x2, y2), score) for x1, y1, x2, y2, score in rows]


def _lines(path: Path) -> Iterator[tuple[str, str, str, list[ScoredBox]]]:
    for line, fields in read_csv(path):
        where = f"{path}, line {line}"
        if len(fields) not in (7, 8):
            raise InputError(f"{where} must have 8 columns: video, time, box, label or nothing, confidence.")
        try:
            yield where, fields[0], fields[1], [ScoredBox(parse_box(fields[2:6]), number("confidence", fields[-1]))]
        except BadFieldError as error:
            raise InputError(f"{where}: {error}") from None
