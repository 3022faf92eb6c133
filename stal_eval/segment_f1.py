"""Segment-F1: predicted against annotated segments, which say when an action begins and ends."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stal_data.errors import InputError, shown
from stal_data.times import parse_seconds
from stal_eval.csv_file import digest_of, read_lines

SEGMENT_COLUMNS = ("video", "person", "action", "start_s", "end_s", "score")
OVERLAPS = (0.1, 0.25, 0.5)
"""IoUs in time from which a predicted segment is right."""


class Segment(NamedTuple):
    """An action in a video, from start_us to end_us (microseconds); whose it is makes no difference."""

    video: str
    action: str
    start_us: int
    end_us: int


def evaluate_segments(predictions: Path | str, ground_truth: Path | str) -> dict[str, Any]:
    """Return F1 at OVERLAPS, as docs/evaluation.md describes the entry of metrics.json.

    The files are CSV with the header video,person,action,start_s,end_s,score; the score may be missing.
    A predicted segment looks only at the annotated one of its video and action with the highest IoU in time, the
    earliest of equal ones; it is right where the IoU reaches the overlap and no other has that one. Of annotated
    segments with the same start and end, each can be found once. InputError for a line that breaks a rule.
    """
    truth, found = (read_segments(Path(path)) for path in (ground_truth, predictions))
    if not truth:
        raise InputError(f"{ground_truth} holds no segment, so there is nothing to find: give the split's annotation.")
    right = _count_right(found, truth)
    num_truth, num_found = (Counter(segment.action for segment in segments) for segments in (truth, found))
    return {
        "overlaps": list(OVERLAPS),
        "overall": _f1(len(truth), len(found), [counts.total() for counts in right]),
        "per_action": {
            action: _f1(num_truth[action], num_found[action], [counts[action] for counts in right])
            for action in sorted(num_truth | num_found)
        },
        "digests": {"predictions": digest_of(Path(predictions)), "ground_truth": digest_of(Path(ground_truth))},
    }


def read_segments(path: Path) -> list[Segment]:
    """Read a segments file, gzip or plain."""
    lines = read_lines(path)
    header = next(lines, (1, []))[1]
    if tuple(header) not in (SEGMENT_COLUMNS, SEGMENT_COLUMNS[:-1]):
        raise InputError(
            f"{path}: the first line is {shown(','.join(header))}, but must be {','.join(SEGMENT_COLUMNS)}; the score "
            "may be missing."
        )
    return [_segment(fields, len(header), f"{path}, line {number}") for number, fields in lines]


def _segment(fields: Sequence[str], num_columns: int, where: str) -> Segment:
    if len(fields) != num_columns:
        raise InputError(f"{where}: the line has {len(fields)} columns, but the header has {num_columns}.")
    video, _, action = (unicodedata.normalize("NFC", text) for text in fields[:3])
    if not video or not action:
        raise InputError(f"{where}: the video or the action is empty: name both.")
    try:
        start_us, end_us = (round(1_000_000 * parse_seconds(text)) for text in fields[3:5])
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    if start_us >= end_us:
        raise InputError(f"{where}: the segment from {fields[3]} to {fields[4]} has no length: end_s must be later.")
    return Segment(video, action, start_us, end_us)


def _count_right(found: Sequence[Segment], truth: Sequence[Segment]) -> list[Counter[str]]:
    annotated = Counter(truth)
    by_group: dict[tuple[str, str], list[Segment]] = {}
    for segment in sorted(annotated):
        by_group.setdefault(segment[:2], []).append(segment)
    finders = [Counter[Segment]() for _ in OVERLAPS]
    for segment in found:
        # max takes the first of equal ones, which is the earliest.
        best = max(by_group.get(segment[:2], ()), key=lambda other: _iou(segment, other), default=None)
        for overlap, counts in zip(OVERLAPS, finders, strict=True):
            if best is not None and _iou(segment, best) >= overlap:
                counts[best] += 1
    return [Counter(segment.action for segment in (counts & annotated).elements()) for counts in finders]


def _iou(a: Segment, b: Segment) -> float:
    common = min(a.end_us, b.end_us) - max(a.start_us, b.start_us)
    return max(common, 0) / (max(a.end_us, b.end_us) - min(a.start_us, b.start_us))


def _f1(num_truth: int, num_found: int, right: Sequence[int]) -> dict[str, Any]:
    f1 = [2 * number / (num_truth + num_found) for number in right]
    return {"f1": f1, "right": list(right), "ground_truth": num_truth, "predictions": num_found}
