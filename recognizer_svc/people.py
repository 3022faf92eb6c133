"""The same people in two key frames of a video. NumPy only.

N people of a key frame, M of another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from recognizer_svc.assignment import least_cost

UNKNOWN = -1
"""For an id."""
_CUT_OFF = 2.0
"""Of `_distances`: who moves by more than twice their own size is not found."""
_MIN_SIDE = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class People:
    """The people of a key frame.

    boxes_N4: float32 x1,y1,x2,y2 in [0,1] of the frame. persons_N: int64 ids in the video; -1 where unknown.
    """

    boxes_N4: NDArray[np.float32]
    persons_N: NDArray[np.int64]

    @classmethod
    def of(cls, boxes_N4: NDArray[np.float32], persons: Sequence[int] | NDArray[np.int64] | None = None) -> Self:
        """persons: ids; None = all unknown."""
        unknown = np.full(len(boxes_N4), UNKNOWN, dtype=np.int64)
        return cls(boxes_N4=boxes_N4, persons_N=unknown if persons is None else np.asarray(persons, dtype=np.int64))

    @property
    def with_area(self) -> NDArray[np.bool_]:
        """[N]: whose box is more than a line or a point."""
        return np.asarray((self.boxes_N4[:, 2:] > self.boxes_N4[:, :2]).all(axis=1))

    def only(self, which: NDArray[np.bool_]) -> "People":
        return People(boxes_N4=self.boxes_N4[which], persons_N=self.persons_N[which])


def follow(people: People, others: Sequence[People]) -> list[NDArray[np.int64]]:
    """Return the place of each person among those of each other key frame, from the nearest on; -1 = not found.

    Whoever was seen on the way, those who came later included, is looked for where they were seen last.
    """
    count, found = len(people.boxes_N4), []
    for other in others:
        place_N = match(people, other)
        found.append(place_N[:count])
        seen_N, new_M = place_N >= 0, np.ones(len(other.boxes_N4), dtype=np.bool_)
        new_M[place_N[seen_N]] = False
        boxes_N4 = people.boxes_N4.copy()
        boxes_N4[seen_N] = other.boxes_N4[place_N[seen_N]]
        people = People(
            boxes_N4=np.concatenate([boxes_N4, other.boxes_N4[new_M]]),
            persons_N=np.concatenate([people.persons_N, other.persons_N[new_M]]),
        )
    return found


def match(people: People, other: People) -> NDArray[np.int64]:
    """Return the place of each person among those of another key frame; -1 = not found.

    By id where both have one; the rest by boxes, so that the sum of their distances is least, and nobody is matched
    with another id or beyond the cut-off.
    """
    id_N, id_M = people.persons_N, other.persons_N
    known_NM = (id_N[:, None] >= 0) & (id_M >= 0)
    same_NM = known_NM & (id_N[:, None] == id_M)
    once_NM = same_NM & (same_NM.sum(axis=1, keepdims=True) == 1) & (same_NM.sum(axis=0) == 1)
    place_N = np.where(once_NM.any(axis=1), once_NM.argmax(axis=1) if len(id_M) else -1, -1)
    rest_N, rest_M = np.flatnonzero(place_N < 0), np.flatnonzero(~once_NM.any(axis=0))
    rest = np.ix_(rest_N, rest_M)
    may_NM = ~known_NM[rest] | same_NM[rest]
    if may_NM.any():
        cost_NM = _distances(people.boxes_N4[rest_N], other.boxes_N4[rest_M])
        cost_NM = np.where(may_NM & (cost_NM < _CUT_OFF), cost_NM, _CUT_OFF)
        for row, column in least_cost(cost_NM):
            if cost_NM[row, column] < _CUT_OFF:
                place_N[rest_N[row]] = rest_M[column]
    return place_N


def _distances(a_N4: NDArray[np.float32], b_M4: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the distance of the centres in mean sizes (roots of the area), plus |log| of the ratio of heights, [N, M].

    People of different heights pass each other, which positions alone would mix up.
    """
    exact_N4, exact_M4 = a_N4.astype(np.float64), b_M4.astype(np.float64)
    (centre_N2, side_N2), (centre_M2, side_M2) = (
        ((boxes[:, :2] + boxes[:, 2:]) / 2, np.maximum(boxes[:, 2:] - boxes[:, :2], _MIN_SIDE))
        for boxes in (exact_N4, exact_M4)
    )
    size_N, size_M = np.sqrt(side_N2.prod(axis=1)), np.sqrt(side_M2.prod(axis=1))
    apart_NM = np.linalg.norm(centre_N2[:, None] - centre_M2, axis=2)
    height_NM = np.abs(np.log(side_N2[:, None, 1] / side_M2[:, 1]))
    distance_NM: NDArray[np.float64] = 2 * apart_NM / (size_N[:, None] + size_M) + height_NM
    return distance_NM
