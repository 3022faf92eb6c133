"""What each head costs at the published sizes: bytes of a key frame, reading, and a training step.

    python -m benchmarks.heads --output benchmarks/results/heads.md

The reading is from the page cache, by one thread, of the arrays that the head is given. The step is forward, loss and
backward of a batch; the published code's arithmetic, on all time steps and one actor at a time, runs beside it.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.cache_read import write_set
from cache.statistics import STATISTICS, StatisticName, array_name
from cache.store import Store
from recognizer_svc.heads import build_head
from recognizer_svc.heads.acar.config import AcarConfig
from recognizer_svc.heads.batch import FeatureShapes, HeadBatch
from recognizer_svc.losses.pose_softmax import PoseSoftmax
from recognizer_svc.training.recipe import load_recipe
from tests.recognizer.plain_head import PlainHead

MAPS = {"slow": (2048, 8, 14, 14), "fast": (256, 32, 14, 14), "vit": (1408, 16, 16, 16)}
CLASSES, CLIPS, ROWS = 50, 4, 64
LOSS = PoseSoftmax()


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A head with what it is given of the published maps."""

    recipe: str
    overrides: tuple[str, ...] = ()
    kept: dict[str, tuple[StatisticName, ...]]
    autocast: bool = False


MEANS: dict[str, tuple[StatisticName, ...]] = {"slow": ("mean",), "fast": ("mean",)}
PUBLISHED = {**MEANS, "vit": ("mean", "moments")}
FAST_SLOPE = MEANS | {"fast": ("mean", "slope")}
SLOPES = FAST_SLOPE | {"slow": ("mean", "slope")}
WIDTH = "head.channels=128"
PARTS = ("head.standardise=true", "head.pooling=mean_max", "head.linear_skip=true")
VARIANTS = {
    "linear": Variant(recipe="linear", kept=PUBLISHED),
    "ACAR, as published": Variant(recipe="acar-published", kept=PUBLISHED),
    "ACAR, as published, bfloat16": Variant(recipe="acar-published", kept=PUBLISHED, autocast=True),
    "ACAR, all parts": Variant(recipe="acar-published", overrides=PARTS, kept=PUBLISHED),
    "relation, means of SlowFast": Variant(recipe="relation", overrides=(WIDTH,), kept=MEANS),
    "relation, and the slope of fast": Variant(recipe="relation", overrides=(WIDTH,), kept=FAST_SLOPE),
    "relation, and both slopes": Variant(recipe="relation", overrides=(WIDTH,), kept=SLOPES),
    "relation, and both slopes, bfloat16": Variant(recipe="relation", overrides=(WIDTH,), kept=SLOPES, autocast=True),
}


def shapes_of(kept: dict[str, tuple[StatisticName, ...]]) -> FeatureShapes:
    arrays = {
        array_name(name, item): STATISTICS[item].row_shape(MAPS[name]) for name, items in kept.items() for item in items
    }
    return FeatureShapes(arrays=arrays, time_steps={"vit": MAPS["vit"][1]} if "vit" in kept else {})


def boxes(actors: int) -> tuple[Tensor, Tensor]:
    corner_N2 = torch.rand(CLIPS * actors, 2, generator=torch.Generator().manual_seed(0)) * 0.5
    return torch.cat([corner_N2, corner_N2 + 0.3], dim=1), torch.arange(CLIPS).repeat_interleave(actors)


