"""`stal-cli detector`: train and export the person detector."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.ui.options import with_options
from cli.ui.params import BATCH, CONFIDENCE, COUNT, IMAGE_SIZE, SEED, Real
from cli.ui.progress import counted
from stal_data.amounts import amount

if TYPE_CHECKING:
    from detector_svc.yolo.yolo_folders import YoloPart

_FILE = click.Path(dir_okay=False, path_type=Path)
_PART_OPTIONS = (
    click.argument("datasets", nargs=-1, required=True, metavar="DATASET...", type=click.Path(path_type=Path)),
    click.option("--split", default="train", show_default=True, help="Split to learn from, of each data set."),
    click.option("--val-split", help="Split to validate on; default: some videos of --split are held out."),
    click.option("--held-out", type=Real(0, 0.9), default=0.1, show_default=True, help="Share of videos held out."),
    click.option(
        "--negatives",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="DATASET",
        help="Repeatable: a data set that shows nobody, all splits; its key frames are trained on as background.",
    ),
    click.option("--max-images", type=COUNT, help="Key frames drawn from the splits; default: all."),
    click.option("--max-val-images", type=COUNT, default=100, show_default=True, help="Key frames to validate on."),
    click.option("--seed", type=SEED, default=0, show_default=True, help="Of the draw and the order."),
)


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """What the options above say."""

    datasets: tuple[Path, ...]
    split: str
    val_split: str | None
    held_out: float
    negatives: tuple[Path, ...]
    max_images: int | None
    max_val_images: int
    seed: int

    def choose(self) -> "tuple[YoloPart, YoloPart]":
        """Return what to train and what to validate on."""
        from detector_svc.yolo.yolo_folders import choose_parts
        from stal_data.dataset import Dataset

        opened = [Dataset.open(dataset) for dataset in self.datasets]
        empty = [Dataset.open(dataset) for dataset in self.negatives]
        return choose_parts(
            [dataset.split(self.split) for dataset in opened],
            [dataset.split(self.val_split) for dataset in opened] if self.val_split is not None else [],
            [dataset.split(name) for dataset in empty for name in dataset.split_names],
            max_images=self.max_images,
            max_val_images=self.max_val_images,
            held_out=self.held_out,
            seed=self.seed,
        )


def _part_options(command: Callable[..., Any]) -> Any:
    """Give a command the options; it gets them as `parts`."""

    @wraps(command)
    def with_parts(**given: Any) -> Any:
        return command(parts=_Parts(**{field.name: given.pop(field.name) for field in fields(_Parts)}), **given)

    return with_options(with_parts, _PART_OPTIONS)


@click.group()
def detector() -> None:
    """Train and export the person detector."""


@detector.command()
@_part_options
@click.option("--weights", type=_FILE, help="Checkpoint (.pt) to fine-tune.")
@click.option("--model", type=_FILE, help="Model description (.yaml) to train from scratch.")
@click.option(
    "--image-size", type=IMAGE_SIZE, default="180x320", show_default=True, help="As in serving, height x width."
)
@click.option("--epochs", type=COUNT, default=5, show_default=True, help="Passes over the images.")
@click.option("--batch", type=click.IntRange(1, 1024), default=4, show_default=True, help="Images a batch.")
@click.option("--nbs", type=COUNT, help="Images an optimizer step; default: the batch.")
@click.option("--optimizer", default="AdamW", show_default=True, help="SGD, AdamW, ...: as Ultralytics names them.")
@click.option("--lr0", type=Real(0, 1000, min_open=True), default=3e-3, show_default=True, help="First learning rate.")
@click.option(
    "--scale", type=Real(0, 1, max_open=True), default=0.2, show_default=True, help="Random zoom, as a share."
)
@click.option(
    "--translate", type=Real(0, 1, max_open=True), default=0.05, show_default=True, help="Random shift, as a share."
)
@click.option("--mosaic/--no-mosaic", default=False, show_default=True, help="Four images in one; square sizes only.")
@click.option(
    "--workers", type=click.IntRange(0, 1024), default=2, show_default=True, help="Loader processes (GPU only)."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
@click.option("--confidence", type=CONFIDENCE, default=0.3, show_default=True, help="Recall is measured at it.")
@click.option("--output", type=_FILE, required=True, help="The .pt file to write; numbers go beside it as .json.")
def train(
    parts: _Parts,
    weights: Path | None,
    model: Path | None,
    image_size: tuple[int, int],
    output: Path,
    **options: Any,
) -> None:
    """Train YOLO on the people of each DATASET, from weights or from a model description.

    Annotations become one label file per key frame with the single class person; a key frame without people is
    background. Nothing is downloaded. The defaults suit a few hundred small frames of fixed cameras; for a large data
    set take larger batches and more of everything.

    \b
    Examples:
      stal-cli detector train data --model detector_svc/models/yolov8-slim.yaml --epochs 5 \\
          --max-images 480 --output detector.pt
      stal-cli detector train chaotic-world --weights yolov8n.pt --image-size 180x320 --epochs 128 \\
          --lr0 0.001 --batch 64 --scale 0.5 --translate 0.1 --output person.pt
      stal-cli detector train street yard --negatives empty-rooms --weights person.pt --output person-2.pt
    """
    if (weights is None) == (model is None):
        raise click.UsageError("Give either --weights FILE.pt to fine-tune or --model FILE.yaml to start from scratch.")
    from detector_svc.yolo.training import DetectorTrainConfig, train_detector

    start = weights or model
    assert start is not None
    height, width = image_size
    config = DetectorTrainConfig(start=start, height=height, width=width, seed=parts.seed, **options)
    train_part, val_part = parts.choose()
    with counted("training", unit="batches") as update:

        def report(what: str, done: int, total: int) -> None:
            if what == "batches":
                update(done, total)
            elif what != "images":
                click.echo(f"epoch {done}/{total}: {what}", err=True)

        quality = train_detector(
            config, train_part, val_part, output, report=report, say=lambda text: click.echo(text, err=True)
        )
    click.echo(
        f"{output}: recall {quality.recall:.3f}, precision {quality.precision:.3f} at IoU 0.5 and confidence "
        f"{config.confidence} on {amount(quality.people, 'person', 'people')} of "
        f"{amount(len(val_part.images), 'key frame')} kept out of training"
    )
    recalls = {size: "-" if share is None else f"{share:.3f}" for size, share in quality.recall_by_size().items()}
    click.echo("recall by box size: " + ", ".join(f"{size} {share}" for size, share in recalls.items()))


@detector.command()
@_part_options
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), required=True, help="A new folder.")
def convert(parts: _Parts, output: Path) -> None:
    """Write the annotations of each DATASET in YOLO format, to train elsewhere or to look at.

    \b
    Example:
      stal-cli detector convert chaotic-world --split train --output chaotic-world-yolo
    """
    from detector_svc.yolo.yolo_folders import write_yolo_folder

    train_part, val_part = parts.choose()
    with counted("converting", unit="key frames") as update:
        folder = write_yolo_folder(output, train_part, val_part, progress=update)
    click.echo(
        f"{folder.data_yaml}: {amount(folder.images, 'image')} with {amount(folder.boxes, 'person', 'people')} to "
        f"train on, {folder.val_images} to validate on"
    )


@detector.command()
@click.argument("weights", type=_FILE)
@click.option("--output", type=_FILE, required=True, help="The .onnx file to write.")
@click.option("--image-size", type=IMAGE_SIZE, help="Height x width; default: what the weights were trained at.")
@click.option("--batch", type=BATCH, default="dynamic", show_default=True, help="Images that a run takes.")
def export(weights: Path, output: Path, image_size: tuple[int, int] | None, batch: int | None) -> None:
    """Write WEIGHTS (.pt) as an ONNX file, which holds no code and is served as the checkpoint is.

    The file takes images of this one size, and is compared with the checkpoint before it is written. Needs the extra
    onnx.

    \b
    Example:
      stal-cli detector export person.pt --output person.onnx
      stal-cli serve detector --weights person.onnx
    """
    from detector_svc.yolo.onnx_export import export_onnx

    written = export_onnx(weights, output, image_size=image_size, batch=batch)
    click.echo(
        f"{written.path}: {written.size[0]}x{written.size[1]}, differs from {weights.name} by at most "
        f"{written.difference:.1g} on noise"
    )
