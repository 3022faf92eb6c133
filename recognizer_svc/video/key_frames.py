"""The key frames of a video: their people, their features, and which can be scored. No torch here."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.feature_store import FeatureBatch
from cache.spec import FeatureSpec
from recognizer_svc.boxes import check_boxes
from recognizer_svc.people import People
from stal_data.errors import InputError, NotFoundError
from stal_data.keyframes import KeyFrame

MAX_KEY_FRAMES = 512
"""Kept at once. At the published sizes the features of one take 2 MB."""

Row = Mapping[str, NDArray[Any]]
"""Features of one key frame by array, in the types in which a feature set stores them."""


class ComputedRows:
    """Features like those of a `FeatureSet`, for as long as they are kept; a `FeatureRows`."""

    def __init__(self, spec: FeatureSpec) -> None:
        self.spec = spec
        self._rows: dict[int, Row] = {}

    def __contains__(self, key: KeyFrame) -> bool:
        return key.time_ms in self._rows

    def add(self, key: KeyFrame, row: Row) -> None:
        self._rows[key.time_ms] = row

    def remove(self, key: KeyFrame) -> None:
        self._rows.pop(key.time_ms, None)

    def row_of(self, key: KeyFrame) -> int:
        """Of one video, so that the time is the number of the row."""
        if key not in self:
            raise NotFoundError(f"The features of {key} were not computed.")
        return key.time_ms

    def read(self, rows: Sequence[int], arrays: Iterable[str] | None = None) -> FeatureBatch:
        if arrays is None:
            arrays = [name for array in self.spec.arrays for name in array.stored(self.spec.dtype)]
        return {name: np.stack([self._rows[row][name] for row in rows]) for name in arrays}


class KeyFrames:
    """Those that are not answered yet, and those around that a head sees when it scores them."""

    def __init__(self, rows: ComputedRows, *, reach_ms: int, answered_ms: int | None) -> None:
        """reach_ms: how far before and after a key frame the head looks.

        answered_ms: key frames up to this time are only seen, not scored.
        """
        self.rows = rows
        self.people: dict[KeyFrame, People] = {}
        """In the order of time, without boxes that have no area."""
        self._reach_ms, self._answered_ms = reach_ms, -1 if answered_ms is None else answered_ms
        self._newest_ms, self._complete = -1, False

    def add(self, key: KeyFrame, people: People) -> People:
        """Take a key frame and return whom of its people to score."""
        if key.time_ms <= self._newest_ms:
            raise InputError(f"Key frame {key} came after one at {self._newest_ms} ms; send them in the order of time.")
        if len(self.people) >= MAX_KEY_FRAMES:
            raise InputError(
                f"{len(self.people)} key frames before {key} are kept, since the head looks {self._reach_ms} ms before "
                "and after each; send fewer key frames a second."
            )
        check_boxes(key, people.boxes_N4)
        self._newest_ms = key.time_ms
        self.people[key] = shown = people.only(people.with_area)
        return shown

    def complete(self) -> None:
        """There will be no more key frames."""
        self._complete = True

    def due(self) -> list[KeyFrame]:
        """Return those without an answer of which all that the head sees has come, in the order of time."""
        last_ms = self._newest_ms - (1 if self._reach_ms and not self._complete else 0)
        reach_ms = 0 if self._complete else self._reach_ms
        return [key for key in self.people if self._answered_ms < key.time_ms <= last_ms - reach_ms]

    def ready(self) -> list[KeyFrame]:
        """Return the first of `due` whose features are all there."""
        missing = [key for key, people in self.people.items() if len(people.boxes_N4) and key not in self.rows]
        first_ms = missing[0].time_ms if missing else self._newest_ms + self._reach_ms + 1
        return [key for key in self.due() if key.time_ms + self._reach_ms < first_ms]

    def answered(self, keys: Sequence[KeyFrame]) -> None:
        """Let go of what only these needed."""
        self._answered_ms = keys[-1].time_ms
        following = next((key.time_ms for key in self.people if key.time_ms > self._answered_ms), self._newest_ms + 1)
        for key in [key for key in self.people if key.time_ms < following - self._reach_ms]:
            del self.people[key]
            self.rows.remove(key)
