"""A video in which no choice of the detector is so close that rounding could turn it."""

import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from detector_svc.detections import FrameDetections
from detector_svc.detector_protocol import DetectorConfig
from detector_svc.yolo import open_yolo
from tests.detector.samples import picture

CONFIDENCE = 0.9
IMAGE_SIZE = (90, 160)
FPS = 25
_OVERLAP = DetectorConfig.overlap
_MARGIN = 1e-4
"""Sums in another order change scores and boxes by about 1e-6."""


def write_clear_video(path: Path, weights: Path, *, seconds: int) -> Path:
    """Encode without loss: another picture each second, with one to twelve people in it."""
    # With boxes below the threshold, and none removed by another.
    config = DetectorConfig(
        weights=weights, image_size=IMAGE_SIZE, confidence=CONFIDENCE - _MARGIN, overlap=1.0, device="cpu"
    )
    detector = open_yolo(config)
    pictures = []
    for seed in range(20 * seconds):
        found = detector.detect([detector.prepare(shown_HW3 := picture(seed))])[0]
        if 1 <= len(found) <= 12 and _closest(found) > _MARGIN:
            pictures.append(shown_HW3)
        if len(pictures) == seconds:
            break
    assert len(pictures) == seconds
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264rgb", rate=FPS, options={"qp": "0", "preset": "ultrafast", "g": str(FPS)})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "rgb24"
        for number in range(seconds * FPS):
            frame = av.VideoFrame.from_ndarray(pictures[number // FPS], format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def _closest(found: FrameDetections) -> float:
    """The smallest difference that decides: of two scores, of a score and the threshold, of an overlap and its."""
    scores_N, boxes_N4 = np.sort(found.scores_N), found.boxes_N4
    pairs = np.triu_indices(len(found), 1)
    gaps = (np.abs(scores_N - CONFIDENCE), np.diff(scores_N), np.abs(_overlaps(boxes_N4)[pairs] - _OVERLAP))
    return float(min(gap.min(initial=1.0) for gap in gaps))


def _overlaps(boxes_N4: NDArray[np.float32]) -> NDArray[np.float32]:
    """IoU of each with each."""
    first, second = boxes_N4[:, None], boxes_N4[None, :]
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    common, areas = np.clip(sides, 0, None).prod(axis=2), (boxes_N4[:, 2:] - boxes_N4[:, :2]).prod(axis=1)
    return common / (areas[:, None] + areas[None, :] - common)


if __name__ == "__main__":
    write_clear_video(Path(sys.argv[1]), Path(sys.argv[2]), seconds=int(sys.argv[3]))
