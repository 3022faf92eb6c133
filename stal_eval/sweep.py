"""Average precision at every capacity, from one matching pass."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stal_eval.capacities import NO_LIMIT
from stal_eval.kernels import sum_average_precision
from stal_eval.matching import Matching


def sweep(matching: Matching, capacities: Sequence[int], longest: int) -> NDArray[np.float64]:
    """Return AP [C, K] for each capacity and class; NaN for a class without ground truth.

    longest: rows of the longest key frame; larger capacities change nothing and cost nothing.
    """
    wanted = np.array([longest if capacity == NO_LIMIT else min(capacity, longest) for capacity in capacities])
    columns, column_of = np.unique(wanted, return_inverse=True)
    # The first column whose capacity exceeds the rank; len(columns) where none does.
    first_column = np.searchsorted(columns, np.arange(longest), side="right").astype(np.int32)
    ap_KC = sum_average_precision(
        first_column[matching.rank_N], matching.hit_N, matching.class_offsets, matching.truth_count_K, len(columns)
    )
    return ap_KC.T[column_of]
