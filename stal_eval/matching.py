"""The single matching pass: after it, every capacity is a matter of counting."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stal_eval.alignment import Alignment
from stal_eval.kernels import match_rows


@dataclass(frozen=True, kw_only=True)
class Matching:
    """N scored prediction rows in class-major order, best first within a class; equal scores in file order.

    row_N: number of the row in the alignment. rank_N: position in the row's key frame over all classes, from 0: the row
    is kept by capacities above it. target_N: number of the ground-truth box that the row would find, in the order of
    `targets`, or -1. hit_N: whether it is the best row with that target.
    class_offsets: the rows of class k are class_offsets[k] .. class_offsets[k + 1] - 1.
    truth_count_K: ground-truth boxes of each class. targets: ground-truth row of each target number.
    """

    row_N: NDArray[np.int64]
    rank_N: NDArray[np.int32]
    target_N: NDArray[np.int32]
    hit_N: NDArray[np.bool_]
    class_offsets: NDArray[np.int64]
    truth_count_K: NDArray[np.int64]
    targets: NDArray[np.int64]


def match(alignment: Alignment, num_classes: int, min_iou: float) -> Matching:
    """Rank, match and group all rows; the order is score descending, then file order."""
    rows, truth = alignment.predictions, alignment.ground_truth
    order = np.argsort(-rows.score_N, kind="stable")
    group_G = truth.key_N.astype(np.int64) * num_classes + truth.class_N
    targets = np.argsort(group_G, kind="stable")
    offsets = _offsets(group_G, alignment.num_keys * num_classes)
    rank_N, target_N, hit_N = match_rows(
        order,
        rows.key_N,
        rows.class_N,
        rows.boxes_N4,
        offsets,
        truth.boxes_N4[targets],
        alignment.num_keys,
        num_classes,
        min_iou,
    )
    # A stable sort of small integers is a radix sort.
    by_class = order[np.argsort(rows.class_N[order].astype(np.min_scalar_type(num_classes)), kind="stable")]
    return Matching(
        row_N=by_class,
        rank_N=rank_N[by_class],
        target_N=target_N[by_class],
        hit_N=hit_N[by_class],
        class_offsets=_offsets(rows.class_N, num_classes),
        truth_count_K=np.bincount(truth.class_N, minlength=num_classes),
        targets=targets,
    )


def _offsets(group_N: NDArray[np.integer], num_groups: int) -> NDArray[np.int64]:
    """Return where each group starts once the rows are sorted by group, and the end."""
    offsets = np.zeros(num_groups + 1, np.int64)
    np.cumsum(np.bincount(group_N, minlength=num_groups), out=offsets[1:])
    return offsets
