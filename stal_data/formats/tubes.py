"""The pickles of MultiSports, UCF101-24 and JHMDB: tubes of boxes, frame by frame, for each video and class."""

from collections import defaultdict
from typing import Any

import numpy as np

from stal_data.errors import InputError
from stal_data.formats.sources import Foreign, Reading, Source, ToolFormat
from stal_data.formats.tracks import FileAnnotations, Point, Track, VideoAnnotations, checked_box
from stal_data.sections import validated

MAX_FRAME = 10**8


class _Annotations(Foreign):
    """gttubes: by video and class, counted from 0. resolution: (height, width) in pixels."""

    labels: list[str]
    gttubes: dict[str, dict[int, list[Any]]]
    resolution: dict[str, tuple[int, int]]
    train_videos: tuple[list[str], ...] = ()
    test_videos: tuple[list[str], ...] = ()


def _read(source: Source, _: Reading) -> FileAnnotations:
    content = validated(_Annotations, source.pickle, str(source.path))
    splits: dict[str, list[str]] = defaultdict(list)
    for split, parts in (("train", content.train_videos), ("test", content.test_videos)):
        for number, part in enumerate(parts, start=1):
            for name in part:
                splits[name].append(f"{split}{number}" if len(parts) > 1 else split)
    videos = []
    for name, classes in content.gttubes.items():
        where = f"{source.path}, gttubes[{name!r}]"
        if name not in content.resolution or min(content.resolution[name]) < 1:
            raise InputError(f"{where}: the video has no resolution (height, width) in pixels: add it.")
        height, width = content.resolution[name]
        tracks = _tracks(classes, content.labels, where)
        videos.append(VideoAnnotations(name=name, size=(width, height), tracks=tracks, splits=tuple(splits[name])))
    return FileAnnotations(videos=videos, actions=content.labels)


def _tracks(classes: dict[int, list[Any]], labels: list[str], where: str) -> list[Track]:
    found: list[Track] = []
    for label, tubes in sorted(classes.items()):
        if not 0 <= label < len(labels):
            raise InputError(f"{where}: there is no class {label}, only 0 to {len(labels) - 1}.")
        for number, tube in enumerate(tubes):
            item = f"{where}[{label}][{number}]"
            if not isinstance(tube, np.ndarray) or tube.ndim != 2 or tube.shape[1] != 5 or not len(tube):
                raise InputError(f"{item} must be an array [frames, 5] of frame, x1, y1, x2, y2.")
            if not ((tube[:, 0] >= 1) & (tube[:, 0] <= MAX_FRAME) & (tube[:, 0] % 1 == 0)).all():
                raise InputError(f"{item}: frames must be whole numbers from 1 to {MAX_FRAME}.")
            points = [
                Point(int(frame) - 1, checked_box(f"{item}, frame {frame:g}", x1, y1, x2, y2), (labels[label],))
                for frame, x1, y1, x2, y2 in tube.tolist()
            ]
            last = max(points, key=lambda point: point.frame)
            points.append(Point(last.frame + 1, last.box, last.actions, visible=False))
            found.append(Track(len(found) + 1, points, item))
    return found


TUBES = ToolFormat(
    name="tubes",
    lacks=lambda source: source.lacks_keys("pickle", ("labels", "gttubes", "resolution")),
    read=_read,
)
