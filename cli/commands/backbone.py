"""`stal-cli backbone`: train a small backbone as a stand-in for pre-training."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cache.backbones import BACKBONES
from cli.ui.params import COUNT, SEED, THREADS, Real
from stal_data.children import usable_cores

if TYPE_CHECKING:
    from cache.backbones.train import StepReport

PLAIN_LINES = 10  # progress lines of a whole run where stderr is no terminal


@click.group()
def backbone() -> None:
    """Train a small backbone as a stand-in for pre-training."""


@backbone.command()
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--split", default="train", show_default=True, help="Split to train on.")
@click.option("--kind", type=click.Choice(list(BACKBONES)), required=True, help="Which backbone.")
@click.option("--preset", default="small", show_default=True, help="Size: see docs/backbones.md.")
@click.option(
    "--label-type",
    "label_types",
    multiple=True,
    help="Learn the labels of this type of the label map (repeatable): those that one person's pixels show. "
    "[default: PERSON_MOVEMENT; all labels of a map without it]",
)
@click.option("--steps", type=COUNT, required=True, help="Number of training steps.")
@click.option(
    "--batch-size",
    type=click.IntRange(1, 1024),
    help="Examples a step: 24 windows around people for slowfast, 8 whole clips for the others.",
)
@click.option(
    "--learning-rate", type=Real(0, 1000, min_open=True), default=3e-3, show_default=True, help="Peak of the schedule."
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of weights and order.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
@click.option("--threads", type=THREADS, help="Decoder threads; default: one a CPU core.")
@click.option(
    "--memory", type=click.IntRange(0, 1 << 30), default=2048, show_default=True, help="MiB of clips to keep."
)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="The .safetensors file to write.")
def train(
    dataset: Path,
    split: str,
    device: str,
    threads: int | None,
    memory: int,
    output: Path,
    **options: Any,
) -> None:
    """Train a backbone on DATASET's own labels for a fixed number of steps, and write its weights.

    \b
    Example:
      stal-cli backbone train data --split train --kind slowfast --preset small \\
        --label-type PERSON_MOVEMENT --steps 550 --seed 0 --output slowfast.safetensors
    """
    from cache.backbones.train import TrainConfig, train_backbone
    from cache.backbones.weights import save_backbone
    from cache.precompute.devices import resolve_devices
    from stal_data.dataset import Dataset

    if output.suffix != ".safetensors":
        raise click.BadParameter(f"'{output}' must end in .safetensors.", param_hint="--output")
    config = TrainConfig(**options)
    with _progress(config.steps) as report:
        trained = train_backbone(
            Dataset.open(dataset).split(split),
            config,
            device=resolve_devices(device)[0],
            threads=threads or usable_cores(),
            cache_bytes=memory * 2**20,
            progress=report,
        )
    digest = save_backbone(
        output,
        trained.model,
        kind=config.kind,
        preset=config.preset,
        config=trained.architecture,
        provenance=trained.provenance,
    )
    click.echo(f"Wrote {output}: {config.kind} '{config.preset}', sha256:{digest[:16]}")


@contextmanager
def _progress(steps: int) -> "Iterator[Callable[[StepReport], None]]":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        every = max(steps // PLAIN_LINES, 1)

        def line(report: "StepReport") -> None:
            if report.step % every == 0 or report.step == steps:
                click.echo(f"step {report.step}/{steps} loss {report.loss:.4f}", err=True)

        yield line
        return
    columns = ("training", BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("training", total=steps, loss="-")
        yield lambda report: bar.update(task, completed=report.step, loss=f"{report.loss:.4f}")
