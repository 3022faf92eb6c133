"""Run both published-size backbones once on the CPU on one clip; print time and peak memory as Markdown.

    python benchmarks/giant_cpu.py > benchmarks/results/giant-cpu.md

The weights are seeded random numbers: time and memory do not depend on their values. Needs about 6 GB of free memory.
"""

import argparse
import os
import platform
import resource
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import timm
import torch

from cache.backbones.load import load_backbone
from cache.spec import BackboneKind


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Seconds to make the weights and for one clip; peak_bytes: resident set of the process up to here."""

    name: str
    parameters: int
    outputs: str
    build_s: float
    forward_s: float
    peak_bytes: int


def measure(kind: BackboneKind, preset: str, weights: str) -> Measurement:
    start = time.perf_counter()
    backbone = load_backbone(kind, weights=weights, preset=preset)
    build_s = time.perf_counter() - start
    clip = torch.randn(1, 3, 32, backbone.spec.height, backbone.spec.width, generator=torch.Generator().manual_seed(0))
    start = time.perf_counter()
    with torch.inference_mode():
        outputs = backbone.model(clip)
    forward_s = time.perf_counter() - start
    maps = outputs if isinstance(outputs, tuple) else (outputs,)
    assert all(bool(item.isfinite().all()) for item in maps)
    return Measurement(
        name=f"{kind} `{preset}`",
        parameters=sum(item.numel() for item in backbone.model.parameters()),
        outputs=", ".join(str(list(item.shape)) for item in maps),
        build_s=build_s,
        forward_s=forward_s,
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="random:0")
    parser.add_argument("--note", default="", help="A sentence about the machine's state, for the page.")
    options = parser.parse_args()
    # SlowFast first: the peak only rises, so the second row's is that of the giant.
    rows = [measure("slowfast", "r50", options.weights), measure("vit", "giant", options.weights)]
    print("# The published-size backbones on a CPU, one clip\n")
    print("| backbone | parameters | outputs | weights made in | one clip (float32) | peak memory (RSS) |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.name} | {row.parameters / 1e6:.1f} M | {row.outputs} | {row.build_s:.1f} s "
            f"| {row.forward_s:.1f} s | {row.peak_bytes / 2**30:.2f} GiB |"
        )
    print(f"\nClip: 32 frames of 224x224, batch 1, weights `{options.weights}`. One run, no warm-up. {options.note}")
    print(f"\n- Hardware: {processor()}, {os.cpu_count()} CPU threads, {torch.get_num_threads()} used by torch")
    print(f"- Software: Python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}")
    print(f"- Command: `python {shlex.join(sys.argv)}`")


if __name__ == "__main__":
    main()
