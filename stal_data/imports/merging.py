"""Key frames of several files, each person once."""

from collections.abc import Sequence

import numpy as np

from stal_data.formats.tracks import Box, PersonBox
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame
from stal_data.labels import LabelMap


class MergedKeyFrames:
    """The key frames of a split: the actions of each person, who is an id (-1 where unknown) in a box.

    merged: annotations that were there before. renumbered: people whose id another file has given away.
    """

    def __init__(self) -> None:
        self.people: dict[KeyFrame, dict[tuple[int, Box], set[str]]] = {}
        self.merged = self.renumbered = 0
        self._taken: dict[str, set[int]] = {}

    def add(self, video: str, key_frames: Sequence[tuple[KeyFrame, Sequence[PersonBox]]]) -> None:
        """Add what one file says of a video. Whoever is in a box of another file is that file's person."""
        ids = {-1: -1}
        for key, people in key_frames:
            known = {box: person for person, box in self.people.get(key, ())}
            ids |= {
                who.person: known[who.box] for who in people if who.person not in ids and known.get(who.box, -1) >= 0
            }
        taken = self._taken.setdefault(video, set())
        for number in sorted({who.person for _, people in key_frames for who in people} - ids.keys()):
            ids[number] = max(taken) + 1 if number in taken else number
            self.renumbered += ids[number] != number
            taken.add(ids[number])
        for key, people in key_frames:
            found = self.people.setdefault(key, {})
            for who in people:
                actions = found.setdefault((ids[who.person], who.box), set())
                self.merged += bool(actions) and actions.issuperset(who.actions)
                actions.update(who.actions)

    def annotated(self, label_map: LabelMap) -> tuple[AnnotatedKeyFrame, ...]:
        """Return the key frames, sorted; actions that the map lacks are left out."""
        ids = dict(zip(label_map.names, label_map.ids, strict=True))
        return tuple(
            AnnotatedKeyFrame(
                key=key,
                window=None,
                boxes_N4=np.array([box for _, box in people], np.float32).reshape(-1, 4),
                labels=tuple(frozenset(ids[name] for name in actions if name in ids) for actions in people.values()),
                persons=tuple(person for person, _ in people),
            )
            for key, people in sorted(self.people.items())
        )
