"""A predictions file as people: who was found at each key frame, and doing what."""

import csv
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from stal_data.keyframes import KeyFrame
from stal_data.times import parse_time

Box = tuple[float, float, float, float]
"""x1,y1,x2,y2 in [0,1]."""


class Person(NamedTuple):
    """A person at a key frame. actions: (label id, score), best first. id: in the video; None where unknown."""

    box: Box
    actions: tuple[tuple[int, float], ...]
    id: int | None = None


def read_predictions(path: Path, *, min_score: float) -> dict[KeyFrame, list[Person]]:
    """Read a predictions CSV into people by key frame; only actions scored at least `min_score` are kept.

    A ninth field is the person's id.
    """
    found: dict[KeyFrame, dict[tuple[Box, int | None], list[tuple[int, float]]]] = defaultdict(dict)
    with path.open(newline="", encoding="utf-8") as file:
        for video, time, x1, y1, x2, y2, label, score, *ids in csv.reader(file):
            box = (float(x1), float(y1), float(x2), float(y2))
            person = int(ids[0]) if ids else None
            actions = found[KeyFrame(video, parse_time(time))].setdefault((box, person), [])
            if float(score) >= min_score:
                actions.append((int(label), float(score)))
    return {
        key: [
            Person(box, tuple(sorted(actions, key=lambda action: -action[1])), person)
            for (box, person), actions in people.items()
        ]
        for key, people in found.items()
    }