def median_ms(work: Callable[[], object], repeats: int) -> float:
    """Once to warm up, then so often."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def step_ms(head: nn.Module, inputs: Sequence[object], actors: int, repeats: int, *, autocast: bool = False) -> float:
    targets_NC = (torch.rand(CLIPS * actors, CLASSES, generator=torch.Generator().manual_seed(1)) < 0.1).float()

    def step() -> None:
        head.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits_NC = head(*inputs)
        LOSS.total(logits_NC.float(), targets_NC).backward()

    return median_ms(step, repeats)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, default=ROWS, help="Of the feature set that is read.")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    lines = [
        "# The heads at the published sizes, as measured",
        "",
        f"slow 2048x8x14x14, fast 256x32x14x14, vit 1408x16x16x16, {CLASSES} classes; {CLIPS} clips a step with 1 or",
        f"10 actors each, one thread. Reading: {options.rows} rows in batches of {CLIPS}, from the page cache.",
        "Relation has 128 channels. bfloat16 is autocast of the forward pass. Medians.",
        "",
        "| head | parameters | KB a key frame | reading a batch, ms | step, 1 actor, ms | step, 10 actors, ms |",
        "|---|---|---|---|---|---|",
    ]
    with torch.device("meta"):
        plain = PlainHead(AcarConfig(dropout=0.0), shapes_of(PUBLISHED), CLASSES)
    plain = plain.to_empty(device="cpu").train()
    for parameter in plain.parameters():
        nn.init.normal_(parameter, std=0.02)
    whole = [torch.randn(CLIPS, *shape) for shape in MAPS.values()]
    published = {}
    for actors in (1, 10):
        boxes_N4, clip_of_N = boxes(actors)
        rois_N5 = torch.cat([clip_of_N[:, None].float(), boxes_N4], dim=1)
        published[actors] = step_ms(plain, (*whole, rois_N5), actors, min(options.repeats, 3))
    size = sum(parameter.numel() for parameter in plain.parameters()) / 1e6
    full_kb = sum(values[0].numel() for values in whole) * 2 / 1e3
    lines.append(
        f"| ACAR, published arithmetic | {size:.2f} M | {full_kb:.0f} | | {published[1]:.0f} | {published[10]:.0f} |"
    )
    del whole, plain
    with tempfile.TemporaryDirectory() as folder:
        stored = shapes_of({**SLOPES, "vit": ("mean", "moments")})
        features = write_set(Store.open(folder), options.rows, kept={**SLOPES, "vit": ("mean", "moments")})
        assert set(features.shapes) == set(stored.arrays)
        for name, variant in VARIANTS.items():
            shapes = shapes_of(variant.kept)
            head = build_head(load_recipe(variant.recipe, variant.overrides).head, shapes, CLASSES).train()
            buffer = features.allocate(CLIPS, shapes.arrays)

            def read(buffer=buffer) -> None:  # type: ignore[no-untyped-def]
                for first in range(0, options.rows, CLIPS):
                    features.read_into(range(first, first + CLIPS), buffer)

            reading = median_ms(read, options.repeats) / (options.rows / CLIPS)
            maps = {item: torch.randn(CLIPS, *shape) for item, shape in shapes.arrays.items()}
            if "vit_moments" in maps:
                maps["vit_moments"] = torch.stack([torch.zeros(CLIPS, 1408), torch.ones(CLIPS, 1408)], dim=1)
            steps = []
            for actors in (1, 10):
                boxes_N4, clip_of_N = boxes(actors)
                batch = HeadBatch(features=maps, boxes_N4=boxes_N4, clip_of_N=clip_of_N)
                found = step_ms(head, (batch,), actors, options.repeats, autocast=variant.autocast)
                faster = f" ({published[actors] / found:.1f}x)" if name.startswith("ACAR") else ""
                steps.append(f"{found:.0f}{faster}")
            size = sum(parameter.numel() for parameter in head.parameters()) / 1e6
            kb = sum(features.manifest.row_bytes(array) for array in shapes.arrays) / 1e3
            lines.append(f"| {name} | {size:.2f} M | {kb:.0f} | {reading:.1f} | {steps[0]} | {steps[1]} |")
            print(lines[-1], flush=True)
    lines += [
        "",
        "In brackets: how many times faster than the published ACAR head's own arithmetic, in the same run.",
        "",
        f"- Machine: {platform.processor() or platform.machine()}, {os.cpu_count()} cores; torch {torch.__version__}, "
        f"Python {platform.python_version()}; {date.today()}",
        "- Command: `python -m benchmarks.heads`",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.output is not None:
        options.output.write_text(text)


if __name__ == "__main__":
    main()
