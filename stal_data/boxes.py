"""Geometry of boxes x1,y1,x2,y2. Shape letters: N and M boxes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.floating[Any]]

BOX_SIZES = ("small", "medium", "large")
SIZE_BOUNDS = (32**2 / (640 * 480), 96**2 / (640 * 480))
"""Shares of the frame's area at which medium and large boxes begin: COCO's 32^2 and 96^2 pixels in a 640x480 frame."""


def box_sizes(boxes_N4: Boxes) -> NDArray[np.intp]:
    """Return the position in BOX_SIZES of each box; boxes are shares of the frame."""
    return np.digitize((boxes_N4[:, 2] - boxes_N4[:, 0]) * (boxes_N4[:, 3] - boxes_N4[:, 1]), SIZE_BOUNDS)


def are_valid(boxes_N4: Boxes, *, may_be_empty: bool) -> NDArray[np.bool_]:
    """Tell which boxes lie in [0,1] and are not inverted. may_be_empty: whether x1 = x2 or y1 = y2 will do."""
    x1, y1, x2, y2 = boxes_N4.T
    # Comparisons with NaN are false, so a NaN is refused, too.
    inside_N = (x1 >= 0) & (y1 >= 0) & (x2 <= 1) & (y2 <= 1)
    ordered_N = (x1 <= x2) & (y1 <= y2) if may_be_empty else (x1 < x2) & (y1 < y2)
    return np.asarray(inside_N & ordered_N)


def shared_areas(a_N4: Boxes, b_M4: Boxes) -> Boxes:
    """Return the area [N, M] that each box of `a` shares with each of `b`."""
    low_NM2 = np.maximum(a_N4[:, None, :2], b_M4[None, :, :2])
    high_NM2 = np.minimum(a_N4[:, None, 2:], b_M4[None, :, 2:])
    return np.asarray(np.maximum(high_NM2 - low_NM2, 0).prod(axis=2))


def intersection_over_union(a_N4: Boxes, b_M4: Boxes) -> Boxes:
    """Return IoU [N, M]; boxes without area overlap nothing."""
    shared_NM = shared_areas(a_N4, b_M4)
    area_N, area_M = (np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1) for boxes in (a_N4, b_M4))
    union_NM = area_N[:, None] + area_M[None] - shared_NM
    iou_NM: Boxes = np.divide(shared_NM, union_NM, out=np.zeros_like(shared_NM), where=union_NM > 0)
    return iou_NM
