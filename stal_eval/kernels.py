"""The two compiled loops: match every row once, then sum the average precision of all capacities.

Shape letters: N prediction rows, G ground-truth boxes, K classes, C capacities (increasing).
"""

import numpy as np
from numpy.typing import NDArray

from stal_eval.compiled import compiled


@compiled
def match_rows(
    order_N: NDArray[np.int64],
    key_N: NDArray[np.int32],
    class_N: NDArray[np.int32],
    boxes_N4: NDArray[np.float64],
    offsets: NDArray[np.int64],
    truth_G4: NDArray[np.float64],
    num_keys: int,
    num_classes: int,
    min_iou: float,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
    """Walk the rows from the best to the worst; return each row's rank, target and whether it hits.

    order_N: row numbers, best first. offsets: the boxes of key frame k and class c are
    truth_G4[offsets[k * K + c] : offsets[k * K + c + 1]], in file order.
    rank: position among the rows of the same key frame, from 0. target: the box of the row's class with the highest
    IoU, the first of equal ones; -1 when that IoU is below min_iou. A row hits when it is the best with its target.
    """
    num_rows = order_N.shape[0]
    rank_N = np.empty(num_rows, np.int32)
    target_N = np.full(num_rows, -1, np.int32)
    hit_N = np.zeros(num_rows, np.bool_)
    seen = np.zeros(num_keys, np.int32)
    taken_G = np.zeros(truth_G4.shape[0], np.bool_)
    for position in range(num_rows):
        row = order_N[position]
        key = key_N[row]
        rank_N[row] = seen[key]
        seen[key] += 1
        group = np.int64(key) * num_classes + class_N[row]
        first, last = offsets[group], offsets[group + 1]
        if first == last:
            continue
        x1, y1, x2, y2 = boxes_N4[row, 0], boxes_N4[row, 1], boxes_N4[row, 2], boxes_N4[row, 3]
        area = (x2 - x1) * (y2 - y1)
        best_iou = -1.0
        best = -1
        for box in range(first, last):
            width = min(x2, truth_G4[box, 2]) - max(x1, truth_G4[box, 0])
            height = min(y2, truth_G4[box, 3]) - max(y1, truth_G4[box, 1])
            overlap = max(width, 0.0) * max(height, 0.0)
            truth_area = (truth_G4[box, 2] - truth_G4[box, 0]) * (truth_G4[box, 3] - truth_G4[box, 1])
            iou = overlap / (area + truth_area - overlap)
            if iou > best_iou:
                best_iou = iou
                best = box
        if best_iou >= min_iou:
            target_N[row] = best
            if not taken_G[best]:
                taken_G[best] = True
                hit_N[row] = True
    return rank_N, target_N, hit_N


@compiled
def sum_average_precision(
    column_N: NDArray[np.int32],
    hit_N: NDArray[np.bool_],
    class_offsets: NDArray[np.int64],
    truth_count_K: NDArray[np.int64],
    num_columns: int,
) -> NDArray[np.float64]:
    """Return AP [K, C]: the area under the interpolated precision-recall curve; NaN for a class without ground truth.

    column_N, hit_N: rows in class-major order, best first within a class; a row counts for the capacities from
    column_N on (num_columns: for none).

    Walks each class from its worst row to its best, so that the interpolated precision (the highest at this recall or
    beyond) is a running maximum. All capacities advance together, one step at each hit; the rows between two hits
    are only counted by column, which makes the cost rows + hits x capacities.
    """
    num_classes = truth_count_K.shape[0]
    ap_KC = np.full((num_classes, num_columns), np.nan)
    kept_C = np.empty(num_columns)  # rows from the best to the current one
    hits_C = np.empty(num_columns)
    envelope_C = np.empty(num_columns)
    removed_C = np.empty(num_columns + 1, np.int64)  # rows passed since kept_C was last updated
    for label in range(num_classes):
        if truth_count_K[label] == 0:
            continue
        first, last = class_offsets[label], class_offsets[label + 1]
        removed_C[:] = 0
        hits_C[:] = 0.0
        envelope_C[:] = 0.0
        area_C = ap_KC[label]
        area_C[:] = 0.0
        for row in range(first, last):
            removed_C[column_N[row]] += 1
            if hit_N[row] and column_N[row] < num_columns:
                hits_C[column_N[row]] += 1.0
        total = 0
        for c in range(num_columns):
            total += removed_C[c]
            kept_C[c] = total
            if c > 0:
                hits_C[c] += hits_C[c - 1]
        removed_C[:] = 0
        for row in range(last - 1, first - 1, -1):
            column = column_N[row]
            if hit_N[row]:
                removed = 0
                for c in range(num_columns):
                    removed += removed_C[c]
                    kept_C[c] -= removed
                    removed_C[c] = 0
                for c in range(column, num_columns):
                    envelope_C[c] = max(envelope_C[c], hits_C[c] / kept_C[c])
                    area_C[c] += envelope_C[c]
                    hits_C[c] -= 1.0
            removed_C[column] += 1
        for c in range(num_columns):
            area_C[c] /= truth_count_K[label]
    return ap_KC
