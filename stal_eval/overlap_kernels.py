"""Compiled loops that compare all boxes of a key frame, whatever their class.

Shape letters: N prediction rows, G ground-truth boxes in the order of `Matching.targets` (by key frame, then class).
"""

import numpy as np
from numpy.typing import NDArray

from stal_eval.compiled import compiled

FAR, NEAR, FOUND = 0, 1, 2
"""How well two boxes fit: IoU below `near_iou`, from it on, and from `min_iou` on."""


@compiled
def box_iou(boxes_A4: NDArray[np.float64], a: int, boxes_B4: NDArray[np.float64], b: int) -> float:
    """Return the IoU of box a of one array and box b of another."""
    width = min(boxes_A4[a, 2], boxes_B4[b, 2]) - max(boxes_A4[a, 0], boxes_B4[b, 0])
    height = min(boxes_A4[a, 3], boxes_B4[b, 3]) - max(boxes_A4[a, 1], boxes_B4[b, 1])
    overlap = max(width, 0.0) * max(height, 0.0)
    area_a = (boxes_A4[a, 2] - boxes_A4[a, 0]) * (boxes_A4[a, 3] - boxes_A4[a, 1])
    area_b = (boxes_B4[b, 2] - boxes_B4[b, 0]) * (boxes_B4[b, 3] - boxes_B4[b, 1])
    return overlap / (area_a + area_b - overlap)  # type: ignore[no-any-return]


@compiled
def compare_boxes(
    key_N: NDArray[np.int32],
    class_N: NDArray[np.int32],
    boxes_N4: NDArray[np.float64],
    offsets: NDArray[np.int64],
    truth_class_G: NDArray[np.int32],
    truth_G4: NDArray[np.float64],
    near_iou: float,
    min_iou: float,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the best fit of each row with any box, of each box with any row, and whether its own class found a box.

    offsets: the boxes of key frame k are truth_G4[offsets[k] : offsets[k + 1]].
    """
    num_rows, num_truth = key_N.shape[0], truth_G4.shape[0]
    fit_N = np.zeros(num_rows, np.uint8)
    fit_G = np.zeros(num_truth, np.uint8)
    own_G = np.zeros(num_truth, np.bool_)
    for row in range(num_rows):
        best = FAR
        for box in range(offsets[key_N[row]], offsets[key_N[row] + 1]):
            iou = box_iou(boxes_N4, row, truth_G4, box)
            if iou >= min_iou:
                fit = FOUND
                own_G[box] |= truth_class_G[box] == class_N[row]
            elif iou >= near_iou:
                fit = NEAR
            else:
                continue
            best = max(best, fit)
            fit_G[box] = max(fit_G[box], fit)
        fit_N[row] = best
    return fit_N, fit_G, own_G


@compiled
def best_classes(
    key_N: NDArray[np.int32],
    class_N: NDArray[np.int32],
    rank_N: NDArray[np.int32],
    boxes_N4: NDArray[np.float64],
    offsets: NDArray[np.int64],
    truth_class_G: NDArray[np.int32],
    truth_G4: NDArray[np.float64],
    min_iou: float,
) -> NDArray[np.int32]:
    """Return for each box the class of the best-ranked row with `min_iou` or more; -1 where there is none.

    Rows of a class that the person performs, other than the box's own, do not count: the classes of all boxes that lie
    in the same place. offsets: as in `compare_boxes`. rank_N: position of a row in its key frame, the best first.
    """
    best_G = np.full(truth_G4.shape[0], -1, np.int32)
    rank_G = np.full(truth_G4.shape[0], np.iinfo(np.int32).max, np.int32)
    for row in range(key_N.shape[0]):
        first, last = offsets[key_N[row]], offsets[key_N[row] + 1]
        for box in range(first, last):
            if rank_N[row] >= rank_G[box] or box_iou(boxes_N4, row, truth_G4, box) < min_iou:
                continue
            counts = True
            for other in range(first, last):
                if truth_class_G[other] == class_N[row] and class_N[row] != truth_class_G[box]:
                    counts &= not np.array_equal(truth_G4[other], truth_G4[box])
            if counts:
                best_G[box], rank_G[box] = class_N[row], rank_N[row]
    return best_G
