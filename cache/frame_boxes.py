"""Boxes of many frames in one array: the boxes of frame k are rows offsets_K1[k] to offsets_K1[k + 1], end exclusive.

Boxes are float32 x1,y1,x2,y2 in [0,1] of the frame, scores float32 in [0,1] or NaN where they are unknown.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stal_data.boxes import are_valid
from stal_data.errors import InputError


def check_frame_boxes(
    frames: Sequence[object],
    offsets_K1: NDArray[np.int64],
    boxes_N4: NDArray[np.float32],
    scores_N: NDArray[np.float32],
    *,
    unit: str = "key frame",
) -> None:
    """Raise InputError where shapes or values break the rules. unit: what messages call one of the K frames."""
    count = len(boxes_N4)
    if offsets_K1.shape != (len(frames) + 1,) or boxes_N4.shape != (count, 4):
        raise InputError(
            f"Proposals of {len(frames)} {unit}s need offsets [{len(frames) + 1}] and boxes [N,4]; they are "
            f"{list(offsets_K1.shape)} and {list(boxes_N4.shape)}."
        )
    if scores_N.shape != (count,):
        raise InputError(f"There are {count} boxes and {len(scores_N)} scores; each box needs one.")
    if offsets_K1[0] != 0 or offsets_K1[-1] != count or (np.diff(offsets_K1) < 0).any():
        raise InputError(f"Proposal offsets must rise from 0 to the number of boxes, {count}.")

    def frame_of(row: int) -> object:
        return frames[int(np.searchsorted(offsets_K1, row, side="right")) - 1]

    good = are_valid(boxes_N4, may_be_empty=True)
    if not good.all():
        row = int(np.argmin(good))
        raise InputError(
            f"Box {boxes_N4[row].tolist()} of {unit} {frame_of(row)} is outside [0,1] or inverted; "
            "boxes are x1,y1,x2,y2 as fractions of the frame."
        )
    bad = (scores_N < 0) | (scores_N > 1)
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(f"Score {scores_N[row]} of {unit} {frame_of(row)} must be in [0,1], or NaN where unknown.")
