"""A tiny YOLO and a small data set, made once."""

from pathlib import Path

import pytest

from detector_svc.detector_protocol import DetectorConfig
from detector_svc.yolo.yolo_detector import YoloDetector
from tests.detector.samples import save_tiny_weights, write_dataset


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.pt")


@pytest.fixture(scope="session")
def detector(weights: Path) -> YoloDetector:
    return YoloDetector(DetectorConfig(weights=weights, image_size=(90, 160), confidence=0.5, device="cpu"))


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only; its parent serves as a data root."""
    return write_dataset(tmp_path_factory.mktemp("root") / "small")
