"""Why a result is what it is: precision-recall curves, thresholds, error breakdown, and key frames worth a look."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stal_eval.breakdown import Breakdown, ErrorAnalysis
from stal_eval.examples import Example, pick_examples
from stal_eval.operating_point import OperatingPoint, best_f1
from stal_eval.precision_recall import PrecisionRecall, precision_recall
from stal_eval.preparation import Prepared
from stal_eval.selection import select


@dataclass(frozen=True, kw_only=True)
class Details:
    """Per class, in the order of the label map; None for a class that is not in the mean.

    chosen, at_50: curves at the reported capacity and at 50. thresholds: where each class's F1 is highest at the
    reported capacity; also None where no row is right. errors: outcomes of the rows at `chosen`, at `at_50`, and
    (`best_f1`) of those at `chosen` that reach their class's threshold. examples: key frames with many errors of the
    last kind, weakest classes first.
    """

    chosen: tuple[PrecisionRecall | None, ...]
    at_50: tuple[PrecisionRecall | None, ...]
    thresholds: tuple[OperatingPoint | None, ...]
    errors: dict[str, Breakdown]
    examples: tuple[Example, ...]

    def plain(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the entries of metrics.json; names: of the classes. The examples are not among them."""
        return {
            "precision_recall": {
                point: {name: curve and curve.plain() for name, curve in zip(names, curves, strict=True)}
                for point, curves in (("chosen", self.chosen), ("at_50", self.at_50))
            },
            "best_f1": {
                name: threshold and threshold.plain() for name, threshold in zip(names, self.thresholds, strict=True)
            },
            "errors": {point: errors.plain(names) for point, errors in self.errors.items()},
        }


def explain(prepared: Prepared, capacity: int, ap_K: NDArray[np.float64]) -> Details:
    """capacity: the reported one. ap_K: AP of each class there, NaN for a class that is not in the mean."""
    alignment = prepared.alignment
    chosen, at_50 = (select(alignment, prepared.matching, prepared.protocol, kept) for kept in (capacity, 50))
    curves: dict[str, list[PrecisionRecall | None]] = {"chosen": [], "at_50": []}
    thresholds: list[OperatingPoint | None] = []
    above_N = np.zeros(alignment.predictions.num_rows, np.bool_)
    for label, num_truth in enumerate(chosen.truth_count_K.tolist()):
        start, stop = chosen.class_offsets[label : label + 2].tolist()
        threshold, counts = None, not np.isnan(ap_K[label])
        for point, selection in (("chosen", chosen), ("at_50", at_50)):
            rows = start + np.flatnonzero(~selection.void_N[start:stop])
            hit_R, score_R = selection.hit_N[rows], alignment.predictions.score_N[selection.row_N[rows]]
            curves[point].append(precision_recall(hit_R, score_R, num_truth) if counts else None)
            if point == "chosen" and counts and (threshold := best_f1(hit_R, score_R, num_truth)) is not None:
                above_N[rows[: threshold.num_rows]] = True
        thresholds.append(threshold)
    analysis = ErrorAnalysis(alignment, prepared.matching, prepared.protocol.iou)
    outcomes = {
        "chosen": analysis.outcomes(chosen, ~chosen.void_N),
        "at_50": analysis.outcomes(at_50, ~at_50.void_N),
        "best_f1": analysis.outcomes(chosen, above_N),
    }
    return Details(
        chosen=tuple(curves["chosen"]),
        at_50=tuple(curves["at_50"]),
        thresholds=tuple(thresholds),
        errors={point: analysis.count(outcome) for point, outcome in outcomes.items()},
        examples=pick_examples(alignment, chosen, outcomes["best_f1"], ap_K),
    )
