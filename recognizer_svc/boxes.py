"""Boxes of people, checked and changed. Coordinates: x1,y1,x2,y2 in [0,1] of the frame. NumPy only."""

import numpy as np
from numpy.typing import NDArray

from stal_data.boxes import are_valid
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame


def check_boxes(key: KeyFrame, boxes_N4: NDArray[np.float32]) -> None:
    """Refuse boxes that are not finite, outside [0,1] or inverted."""
    if boxes_N4.ndim != 2 or boxes_N4.shape[1] != 4:
        raise InputError(f"The boxes of {key} have shape {list(boxes_N4.shape)}; they must be [N, 4].")
    good = are_valid(boxes_N4, may_be_empty=True)
    if not good.all():
        raise InputError(
            f"Box {boxes_N4[~good][0].tolist()} of {key} must be x1,y1,x2,y2 with 0 <= x1 <= x2 <= 1 and "
            "0 <= y1 <= y2 <= 1, as fractions of the frame."
        )


def mirrored_boxes(boxes_X4: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return where boxes are in the mirrored frame."""
    boxes_X4 = boxes_X4[..., [2, 1, 0, 3]]
    boxes_X4[..., [0, 2]] = 1 - boxes_X4[..., [0, 2]]
    return boxes_X4


def jitter_boxes(boxes_N4: NDArray[np.float32], jitter: float, random: np.random.Generator) -> NDArray[np.float32]:
    """Move each coordinate by uniform(-jitter, jitter) times the box's width (x) or height (y); clip to [0,1]."""
    sizes_N2 = boxes_N4[:, 2:] - boxes_N4[:, :2]
    shift_N4 = random.uniform(-jitter, jitter, boxes_N4.shape) * np.concatenate([sizes_N2, sizes_N2], axis=1)
    moved_N4: NDArray[np.float32] = np.clip(boxes_N4 + shift_N4, 0, 1).astype(np.float32)
    return moved_N4
