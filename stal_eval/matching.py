"""The single matching pass: after it, every capacity is a matter of counting."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stal_eval.alignment import Alignment, Rows, is_empty
from stal_eval.capacities import NO_LIMIT
from stal_eval.cut_ties import heap_ranks
from stal_eval.kernels import match_rows
from stal_eval.protocol import Protocol

# A stable sort of integers up to this number is a radix sort, several times faster than that of floats.
_SMALL = 2**16
_SAMPLED = 4096  # scores looked at to tell whether most are equal to others


@dataclass(frozen=True, kw_only=True)
class Matching:
    """N scored prediction rows in class-major order, best first within a class; equal scores in file order.

    row_N: number of the row in the alignment. rank_N: position in the row's key frame over all classes, from 0: the row
    is kept by capacities above it. target_N: number of the ground-truth box that the row would find, in the order of
    `targets`, or -1. hit_N: whether it is the row that has that target. void_N: rows that take a place within the
    capacity and then vanish, neither right nor wrong.
    class_offsets: the rows of class k are class_offsets[k] .. class_offsets[k + 1] - 1.
    truth_count_K: ground-truth boxes of each class, as the recall counts them. targets: ground-truth row of each target
    number. by_score: a ground-truth box belongs to the best row that finds it; else to the first of the file.
    """

    row_N: NDArray[np.int64]
    rank_N: NDArray[np.int32]
    target_N: NDArray[np.int32]
    hit_N: NDArray[np.bool_]
    void_N: NDArray[np.bool_]
    class_offsets: NDArray[np.int64]
    truth_count_K: NDArray[np.int64]
    targets: NDArray[np.int64]
    by_score: bool


def match(alignment: Alignment, num_classes: int, protocol: Protocol) -> Matching:
    """Rank, match and group all rows; the order is score descending, then file order, or as the protocol says."""
    rows, truth = alignment.predictions, alignment.ground_truth
    order = _best_first(rows, alignment.num_keys, protocol)
    group_G = truth.key_N.astype(np.int64) * num_classes + truth.class_N
    targets = np.argsort(group_G, kind="stable")
    offsets = _offsets(group_G, alignment.num_keys * num_classes)
    boxes_G4 = truth.boxes_N4[targets]

    def walk(order_N: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
        return match_rows(
            order_N,
            rows.key_N,
            rows.class_N,
            rows.boxes_N4,
            offsets,
            boxes_G4,
            alignment.num_keys,
            num_classes,
            protocol.iou,
        )

    rank_N, target_N, hit_N = walk(order)
    if protocol.claim_order == "file_order":
        hit_N = walk(np.arange(rows.num_rows))[2]
    leaves_out_empty = protocol.empty_boxes == "left_out"
    void_N = is_empty(rows.boxes_N4) if leaves_out_empty else np.zeros(rows.num_rows, np.bool_)
    by_class = order[np.argsort(rows.class_N[order].astype(np.min_scalar_type(num_classes)), kind="stable")]
    return Matching(
        row_N=by_class,
        rank_N=rank_N[by_class],
        target_N=target_N[by_class],
        hit_N=hit_N[by_class],
        void_N=void_N[by_class],
        class_offsets=_offsets(rows.class_N, num_classes),
        truth_count_K=np.bincount(
            np.concatenate([truth.class_N, alignment.recalled_truth.class_N]), minlength=num_classes
        ),
        targets=targets,
        by_score=protocol.claim_order == "score",
    )


def keep(matching: Matching, capacity: int) -> Matching:
    """Return the same rows with those void that a capacity drops, and boxes given to the rows that are left."""
    void_N = matching.void_N if capacity == NO_LIMIT else matching.void_N | (matching.rank_N >= capacity)
    if matching.by_score:
        return replace(matching, void_N=void_N)  # no row that is left ranks behind one that is dropped
    finders = np.flatnonzero(~void_N & (matching.target_N >= 0))
    finders = finders[np.argsort(matching.row_N[finders])]
    first = np.unique(matching.target_N[finders], return_index=True)[1]
    hit_N = np.zeros_like(matching.hit_N)
    hit_N[finders[first]] = True
    return replace(matching, void_N=void_N, hit_N=hit_N)


def _best_first(rows: Rows, num_keys: int, protocol: Protocol) -> NDArray[np.int64]:
    """Return row numbers, the best first. Within a key frame a capacity keeps the head of this order."""
    order = descending(rows.score_N)
    if protocol.cut_ties == "file_order":
        return order
    # Equal scores of a key frame change places among themselves.
    by_key = order[np.argsort(rows.key_N[order], kind="stable")]
    place_N = np.empty(rows.num_rows, np.int64)
    place_N[order] = np.arange(rows.num_rows)
    moved = heap_ranks(by_key, rows.score_N, rows.class_N, rows.boxes_N4, _offsets(rows.key_N, num_keys))
    order[place_N[by_key]] = moved
    return order


def descending(score_N: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return row numbers, the highest score first, equal scores in file order."""
    sample = score_N[:: 1 + len(score_N) // _SAMPLED]
    if 2 * len(np.unique(sample)) <= len(sample):
        codes_N, values = pd.factorize(score_N)
        if len(values) <= _SMALL:
            place_V = np.empty(len(values), np.uint16)
            place_V[np.argsort(-values)] = np.arange(len(values))
            return np.argsort(place_V[codes_N], kind="stable")
    return np.argsort(-score_N, kind="stable")


def _offsets(group_N: NDArray[np.integer], num_groups: int) -> NDArray[np.int64]:
    """Return where each group starts once the rows are sorted by group, and the end."""
    offsets = np.zeros(num_groups + 1, np.int64)
    np.cumsum(np.bincount(group_N, minlength=num_groups), out=offsets[1:])
    return offsets
