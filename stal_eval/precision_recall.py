"""Precision-recall curves of the classes at one capacity, as few steps as a picture needs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVELS = 500
"""Steps whose precisions share a level of 1 / LEVELS are drawn as one: less than a pixel in a chart of that height."""


@dataclass(frozen=True, kw_only=True)
class PrecisionRecall:
    """The interpolated precision-recall curve of one class as S steps; the area under them is its AP.

    Precision is precision_S[i] for recalls above recall_S[i - 1] (0 for the first step) up to recall_S[i], and 0 beyond
    the last. Recalls increase, precisions decrease. score_S: the rows that reach recall_S[i] score at least this.
    Steps of about the same precision are one, with the mean of them, so that the area stays the same.
    """

    recall_S: NDArray[np.float64]
    precision_S: NDArray[np.float64]
    score_S: NDArray[np.float64]

    @property
    def average_precision(self) -> float:
        return float((np.diff(self.recall_S, prepend=0.0) * self.precision_S).sum())

    def plain(self) -> dict[str, list[float]]:
        """Return the steps as plain values, for metrics.json."""
        return {
            "recall": self.recall_S.tolist(),
            "precision": self.precision_S.tolist(),
            "score": self.score_S.tolist(),
        }


def precision_recall(hit_R: NDArray[np.bool_], score_R: NDArray[np.float64], num_truth: int) -> PrecisionRecall:
    """Return the curve of one class from its R kept rows, best first; num_truth: its ground-truth boxes, at least 1."""
    place_H = np.flatnonzero(hit_R)
    found_H = np.arange(1, len(place_H) + 1)
    # Interpolated: the highest precision at this recall or beyond.
    envelope_H = np.maximum.accumulate((found_H / (place_H + 1))[::-1])[::-1]
    level_H = np.floor(envelope_H * LEVELS)
    last_S = np.flatnonzero(np.diff(level_H, append=-1.0))
    first_S = np.concatenate(([0], last_S[:-1] + 1))[: len(last_S)]
    area_S = np.add.reduceat(envelope_H, first_S) if len(first_S) else np.empty(0)
    return PrecisionRecall(
        recall_S=found_H[last_S] / num_truth,
        precision_S=area_S / (last_S - first_S + 1),
        score_S=score_R[place_H[last_S]],
    )
