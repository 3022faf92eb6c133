"""Compiled loop that compares all boxes of a key frame, whatever their class.

Shape letters: N prediction rows, G ground-truth boxes in the order of `Matching.targets` (by key frame, then class).
"""

import numpy as np
from numpy.typing import NDArray

from stal_eval.compiled import compiled

FAR, NEAR, FOUND = 0, 1, 2
"""How well two boxes fit: IoU below `near_iou`, from it on, and from `min_iou` on."""


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
        x1, y1, x2, y2 = boxes_N4[row, 0], boxes_N4[row, 1], boxes_N4[row, 2], boxes_N4[row, 3]
        area = (x2 - x1) * (y2 - y1)
        best = FAR
        for box in range(offsets[key_N[row]], offsets[key_N[row] + 1]):
            width = min(x2, truth_G4[box, 2]) - max(x1, truth_G4[box, 0])
            height = min(y2, truth_G4[box, 3]) - max(y1, truth_G4[box, 1])
            overlap = max(width, 0.0) * max(height, 0.0)
            truth_area = (truth_G4[box, 2] - truth_G4[box, 0]) * (truth_G4[box, 3] - truth_G4[box, 1])
            iou = overlap / (area + truth_area - overlap)
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
