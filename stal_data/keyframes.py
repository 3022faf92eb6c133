"""The unit of work: a key frame of a video, and the people annotated in it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stal_data.errors import InputError
from stal_data.times import MAX_TIME_S, format_time


@dataclass(frozen=True, order=True, slots=True)
class KeyFrame:
    """A video id and a time of it in milliseconds; files have seconds: `video,0007` or `video,0007.2`."""

    video: str
    time_ms: int

    def __post_init__(self) -> None:
        if not 0 <= self.time_ms <= MAX_TIME_S * 1000:
            raise InputError(
                f"The time of a key frame of video '{self.video}' is {self.time_ms} ms, but must be from 0 to "
                f"{MAX_TIME_S * 1000} ms."
            )

    def __str__(self) -> str:
        return f"{self.video},{format_time(self.time_ms)}"


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredKeyFrame:
    """One key frame with the scores of N people.

    boxes_N4: float32, x1,y1,x2,y2 in [0,1] of the frame.
    scores_NC: float32 in [0,1], classes in the order of the label map's ids.
    persons_N: int64 ids in the video, -1 where unknown; None = all unknown.
    """

    key: KeyFrame
    boxes_N4: NDArray[np.float32]
    scores_NC: NDArray[np.float32]
    persons_N: NDArray[np.int64] | None = None
