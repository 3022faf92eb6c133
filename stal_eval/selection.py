"""What one capacity keeps of matched rows: which row has a box then, and how the rows rank."""

from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from stal_eval.alignment import Alignment
from stal_eval.capacities import NO_LIMIT
from stal_eval.cut_ties import heap_arrays
from stal_eval.matching import Matching
from stal_eval.protocol import Protocol
from stal_eval.ranking import descending, group_offsets, place_key_frames, string_together

T = TypeVar("T", bound=np.generic)


def select(alignment: Alignment, matching: Matching, protocol: Protocol, capacity: int) -> Matching:
    """Return the same rows, those void that the capacity drops; boxes belong to rows that are left.

    This is the outcome of the protocol to the last bit: where it ranks by sort calls, they are made on the same arrays.
    """
    if not protocol.keeps_prefixes:
        return _ranked_by_sort_calls(alignment, matching, protocol, capacity)
    void_N = matching.void_N if capacity == NO_LIMIT else matching.void_N | (matching.rank_N >= capacity)
    return replace(matching, void_N=void_N)  # no row that is left ranks behind one that is dropped


def _ranked_by_sort_calls(alignment: Alignment, matching: Matching, protocol: Protocol, capacity: int) -> Matching:
    rows = alignment.predictions
    kept_R = _kept(alignment, matching, protocol, capacity)
    rank_R = np.arange(len(kept_R)) - _starts(rows.key_N[kept_R])
    # Of each row of the file, N of them.
    target_N, void_N = _by_row(matching.target_N, matching), _by_row(matching.void_N, matching)
    rank_N = _by_row(matching.rank_N, matching)
    rank_N[kept_R] = rank_R
    kept_R = kept_R[~void_N[kept_R]]
    void_N[:] = True
    void_N[kept_R] = False
    finders = kept_R[target_N[kept_R] >= 0]
    hit_N = np.zeros(rows.num_rows, np.bool_)
    hit_N[finders[_first_of_each(target_N[finders])]] = True

    class_R = rows.class_N[kept_R]
    num_classes = len(matching.truth_count_K)
    kept_R = kept_R[np.argsort(class_R.astype(np.min_scalar_type(num_classes)), kind="stable")]
    offsets = group_offsets(class_R, num_classes)
    row_N = np.empty_like(matching.row_N)
    for label in range(num_classes):
        mine = kept_R[offsets[label] : offsets[label + 1]]
        scores = rows.score_N[mine].astype(protocol.precision)
        ranked = np.argsort(scores, kind="stable" if protocol.tie_order == "reversed_stable" else None)[::-1]
        place = slice(matching.class_offsets[label], matching.class_offsets[label + 1])
        others = matching.row_N[place]
        row_N[place] = np.concatenate([mine[ranked], others[void_N[others]]])
    return replace(
        matching, row_N=row_N, rank_N=rank_N[row_N], target_N=target_N[row_N], hit_N=hit_N[row_N], void_N=void_N[row_N]
    )


def _kept(alignment: Alignment, matching: Matching, protocol: Protocol, capacity: int) -> NDArray[np.int64]:
    """Return row numbers of what the capacity keeps, key frame by key frame, in the order in which they match boxes."""
    rows, place_K = alignment.predictions, place_key_frames(alignment, protocol)
    limit = capacity or max(rows.num_rows, 1)
    if protocol.cut_ties == "heap":
        by_key = string_together(rows, place_K, np.arange(rows.num_rows))
        key_offsets = group_offsets(place_K[rows.key_N], alignment.num_keys)
        kept = heap_arrays(by_key, rows.score_N, rows.class_N, rows.boxes_N4, key_offsets, limit)
    else:
        kept = np.sort(matching.row_N[matching.rank_N < limit])
    if protocol.match_order == "score":
        kept = kept[descending(rows.score_N[kept])]
    return string_together(rows, place_K, kept)


def _by_row(values: NDArray[T], matching: Matching) -> NDArray[T]:
    result = np.empty_like(values)
    result[matching.row_N] = values
    return result


def _first_of_each(target_R: NDArray[np.int32]) -> NDArray[np.int64]:
    return np.unique(target_R, return_index=True)[1]


def _starts(key_R: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return for each of some rows, which lie key frame by key frame, where its key frame starts."""
    begins = np.flatnonzero(np.diff(key_R, prepend=-1))
    return np.repeat(begins, np.diff(begins, append=len(key_R)))
