"""How far equal scores leave mAP open: bounds over all orders of tied rows."""

import numpy as np
from numpy.typing import NDArray

from stal_eval.alignment import Rows
from stal_eval.curve import TieBounds
from stal_eval.matching import Matching
from stal_eval.sweep import Columns, sum_columns
from stal_eval.tie_kernels import count_rivals, find_blocks, reorder_ties


def bound_ties(matching: Matching, rows: Rows, num_keys: int, columns: Columns, *, first_has_box: bool) -> TieBounds:
    """Sweep once more in the best and in the worst order of tied rows.

    first_has_box: of equal scores the row that ranks first has the box; else which one has it does not depend on how
    they rank.
    """
    key_N, score_N = rows.key_N[matching.row_N], rows.score_N[matching.row_N]
    first_place = np.zeros(num_keys, np.int64)
    np.cumsum(np.bincount(rows.key_N, minlength=num_keys)[:-1], out=first_place[1:])
    start_N, stop_N = find_blocks(first_place[key_N] + matching.rank_N, key_N, matching.rank_N, score_N)
    rivals_N = (
        count_rivals(matching.target_N, matching.hit_N, score_N, len(matching.targets))
        if first_has_box
        else matching.hit_N.astype(np.int32)
    )
    bounds = []
    for lucky in (False, True):
        order_N, rank_N = reorder_ties(
            matching.class_offsets,
            score_N,
            matching.hit_N,
            matching.void_N,
            matching.target_N,
            rivals_N,
            start_N,
            stop_N,
            first_place[key_N] + start_N,
            lucky,
        )
        bounds.append(sum_columns(columns, rank_N, order_N, matching))
    return TieBounds(
        lower_CK=bounds[0],
        upper_CK=bounds[1],
        cut_key_frames_C=_count_cuts(columns, start_N[matching.rank_N == start_N], stop_N[matching.rank_N == start_N]),
    )


def count_tied_rows(matching: Matching, rows: Rows) -> int:
    """Return how many rows share their class and score with another."""
    score_N, class_N = rows.score_N[matching.row_N], rows.class_N[matching.row_N]
    same = np.zeros(len(score_N) + 1, np.bool_)  # as the row before
    same[1:-1] = (class_N[1:] == class_N[:-1]) & (score_N[1:] == score_N[:-1])
    return int((same[:-1] | same[1:]).sum())


def _count_cuts(columns: Columns, start_B: NDArray[np.int32], stop_B: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return for each capacity how many of B blocks it cuts: those with start < capacity < stop."""
    change = np.zeros(len(columns.capacities) + 1, np.int64)
    np.add.at(change, columns.first_column[start_B], 1)
    np.add.at(change, columns.first_column[stop_B - 1], -1)
    return np.cumsum(change)[:-1][columns.column_of]
