"""Validation during training: how well each class ranks the people of a split, given their true boxes."""

import numpy as np
from numpy.typing import NDArray


def mean_average_precision(
    scores_NC: NDArray[np.float32], targets_NC: NDArray[np.float32], known_NC: NDArray[np.bool_] | None = None
) -> float | None:
    """Return the mean over classes with positives of the area under the interpolated precision-recall curve.

    Every row is a detection that sits on its own ground-truth box, and every row is kept (no capacity), so this is
    the mAP of stal_eval for ground-truth boxes as long as no two people of a key frame overlap by IoU 0.5 or more.
    None where no class has a positive. known_NC: which targets are known, and the others are left out; None = all.
    """
    known_NC = np.ones(targets_NC.shape, np.bool_) if known_NC is None else known_NC
    precisions = [
        average_precision(scores[known], positive[known])
        for scores, positive, known in zip(scores_NC.T, targets_NC.T > 0, known_NC.T, strict=True)
        if positive.any()
    ]
    return float(np.mean(precisions)) if precisions else None


def average_precision(scores_N: NDArray[np.float32], positive_N: NDArray[np.bool_]) -> float:
    """Area under the interpolated precision-recall curve of one class with at least one positive; ties by position."""
    ranked_N = positive_N[np.argsort(-scores_N, kind="stable")]
    precision_N = np.cumsum(ranked_N) / np.arange(1, len(ranked_N) + 1)
    best_from_here_N = np.maximum.accumulate(precision_N[::-1])[::-1]
    # Recall rises by one positive at each hit and nowhere else.
    return float(best_from_here_N[ranked_N].mean())
