"""How good a detector is: recall and precision at one IoU and the serving confidence."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector_svc.detector_protocol import Detector
from detector_svc.yolo.yolo_folders import YoloPart
from stal_data.boxes import BOX_SIZES, box_sizes, intersection_over_union
from stal_data.clips import key_frame_image
from stal_data.media.images import decode_image


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Counts over many key frames at IoU 0.5.

    people_S: by the size of their boxes, in the order of BOX_SIZES. found_S: those that a box of their own covers.
    boxes: that were detected.
    """

    people_S: tuple[int, ...]
    found_S: tuple[int, ...]
    boxes: int

    @property
    def people(self) -> int:
        return sum(self.people_S)

    @property
    def found(self) -> int:
        return sum(self.found_S)

    @property
    def recall(self) -> float:
        """Share of people found; 0 when there are none."""
        return self.found / self.people if self.people else 0.0

    @property
    def precision(self) -> float:
        """Share of boxes that are people; 0 when there are none."""
        return self.found / self.boxes if self.boxes else 0.0

    def recall_by_size(self) -> dict[str, float | None]:
        """Share of people found, by the size of their boxes; None where there are none of a size."""
        counts = zip(BOX_SIZES, self.found_S, self.people_S, strict=True)
        return {size: found / people if people else None for size, found, people in counts}


def found_people(
    boxes_N4: NDArray[np.float32], people_M4: NDArray[np.float32], *, iou: float = 0.5
) -> NDArray[np.bool_]:
    """Tell which people are found, [M]: boxes (best first) take the free person that they overlap most."""
    free = np.ones(len(people_M4), bool)
    for overlaps_M in intersection_over_union(boxes_N4, people_M4):
        overlaps_M = np.where(free, overlaps_M, 0)
        if len(overlaps_M) and overlaps_M.max() >= iou:
            free[overlaps_M.argmax()] = False
    return ~free


def measure(detector: Detector, part: YoloPart, *, batch: int = 8) -> Quality:
    """Run the serving path over annotated key frames."""
    people_S, found_S, boxes = np.zeros(len(BOX_SIZES), int), np.zeros(len(BOX_SIZES), int), 0
    for start in range(0, len(part.images), batch):
        items = part.images[start : start + batch]
        images = [decode_image(key_frame_image(media, item), f"Key frame {item.key}") for item, media in items]
        for (item, _), detections in zip(items, detector.detect([detector.prepare(i) for i in images]), strict=True):
            people_M4 = _distinct(item.boxes_N4)
            size_M, found_M = box_sizes(people_M4), found_people(detections.boxes_N4, people_M4)
            people_S += np.bincount(size_M, minlength=len(BOX_SIZES))
            found_S += np.bincount(size_M[found_M], minlength=len(BOX_SIZES))
            boxes += len(detections)
    return Quality(people_S=tuple(people_S.tolist()), found_S=tuple(found_S.tolist()), boxes=boxes)


def _distinct(boxes: Sequence[NDArray[np.float32]] | NDArray[np.float32]) -> NDArray[np.float32]:
    """One box per person: annotations may repeat a box for several person ids."""
    return np.unique(np.asarray(boxes, np.float32).reshape(-1, 4), axis=0)
