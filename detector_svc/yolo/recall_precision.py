"""How good a detector is: recall and precision at one IoU and the serving confidence."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector_svc.detector_protocol import Detector
from detector_svc.yolo.yolo_folders import YoloPart
from stal_data.boxes import intersection_over_union
from stal_data.clips import key_frame_image
from stal_data.media.images import decode_image


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Counts over many key frames at IoU 0.5."""

    people: int
    found: int
    """People that a box of their own covers."""
    boxes: int

    @property
    def recall(self) -> float:
        """Share of people found; 0 when there are none."""
        return self.found / self.people if self.people else 0.0

    @property
    def precision(self) -> float:
        """Share of boxes that are people; 0 when there are none."""
        return self.found / self.boxes if self.boxes else 0.0


def count_found(boxes_N4: NDArray[np.float32], people_M4: NDArray[np.float32], *, iou: float = 0.5) -> int:
    """Match boxes (best first) to people, one to one; each box takes the free person that it overlaps most."""
    free = np.ones(len(people_M4), bool)
    for overlaps_M in intersection_over_union(boxes_N4, people_M4):
        overlaps_M = np.where(free, overlaps_M, 0)
        if len(overlaps_M) and overlaps_M.max() >= iou:
            free[overlaps_M.argmax()] = False
    return int((~free).sum())


def measure(detector: Detector, part: YoloPart, *, batch: int = 8) -> Quality:
    """Run the serving path over annotated key frames."""
    people = found = boxes = 0
    for start in range(0, len(part.key_frames), batch):
        items = part.key_frames[start : start + batch]
        images = [decode_image(key_frame_image(part.media, item), f"Key frame {item.key}") for item in items]
        for item, detections in zip(items, detector.detect([detector.prepare(i) for i in images]), strict=True):
            people_M4 = _distinct(item.boxes_N4)
            people += len(people_M4)
            boxes += len(detections)
            found += count_found(detections.boxes_N4, people_M4)
    return Quality(people=people, found=found, boxes=boxes)


def _distinct(boxes: Sequence[NDArray[np.float32]] | NDArray[np.float32]) -> NDArray[np.float32]:
    """One box per person: annotations may repeat a box for several person ids."""
    return np.unique(np.asarray(boxes, np.float32).reshape(-1, 4), axis=0)
