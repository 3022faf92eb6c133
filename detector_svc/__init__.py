"""Finds people in images: detectors, the service that runs one, and the client of its replicas."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from detector_svc.yolo import open_yolo

if TYPE_CHECKING:
    from detector_svc.detector_protocol import Detector, DetectorConfig

DETECTORS: "dict[str, Callable[[DetectorConfig], Detector]]" = {
    "yolo": open_yolo,
}
"""What `serve detector --kind` takes. A member imports its libraries only when it is called: clients lack them."""
