"""Which class scores best on each ground-truth box: its own, or one that the person does not perform."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from stal_eval.alignment import Alignment
from stal_eval.matching import Matching
from stal_eval.overlap_kernels import best_classes
from stal_eval.ranking import group_offsets


def confusion_of(alignment: Alignment, selection: Matching, names: Sequence[str], min_iou: float) -> dict[str, Any]:
    """Return for each class how many of its boxes each class scores best on, and on how many none does.

    selection: the rows that a capacity keeps. min_iou: a row finds a box from this IoU on.
    """
    truth, rows, kept = alignment.ground_truth, alignment.predictions, ~selection.void_N
    row_N, targets = selection.row_N[kept], selection.targets
    class_G = truth.class_N[targets]
    best_G = best_classes(
        rows.key_N[row_N],
        rows.class_N[row_N],
        selection.rank_N[kept],
        rows.boxes_N4[row_N],
        group_offsets(truth.key_N, alignment.num_keys),
        class_G,
        truth.boxes_N4[targets],
        min_iou,
    )
    counts_KP = np.zeros((len(names), len(names) + 1), np.int64)  # the last column counts boxes without a row: best -1
    np.add.at(counts_KP, (class_G, best_G), 1)
    return {
        name: {
            "best_scored": {other: number for other, number in zip(names, counts_P, strict=False) if number},
            "no_row": counts_P[-1],
        }
        for name, counts_P in zip(names, counts_KP.tolist(), strict=True)
    }
