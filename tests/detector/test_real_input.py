"""A real street video and a real person detector, fetched by scripts/fetch_real_inputs.sh."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from cache.proposal_store import open_proposals
from cache.store import Store
from cli.dataset import dataset as dataset_command
from detector_svc.detect_split import detect_split
from detector_svc.quality import count_found
from detector_svc.service import DetectorConfig, DetectorService
from detector_svc.yolo import YoloConfig
from stal_data.dataset import Dataset
from stal_data.keyframes import KeyFrame
from svc_common.config import ServerConfig
from svc_common.metrics import Metrics
from svc_common.server import ServiceServer
from tests.detector.samples import make_client

DOWNLOADS = Path(__file__).parents[2] / "downloads"
VIDEO, WEIGHTS = DOWNLOADS / "bikes.mp4", DOWNLOADS / "best.pt"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (VIDEO.is_file() and WEIGHTS.is_file()), reason="run scripts/fetch_real_inputs.sh to fetch the inputs"
    ),
]


async def test_the_cyclist_is_found(tmp_path: Path) -> None:
    arguments = ["from-videos", str(VIDEO), "--output", str(tmp_path / "street"), "--name", "street"]
    assert CliRunner().invoke(dataset_command, arguments).exit_code == 0
    yolo = YoloConfig(weights=WEIGHTS, height=360, width=640, classes=(0, 1), device="cpu")
    metrics = Metrics()
    server = ServiceServer(
        ServerConfig(), [DetectorService(DetectorConfig(yolo=yolo), metrics)], name="detector", metrics=metrics
    )
    await server.start()
    store = Store.open(tmp_path / "store", create=True)
    try:
        async with make_client(server.port) as client:
            report = await detect_split(Dataset.open(tmp_path / "street").split("all"), store, client)
    finally:
        await server.stop(0)
    assert report.key_frames == 10
    proposals = open_proposals(store, "street", "all")
    boxes_N4, scores_N = proposals.of(KeyFrame("bikes", 5))
    # Drawn by hand around the cyclist at 5 s: x1,y1,x2,y2 in [0,1].
    cyclist = boxes_N4.dtype.type([[0.54, 0.0, 0.77, 0.97]])
    assert count_found(boxes_N4, cyclist) == 1
    assert scores_N.max() > 0.4
