"""Weights, images, a data set and a running service for the detector's tests."""

import io
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from detector_svc.client.detector_client import DetectorClient, DetectorClientConfig
from detector_svc.detector_protocol import DetectorConfig
from detector_svc.service.detector_service import DetectorService, DetectorServiceConfig
from detector_svc.service.micro_batcher import BatcherConfig
from detector_svc.yolo.offline_ultralytics import import_ultralytics
from svc_common.client import RetryPolicy
from svc_common.config import ClientConfig, ServerConfig
from svc_common.metrics import Metrics
from svc_common.server import ServiceServer

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "detector_svc" / "models" / "yolov8-slim.yaml"
DATASET_YAML = """\
name: small
format: chaotic_world
label_map: labels.pbtxt
media: {kind: frames, root: frames}
splits:
  train: {annotations: train.csv}
"""


def save_tiny_weights(path: Path, *, names: dict[int, str] | None = None) -> Path:
    """Save the slim model with random weights whose class scores spread around 0.5, so that there are boxes."""
    import_ultralytics()
    from ultralytics.nn.tasks import DetectionModel

    names = names or {0: "person"}
    torch.manual_seed(0)
    model = DetectionModel(str(MODEL), nc=len(names), verbose=False)
    model.names = names
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0  # one batch sets the statistics, else the features are close to zero
    images_BHW3 = torch.from_numpy(np.stack([picture(seed, 160, 96) for seed in range(8)]))
    with torch.no_grad():
        model.train()(images_BHW3.permute(0, 3, 1, 2) / 255)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for head in model.model[-1].cv3:
        torch.nn.init.normal_(head[-1].weight, std=0.5)
        torch.nn.init.zeros_(head[-1].bias)
    torch.save({"model": model, "train_args": {}}, path)
    return path


def picture(seed: int, width: int = 160, height: int = 90) -> NDArray[np.uint8]:
    """A colourful image with large structures, HW3."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 8, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def encoded(image_HW3: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(image_HW3).save(file, kind)
    return file.getvalue()


def write_dataset(root: Path, *, videos: int = 3, seconds: int = 4) -> Path:
    """A data set of rectangles on noise: two people with two labels each, none in the last key frame of a video."""
    rows = []
    for video in (f"v{number}" for number in range(videos)):
        (root / "frames" / video).mkdir(parents=True)
        for second in range(1, seconds + 1):
            window = (25 * second, 25 * second + 8)
            image = picture(hash_of(video, second)).copy()
            boxes = ((16, 18, 48, 72), (96, 27, 128, 81)) if second < seconds else ()
            for x1, y1, x2, y2 in boxes:
                image[y1:y2, x1:x2] = (250, 40, 40)
            for frame in range(*window):
                Image.fromarray(image).save(root / "frames" / video / f"{video}_{frame:06d}.png")
            for person, (x1, y1, x2, y2) in enumerate(boxes):
                box = f"{x1 / 160},{y1 / 90},{x2 / 160},{y2 / 90}"
                rows.extend(
                    f"{video},{second},{box},{label},{person},{window[0]},{window[1]},{second}.0,0,0"
                    for label in (0, 1)
                )
    (root / "train.csv").write_text("\n".join(rows) + "\n")
    (root / "labels.pbtxt").write_text("".join(f'label {{ name: "l{i}" label_id: {i} }}\n' for i in (1, 2)))
    (root / "dataset.yaml").write_text(DATASET_YAML)
    return root


def hash_of(video: str, second: int) -> int:
    return int(video[1:]) * 100 + second


def make_server(
    weights: Path,
    *,
    image_size: tuple[int, int] | None = (90, 160),
    data_root: Path | None = None,
    read_hung_s: float = 600.0,
    kind: str = "yolo",
    port: int = 0,
    **batcher: object,
) -> ServiceServer:
    """A service over the tiny weights; `start` it and always `stop` it."""
    yolo = DetectorConfig(weights=weights, image_size=image_size, confidence=0.5, device="cpu")
    limits = BatcherConfig(**batcher)
    config = DetectorServiceConfig(
        detector=yolo, kind=kind, batcher=limits, data_root=data_root, read_hung_s=read_hung_s
    )
    metrics = Metrics()
    service = DetectorService(config, metrics)
    listening = ServerConfig(port=port, metrics_port=0, reflection=True)
    return ServiceServer(listening, [service], name="detector", metrics=metrics)


@asynccontextmanager
async def serving(weights: Path, **options: object) -> AsyncIterator[ServiceServer]:
    server = make_server(weights, **options)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0)


def start(*options: object) -> subprocess.Popen[str]:
    """A `serve detector` process."""
    command = [sys.executable, "-m", "cli.main", "serve", "detector", *map(str, options)]
    # As many threads as a service in this process: another number may sum in another order.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


def make_client(port: int, **options: object) -> DetectorClient:
    """Retries quickly."""
    retry = RetryPolicy(retries=12, first_s=0.05, max_s=0.5)
    connection = ClientConfig(address=f"127.0.0.1:{port}")
    return DetectorClient(DetectorClientConfig(**({"services": (connection,), "retry": retry} | options)))


async def numbered(images: dict[str, bytes]) -> AsyncIterator[tuple[str, bytes]]:
    for item in images.items():
        yield item
