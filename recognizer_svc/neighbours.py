"""Where the people of a key frame are in the key frames around it, and who else is there. NumPy only.

N people of a key frame, K = 2k neighbouring key frames in the order of time: k before and k after. B clips, V vectors
of the feature bank, C channels of one.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median_low
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from recognizer_svc.people import People, follow
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame

MAX_NEIGHBOURS = 5
MAX_BANK_S = 60


@dataclass(frozen=True, kw_only=True, eq=False)
class Sightings:
    """Where the N people of a key frame are in the key frames around it.

    keys: the K neighbouring key frames; None where there is none. boxes_NK4: float32, zeros where not present.
    """

    keys: tuple[KeyFrame | None, ...]
    boxes_NK4: NDArray[np.float32]
    present_NK: NDArray[np.bool_]


NeighbourRows: TypeAlias = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Of a clip: `Sightings.boxes_NK4`, and for each box the row [N, K] of its key frame's features; -1 = not present."""


Window: TypeAlias = Sequence[tuple[KeyFrame, NDArray[np.float32]]]
"""The people of the key frames around one: boxes [n, 4] of each key frame that has some."""

BankRows: TypeAlias = tuple[NDArray[np.float32], NDArray[np.bool_]]
"""Of a batch: vectors of people [V, C], and which of them are around which clip, [B, V]."""


class Neighbourhood:
    """Key frames of videos, and the people in them."""

    def __init__(self, people: Mapping[KeyFrame, People], *, count: int, step_ms: int, bank_ms: int = 0) -> None:
        """count: k. step_ms: between one neighbouring key frame and the next, in milliseconds.

        bank_ms: how far before and after a key frame the feature bank reaches; 0 = no bank.
        """
        self._people, self._step_ms, self._bank_ms = people, step_ms, bank_ms
        self._nobody = People.of(np.empty((0, 4), dtype=np.float32))
        self._offsets = [place * step_ms for place in (*range(-count, 0), *range(1, count + 1))]
        self._times: dict[str, list[int]] = {}
        for key in sorted(people):
            self._times.setdefault(key.video, []).append(key.time_ms)

    @classmethod
    def of_split(cls, key_frames: Iterable[AnnotatedKeyFrame], *, count: int, step_ms: int, bank_ms: int = 0) -> Self:
        """The annotated people."""
        people = {item.key: People.of(item.boxes_N4, item.persons) for item in key_frames}
        return cls(people, count=count, step_ms=step_ms, bank_ms=bank_ms)

    def around(self, key: KeyFrame) -> tuple[KeyFrame | None, ...]:
        """Return the K neighbouring key frames: for each the one nearest to its time, less than half a step off."""
        times = self._times.get(key.video, [])
        found = [_nearest(times, key.time_ms + offset) for offset in self._offsets]
        return tuple(
            KeyFrame(key.video, time_ms)
            if time_ms is not None and 2 * abs(time_ms - key.time_ms - offset) < self._step_ms
            else None
            for time_ms, offset in zip(found, self._offsets, strict=True)
        )

    def within(self, key: KeyFrame) -> list[KeyFrame]:
        """Return the other key frames of the video within the reach of the feature bank, in the order of time."""
        times, time_ms = self._times.get(key.video, []), key.time_ms
        near = times[bisect_left(times, time_ms - self._bank_ms) : bisect_right(times, time_ms + self._bank_ms)]
        return [KeyFrame(key.video, other) for other in near if other != time_ms]

    def window(self, key: KeyFrame) -> Window:
        """Return the people of these key frames; boxes without area are left out."""
        found = [(other, self._people[other]) for other in self.within(key)]
        shown = [(other, people.only(people.with_area).boxes_N4) for other, people in found]
        return [(other, boxes_N4) for other, boxes_N4 in shown if len(boxes_N4)]

    def looked_at(self, key: KeyFrame) -> set[KeyFrame]:
        """Return the neighbouring key frames and those that the feature bank is of."""
        return {*(other for other in self.around(key) if other is not None), *self.within(key)}

    def usual_step_ms(self) -> int | None:
        """Return the median time from one key frame of a video to the next; None where no video has two."""
        steps = [after - before for times in self._times.values() for before, after in pairwise(times)]
        return median_low(steps) if steps else None

    def occupied(self, key: KeyFrame) -> list[KeyFrame]:
        """Return those of `looked_at` that have people."""
        return [other for other in sorted(self.looked_at(key)) if len(self._people[other].boxes_N4)]

    def sightings(self, key: KeyFrame, own: People | None = None) -> Sightings:
        """Find the people of a key frame in those around it. own: the people; None = those that are known of it."""
        own = self._people[key] if own is None else own
        keys, half = self.around(key), len(self._offsets) // 2
        boxes_NK4 = np.zeros((len(own.boxes_N4), len(keys), 4), dtype=np.float32)
        present_NK = np.zeros(boxes_NK4.shape[:2], dtype=np.bool_)
        there = [self._nobody if found is None else self._people[found] for found in keys]
        for slots in (range(half - 1, -1, -1), range(half, 2 * half)):
            others = [there[slot] for slot in slots]
            for slot, other, place_N in zip(slots, others, follow(own, others), strict=True):
                present_NK[:, slot] = place_N >= 0
                boxes_NK4[place_N >= 0, slot] = other.boxes_N4[place_N[place_N >= 0]]
        return Sightings(keys=keys, boxes_NK4=boxes_NK4, present_NK=present_NK)


def _nearest(times: Sequence[int], wanted: int) -> int | None:
    """The nearest of some sorted times; of two, the earlier."""
    place = bisect_left(times, wanted)
    return min(times[max(place - 1, 0) : place + 1], key=lambda time: abs(time - wanted), default=None)


def rows_to_read(
    clips: Sequence[tuple[KeyFrame, bool]], sightings: Sequence[Sightings]
) -> tuple[list[tuple[KeyFrame, bool]], list[NeighbourRows]]:
    """Return whose features a batch needs, and for each clip where in them its people are at other times.

    clips: key frames, and whether they are seen mirrored; the first rows are theirs. sightings: of each clip, or none
    at all. A neighbouring key frame is a row of its own only where no clip or earlier one is the same in the same view.
    """
    wanted, found = list(clips), []
    places: dict[tuple[KeyFrame, bool], int] = {}
    for place, clip in enumerate(clips if sightings else ()):
        places.setdefault(clip, place)
    for (_, mirrored), seen in zip(clips, sightings, strict=False):
        row_NK = np.full(seen.present_NK.shape, -1, dtype=np.int64)
        for slot in np.flatnonzero(seen.present_NK.any(axis=0)):
            key = seen.keys[slot]
            assert key is not None
            place = places.setdefault((key, mirrored), len(wanted))
            if place == len(wanted):
                wanted.append((key, mirrored))
            row_NK[seen.present_NK[:, slot], slot] = place
        found.append((seen.boxes_NK4, row_NK))
    return wanted, found
