"""Thresholds of classes from a result: where each class's F1 was highest."""

import math
from pathlib import Path
from typing import Any

from stal_data.errors import InputError, shown, shown_problems
from stal_data.labels import LabelMap
from stal_eval.chosen_capacity import read_metrics


def read_thresholds(path: Path, label_map: LabelMap) -> dict[int, float]:
    """Return the score of best F1 by label id, from the `best_f1` of a metrics.json; classes without one are left out.

    The result must be of this label map's classes.
    """
    points = read_metrics(path, "best_f1", option="thresholds")
    if unlike := sorted(points.keys() ^ set(label_map.names)):
        named = shown_problems(unlike, shown, separator=", ")
        raise InputError(
            f"thresholds: {path} and {label_map.source} differ in {named}: give the label map that was scored with."
        )
    ids = dict(zip(label_map.names, label_map.ids, strict=True))
    return {ids[name]: _score(path, name, point) for name, point in points.items() if point is not None}


def _score(path: Path, name: str, point: Any) -> float:
    score = point.get("score") if isinstance(point, dict) else None
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise InputError(f"thresholds: the best_f1 of {shown(name)} in {path} has no score that is a finite number.")
    return float(score)
