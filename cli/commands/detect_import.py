"""`stal-cli detect --import`: boxes that another detector has found, as proposals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from click.core import ParameterSource

from cache.store import Store
from cli.ui.options import with_options
from cli.ui.params import COUNT_FROM_0, IMAGE_SIZE, Real
from stal_data.amounts import amount

F = TypeVar("F", bound=Callable[..., Any])
_BOTH = ("dataset", "split", "store", "name", "files")
_FILE = click.Path(dir_okay=False, path_type=Path)
_OPTIONS = (
    click.option(
        "--import",
        "files",
        type=click.Path(path_type=Path),
        multiple=True,
        metavar="FILE",
        help="File with the boxes of another detector, in place of --detector; again for more files.",
    ),
    click.option(
        "--image-size", type=IMAGE_SIZE, default="180x320", show_default=True, help="Of the detector's input."
    ),
    click.option(
        "--confidence",
        type=Real(0, 1),
        default=0.3,
        show_default=True,
        help="Below which the detector dropped boxes; the file does not say.",
    ),
    click.option("--images", type=_FILE, help="COCO JSON with the images that the ids of COCO's results mean."),
    click.option("--category", type=COUNT_FROM_0, default=1, show_default=True, help="Of people, in COCO's results."),
    click.option("--first-frame", type=COUNT_FROM_0, default=1, show_default=True, help="Number of first images."),
)
_NAMES = ("image_size", "confidence", "images", "category", "first_frame")


def import_options(function: F) -> F:
    """Add `--import`, which the command receives as `files`, and what goes with it."""
    return cast(F, with_options(function, _OPTIONS))


def check_options(*, importing: bool) -> None:
    """Refuse options of the command line that only count with, or only without --import."""
    context = click.get_current_context()
    for option in context.command.params:
        name = option.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name not in _BOTH and (name in _NAMES) != importing:
            way_out = "with --import; leave it out" if importing else "without --import; add --import FILE"
            raise click.UsageError(f"{option.opts[0]} has no effect {way_out}")


def import_boxes(files: tuple[Path, ...], dataset: str, split: str, store: str, options: dict[str, Any]) -> None:
    """Write the boxes of the files as proposals, and print what was merged or left out."""
    from cache.published_proposals import import_proposals
    from stal_data.dataset import Dataset

    opened = Dataset.open(Path(dataset)).split(split)
    path, report = import_proposals(files, opened, Store.open(store, create=True), **options)
    click.echo(
        f"{amount(report.elements, 'element')} with {amount(report.box_rows, 'box')}, "
        f"{amount(report.key_frames, 'key frame')}: {amount(report.duplicates_merged, 'duplicate')} merged, "
        f"{amount(report.boxes, 'box')} kept."
    )
    if report.key_frames_with_differing_boxes:
        click.echo(
            f"{amount(report.key_frames_with_differing_boxes, 'key frame')} with elements of different boxes: all "
            "boxes are kept.",
            err=True,
        )
    if report.tracks:
        click.echo("The track ids of the boxes are kept.")
    if report.boxes_elsewhere:
        click.echo(
            f"{amount(report.boxes_elsewhere, 'box')} left out: on frames of no key frame, or beyond the picture.",
            err=True,
        )
    if report.excluded_key_frames:
        click.echo(f"{amount(report.excluded_key_frames, 'key frame')} left out: excluded from the split.", err=True)
    _print_keys(report.unknown_key_frames, "left out: not in the split")
    _print_keys(report.key_frames_without_element, "of the split without boxes: not in the files")
    click.echo(f"Wrote {path}.")


def _print_keys(keys: tuple[str, ...], what: str) -> None:
    if keys:
        click.echo(f"{amount(len(keys), 'key frame')} {what}; the first is {keys[0]}.", err=True)
