"""Who is who in the frames of a split's videos: the optional part `tracks` of a proposals file."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import h5py
import numpy as np
from numpy.typing import NDArray

from cache import h5
from cache.frame_boxes import check_frame_boxes
from stal_data.errors import InputError

_GROUP = "tracks"
_ARRAYS = {
    "ids": "ids_N",
    "offsets": "offsets_M1",
    "boxes": "boxes_P4",
    "scores": "scores_P",
    "between_ids": "ids_P",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Tracks:
    """A track id for each box: the same person of a video has the same id, from 1; -1 = a box that is in no track.

    tracker: name, version and settings of what found them.
    ids_N: int64, of the N boxes in the key frames.
    frames: the M frames between key frames, as video and number (from 1, 25 a second); sorted, no repeats.
    offsets_M1, boxes_P4, scores_P, ids_P: the P boxes in them, see `cache.frame_boxes`.
    """

    tracker: str
    ids_N: NDArray[np.int64]
    frames: tuple[tuple[str, int], ...]
    offsets_M1: NDArray[np.int64]
    boxes_P4: NDArray[np.float32]
    scores_P: NDArray[np.float32]
    ids_P: NDArray[np.int64]

    def __post_init__(self) -> None:
        if any(a >= b for a, b in pairwise(self.frames)) or any(number < 1 for _, number in self.frames):
            raise InputError("Tracks need sorted frames between key frames, numbered from 1, without repeats.")
        names = [f"{video}, frame {number}" for video, number in self.frames]
        check_frame_boxes(names, self.offsets_M1, self.boxes_P4, self.scores_P, unit="frame")
        self.check_ids(len(self.ids_N))

    def check_ids(self, num_boxes: int) -> None:
        """Raise InputError unless each box has one id. num_boxes: N."""
        for ids, count in ((self.ids_N, num_boxes), (self.ids_P, len(self.boxes_P4))):
            if ids.shape != (count,):
                raise InputError(f"There are {count} boxes and {len(ids)} track ids; each box needs one.")
            if ((ids < 1) & (ids != -1)).any():
                raise InputError(f"Track id {ids.min()} must be from 1, or -1 for a box that is in no track.")


def write_tracks(file: h5py.File, tracks: Tracks) -> None:
    group = file.create_group(_GROUP)
    group.attrs["tracker"] = tracks.tracker
    videos = [video for video, _ in tracks.frames]
    group.create_dataset("video", data=videos, dtype=h5py.string_dtype(), shape=(len(videos),))
    group.create_dataset("frame", data=[number for _, number in tracks.frames], dtype="i8", shape=(len(videos),))
    for name, field in _ARRAYS.items():
        group.create_dataset(name, data=getattr(tracks, field))


def read_tracks(file: h5py.File) -> Tracks | None:
    """Return None for a file without tracks."""
    link = file.get(_GROUP, getlink=True)
    if link is None:
        return None
    group = file[_GROUP] if isinstance(link, h5py.HardLink) else None
    if not isinstance(group, h5py.Group):
        raise KeyError(f"'{_GROUP}' is no group of its own")
    videos: Sequence[object] = h5.dataset(group, "video").asstr()[:]
    numbers = h5.dataset(group, "frame")[:]
    return Tracks(
        tracker=str(group.attrs["tracker"]),
        frames=tuple((str(video), int(number)) for video, number in zip(videos, numbers, strict=True)),
        **{field: h5.dataset(group, name)[:] for name, field in _ARRAYS.items()},
    )
