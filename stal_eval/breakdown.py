"""What becomes of every ground-truth box and of every prediction row: one named outcome each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stal_eval.alignment import Alignment
from stal_eval.matching import Matching
from stal_eval.outcomes import NEAR_IOU, ROW_OUTCOMES, TRUTH_OUTCOMES
from stal_eval.overlap_kernels import FOUND, NEAR, compare_boxes


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """Of G ground-truth boxes and N prediction rows: positions in TRUTH_OUTCOMES and ROW_OUTCOMES.

    Boxes are in the order of `Matching.targets`, rows in the order of `Matching`. kept_N: which rows count.
    """

    truth_G: NDArray[np.uint8]
    row_N: NDArray[np.uint8]
    kept_N: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """How many ground-truth boxes and kept rows of each of K classes have each outcome.

    truth_KO sums to the class's boxes, rows_KO to its kept rows; O as in TRUTH_OUTCOMES and ROW_OUTCOMES.
    """

    truth_KO: NDArray[np.int64]
    rows_KO: NDArray[np.int64]

    def plain(self, names: Sequence[str]) -> dict[str, object]:
        """Return the counts by outcome, overall and by class name, for metrics.json."""
        return {
            "overall": _named(self.truth_KO.sum(axis=0), self.rows_KO.sum(axis=0)),
            "per_class": {
                name: _named(truth_O, rows_O)
                for name, truth_O, rows_O in zip(names, self.truth_KO, self.rows_KO, strict=True)
            },
        }


class ErrorAnalysis:
    """Compares all boxes once; what becomes of any selection of rows is then a matter of counting.

    min_iou: a row finds a box from this IoU on.
    """

    def __init__(self, alignment: Alignment, matching: Matching, min_iou: float) -> None:
        rows, truth, targets = alignment.predictions, alignment.ground_truth, matching.targets
        offsets = np.zeros(alignment.num_keys + 1, np.int64)
        np.cumsum(np.bincount(truth.key_N, minlength=alignment.num_keys), out=offsets[1:])
        self._matching = matching
        self._class_G = truth.class_N[targets]
        self._fit_N, self._fit_G, self._own_G = compare_boxes(
            rows.key_N, rows.class_N, rows.boxes_N4, offsets, self._class_G, truth.boxes_N4[targets], NEAR_IOU, min_iou
        )
        self._targeted_G = np.zeros(len(targets), np.bool_)
        self._targeted_G[matching.target_N[matching.target_N >= 0]] = True

    def outcomes(self, selection: Matching, kept_N: NDArray[np.bool_]) -> Outcomes:
        """selection: which rows have the box that they find. kept_N: which rows count, in the order of `selection`."""
        target_N, hit_N, fit_N = selection.target_N, selection.hit_N, self._fit_N[selection.row_N]
        found_G = np.zeros(len(self._class_G), np.bool_)
        found_G[target_N[hit_N & kept_N]] = True
        return Outcomes(
            truth_G=_first_true(found_G, self._targeted_G, self._own_G, self._fit_G == FOUND, self._fit_G == NEAR),
            row_N=_first_true(hit_N, target_N >= 0, fit_N == FOUND, fit_N == NEAR),
            kept_N=kept_N,
        )

    def count(self, outcomes: Outcomes) -> Breakdown:
        """Return the outcomes of each class."""
        offsets = self._matching.class_offsets
        class_N = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        kept = outcomes.kept_N
        truth_KO = _count(self._class_G, outcomes.truth_G, len(offsets) - 1, len(TRUTH_OUTCOMES))
        # Recall may count boxes that are not among the targets.
        truth_KO[:, TRUTH_OUTCOMES.index("excluded_key_frame")] = self._matching.truth_count_K - truth_KO.sum(axis=1)
        return Breakdown(
            truth_KO=truth_KO,
            rows_KO=_count(class_N[kept], outcomes.row_N[kept], len(offsets) - 1, len(ROW_OUTCOMES)),
        )


def _first_true(*tests: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return for each element the number of the first test that it passes; len(tests) where it passes none."""
    first = np.full(len(tests[0]), len(tests), np.uint8)
    for number in reversed(range(len(tests))):
        first[tests[number]] = number
    return first


def _count(
    class_X: NDArray[np.integer], outcome_X: NDArray[np.uint8], num_classes: int, num_outcomes: int
) -> NDArray[np.int64]:
    cells = class_X.astype(np.int64) * num_outcomes + outcome_X
    return np.bincount(cells, minlength=num_classes * num_outcomes).reshape(num_classes, num_outcomes)


def _named(truth_O: NDArray[np.int64], rows_O: NDArray[np.int64]) -> dict[str, dict[str, int]]:
    return {
        "ground_truth": dict(zip(TRUTH_OUTCOMES, truth_O.tolist(), strict=True)),
        "predictions": dict(zip(ROW_OUTCOMES, rows_O.tolist(), strict=True)),
    }
