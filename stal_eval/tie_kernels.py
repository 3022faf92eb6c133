"""Compiled loops over equal scores: where they lie in their key frame, and the luckiest and unluckiest order of them.

Shape letters: N prediction rows in class-major order (`Matching`). A run is the rows of one class with one score, over
all key frames; a block is the rows of one key frame with one score, over all classes. Runs order the precision-recall
curve, blocks decide what a capacity keeps.
"""

import numpy as np
from numpy.typing import NDArray

from stal_eval.compiled import compiled


@compiled
def find_blocks(
    place_N: NDArray[np.int64], key_N: NDArray[np.int32], rank_N: NDArray[np.int32], score_N: NDArray[np.float64]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the ranks at which each row's block starts and ends (exclusive).

    place_N: position of each row when rows are sorted by key frame and rank.
    """
    num_rows = place_N.shape[0]
    row_at = np.empty(num_rows, np.int64)
    for row in range(num_rows):
        row_at[place_N[row]] = row
    start_N = np.empty(num_rows, np.int32)
    stop_N = np.empty(num_rows, np.int32)
    first = 0
    while first < num_rows:
        head = row_at[first]
        last = first + 1
        while last < num_rows and key_N[row_at[last]] == key_N[head] and score_N[row_at[last]] == score_N[head]:
            last += 1
        for place in range(first, last):
            start_N[row_at[place]] = rank_N[head]
            stop_N[row_at[place]] = rank_N[head] + last - first
        first = last
    return start_N, stop_N


@compiled
def count_rivals(
    target_N: NDArray[np.int32], hit_N: NDArray[np.bool_], score_N: NDArray[np.float64], num_targets: int
) -> NDArray[np.int32]:
    """For each row how many rows tie for its target, itself included; 0 for a row that misses in any order.

    That is where the row that ranks first has the box.
    """
    hit_score = np.full(num_targets, np.nan)
    rivals = np.zeros(num_targets, np.int32)
    for row in range(target_N.shape[0]):
        if hit_N[row]:
            hit_score[target_N[row]] = score_N[row]
    for row in range(target_N.shape[0]):
        target = target_N[row]
        if target >= 0 and score_N[row] == hit_score[target]:
            rivals[target] += 1
    rivals_N = np.zeros(target_N.shape[0], np.int32)
    for row in range(target_N.shape[0]):
        target = target_N[row]
        if target >= 0 and score_N[row] == hit_score[target]:
            rivals_N[row] = rivals[target]
    return rivals_N


@compiled
def reorder_ties(
    class_offsets: NDArray[np.int64],
    score_N: NDArray[np.float64],
    hit_N: NDArray[np.bool_],
    void_N: NDArray[np.bool_],
    target_N: NDArray[np.int32],
    rivals_N: NDArray[np.int32],
    start_N: NDArray[np.int32],
    stop_N: NDArray[np.int32],
    block_N: NDArray[np.int64],
    lucky: bool,
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the rows in the order within runs that is best (lucky) or worst for their class, and their ranks then.

    Lucky: hits come first in their run, and first in their block. Unlucky: rows that miss in any order come first, then
    the targets that most rows tie for, each as a hit followed by its duplicates, so that every hit stands behind as
    many misses as any order allows; in their block misses come first and hits last. Void rows (`Matching`) end a run,
    which puts them between misses and hits in their block: keeping them is better than keeping a miss, worse than a
    hit. Ranks are those that suit one class: rows of other classes in the block give way.
    """
    num_rows = score_N.shape[0]
    order_N = np.empty(num_rows, np.int64)
    rank_N = np.empty(num_rows, np.int32)
    seen = np.zeros((2, num_rows), np.int32)  # by block, rows of the current run that went to its front and back
    for label in range(class_offsets.shape[0] - 1):
        first, end = class_offsets[label], class_offsets[label + 1]
        while first < end:
            last = first + 1
            while last < end and score_N[last] == score_N[first]:
                last += 1
            filled = first
            if lucky:
                for wanted in (True, False):
                    for row in range(first, last):
                        if hit_N[row] == wanted and not void_N[row]:
                            order_N[filled] = row
                            filled += 1
            else:
                contested = 0
                for row in range(first, last):
                    if rivals_N[row] == 0 and not void_N[row]:
                        order_N[filled] = row
                        filled += 1
                    elif rivals_N[row] > 1:
                        contested += 1
                if contested > 0:
                    rows = np.empty(contested, np.int64)
                    sort_keys = np.empty(contested, np.int64)
                    taken = 0
                    for row in range(first, last):
                        if rivals_N[row] > 1:
                            rows[taken] = row
                            sort_keys[taken] = (np.int64(num_rows - rivals_N[row]) << 32) + 2 * target_N[row]
                            sort_keys[taken] += 0 if hit_N[row] else 1
                            taken += 1
                    for position in np.argsort(sort_keys):
                        order_N[filled] = rows[position]
                        filled += 1
                for row in range(first, last):
                    if rivals_N[row] == 1:
                        order_N[filled] = row
                        filled += 1
            for row in range(first, last):
                if void_N[row]:
                    order_N[filled] = row
                    filled += 1
            for position in range(first, last):
                row = order_N[position]
                if hit_N[row] == lucky:
                    rank_N[position] = start_N[row] + seen[0, block_N[row]]
                    seen[0, block_N[row]] += 1
                else:
                    rank_N[position] = stop_N[row] - 1 - seen[1, block_N[row]]
                    seen[1, block_N[row]] += 1
            for row in range(first, last):
                seen[0, block_N[row]] = 0
                seen[1, block_N[row]] = 0
            first = last
    return order_N, rank_N
