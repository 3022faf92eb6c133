"""Time the extraction of features against plain PyTorch on the same clips; print Markdown.

    python -m benchmarks.extract --vit-blocks 2 --clips 2 --batch-size 1 --batch-size 2   # a CPU
    python -m benchmarks.extract --device cuda --clips 64 --batch-size 4 --batch-size 8 --batch-size 16 --compile

The plain form (`benchmarks/extract_plain.py`) is float32, explicit softmax attention, one clip at a time, as the
published loop calls its backbones. Ours is `cache.precompute.extract.Extractor`, from frames in host memory to pooled
arrays in host memory. Weights are seeded random numbers; speed does not depend on them.
"""

import argparse
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np
import timm
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.extract_plain import plain_slowfast, plain_vit
from benchmarks.giant_cpu import processor
from cache.backbones.architectures import BackboneConfig, build_without_weights, preset_config
from cache.backbones.load import LoadedBackbone
from cache.backbones.weights import assign_state, random_state
from cache.pooling import pool_slowfast, pool_vit
from cache.precompute.extract import Extractor
from cache.spec import Autocast, BackboneKind, BackboneSpec
from stal_data.preprocess import MEAN, STD

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement. flops: of one clip. difference: largest one to the plain form, of an array's largest value."""

    backbone: str
    form: str
    batch: int
    clips_per_s: float
    flops: float
    difference: float


def make_backbone(kind: BackboneKind, config: BackboneConfig) -> LoadedBackbone:
    model = build_without_weights(kind, config)
    assign_state(model, random_state(model, 0), "random:0")
    model.eval().requires_grad_(False)
    spec = BackboneSpec(
        kind=kind, preset="benchmark", config=asdict(config), weights="random:0", trained=False,
        height=config.height, width=config.width,
    )  # fmt: skip
    return LoadedBackbone(model=model, spec=spec)


def plain_pooled(kind: BackboneKind, model: torch.nn.Module, clip: Tensor) -> dict[str, Tensor]:
    if kind == "vit":
        return pool_vit(plain_vit(model, clip))  # type: ignore[arg-type]
    return pool_slowfast(*plain_slowfast(model, clip))  # type: ignore[arg-type]


