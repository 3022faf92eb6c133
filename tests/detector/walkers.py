"""Videos of people who walk, each a rectangle of its own colour, and a detector that sees exactly these colours."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detector_svc.detections import FrameDetections
from detector_svc.detector_protocol import PreparedImage
from tests.detector.toy_detector import ToyDetector

WIDTH, HEIGHT, SECONDS = 160, 90, 4
COLOURS = ((250, 40, 40), (40, 250, 40), (40, 40, 250))
SCORES = (0.9, 0.8, 0.7)
"""Confidence of each person, which tells a test who it is."""
BACKGROUND = 200
CURTAIN = (90, 90, 90)
VIDEO_YAML = """\
name: walkers
format: chaotic_world
label_map: labels.pbtxt
media: {kind: frames, root: frames}
splits:
  test: {annotations: test.csv}
"""


def frame_at(number: int) -> NDArray[np.uint8]:
    """Red passes before green, who is nearly hidden then; blue, in another lane, is behind a curtain for 0.8 s."""
    image = np.full((HEIGHT, WIDTH, 3), BACKGROUND, np.uint8)
    step = number - 1
    for (x, top), colour in (((50 + step // 2, 50), COLOURS[2]), ((130 - step, 6), COLOURS[1])):
        image[top : top + 36, max(x, 0) : x + 20] = colour
    if 50 < number < 70:
        image[46:90] = CURTAIN
    image[10:46, 4 + step : 24 + step] = COLOURS[0]
    return image


class ColourDetector(ToyDetector):
    """One box around the pixels of each person's colour; asked: how many of these images it was given."""

    asked = 0

    def detect(self, images: Sequence[PreparedImage]) -> list[FrameDetections]:
        type(self).asked += sum((image.pixels_HW3[0, 0] == BACKGROUND).all() for image in images)
        return [_boxes(image.pixels_HW3) for image in images]


def _boxes(image_HW3: NDArray[np.uint8]) -> FrameDetections:
    boxes, scores = [np.empty((0, 4))], []
    for colour, score in zip(COLOURS, SCORES, strict=True):
        rows, columns = np.nonzero((image_HW3 == colour).all(axis=2))
        if len(rows):
            corners = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            boxes.append(np.array([corners]) / (WIDTH, HEIGHT, WIDTH, HEIGHT))
            scores.append(score)
    return FrameDetections(boxes_N4=np.concatenate(boxes).astype(np.float32), scores_N=np.array(scores, np.float32))


def write_walkers(root: Path, videos: int = 2) -> Path:
    """A data set of such videos with a key frame a second."""
    rows = []
    for video in (f"w{number}" for number in range(videos)):
        folder = root / "frames" / video
        folder.mkdir(parents=True)
        for number in range(1, 25 * SECONDS + 5):
            Image.fromarray(frame_at(number)).save(folder / f"{video}_{number:06d}.png", compress_level=1)
        rows += [
            f"{video},{second},.1,.1,.2,.5,0,0,{25 * second},{25 * second + 4},{second}.0,0,0"
            for second in range(1, SECONDS + 1)
        ]
    (root / "test.csv").write_text("\n".join(rows) + "\n")
    (root / "labels.pbtxt").write_text('label { name: "walk" label_id: 1 }\n')
    (root / "dataset.yaml").write_text(VIDEO_YAML)
    return root
