"""What a detector says about one image, and its form on the wire."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protos.generated import detector_pb2 as pb
from stal_data.boxes import are_valid
from svc_common.errors import ServiceError


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameDetections:
    """People in one image, best score first.

    boxes_N4: float32 x1,y1,x2,y2 in [0,1] of the original image, x1 < x2 and y1 < y2.
    scores_N: float32 confidence in [0,1].
    persons_N: int64 track ids, -1 for none; None where nobody was tracked.
    """

    boxes_N4: NDArray[np.float32]
    scores_N: NDArray[np.float32]
    persons_N: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.scores_N)


def joined(found: Sequence[FrameDetections]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return all boxes [N, 4] and all scores [N] of several images."""
    return (
        np.concatenate([np.empty((0, 4), np.float32), *(answer.boxes_N4 for answer in found)]),
        np.concatenate([np.empty(0, np.float32), *(answer.scores_N for answer in found)]),
    )


def to_message(detections: FrameDetections) -> pb.Detections:
    return pb.Detections(boxes=detections.boxes_N4.ravel().tolist(), scores=detections.scores_N.tolist())


def from_message(message: pb.Detections) -> FrameDetections:
    """Unpack and check an answer; a service that breaks its own promise is an error, not bad data downstream."""
    scores_N = np.array(message.scores, np.float32)
    if len(message.boxes) != 4 * len(scores_N):
        raise ServiceError(f"The detector sent {len(message.boxes)} box numbers for {len(scores_N)} scores.")
    boxes_N4 = np.array(message.boxes, np.float32).reshape(-1, 4)
    if not are_valid(boxes_N4, may_be_empty=False).all():
        raise ServiceError("The detector sent a box that is not x1,y1,x2,y2 in [0,1] with x1 < x2 and y1 < y2.")
    if not ((scores_N >= 0) & (scores_N <= 1)).all():
        raise ServiceError("The detector sent a confidence outside [0,1].")
    return FrameDetections(boxes_N4=boxes_N4, scores_N=scores_N)
