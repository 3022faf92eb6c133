"""Inputs and pinned processes of `benchmarks.detector_load`."""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from detector_svc.yolo.offline_ultralytics import import_ultralytics
from stal_data.children import python_command, python_environment
from stal_data.clips import key_frame_image
from stal_data.dataset import Dataset
from stal_data.synth import render_dataset

ROOT = Path(__file__).parents[1]
SLIM = ROOT / "detector_svc" / "models" / "yolov8-slim.yaml"
START_TIMEOUT_S = 120
WINDOW = 24
"""Frames under way in a stream, the default of `stal-cli detect`."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """folder: encoded key frames. rows_per_key_frame: annotation rows, of which the published loop runs each."""

    folder: Path
    count: int
    mean_bytes: float
    rows_per_key_frame: float


def make_inputs(folder: Path) -> Inputs:
    render_dataset(folder / "data", seed=0, train_videos=0, test_videos=12)
    split = Dataset.open(folder / "data").split("test")
    images = folder / "images"
    images.mkdir()
    sizes = []
    for number, item in enumerate(split.key_frames):
        encoded = key_frame_image(split.media, item)
        sizes.append(len(encoded))
        (images / f"{number:04d}.png").write_bytes(encoded)
    rows = len((folder / "data" / "annotations" / "test.csv").read_text().splitlines())
    return Inputs(
        folder=images, count=len(sizes), mean_bytes=statistics.mean(sizes), rows_per_key_frame=rows / len(sizes)
    )


def make_weights(path: Path) -> Path:
    """The slim model with seeded random weights."""
    import_ultralytics()
    import torch
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    model = DetectionModel(str(SLIM), nc=1, verbose=False)
    model.names = {0: "person"}
    torch.save({"model": model, "train_args": {}}, path)
    return path


class Pinned:
    """Processes of this repository's code on one core each."""

    def __init__(self, options: argparse.Namespace, inputs: Inputs, weights: Path, folder: Path) -> None:
        self._options, self._inputs, self._weights, self._folder = options, inputs, weights, folder
        self._environment = python_environment() | {"OMP_NUM_THREADS": "1"}
        cores = sorted(os.sched_getaffinity(0))
        self.server_core, self.client_core = cores[0], cores[-1]

    def start(self, core: int, module: str, *words: object, **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["taskset", "-c", str(core), *python_command(module, *map(str, words))],
            env=self._environment,
            **options,
        )

    def json(self, core: int, module: str, *words: object) -> dict[str, Any]:
        process = self.start(core, module, *words, stdout=subprocess.PIPE)
        output, _ = process.communicate()
        if process.returncode:
            sys.exit(f"{module} failed.")
        result: dict[str, Any] = json.loads(output)
        return result

    @property
    def _model(self) -> list[object]:
        options = self._options
        return ["--weights", self._weights, "--confidence", options.confidence, "--device", options.device]

    def local(self, mode: str) -> dict[str, Any]:
        options = self._options
        return self.json(
            self.server_core,
            "benchmarks.detector_load_local",
            mode,
            *("--images", self._inputs.folder, *self._model, "--image-size", *options.image_size),
            *("--batch", options.batch, "--seconds", options.seconds),
        )

    def client(self, server: "Server", seconds: float, **settings: float) -> dict[str, Any]:
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        before = server.refused()
        result = self.json(
            self.client_core,
            "benchmarks.detector_load_client",
            *("--address", f"127.0.0.1:{server.port}", "--server-pid", server.process.pid),
            *("--images", self._inputs.folder, "--window", WINDOW, "--seconds", seconds, *words),
        )
        return result | {"refused": server.refused() - before}

    @contextmanager
    def serving(self) -> Iterator["Server"]:
        options, port_file = self._options, self._folder / "port"
        metrics_port = unused_port()
        with (self._folder / "server.log").open("wb") as log:
            process = self.start(
                self.server_core,
                "cli.main",
                *("serve", "detector", *self._model, "--image-size", "x".join(map(str, options.image_size))),
                *("--max-batch", options.batch, "--port", 0, "--port-file", port_file, "--metrics-port", metrics_port),
                stdout=log,
                stderr=log,
            )
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not port_file.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit((self._folder / "server.log").read_text())
                time.sleep(0.1)
            yield Server(process=process, port=int(port_file.read_text()), metrics_port=metrics_port)
        finally:
            process.terminate()
            process.wait()


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running service."""

    process: subprocess.Popen[bytes]
    port: int
    metrics_port: int

    def refused(self) -> int:
        """Streams ended with RESOURCE_EXHAUSTED so far."""
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"http://127.0.0.1:{self.metrics_port}/metrics") as answer:
            page = answer.read().decode()
        return sum(
            int(sample.value)
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == "stal_rpc_total" and sample.labels["code"] == "RESOURCE_EXHAUSTED"
        )


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
