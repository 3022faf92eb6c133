"""The people of one video: who is where at each key frame and in between, doing what."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count, pairwise
from pathlib import Path

import numpy as np

from cache.tracks import Tracks
from cli.workflow.predictions import Person, read_predictions
from recognizer_svc.people import People, match
from stal_data.dataset import Split
from stal_data.errors import InputError
from stal_data.formats.tracks import Box
from stal_data.media import MediaInfo
from stal_data.media.timeline import FPS

ONLY_STEP_MS = 1000
"""Stands for the time between key frames where a video has one alone."""


@dataclass(frozen=True, kw_only=True)
class VideoPeople:
    """The people of a video at its key frames.

    times_ms: of all key frames, ascending, on the clock of a player. people: of each key frame, by id.
    between: by id, where a tracked person is between key frames: (time in ms, box), ascending.
    """

    video: str
    info: MediaInfo
    times_ms: tuple[int, ...]
    people: tuple[dict[int, Person], ...]
    between: Mapping[int, Sequence[tuple[float, Box]]] = field(default_factory=dict)

    @cached_property
    def paths(self) -> dict[int, list[tuple[float, Box]]]:
        """Where each person was found, by id: (time in ms, box) at key frames and between them, ascending."""
        paths = {}
        for person, track in self.tracks().items():
            at_key_frames = [(float(self.times_ms[number]), found.box) for number, found in track]
            paths[person] = sorted([*at_key_frames, *self.between.get(person, ())])
        return paths

    def spans(self) -> list[tuple[float, float]]:
        """Return begin and end of the time (ms) for which each key frame stands: half way to those beside it."""
        before, after = self._step_ms(0), self._step_ms(-1)
        edges = [
            self.times_ms[0] - before / 2,
            *((a + b) / 2 for a, b in pairwise(self.times_ms)),
            self.times_ms[-1] + after / 2,
        ]
        return list(pairwise(edges))

    def at(self, time_ms: float) -> dict[int, Person]:
        """Return who is seen at a time, by id.

        People and actions are those of the nearest key frame. The box moves evenly from where the person was found
        before to where the person is found next, if that is no longer than from one key frame to the next; else it
        stays at the nearer of both.
        """
        place = bisect_right(self.times_ms, time_ms)
        begin = self.times_ms[place - 1] if place else self.times_ms[0] - self._step_ms(0)
        end = self.times_ms[place] if place < len(self.times_ms) else self.times_ms[-1] + self._step_ms(-1)
        before = self.people[place - 1] if place else {}
        after = self.people[place] if place < len(self.people) else {}
        part = (time_ms - begin) / (end - begin)
        seen = before if part < 0.5 else after
        return {who: found._replace(box=self._box_at(who, time_ms, end - begin)) for who, found in seen.items()}

    def _box_at(self, person: int, time_ms: float, longest_ms: float) -> Box:
        path = self.paths[person]
        place = bisect_right(path, time_ms, key=lambda point: point[0])
        (t1, box1), (t2, box2) = path[max(0, place - 1)], path[min(place, len(path) - 1)]
        part = (time_ms - t1) / (t2 - t1) if t1 < t2 else 0.0
        if t2 - t1 > longest_ms:
            return box1 if part < 0.5 else box2
        x1, y1, x2, y2 = (a + part * (b - a) for a, b in zip(box1, box2, strict=True))
        return x1, y1, x2, y2

    def tracks(self) -> dict[int, list[tuple[int, Person]]]:
        """Return for each id the numbers of its key frames (from 0) and what was found there, both ascending."""
        tracks: dict[int, list[tuple[int, Person]]] = {}
        for number, people in enumerate(self.people):
            for person, found in people.items():
                tracks.setdefault(person, []).append((number, found))
        return dict(sorted(tracks.items()))

    def _step_ms(self, end: int) -> int:
        if len(self.times_ms) == 1:
            return ONLY_STEP_MS
        return self.times_ms[1] - self.times_ms[0] if end == 0 else self.times_ms[-1] - self.times_ms[-2]


def people_of(
    split: Split,
    video: str,
    predictions: Path,
    *,
    min_score: float,
    thresholds: Mapping[int, float] | None = None,
    tracks: Tracks | None = None,
) -> VideoPeople:
    """Read the people of a video of a split. Their ids are those of their tracks; others are followed by their boxes.

    min_score: of the actions that count; who performs none of them stays. thresholds: by label id, in its place.
    tracks: of the proposals that were scored.
    """
    found = read_predictions(predictions, min_score=min_score, thresholds=thresholds)
    info = split.media.info(video)
    keys = [frame.key for frame in split.key_frames if frame.key.video == video]
    return VideoPeople(
        video=video,
        info=info,
        times_ms=tuple(key.time_ms for key in keys),
        people=tuple(followed([found.get(key, []) for key in keys])),
        between={} if tracks is None else _between(tracks, video, info),
    )


def _between(tracks: Tracks, video: str, info: MediaInfo) -> dict[int, list[tuple[float, Box]]]:
    found: dict[int, list[tuple[float, Box]]] = {}
    for (name, number), (start, stop) in zip(tracks.frames, pairwise(tracks.offsets_M1.tolist()), strict=True):
        time_ms = 1000 * (info.start_s + (number - 1) / FPS)
        people = zip(tracks.ids_P[start:stop].tolist(), tracks.boxes_P4[start:stop].tolist(), strict=True)
        for person, (x1, y1, x2, y2) in people if name == video else ():
            if person > 0:
                found.setdefault(person, []).append((time_ms, (x1, y1, x2, y2)))
    return found


def followed(frames: Sequence[Sequence[Person]]) -> Iterator[dict[int, Person]]:
    """Give an id to people without a track: whoever is in two neighbouring key frames has one id in both."""
    new = count(1 + max([0, *(person.track for frame in frames for person in frame)]))
    before, ids_before = People.of(np.empty((0, 4), dtype=np.float32)), list[int]()
    for frame in frames:
        ids = [person.track for person in frame]
        boxes_N4 = np.array([person.box for person in frame], dtype=np.float32).reshape(-1, 4)
        for number, place in enumerate(match(before, People.of(boxes_N4, ids))):
            if place >= 0 and ids[place] < 0 and ids_before[number] not in ids:
                ids[place] = ids_before[number]
        ids_before = [next(new) if known < 0 else known for known in ids]
        before = People.of(boxes_N4, [person.track for person in frame])
        if len(set(ids_before)) < len(frame):
            raise InputError(f"Two people of a key frame have one track among {ids_before}: run 'predict' again.")
        yield dict(zip(ids_before, frame, strict=True))
