"""Precompute from JPEG, PNG and MP4 with the GPU's idle share, a training run, and its resume on a CPU; print Markdown.

    python -m benchmarks.gpu_workflow --device cuda --seconds 120
    python -m benchmarks.gpu_workflow --device cpu --tiny       # the same commands on a CPU, small

All of it by `stal-cli`, on backbones of the published sizes with random weights and a video with 3 people and a key
frame each second. Idle is 100 % less what nvidia-smi reports as the share of time in which a kernel runs, sampled five
times a second while features are computed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.decode import source
from stal_data.children import python_command, python_environment

EDGE_S = 3  # of the video: clips there would be cut
CLASSES = 50


def write_dataset(folder: Path, kind: str, media: Path, seconds: int) -> Path:
    """A data set over a video `v`, three people a second."""
    random = np.random.default_rng(0)
    lines = []
    for second in range(EDGE_S, seconds - EDGE_S):
        for person in range(3):
            corner = random.uniform(0, 0.6, 2)
            box = ",".join(f"{value:.3f}" for value in (*corner, *(corner + random.uniform(0.1, 0.4, 2))))
            label, begin = random.integers(CLASSES), 25 * second - 32
            lines.append(f"v,{second},{box},{label},{person},{begin},{begin + 64},{second},0,0\n")
    folder.mkdir(parents=True)
    (folder / "train.csv").write_text("".join(lines))
    labels = (f'item {{\n  name: "action {number}"\n  id: {number}\n}}\n' for number in range(1, CLASSES + 1))
    (folder / "labels.pbtxt").write_text("".join(labels))
    files = {"kind": "frames", "root": str(media), "pattern": f"{{video}}/{{video}}_{{frame:06d}}.{kind}"}
    if kind == "mp4":
        files = {"kind": "video", "files": {"v": str(media)}}
    (folder / "dataset.yaml").write_text(
        f"name: {kind}\nformat: chaotic_world\nlabel_map: labels.pbtxt\nmedia: {json.dumps(files)}\n"
        "splits: {train: {annotations: train.csv}}\n"
    )
    return folder


class Utilization:
    """Samples of the share of time, in percent, in which a kernel runs; none without nvidia-smi."""

    def __init__(self) -> None:
        self._samples: list[float] = []

    @contextmanager
    def sampled(self) -> Iterator[None]:
        query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=200", "--id=0"]
        with tempfile.TemporaryFile("w+") as output:
            try:
                process = subprocess.Popen(["nvidia-smi", *query], stdout=output, stderr=subprocess.DEVNULL)
            except FileNotFoundError:
                yield
                return
            try:
                yield
            finally:
                process.terminate()
                process.wait()
                output.seek(0)
                self._samples = [float(line) for line in output.read().split() if line.isdigit()]

    def idle(self) -> str:
        return f"{100 - np.mean(self._samples):.0f} %" if self._samples else "not measured"


def stal_cli(*words: object, hidden_gpus: bool = False) -> subprocess.Popen[str]:
    environment = python_environment() | ({"CUDA_VISIBLE_DEVICES": ""} if hidden_gpus else {})
    return subprocess.Popen(
        python_command("cli.main", *map(str, words)), env=environment, stdout=subprocess.PIPE, text=True
    )


def timed(*words: object, hidden_gpus: bool = False) -> float:
    """Run a command to its end; return its seconds."""
    start = time.perf_counter()
    process = stal_cli(*words, hidden_gpus=hidden_gpus)
    output = process.communicate()[0]
    if process.returncode:
        sys.exit(output)
    return time.perf_counter() - start


def precompute(words: Sequence[object]) -> tuple[float, str]:
    """Return clips a second from the first batch that is written to the last, and the idle share meanwhile."""
    process, done, utilization = stal_cli("precompute", *words, "--json"), list[tuple[int, float]](), Utilization()
    lines = (json.loads(line) for line in process.stdout or ())
    for event in lines:
        if event.get("phase") == "extract" and event["done"]:
            done.append((event["done"], time.perf_counter()))
            break
    with utilization.sampled():
        done += [(event["done"], time.perf_counter()) for event in lines if event.get("phase") == "extract"]
    if process.wait():
        sys.exit("precompute failed")
    (first, start), (last, end) = done[0], done[-1]
    return (last - first) / max(end - start, 1e-9), utilization.idle()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=int, default=120, help="of the video, for each source")
    parser.add_argument("--autocast", default="fp16", choices=["none", "bf16", "fp16"])
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    tiny = options.tiny
    seconds, size, batch = (12, (320, 180), 2) if tiny else (options.seconds, (1280, 720), 16)
    presets = {"slowfast": "tiny", "vit": "tiny"} if tiny else {"slowfast": "r50", "vit": "giant"}
    backbones = [
        word for kind, preset in presets.items() for word in (f"--{kind}=random:0", f"--{kind}-preset={preset}")
    ]
    on = [f"--autocast={options.autocast}", f"--device={options.device}", f"--batch-size={batch}"]
    with tempfile.TemporaryDirectory() as name:
        folder, store = Path(name), Path(name) / "store"
        print("| source | clips/s | GPU idle |\n|---|---|---|")
        for kind in ("jpg", "png", "mp4"):
            with source(kind, *size, seconds) as (_, media):
                data = write_dataset(folder / kind, kind, media, seconds)
                rate, idle = precompute([data, "--split=train", f"--store={store}", *backbones, *on])
            print(f"| {kind} | {rate:.2f} | {idle} |", flush=True)
        small = ["head.reduce_channels=8", "head.context_channels=8", "training.batch_clips=2"] if tiny else []
        changes = ["data.dataset=mp4", "data.hflip_probability=0", "validation.split=null", *small]
        words = ["acar-published", f"--store={store}", "--run-id=gpu", *(f"--set={change}" for change in changes)]
        trained = timed("train", *words, "--set=training.epochs=1", "--nproc-per-node=1")
        resumed = timed("train", *words, "--set=training.epochs=2", "--resume", hidden_gpus=True)
    clips = seconds - 2 * EDGE_S
    print(f"\nAn epoch of the published head on {clips} clips, start included: {trained:.1f} s.")
    print(f"The next epoch, resumed on the CPU: {resumed:.1f} s.")
    print(f"\n- {len(os.sched_getaffinity(0))} cores, autocast {options.autocast}")


if __name__ == "__main__":
    main()
