"""The long-term feature bank: vectors of all people in the key frames around one.

B clips, V vectors, C channels of one.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from recognizer_svc.batching import head_batch
from recognizer_svc.boxes import mirrored_boxes
from recognizer_svc.features import FeatureRows
from recognizer_svc.heads.batch import FeatureShapes
from recognizer_svc.heads.regions import Regions
from recognizer_svc.heads.roi import pooled_regions
from recognizer_svc.neighbours import BankRows, Window
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame

MAX_BYTES = 8 * 2**30
"""Of the vectors of a split in training, which keeps them all; each process has its own."""

_People: TypeAlias = tuple[KeyFrame, bool, bytes]
"""A key frame, whether it is seen mirrored, and the boxes there, float32 [n, 4], not mirrored."""


class Bank:
    """Computes vectors when they are first asked for, and keeps them. Of one split; threads may share it.

    A vector is what the head takes of an actor's own region (`Regions`), not normalised and never jittered.
    """

    def __init__(self, shapes: FeatureShapes, regions: Regions, *, max_bytes: int = MAX_BYTES) -> None:
        """shapes: of what is read for the head. max_bytes: kept; the vectors that were used longest ago are dropped."""
        self._shapes, self._channels = replace(shapes, neighbours=0, bank_channels=0), shapes.bank_channels
        self._regions, self._max_bytes, self._bytes = regions, max_bytes, 0
        self._kept: OrderedDict[_People, NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    def check_room(self, windows: Iterable[Window], views: int) -> None:
        """Refuse what is too much to be kept. windows: of all clips."""
        people = {key: len(boxes_N4) for window in windows for key, boxes_N4 in window}
        total = sum(people.values())
        if (needed := total * self._channels * 4 * views) > self._max_bytes:
            raise InputError(
                f"data.bank_s needs vectors of {total} people in {len(people)} key frames, {self._channels} channels "
                f"of 4 bytes, views: {views}, in all {needed / 2**30:.1f} GiB, but a process keeps "
                f"{self._max_bytes / 2**30:g} GiB at most. Choose fewer data.streams or data.statistics, one value a "
                "channel (head.pooling=mean), one view (data.hflip_probability=0), or data.bank_s=0."
            )

    def around(self, clips: Sequence[tuple[Window, bool]], sets: Mapping[bool, FeatureRows]) -> BankRows:
        """Return the vectors of the windows of some clips, each once.

        clips: windows, and whether they are seen mirrored. sets: of the split, by whether they are mirrored.
        """
        named = [[(key, mirrored, boxes.tobytes()) for key, boxes in window] for window, mirrored in clips]
        wanted = dict.fromkeys(people for window in named for people in window)
        vectors = [self._vectors(people, sets) for people in wanted]
        place = {people: number for number, people in enumerate(wanted)}
        seen_BW = np.zeros((len(clips), len(wanted)), dtype=np.bool_)
        for seen_W, window in zip(seen_BW, named, strict=True):
            seen_W[[place[people] for people in window]] = True
        seen_BV = seen_BW.repeat(np.array([len(found) for found in vectors], dtype=np.int64), axis=1)
        return np.concatenate([np.empty((0, self._channels), np.float32), *vectors]), seen_BV

    def _vectors(self, people: _People, sets: Mapping[bool, FeatureRows]) -> NDArray[np.float32]:
        with self._lock:
            if people in self._kept:
                self._kept.move_to_end(people)
                return self._kept[people]
        (key, mirrored, held), features = people, sets[people[1]]
        boxes_N4 = np.frombuffer(held, np.float32).reshape(-1, 4)
        shown_N4 = mirrored_boxes(boxes_N4) if mirrored else boxes_N4
        rows = features.read([features.row_of(key)], features.spec.stored_for(self._shapes.arrays))
        batch = head_batch(rows, [shown_N4], self._shapes, [key])
        with torch.inference_mode():
            found_NC: NDArray[np.float32] = pooled_regions(
                batch.features, self._shapes.maps, batch.boxes_N4, batch.clip_of_N, self._regions
            ).numpy()
        with self._lock:
            if people not in self._kept:  # another thread may have been faster
                self._kept[people] = found_NC
                self._bytes += found_NC.nbytes
            while self._bytes > self._max_bytes:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return found_NC
