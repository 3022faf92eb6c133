"""Whether predicted boxes are written in another order, form or scale than x1,y1,x2,y2 in [0,1]."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from stal_data.boxes import intersection_over_union
from stal_eval.alignment import Alignment
from stal_eval.finding import Finding

Boxes = NDArray[np.float64]
Pairs = list[tuple[Boxes, Boxes]]

_GAIN = 0.3  # share of ground-truth boxes that another reading must find beyond the present one
_SMALL = 0.02  # coordinates that never exceed this were divided by the frame's size twice

_READINGS: tuple[tuple[str, Callable[[Boxes], Boxes]], ...] = (
    ("y1,x1,y2,x2", lambda box: box[:, [1, 0, 3, 2]]),
    ("x1,x2,y1,y2", lambda box: box[:, [0, 2, 1, 3]]),
    ("x1,y1,width,height", lambda box: np.hstack([box[:, :2], box[:, :2] + box[:, 2:]])),
    (
        "centre x,centre y,width,height",
        lambda box: np.hstack([box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2]),
    ),
)


def check_boxes(alignment: Alignment, pairs: Pairs, min_iou: float) -> tuple[Finding, ...]:
    """pairs: of `box_pairs`."""
    largest = float(alignment.predictions.boxes_N4.max(initial=0))
    if 0 < largest < _SMALL < float(alignment.ground_truth.boxes_N4.max()):
        return (
            Finding(
                cause="box_scale",
                evidence=f"No predicted coordinate exceeds {largest:.2g}, while the ground truth fills the frame.",
                fix="The boxes look divided by the frame's size twice: write fractions of it, from 0 to 1.",
            ),
        )
    as_given = recall_of_boxes(pairs, min_iou)
    recalls = [(recall_of_boxes(pairs, min_iou, reading), name) for name, reading in _READINGS]
    best, name = max(recalls)
    if best < as_given + _GAIN:
        return ()
    return (
        Finding(
            cause="box_order",
            evidence=f"{100 * as_given:.0f} % of the ground-truth boxes have a predicted box with IoU {min_iou} in "
            f"their key frame; with the predicted boxes read as {name} it would be {100 * best:.0f} %.",
            fix="Write boxes as x1,y1,x2,y2, the same in predictions and ground truth.",
        ),
    )


def recall_of_boxes(pairs: Pairs, min_iou: float, reading: Callable[[Boxes], Boxes] | None = None) -> float:
    """Return the share of ground-truth boxes with a predicted box in their key frame, whatever the action.

    reading: how to read the predicted boxes.
    """
    found = total = 0
    for predicted, truth in pairs:
        boxes = predicted if reading is None else reading(predicted)
        found += int((intersection_over_union(boxes, truth).max(axis=0) >= min_iou).sum())
        total += len(truth)
    return found / max(total, 1)


def box_pairs(alignment: Alignment) -> Pairs:
    """Return the different boxes of each key frame that has some on both sides: predicted ones, ground truth."""
    sides = (alignment.predictions, alignment.ground_truth)
    both = np.intersect1d(sides[0].key_N, sides[1].key_N)
    parts = []
    for rows in sides:
        chosen = np.flatnonzero(np.isin(rows.key_N, both))
        chosen = chosen[np.argsort(rows.key_N[chosen], kind="stable")]
        split_at = np.searchsorted(rows.key_N[chosen], both[1:])
        parts.append([np.unique(rows.boxes_N4[part], axis=0) for part in np.split(chosen, split_at)])
    return list(zip(*parts, strict=True))
