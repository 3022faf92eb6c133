"""How code bases turn tubes into video-mAP; docs/evaluation.md cites where each value was read."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TubeProtocol:
    """max_overlap: a tube whose IoU with a better one of its video and class exceeds this is dropped; None drops none.

    above: the IoU with a ground-truth tube must exceed the threshold; else it may equal it. min_common: key frames that
    two tubes must share, or their IoU is 0. area: under the precision-recall curve, interpolated (VOC, every point), or
    of trapezoids between its points, from precision 1 at recall 0.
    """

    max_overlap: float | None
    above: bool
    min_common: int
    area: Literal["trapezoids", "interpolated"]


TUBE_PROTOCOLS = {
    "moc": TubeProtocol(max_overlap=0.3, above=False, min_common=1, area="trapezoids"),
    "ucf101-24": TubeProtocol(max_overlap=None, above=True, min_common=2, area="interpolated"),
}
"""By whose rules."""
