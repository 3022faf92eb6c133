"""The single matching pass: after it, every capacity is a matter of counting, but for some protocols (`selection`)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stal_eval.alignment import Alignment, Rows, is_empty
from stal_eval.cut_ties import heap_arrays, heap_ranks
from stal_eval.kernels import match_rows
from stal_eval.protocol import Protocol
from stal_eval.ranking import descending, group_offsets, place_key_frames, string_together


@dataclass(frozen=True, kw_only=True)
class Matching:
    """N scored prediction rows in class-major order, best first within a class.

    row_N: number of the row in the alignment. rank_N: position in the row's key frame over all classes, from 0: the row
    is kept by capacities above it. target_N: number of the ground-truth box that the row would find, in the order of
    `targets`, or -1. hit_N: whether it is the row that has that target. void_N: rows that take a place within the
    capacity and then vanish, neither right nor wrong.
    class_offsets: the rows of class k are class_offsets[k] .. class_offsets[k + 1] - 1.
    truth_count_K: ground-truth boxes of each class, as the recall counts them. targets: ground-truth row of each target
    number.
    """

    row_N: NDArray[np.int64]
    rank_N: NDArray[np.int32]
    target_N: NDArray[np.int32]
    hit_N: NDArray[np.bool_]
    void_N: NDArray[np.bool_]
    class_offsets: NDArray[np.int64]
    truth_count_K: NDArray[np.int64]
    targets: NDArray[np.int64]


def match(alignment: Alignment, num_classes: int, protocol: Protocol) -> Matching:
    """Rank, match and group all rows.

    Equal scores rank as the protocol says; where sort calls decide (`tie_order`), as if they were stable and no row
    were cut.
    """
    rows, truth = alignment.predictions, alignment.ground_truth
    order = _best_first(rows, alignment.num_keys, protocol)
    group_G = truth.key_N.astype(np.int64) * num_classes + truth.class_N
    targets = _truth_order(alignment, protocol)
    targets = targets[np.argsort(group_G[targets], kind="stable")]
    offsets = group_offsets(group_G, alignment.num_keys * num_classes)
    boxes_N4, boxes_G4 = (
        boxes.astype(protocol.precision, copy=False) for boxes in (rows.boxes_N4, truth.boxes_N4[targets])
    )

    def walk(order_N: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
        return match_rows(
            order_N,
            rows.key_N,
            rows.class_N,
            boxes_N4,
            offsets,
            boxes_G4,
            alignment.num_keys,
            num_classes,
            protocol.iou,
        )

    rank_N, target_N, hit_N = walk(order)
    if protocol.match_order == "file_order":
        hit_N = walk(np.arange(rows.num_rows))[2]
    leaves_out_empty = protocol.empty_boxes == "left_out"
    void_N = is_empty(rows.boxes_N4) if leaves_out_empty else np.zeros(rows.num_rows, np.bool_)
    if protocol.tie_order != "file":
        by_match_order = np.arange(rows.num_rows) if protocol.match_order == "file_order" else order
        met_last_first = string_together(rows, place_key_frames(alignment, protocol), by_match_order)[::-1]
        order = met_last_first[descending(rows.score_N[met_last_first])]
    by_class = order[np.argsort(rows.class_N[order].astype(np.min_scalar_type(num_classes)), kind="stable")]
    return Matching(
        row_N=by_class,
        rank_N=rank_N[by_class],
        target_N=target_N[by_class],
        hit_N=hit_N[by_class],
        void_N=void_N[by_class],
        class_offsets=group_offsets(rows.class_N, num_classes),
        truth_count_K=np.bincount(
            np.concatenate([truth.class_N, alignment.recalled_truth.class_N]), minlength=num_classes
        ),
        targets=targets,
    )


def _truth_order(alignment: Alignment, protocol: Protocol) -> NDArray[np.int64]:
    """Return ground-truth rows so that of a key frame's boxes with equal IoU the first is looked at."""
    truth = alignment.ground_truth
    in_file = np.arange(truth.num_rows)
    if protocol.cut_ties == "file_order":
        return in_file
    by_key = string_together(truth, np.arange(alignment.num_keys), in_file)
    key_offsets = group_offsets(truth.key_N, alignment.num_keys)
    return heap_arrays(
        by_key, np.zeros(truth.num_rows), truth.class_N, truth.boxes_N4, key_offsets, max(truth.num_rows, 1)
    )


def _best_first(rows: Rows, num_keys: int, protocol: Protocol) -> NDArray[np.int64]:
    """Return row numbers, the best first. Within a key frame a capacity keeps the head of this order."""
    order = descending(rows.score_N)
    if protocol.cut_ties == "file_order":
        return order
    # Equal scores of a key frame change places among themselves.
    by_key = order[np.argsort(rows.key_N[order], kind="stable")]
    place_N = np.empty(rows.num_rows, np.int64)
    place_N[order] = np.arange(rows.num_rows)
    moved = heap_ranks(by_key, rows.score_N, rows.class_N, rows.boxes_N4, group_offsets(rows.key_N, num_keys))
    order[place_N[by_key]] = moved
    return order
