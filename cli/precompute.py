"""`stal-cli precompute`: run the backbones once over a split and fill the feature cache."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

if TYPE_CHECKING:
    from cache.backbones.load import LoadedBackbone
    from cache.precompute import Progress, Stage
    from cache.spec import BackboneKind

PLAIN_LINE_S = 10.0  # seconds between progress lines where stderr is no terminal
STAGE_TEXT: dict["Stage", str] = {"check": "checking frames", "extract": "computing features"}
WEIGHTS_HELP = "A .safetensors file, random:SEED (untrained), or none."


@click.command()
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--split", required=True, help="Split of the data set, such as train.")
@click.option("--store", required=True, help="Folder of the store; made when missing.")
@click.option("--slowfast", default="none", show_default=True, metavar="WEIGHTS", help=WEIGHTS_HELP)
@click.option("--vit", default="none", show_default=True, metavar="WEIGHTS", help=WEIGHTS_HELP)
@click.option("--slowfast-preset", help="Size of SlowFast; default: what the file says, else r50.")
@click.option("--vit-preset", help="Size of the ViT; default: what the file says, else giant.")
@click.option(
    "--view",
    "views",
    multiple=True,
    default=["identity"],
    show_default=True,
    type=click.Choice(["identity", "hflip"]),
    help="Repeat for both: training flips clips, prediction does not. Frames are decoded once.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32"]),
    default="float16",
    show_default=True,
    help="Of the stored maps.",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=8, show_default=True, help="Clips a batch.")
@click.option("--device", default="auto", show_default=True, help="auto (every GPU, else the CPU), cpu, cuda:0,cuda:1")
@click.option(
    "--rows-per-shard",
    type=click.IntRange(min=1),
    help="Key frames written at once, the most that a kill loses; only for a new set. Default: at most 64.",
)
@click.option("--decode-threads", type=click.IntRange(min=1), help="Default: one a CPU core, at most 8.")
def precompute(
    dataset: Path,
    split: str,
    store: str,
    slowfast: str,
    vit: str,
    slowfast_preset: str | None,
    vit_preset: str | None,
    **options: Any,
) -> None:
    """Run both backbones once over a split of DATASET and fill the feature cache.

    Stopped or killed, the same command goes on where it was; several machines may run it on one store.

    \b
    Example:
      stal-cli precompute data --split train --store store \\
        --slowfast slowfast.safetensors --vit vit.safetensors --view identity --view hflip
    """
    if slowfast == vit == "none":
        raise click.UsageError("Name the weights of at least one backbone: --slowfast, --vit or both.")

    from cache.precompute import precompute as run
    from cache.store import Store
    from stal_data.dataset import Dataset

    opened = Dataset.open(dataset).split(split)
    with _progress() as progress:
        feature_sets = run(
            opened,
            Store.open(store, create=True),
            slowfast=_backbone("slowfast", slowfast, slowfast_preset),
            vit=_backbone("vit", vit, vit_preset),
            devices=options.pop("device"),
            progress=progress,
            **options,
        )
    for features in feature_sets:
        click.echo(
            f"{features.dataset}/{features.split}/{features.id}: {len(features.done)} rows, {features.spec.view}"
        )


def _backbone(kind: str, weights: str, preset: str | None) -> "LoadedBackbone | None":
    if weights == "none":
        if preset is not None:
            raise click.UsageError(f"--{kind}-preset '{preset}' needs --{kind} WEIGHTS.")
        return None
    from cache.backbones.load import load_backbone

    return load_backbone(cast("BackboneKind", kind), weights=weights, preset=preset)


@contextmanager
def _progress() -> "Iterator[Progress]":
    """Yield what shows the progress: bars on a terminal, else a line now and then; both on stderr."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _PlainLines()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    rate = TextColumn("{task.fields[rate]}")
    with Progress(
        "{task.description}", BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn(), console=console
    ) as bar:
        tasks: dict[Stage, Any] = {}
        rates: dict[Stage, _Rate] = {}

        def show(stage: "Stage", done: int, total: int) -> None:
            if stage not in tasks:
                # Rows that an earlier run left behind are not this run's speed.
                tasks[stage], rates[stage] = bar.add_task(STAGE_TEXT[stage], total=total, rate=""), _Rate(done)
                bar.update(tasks[stage], completed=done)
                bar.reset(tasks[stage], completed=done)
            bar.update(tasks[stage], completed=done, rate=f"{rates[stage].per_second(done):.1f} clips/s")

        yield show


class _Rate:
    """Clips a second since it was made."""

    def __init__(self, done: int) -> None:
        self._start, self._first = time.monotonic(), done

    def per_second(self, done: int) -> float:
        return (done - self._first) / max(time.monotonic() - self._start, 1e-9)


class _PlainLines:
    """Prints a line at the start and the end of a stage, and every PLAIN_LINE_S between."""

    def __init__(self) -> None:
        self._rates: dict[Stage, _Rate] = {}
        self._next_s = 0.0

    def __call__(self, stage: "Stage", done: int, total: int) -> None:
        first = stage not in self._rates
        rate = self._rates.setdefault(stage, _Rate(done))
        now = time.monotonic()
        if first:
            click.echo(f"{STAGE_TEXT[stage]}: {done} of {total} key frames done", err=True)
        elif done == total or now >= self._next_s:
            speed = rate.per_second(done)
            left = f", {(total - done) / speed:.0f} s left" if speed and done < total else ""
            click.echo(f"{STAGE_TEXT[stage]}: {done} of {total}, {speed:.1f} clips/s{left}", err=True)
        else:
            return
        self._next_s = now + PLAIN_LINE_S
