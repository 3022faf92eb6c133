"""Annotated key frames from a predictions file, for the demo's page and for `infer`."""

import csv
from collections import defaultdict
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stal_data.clips import key_image_frame
from stal_data.dataset import Split
from stal_data.files import naming
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame
from stal_data.times import format_time, parse_time

_NAME_BYTES = 255
"""The longest name of a file, on nearly every file system."""

Box = tuple[float, float, float, float]


class Person(NamedTuple):
    """box: x1,y1,x2,y2 in [0,1]. actions: (label id, score) pairs, best first. track: id in the video, -1 = none."""

    box: Box
    actions: list[tuple[int, float]]
    track: int = -1


def read_predictions(path: Path, *, min_score: float) -> dict[KeyFrame, list[Person]]:
    """Read a predictions CSV into people by key frame; only actions scored at least `min_score` are kept."""
    people: dict[KeyFrame, dict[tuple[Box, int], list[tuple[int, float]]]] = defaultdict(dict)
    with path.open(newline="", encoding="utf-8") as file:
        for video, time, x1, y1, x2, y2, label, score, *track in csv.reader(file):
            box = (float(x1), float(y1), float(x2), float(y2))
            who = (box, int(track[0]) if track else -1)
            actions = people[KeyFrame(video, parse_time(time))].setdefault(who, [])
            if float(score) >= min_score:
                actions.append((int(label), float(score)))
    return {
        key: [
            Person(box, sorted(actions, key=lambda action: -action[1]), track) for (box, track), actions in who.items()
        ]
        for key, who in people.items()
    }


def draw_key_frame(
    split: Split,
    frame: AnnotatedKeyFrame,
    people: list[Person],
    folder: Path,
    *,
    scale: int = 1,
    names: dict[int, str] | None = None,
) -> Path:
    """Draw `people` on the key frame's image, enlarged `scale` times; return the PNG's path in `folder`.

    names: label id to text; the split's own label map by default.
    """
    from PIL import Image

    from stal_eval.annotate import draw_actions

    if names is None:
        assert split.label_map is not None
        names = dict(zip(split.label_map.ids, split.label_map.names, strict=True))
    info = split.media.info(frame.key.video)
    image = Image.fromarray(split.media.read(frame.key.video, [key_image_frame(frame, info)])[0])
    if scale != 1:
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)
    boxes = np.array([person.box for person in people], dtype=np.float32).reshape(-1, 4)
    captions = ["\n".join(f"{names[label]} {score:.2f}" for label, score in person.actions[:3]) for person in people]
    drawn = draw_actions(np.asarray(image), boxes, captions)
    path = folder / _picture_name(frame.key)
    with naming(path):
        Image.fromarray(drawn).save(path)
    return path


def _picture_name(key: KeyFrame) -> str:
    """VIDEO_TIME.png; a video's name that would make it too long for a file's is cut and ends with a digest."""
    stem, end = Path(key.video).name, f"_{format_time(key.time_ms)}.png"
    if len(stem.encode()) + len(end) > _NAME_BYTES:
        digest = f"-{sha256(stem.encode()).hexdigest()[:16]}"
        stem = stem.encode()[: _NAME_BYTES - len(end) - len(digest)].decode(errors="ignore") + digest
    return stem + end
