"""A detector without a network: one box around all red pixels."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detector_svc.detections import FrameDetections
from detector_svc.detector_protocol import DetectorConfig, PreparedImage


class ToyDetector:
    weights_digest = "sha256:toy"
    library = "toy-1"
    device = "cpu"
    people = ("red",)

    def __init__(self, config: DetectorConfig) -> None:
        self.config = config

    def prepare(self, image_HW3: NDArray[np.uint8]) -> PreparedImage:
        height, width = image_HW3.shape[:2]
        return PreparedImage(pixels_HW3=image_HW3, height=height, width=width)

    def detect(self, images: Sequence[PreparedImage]) -> list[FrameDetections]:
        return [self._box(image) for image in images]

    def _box(self, image: PreparedImage) -> FrameDetections:
        rows, columns = np.nonzero((image.pixels_HW3 == (250, 40, 40)).all(axis=2))
        if not len(rows):
            return FrameDetections(boxes_N4=np.empty((0, 4), np.float32), scores_N=np.empty(0, np.float32))
        corners = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        box_4 = np.array(corners, np.float32) / (image.width, image.height, image.width, image.height)
        return FrameDetections(boxes_N4=box_4[None].astype(np.float32), scores_N=np.ones(1, np.float32))
