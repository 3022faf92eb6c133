"""A predictions file as people: who was found at each key frame, and doing what."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from stal_data.csv_lines import read_csv
from stal_data.errors import InputError
from stal_data.formats.fields import BadFieldError, integer, number, parse_box, parse_key
from stal_data.formats.tracks import Box
from stal_data.keyframes import KeyFrame
from stal_data.rows import BOX_SLACK

MIN_SCORE = 0.3
"""Of the actions shown, where neither the user nor the model says another."""


class Person(NamedTuple):
    """A person at a key frame. actions: (label id, score), best first. track: id in the video; -1 = in no track."""

    box: Box
    actions: tuple[tuple[int, float], ...]
    track: int = -1


def read_predictions(
    path: Path, *, min_score: float, thresholds: Mapping[int, float] | None = None
) -> dict[KeyFrame, list[Person]]:
    """Read a predictions CSV into people by key frame; only actions scored at least `min_score` are kept.

    thresholds: by label id, in place of `min_score`. The first bad row is an error with its line.
    """
    least = thresholds or {}
    found: dict[KeyFrame, dict[tuple[Box, int], list[tuple[int, float]]]] = defaultdict(dict)
    for line, fields in read_csv(path):
        try:
            if len(fields) not in (8, 9):
                raise BadFieldError("columns", f"the line has {len(fields)} columns, but predictions have 8 or 9.")
            key, box = parse_key(fields[0], fields[1]), parse_box(fields[2:6])
            label, score = integer("the label", fields[6]), number("the score", fields[7])
            track = integer("the person", fields[8]) if fields[8:] and fields[8] else -1
        except BadFieldError as error:
            raise InputError(f"{path}, line {line}: {error}") from None
        inside = min(box) >= -BOX_SLACK and max(box) <= 1 + BOX_SLACK
        if not inside or box[0] > box[2] or box[1] > box[3] or not 0 <= score <= 1 or track < -1:
            raise InputError(
                f"{path}, line {line}: the box must be x1,y1,x2,y2 in [0,1] with x1 <= x2 and y1 <= y2, the score in "
                f"[0,1] and the person at least -1, but they are {','.join(fields[2:6])}, {score:g} and {track}."
            )
        actions = found[key].setdefault((box, track), [])
        if score >= least.get(label, min_score):
            actions.append((label, score))
    return {
        key: [
            Person(box, tuple(sorted(actions, key=lambda action: -action[1])), track)
            for (box, track), actions in people.items()
        ]
        for key, people in found.items()
    }
