"""Why a result is what it is: precision-recall curves, thresholds, error breakdown, and key frames worth a look."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stal_eval.alignment import Alignment
from stal_eval.breakdown import Breakdown, ErrorAnalysis
from stal_eval.capacities import NO_LIMIT
from stal_eval.examples import Example, pick_examples
from stal_eval.matching import Matching
from stal_eval.operating_point import OperatingPoint, best_f1
from stal_eval.precision_recall import PrecisionRecall, precision_recall


@dataclass(frozen=True, kw_only=True)
class Details:
    """Per class, in the order of the label map; None for a class without ground truth.

    best, at_50: at the capacity that the result reports first, and at 50. thresholds: where each class's F1 is highest
    at the former; also None where no row is right. errors: outcomes of the rows at `best`, at `at_50`, and of those at
    `best` that reach their class's threshold. examples: key frames with many errors, worst classes first.
    """

    best: tuple[PrecisionRecall | None, ...]
    at_50: tuple[PrecisionRecall | None, ...]
    thresholds: tuple[OperatingPoint | None, ...]
    errors: dict[str, Breakdown]
    examples: tuple[Example, ...]

    def plain(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the entries of metrics.json; names: of the classes. The examples are not among them."""
        return {
            "precision_recall": {
                point: {name: curve and curve.plain() for name, curve in zip(names, curves, strict=True)}
                for point, curves in (("best", self.best), ("at_50", self.at_50))
            },
            "best_f1": {
                name: threshold and threshold.plain() for name, threshold in zip(names, self.thresholds, strict=True)
            },
            "errors": {point: errors.plain(names) for point, errors in self.errors.items()},
        }


def explain(
    alignment: Alignment, matching: Matching, capacity: int, ap_K: NDArray[np.float64], min_iou: float
) -> Details:
    """ap_K: AP of each class at the capacity, NaN without ground truth."""
    score_N = alignment.predictions.score_N[matching.row_N]
    kept = {"best": _kept(matching, capacity), "at_50": _kept(matching, 50)}
    curves: dict[str, list[PrecisionRecall | None]] = {point: [] for point in kept}
    thresholds: list[OperatingPoint | None] = []
    kept["best_f1"] = np.zeros(len(score_N), np.bool_)
    for label, num_truth in enumerate(matching.truth_count_K.tolist()):
        part = slice(*matching.class_offsets[label : label + 2].tolist())
        chosen = {point: part.start + np.flatnonzero(kept[point][part]) for point in curves}
        for point, rows in chosen.items():
            curve = precision_recall(matching.hit_N[rows], score_N[rows], num_truth) if num_truth else None
            curves[point].append(curve)
        rows = chosen["best"]
        thresholds.append(best_f1(matching.hit_N[rows], score_N[rows], num_truth) if num_truth else None)
        if thresholds[-1] is not None:
            kept["best_f1"][rows[: thresholds[-1].num_rows]] = True
    analysis = ErrorAnalysis(alignment, matching, min_iou)
    outcomes = {point: analysis.outcomes(kept_N) for point, kept_N in kept.items()}
    return Details(
        best=tuple(curves["best"]),
        at_50=tuple(curves["at_50"]),
        thresholds=tuple(thresholds),
        errors={point: analysis.count(outcome) for point, outcome in outcomes.items()},
        examples=pick_examples(alignment, matching, outcomes["best_f1"], ap_K),
    )


def _kept(matching: Matching, capacity: int) -> NDArray[np.bool_]:
    if capacity == NO_LIMIT:
        return np.ones(len(matching.rank_N), np.bool_)
    return np.asarray(matching.rank_N < capacity)
