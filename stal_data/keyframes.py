"""The unit of work: one key frame a second of a video, and the people annotated in it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, order=True, slots=True)
class KeyFrame:
    """A video id and a whole second of it; written `video,0007` in files."""

    video: str
    timestamp: int

    def __str__(self) -> str:
        return f"{self.video},{self.timestamp:04d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotatedKeyFrame:
    """One key frame with the people in it; a key frame without people has zero boxes.

    window: frame_start, frame_end of the annotated segment, 1-based on the 25 fps time line, frame_end exclusive;
        None where the annotation gives none (AVA, own videos).
    boxes_N4: float32, x1,y1,x2,y2 in [0,1] of the frame.
    labels: for each box the ids of its actions, as in the label map (from 1).
    persons: for each box the person id; -1 where unknown.
    row_counts: for each box and each of its labels, ids ascending, how many clips of the published layout it is: the
        file's rows of it, less the file's first row, which was lost there. None: one each.
    """

    key: KeyFrame
    window: tuple[int, int] | None
    boxes_N4: NDArray[np.float32]
    labels: tuple[frozenset[int], ...]
    persons: tuple[int, ...]
    row_counts: tuple[tuple[int, ...], ...] | None = None