def flops_of(kind: BackboneKind, config: BackboneConfig) -> float:
    """Of one clip: two for each multiplication with an addition; matrix products and convolutions alone are counted."""
    model = build_without_weights(kind, config).eval()
    clip = torch.empty(1, 3, config.num_frames, config.height, config.width, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        plain_pooled(kind, model.to("meta"), clip)
    return float(counter.get_total_flops())


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the best FLOP/s of a large square product."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = min(timed(device, lambda: a @ b) for _ in range(5))
    return 2 * size**3 / best


def timed(device: torch.device, call: Callable[[], object]) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure(
    kind: BackboneKind, config: BackboneConfig, device: torch.device, options: argparse.Namespace
) -> Iterator[Row]:
    backbone, flops = make_backbone(kind, config), flops_of(kind, config)
    random = torch.Generator().manual_seed(0)
    size = (config.height, config.width)
    frames = torch.randint(0, 256, (options.clips, config.num_frames, *size, 3), dtype=torch.uint8, generator=random)
    if device.type == "cuda":
        frames = frames.pin_memory()
    expected: Arrays = {}

    def plain() -> None:
        found = []
        for clip in frames:
            values = (clip.to(device).permute(3, 0, 1, 2)[None].float() / 255 - float(MEAN)) / float(STD)
            with torch.inference_mode():
                found.append({name: item.cpu().numpy() for name, item in plain_pooled(kind, model, values).items()})
        expected.update({name: np.concatenate([item[name] for item in found]) for name in found[0]})

    model = backbone.model.to(device)
    torch.backends.cudnn.allow_tf32 = False
    if device.type == "cuda":
        plain()  # warm-up
    seconds = timed(device, plain)
    yield Row(
        backbone=kind, form="plain float32", batch=1, clips_per_s=len(frames) / seconds, flops=flops, difference=0
    )
    backbone.model.cpu()
    for autocast in ("none", "bf16"):
        for compiled in (False, True) if options.compile else (False,):
            for batch in options.batch_size:
                yield _ours(backbone, autocast, compiled, batch, frames, device, expected, flops)


def _ours(
    backbone: LoadedBackbone, autocast: Autocast, compiled: bool, batch: int, frames: Tensor, device: torch.device,
    expected: Arrays, flops: float,
) -> Row:  # fmt: skip
    kind, notes = backbone.spec.kind, []
    slowfast, vit = (backbone, None) if kind == "slowfast" else (None, backbone)
    extractor = Extractor(
        slowfast, vit, device, autocast=autocast, compiled=compiled, batch_size=batch, note=notes.append
    )
    size = (backbone.spec.height, backbone.spec.width)
    found: list[Arrays] = []

    def run() -> None:
        # The next batch is started before the last one is waited for, as in a run.
        waiting = None
        for start in range(0, len(frames), batch):
            started = extractor.launch({size: frames[start : start + batch]}, ["identity"])
            if waiting is not None:
                found.append(waiting.arrays()["identity"])
            waiting = started
        if waiting is not None:
            found.append(waiting.arrays()["identity"])

    if device.type == "cuda" or compiled:
        run()
        found.clear()
    seconds = timed(device, run)
    differences = [
        np.abs(np.concatenate([item[name] for item in found]) - values).max() / np.abs(values).max()
        for name, values in expected.items()
    ]
    form = ("float32" if autocast == "none" else autocast) + (", compiled" if compiled else "")
    return Row(
        backbone=kind, form=form, batch=extractor.batch_size, clips_per_s=len(frames) / seconds, flops=flops,
        difference=float(max(differences)),
    )  # fmt: skip


def print_rows(rows: Iterator[Row], rate: float) -> None:
    plain_rate = 0.0
    for row in rows:
        plain_rate = row.clips_per_s if row.form.startswith("plain") else plain_rate
        achieved = row.clips_per_s * row.flops
        print(
            f"| {row.backbone} | {row.form} | {row.batch} | {row.clips_per_s:.3g} | {row.clips_per_s / plain_rate:.2f} "
            f"| {achieved / 1e12:.3g} | {achieved / rate:.0%} | {row.difference:.1e} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--vit-preset", default="giant")
    parser.add_argument("--vit-blocks", type=int, help="Blocks of the ViT; default: all.")
    parser.add_argument("--slowfast-preset", default="r50")
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--batch-size", type=int, action="append")
    parser.add_argument("--compile", action="store_true", help="Also measure compiled backbones.")
    parser.add_argument("--note", default="", help="A sentence about the machine's state, for the page.")
    options = parser.parse_args()
    options.batch_size = options.batch_size or [1, 2]
    device = torch.device(options.device)
    vit = preset_config("vit", options.vit_preset)
    if options.vit_blocks:
        vit = replace(vit, depth=options.vit_blocks)  # type: ignore[call-arg]
    single, half = (matmul_rate(device, dtype) for dtype in (torch.float32, torch.bfloat16))
    print(f"Square matrix product: {half / 1e12:.3g} TFLOP/s in bf16, {single / 1e12:.3g} in float32.\n")
    print("| backbone | form | batch | clips/s | times plain | TFLOP/s | of the bf16 product's rate | difference |")
    print("|---|---|---|---|---|---|---|---|")
    print_rows(measure("vit", vit, device, options), half)
    print_rows(measure("slowfast", preset_config("slowfast", options.slowfast_preset), device, options), half)
    blocks = f" with blocks: {options.vit_blocks}" if options.vit_blocks else ""
    print(
        f"\nViT `{options.vit_preset}`{blocks}, SlowFast `{options.slowfast_preset}`, {options.clips} clips.", end=" "
    )
    print(f"No warm-up on a CPU. {options.note}".rstrip())
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    print(f"\n- Hardware: {name}, {torch.get_num_threads()} CPU threads used by torch")
    print(f"- Software: Python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}")
    print(f"- Command: `python -m benchmarks.extract {shlex.join(sys.argv[1:])}`")


if __name__ == "__main__":
    main()
