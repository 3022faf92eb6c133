"""Where to cut a class's scores when one must decide: the threshold with the best balance of precision and recall."""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """The rows of a class that score at least `score`, where F1 is highest (the highest such score of equals).

    f1: harmonic mean of precision and recall. num_rows: rows at or above the score.
    """

    score: float
    precision: float
    recall: float
    f1: float
    num_rows: int

    def plain(self) -> dict[str, float]:
        return asdict(self)


def best_f1(hit_R: NDArray[np.bool_], score_R: NDArray[np.float64], num_truth: int) -> OperatingPoint | None:
    """Return the best threshold for one class's R kept rows, best first; None when no row is right."""
    if not hit_R.any():
        return None
    # A threshold keeps all rows of a score or none.
    last_T = np.flatnonzero(np.append(score_R[1:] != score_R[:-1], True))
    found_T = np.cumsum(hit_R)[last_T]
    f1_T = 2 * found_T / (last_T + 1 + num_truth)
    best = int(f1_T.argmax())
    num_rows, found = int(last_T[best]) + 1, int(found_T[best])
    return OperatingPoint(
        score=float(score_R[last_T[best]]),
        precision=found / num_rows,
        recall=found / num_truth,
        f1=float(f1_T[best]),
        num_rows=num_rows,
    )
