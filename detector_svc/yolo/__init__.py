"""YOLO: network, weights, training, export. The only package that imports ultralytics."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detector_svc.detector_protocol import Detector, DetectorConfig


def open_yolo(config: "DetectorConfig") -> "Detector":
    """Load the weights; a missing or unreadable file is an error that names it."""
    from detector_svc.yolo.yolo_detector import YoloDetector

    return YoloDetector(config)
