"""A detector from outside is served, detects a split and is measured, by its entry in the table alone."""

from pathlib import Path

import numpy as np
import pytest

from cache.proposal_store import open_proposals
from cache.store import Store
from detector_svc import DETECTORS
from detector_svc.client.split_detection import detect_split
from detector_svc.detector_protocol import DetectorConfig
from detector_svc.service.detector_service import DetectorService, DetectorServiceConfig
from detector_svc.yolo.recall_precision import measure
from detector_svc.yolo.yolo_folders import YoloPart
from stal_data.dataset import Dataset, Split
from stal_data.errors import InputError
from svc_common.config import ServerConfig
from svc_common.metrics import Metrics
from svc_common.server import ServiceServer
from tests.detector.samples import make_client
from tests.detector.toy_detector import ToyDetector

BOTH = (16 / 160, 18 / 90, 128 / 160, 81 / 90)  # from the first person of `write_dataset` to the second


@pytest.fixture
def config(tmp_path: Path) -> DetectorConfig:
    return DetectorConfig(weights=tmp_path / "red.toy", image_size=(90, 160))


@pytest.fixture
def split(dataset: Path) -> Split:
    return Dataset.open(dataset).split("train")


async def test_a_service_runs_a_detector_of_the_table(
    config: DetectorConfig, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DETECTORS, "toy", ToyDetector)
    metrics = Metrics()
    service = DetectorService(DetectorServiceConfig(kind="toy", detector=config), metrics)
    server = ServiceServer(ServerConfig(port=0), [service], name="detector", metrics=metrics)
    store = Store.open(tmp_path / "store", create=True)
    try:
        port = await server.start()
        client = make_client(port)
        _, found = await detect_split(split, store, client)
    finally:
        await server.stop(0)
    made_by = found.detector
    assert (made_by.name, made_by.weights, made_by.library) == ("red", "sha256:toy", "toy-1")
    np.testing.assert_allclose(open_proposals(store, "small", "train", "red").boxes_N4, [BOTH] * 9, rtol=1e-6)


def test_an_unknown_detector_is_refused_with_those_that_there_are(config: DetectorConfig) -> None:
    with pytest.raises(InputError, match=r"--kind 'yoloo' is no detector\. Did you mean 'yolo'\?"):
        DetectorServiceConfig(kind="yoloo", detector=config)


def test_it_is_measured_as_others_are(config: DetectorConfig, split: Split) -> None:
    quality = measure(ToyDetector(config), YoloPart(images=tuple((item, split.media) for item in split.key_frames)))
    # Nine key frames with two people each, of whom one box that spans both covers neither.
    assert (quality.people, quality.boxes, quality.found) == (18, 9, 0)
