"""Annotated test frames: what the system says about people that its own detector found."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cli.workflow.predictions import Person, read_predictions
from stal_data.clips import key_image_frame
from stal_data.dataset import Split
from stal_data.files import naming
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame
from stal_data.times import format_time

NUM_EXAMPLES = 8
MIN_SCORE = 0.4
SCALE = 3  # the frames are 320x180; text needs more room


@dataclass(frozen=True)
class Example:
    """One picture of the page: its file, its key frame, and what the ground truth says."""

    picture: Path
    key: KeyFrame
    truth: tuple[str, ...]


def draw_examples(split: Split, predictions: Path, folder: Path) -> list[Example]:
    """Draw predicted boxes and actions on key frames spread over the split; return the pictures, in split order."""
    by_key = read_predictions(predictions, min_score=MIN_SCORE)
    chosen = _spread(split)
    return [
        Example(
            draw_key_frame(split, frame, by_key.get(frame.key, []), folder),
            frame.key,
            _truth(split, frame),
        )
        for frame in chosen
    ]


def draw_key_frame(split: Split, frame: AnnotatedKeyFrame, people: list[Person], folder: Path) -> Path:
    """Draw predicted people on a key frame, enlarged; return the PNG's path in `folder`."""
    from PIL import Image

    from cli.workflow.results.drawing import PeoplePainter

    assert split.label_map is not None
    names = dict(zip(split.label_map.ids, split.label_map.names, strict=True))
    info = split.media.info(frame.key.video)
    image = Image.fromarray(split.media.read(frame.key.video, [key_image_frame(frame, info)])[0])
    image = image.resize((image.width * SCALE, image.height * SCALE), Image.Resampling.BICUBIC)
    picture_HW3 = np.array(image)
    PeoplePainter(names, image.width, image.height).draw(picture_HW3, dict(enumerate(people, start=1)))
    path = folder / f"{frame.key.video}_{format_time(frame.key.time_ms)}.png"
    with naming(path):
        Image.fromarray(picture_HW3).save(path)
    return path


def _spread(split: Split) -> list[AnnotatedKeyFrame]:
    """Pick key frames with at least two people, evenly over the split, so that no one chooses the flattering ones."""
    crowded = [frame for frame in split.key_frames if len(frame.boxes_N4) > 1] or list(split.key_frames)
    positions = np.linspace(0, len(crowded) - 1, min(NUM_EXAMPLES, len(crowded))).astype(int)
    return [crowded[position] for position in positions]


def _truth(split: Split, frame: AnnotatedKeyFrame) -> tuple[str, ...]:
    assert split.label_map is not None
    names = dict(zip(split.label_map.ids, split.label_map.names, strict=True))
    return tuple(" + ".join(names[label] for label in sorted(labels)) for labels in frame.labels)
