"""Rows of predictions or ground truth as arrays."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Table:
    """N rows in file order.

    source: what messages call it. digest: sha256 (hex) of the file's bytes, or of the columns of a DataFrame.
    videos, video_N: video ids, and for each row the position of its own. time_ms_N: milliseconds.
    boxes_N4: x1,y1,x2,y2 in [0,1]. label_N: ids as in the label map. score_N: None for ground truth.
    person_N: of predictions, the person's id in the video; of ground truth, a number for each id; -1: unknown.
    """

    source: str
    digest: str
    videos: tuple[str, ...]
    video_N: NDArray[np.int64]
    time_ms_N: NDArray[np.int64]
    boxes_N4: NDArray[np.float64]
    label_N: NDArray[np.int64]
    score_N: NDArray[np.float64] | None
    person_N: NDArray[np.int64]

    @property
    def num_rows(self) -> int:
        return len(self.label_N)
