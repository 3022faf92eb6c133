"""The same person over the frames of a video: ByteTrack over what was found in its key frames and between them.

The tracker is that of the package `trackers` (Apache-2.0), the extra `track`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.tracks import Tracks
from detector_svc.detections import FrameDetections, joined
from stal_data.boxes import intersection_over_union
from stal_data.clips import key_image_frame
from stal_data.dataset import Split
from stal_data.errors import InputError, how_to_install
from stal_data.keyframes import KeyFrame
from stal_data.media.timeline import FPS

_STARTS_A_TRACK = 0.25
"""Confidence, as in Ultralytics' ByteTrack; boxes below it only continue tracks."""
_LOST_S = 2.0
"""How long a track outlives its last box."""
_MIN_IOU = 0.1
"""Of a box with the place that the tracker expects, or, before a track, with its first box."""


@dataclass(frozen=True, kw_only=True)
class TrackedFrame:
    """A frame that the tracker sees. number: on the time line, from 1. key: None between key frames."""

    video: str
    number: int
    key: KeyFrame | None

    @property
    def id(self) -> str:
        """Of the frame among those that are sent; no key frame's ends this way."""
        return f"{self.video},frame {self.number}" if self.key is None else str(self.key)


class PersonTracker:
    """Use `plan`, have people detected in those frames, then use `tracks`. The same boxes give the same tracks."""

    def __init__(self, fps: float) -> None:
        """fps: frames a second of the time line, at least, from one key frame of a video to the next."""
        try:
            import trackers
            from supervision import Detections
        except ModuleNotFoundError as error:
            raise InputError(f"Tracking needs the package '{error.name}'; {how_to_install('track')}") from None
        self._fps = fps
        self._detections: Any = Detections
        self._byte_track: Any = trackers.ByteTrackTracker
        self.name = f"ByteTrack, trackers-{version('trackers')}, {fps:g} frames a second"

    def plan(self, split: Split) -> list[TrackedFrame]:
        """Return the key frames and evenly spaced frames between them, by video and number. Opens every video."""
        frames = [
            TrackedFrame(
                video=item.key.video, number=key_image_frame(item, split.media.info(item.key.video)), key=item.key
            )
            for item in split.key_frames
        ]
        frames.sort(key=lambda frame: (frame.video, frame.number, frame.id))
        for before, after in pairwise(tuple(frames)):
            gap = after.number - before.number if before.video == after.video else 0
            steps = math.ceil(gap * self._fps / FPS)
            numbers = [before.number + step * gap // steps for step in range(1, steps)]
            frames += [TrackedFrame(video=before.video, number=number, key=None) for number in numbers]
        return sorted(frames, key=lambda frame: (frame.video, frame.number))

    def tracks(self, plan: Sequence[TrackedFrame], found: Mapping[str, FrameDetections]) -> Tracks:
        """found: by frame id, of every frame of the plan."""
        ids: dict[str, NDArray[np.int64]] = {}
        for _, frames in groupby(plan, key=lambda frame: frame.video):
            ids |= self._ids_in_video(frames, found)
        between = [frame for frame in plan if frame.key is None]
        boxes_P4, scores_P = joined([found[frame.id] for frame in between])
        return Tracks(
            tracker=self.name,
            ids_N=_concatenated(ids[str(key)] for key in sorted(frame.key for frame in plan if frame.key is not None)),
            frames=tuple((frame.video, frame.number) for frame in between),
            offsets_M1=np.cumsum([0, *(len(found[frame.id]) for frame in between)], dtype=np.int64),
            boxes_P4=boxes_P4,
            scores_P=scores_P,
            ids_P=_concatenated(ids[frame.id] for frame in between),
        )

    def _ids_in_video(
        self, frames: Iterable[TrackedFrame], found: Mapping[str, FrameDetections]
    ) -> dict[str, NDArray[np.int64]]:
        """Return the ids of each frame's boxes by frame id; frames: of one video, in order."""
        tracker = self._byte_track(
            lost_track_buffer=round(30 * _LOST_S),  # the package counts in 1/30 s
            frame_rate=self._fps,
            track_activation_threshold=_STARTS_A_TRACK,
            high_conf_det_threshold=_STARTS_A_TRACK,
            minimum_iou_threshold=_MIN_IOU,
            minimum_consecutive_frames=2,
        )
        ids: dict[str, NDArray[np.int64]] = {}
        numbers: dict[str, int] = {}
        started: list[tuple[Any, str, int]] = []
        for frame in frames:
            seen, numbers[frame.id] = found[frame.id], frame.number
            boxes_N4 = seen.boxes_N4.astype(np.float64)
            known = set(tracker.tracks)
            answer = tracker.update(
                self._detections(xyxy=boxes_N4, confidence=seen.scores_N, data={"row": np.arange(len(seen))}),
                timestamp=frame.number / FPS,
            )
            ids_N = ids[frame.id] = np.full(len(seen), -1, dtype=np.int64)
            if len(answer):
                ids_N[answer.data["row"]] = answer.tracker_id
            # A track has its id from its second box on; the first box gets it afterwards.
            for track, frame_id, row in started:
                ids[frame_id][row] = track.tracker_id
            started = []
            for track in (track for track in tracker.tracks if track not in known):
                away_N = np.abs(boxes_N4 - track.get_state_bbox()).sum(axis=1)
                started.append((track, frame.id, int(np.where(ids_N < 0, away_N, np.inf).argmin())))
        _extend_backwards([(numbers[frame_id], found[frame_id].boxes_N4, ids_N) for frame_id, ids_N in ids.items()])
        return {frame_id: np.where(ids_N >= 0, ids_N + 1, -1) for frame_id, ids_N in ids.items()}


def _extend_backwards(frames: Sequence[tuple[int, NDArray[np.float32], NDArray[np.int64]]]) -> None:
    """Give boxes without an id that of a track that begins later, within _LOST_S, in about the same place.

    The tracker drops a box that has none in the next frame, and starts no track at a weak one.
    frames: number, boxes and ids of each, in order; the ids are changed.
    """
    begins = {track: number for number, _, ids_N in reversed(frames) for track in ids_N.tolist()}
    first: dict[int, tuple[int, NDArray[np.float32]]] = {}
    for number, boxes_N4, ids_N in reversed(frames):
        free = np.flatnonzero(ids_N < 0)
        later = [track for track, (at, _) in first.items() if number < begins[track] and at - number <= _LOST_S * FPS]
        if free.size and later:
            overlap_TF = intersection_over_union(np.stack([first[track][1] for track in later]), boxes_N4[free])
            while overlap_TF.max() >= _MIN_IOU:
                track, place = np.unravel_index(overlap_TF.argmax(), overlap_TF.shape)
                ids_N[free[place]] = later[track]
                overlap_TF[track], overlap_TF[:, place] = 0, 0
        first |= {track: (number, box_4) for track, box_4 in zip(ids_N.tolist(), boxes_N4, strict=True) if track >= 0}


def _concatenated(ids: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([np.empty(0, dtype=np.int64), *ids])
