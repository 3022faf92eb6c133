"""Latency of Recognize at several concurrencies, in shared passes and one call at a time; print Markdown.

    python -m benchmarks.recognize_latency --head small --seconds 10
    python -m benchmarks.recognize_latency --head published --device cuda

Two `stal-cli serve recognizer` processes on loopback, one of them with --max-batch 1, take turns; this process is the
client, in a closed loop: each of C callers asks again as soon as it has its answer. Features have the published shapes
(1.6 MB a key frame); their numbers and the head's are seeded and random. Answers of both are compared.
"""

import argparse
import asyncio
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.cache_read import write_set
from benchmarks.giant_cpu import processor
from cache.store import Store
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.client import RecognizerClient
from recognizer_svc.heads import build_head
from recognizer_svc.heads.batch import FeatureShapes
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.training.checkpoint import Checkpoint, Progress, save_checkpoint
from recognizer_svc.training.recipe import load_recipe
from stal_data.children import python_command, python_environment
from stal_data.labels import Label, LabelMap
from svc_common.config import ClientConfig

RUN = "benchmark"
WARM_UP = 3
SIZES = {"published": (), "small": ("head.reduce_channels=128", "head.context_channels=64")}


def make_store(folder: Path, head: str, key_frames: int) -> None:
    """Features and a run with a head of random weights."""
    store = Store.open(folder, create=True)
    features = write_set(store, key_frames)
    recipe = load_recipe("acar-published", [*SIZES[head], "data.dataset=benchmark"])
    labels = LabelMap(tuple(Label(id=number, name=f"action {number}") for number in range(1, 51)))
    shapes = FeatureShapes.of(features.spec, features.shapes)
    torch.manual_seed(0)
    checkpoint = Checkpoint(
        recipe=recipe,
        label_map=labels,
        feature_spec=features.spec,
        shapes=shapes,
        head_state=build_head(recipe.head, shapes, labels.num_classes).state_dict(),
        optimizer_state={},
        progress=Progress(),
    )
    run = RunDir(store.runs_dir / RUN)
    run.checkpoint("latest").parent.mkdir(parents=True)
    save_checkpoint(run.checkpoint("latest"), checkpoint)


@contextmanager
def serving(store: Path, folder: Path, options: argparse.Namespace, max_batch: int) -> Iterator[str]:
    """The address of a service."""
    port_file = folder / f"port{max_batch}"
    command = ["serve", "recognizer", "--store", str(store), "--device", options.device, "--port", "0"]
    command += ["--port-file", str(port_file), "--max-requests", "100", "--max-batch", str(max_batch)]
    with (folder / f"log{max_batch}").open("wb") as log:
        process = subprocess.Popen(
            python_command("cli.main", *command), env=python_environment(), stdout=log, stderr=log
        )
    try:
        while not port_file.exists():
            if process.poll() is not None:
                sys.exit((folder / f"log{max_batch}").read_text())
            time.sleep(0.1)
        yield f"127.0.0.1:{port_file.read_text().strip()}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def requests(count: int, people: int) -> list[pb.RecognizeRequest]:
    random = np.random.default_rng(0)
    return [
        pb.RecognizeRequest(
            run_id=RUN,
            dataset="benchmark",
            split="all",
            video="video",
            time_ms=1000 * number,
            boxes=[
                pb.Box(x1=x1, y1=y1, x2=x2, y2=y2)
                for (x1, y1), (x2, y2) in np.sort(random.random((people, 2, 2)), axis=1).tolist()
            ],
        )
        for number in range(count)
    ]


async def load(
    client: RecognizerClient, wanted: Sequence[pb.RecognizeRequest], callers: int, seconds: float
) -> tuple[NDArray[np.float64], float]:
    """Latencies in seconds, and calls a second."""
    latencies: list[float] = []
    start = time.perf_counter()

    async def caller(number: int) -> None:
        turn = number
        while time.perf_counter() - start < seconds:
            begin = time.perf_counter()
            await client.recognize(wanted[turn % len(wanted)])
            latencies.append(time.perf_counter() - begin)
            turn += callers

    await asyncio.gather(*(caller(number) for number in range(callers)))
    return np.array(latencies), len(latencies) / (time.perf_counter() - start)


async def measure(addresses: dict[str, str], options: argparse.Namespace) -> None:
    wanted = requests(options.key_frames, options.people)
    clients = {form: RecognizerClient(ClientConfig(address=address)) for form, address in addresses.items()}
    for form, client in clients.items():
        await client.__aenter__()
        await client.load_model(RUN)
        start = time.perf_counter()
        await client.recognize(wanted[0])
        print(f"First call after loading, {form}: {1e3 * (time.perf_counter() - start):.0f} ms.")
        for request in wanted[1:WARM_UP]:
            await client.recognize(request)
    print()
    answers = [
        await asyncio.gather(*(client.recognize(request) for request in wanted[:16])) for client in clients.values()
    ]
    difference = max(np.abs(a - b).max() for (_, a), (_, b) in zip(*answers, strict=True))
    print("| callers | form | calls/s | p50 ms | p90 ms | p99 ms |\n|---|---|---|---|---|---|")
    for callers in options.callers:
        for form, client in clients.items():
            latencies, rate = await load(client, wanted, callers, options.seconds)
            values = " | ".join(f"{1e3 * value:.1f}" for value in np.percentile(latencies, [50, 90, 99]))
            print(f"| {callers} | {form} | {rate:.1f} | {values} |", flush=True)
    for client in clients.values():
        await client.__aexit__(None, None, None)
    print(f"\nLargest difference of a score between the two forms, over 16 calls at once: {difference:.1e}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head", choices=sorted(SIZES), default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--people", type=int, default=3, help="In each key frame.")
    parser.add_argument("--key-frames", type=int, default=64)
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    load_average = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder, store = Path(name), Path(name) / "store"
        make_store(store, options.head, options.key_frames)
        with serving(store, folder, options, 32) as shared, serving(store, folder, options, 1) as single:
            asyncio.run(measure({"shared passes": shared, "one at a time": single}, options))
    print(f"\n- {options.head} head, {options.people} people a call, {options.key_frames} cached key frames")
    print(
        f"- Hardware: {processor()}, {os.cpu_count()} cores, device {options.device}; load average {load_average:.1f}"
    )
    print(f"- Software: Python {platform.python_version()}, torch {version('torch')}, grpcio {version('grpcio')}")
    print(f"- Command: `python -m benchmarks.recognize_latency {shlex.join(sys.argv[1:])}`")


if __name__ == "__main__":
    main()
