"""A predictions file as people: who was found at each key frame, and doing what."""

import csv
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from stal_data.keyframes import KeyFrame
from stal_data.times import parse_time

Box = tuple[float, float, float, float]
"""x1,y1,x2,y2 in [0,1]."""


class Person(NamedTuple):
    """A person at a key frame. actions: (label id, score), best first. track: id in the video; -1 = in no track."""

    box: Box
    actions: tuple[tuple[int, float], ...]
    track: int = -1


def read_predictions(
    path: Path, *, min_score: float, thresholds: Mapping[int, float] | None = None
) -> dict[KeyFrame, list[Person]]:
    """Read a predictions CSV into people by key frame; only actions scored at least `min_score` are kept.

    thresholds: by label id, in place of `min_score`.
    """
    least = thresholds or {}
    found: dict[KeyFrame, dict[tuple[Box, int], list[tuple[int, float]]]] = defaultdict(dict)
    with path.open(newline="", encoding="utf-8") as file:
        for video, time, x1, y1, x2, y2, label, score, *track in csv.reader(file):
            box = (float(x1), float(y1), float(x2), float(y2))
            who = (box, int(track[0]) if track else -1)
            actions = found[KeyFrame(video, parse_time(time))].setdefault(who, [])
            if float(score) >= least.get(int(label), min_score):
                actions.append((int(label), float(score)))
    return {
        key: [
            Person(box, tuple(sorted(actions, key=lambda action: -action[1])), track)
            for (box, track), actions in people.items()
        ]
        for key, people in found.items()
    }
