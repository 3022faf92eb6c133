"""Average precision at every capacity, from one matching pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stal_eval.capacities import NO_LIMIT
from stal_eval.kernels import sum_average_precision
from stal_eval.matching import Matching
from stal_eval.protocol import Protocol


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The different capacities that a sweep sums: none larger than the longest key frame, which changes nothing more.

    capacities: increasing. column_of: for each capacity that was asked for, its column.
    first_column: for each rank, from 0, the first column that keeps it; len(capacities) where none does.
    """

    capacities: NDArray[np.int64]
    column_of: NDArray[np.int64]
    first_column: NDArray[np.int32]


def plan_columns(capacities: Sequence[int], longest: int) -> Columns:
    """longest: rows of the longest key frame."""
    wanted = np.array([longest if capacity == NO_LIMIT else min(capacity, longest) for capacity in capacities])
    different, column_of = np.unique(wanted, return_inverse=True)
    first_column = np.searchsorted(different, np.arange(longest), side="right").astype(np.int32)
    return Columns(capacities=different, column_of=column_of, first_column=first_column)


def sweep(matching: Matching, columns: Columns) -> NDArray[np.float64]:
    """Return AP [C, K] for each capacity that was asked for and each class; NaN for a class without ground truth."""
    return sum_columns(columns, matching.rank_N, np.arange(len(matching.rank_N)), matching)


def sum_columns(
    columns: Columns, rank_N: NDArray[np.int32], order_N: NDArray[np.int64], matching: Matching
) -> NDArray[np.float64]:
    """Return AP [C, K] for another order of the rows of `matching` within their classes.

    order_N: which row of `matching` stands where. rank_N: the rank of the row that stands there.
    """
    column_N = columns.first_column[rank_N]
    column_N[matching.void_N[order_N]] = len(columns.capacities)  # kept by none
    ap_KC = sum_average_precision(
        column_N,
        matching.hit_N[order_N],
        matching.class_offsets,
        matching.truth_count_K,
        len(columns.capacities),
    )
    return ap_KC.T[columns.column_of]


def average_precision(selection: Matching, protocol: Protocol) -> NDArray[np.float64]:
    """Return AP [K] of the rows that are not void; NaN for a class that the protocol leaves out of the mean."""
    ap_K = sweep(selection, plan_columns((NO_LIMIT,), int(selection.rank_N.max(initial=0)) + 1))[0]
    return without_absent(ap_K, selection, protocol)


def without_absent(ap_K: NDArray[np.float64], matching: Matching, protocol: Protocol) -> NDArray[np.float64]:
    """Return AP [..., K], NaN where the protocol asks for predictions and the class has none."""
    if protocol.classes == "with_ground_truth":
        return ap_K
    return np.where(np.diff(matching.class_offsets) == 0, np.nan, ap_K)
