"""`stal-cli dataset import | convert`: files of annotation tools."""

from collections.abc import Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.ui.json_output import json_option, print_json
from cli.ui.params import Real
from cli.ui.progress import counted
from stal_data.amounts import amount

if TYPE_CHECKING:
    from stal_data.imports.run import ReadFile

_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="New folder.")
@click.option("--name", required=True, help="Name of the data set in the store.")
@click.option(
    "--format",
    default="auto",
    show_default=True,
    help="auto: by the content. Or cvat, coco, label_studio, via, yolo, ava, tubes.",
)
@click.option("--split", default="all", show_default=True, help="For what the files assign to no split.")
@click.option("--videos", type=_FOLDER, help="Folder of the videos, with folders below; they are found by name.")
@click.option("--frames", type=_FOLDER, help="Folder with a folder of frames for each video.")
@click.option("--pattern", help="Of the image files below --frames.  [default: {video}/{video}_{frame:06d}.png]")
@click.option("--fps", type=Real(0.001, 1000), help="Of frame numbers in FILES, and of the images in --frames.")
@click.option(
    "--first-frame", type=click.IntRange(0, 10**9), default=1, show_default=True, help="Number of first images."
)
@click.option(
    "--every",
    type=Real(0, 86400),
    help="Seconds between key frames; 0: where somebody annotated.  [default: 1 for tracks, 0 for images]",
)
@click.option("--label-map", type=_FILE, help="In place of the names of the files, in their order.")
@click.option(
    "--unknown-labels",
    type=click.Choice(["error", "drop"]),
    default="error",
    show_default=True,
    help="What to do with actions that the label map lacks.",
)
@click.option("--action-attribute", multiple=True, help="Attribute that holds actions; default: all with a choice.")
@click.option("--starts", type=_FILE, help="CSV of video and second: time of its first frame on the files' clock.")
@json_option
def import_command(files: tuple[Path, ...], output: Path, as_json: bool, **options: Any) -> None:
    """Make a data set of FILES of an annotation tool or of a published data set.

    Read are CVAT 1.1 (for video, for images), COCO JSON (also with videos), Label Studio's video JSON, VIA 3 projects,
    YOLO folders, AVA and AVA-Kinetics CSV, and the pickles of MultiSports, UCF101-24 and JHMDB. Several files, such as
    the jobs of a task, become one data set. OUTPUT/import_report.json says what was read, merged, interpolated and
    dropped.

    \b
    Examples:
      stal-cli dataset import job1.xml job2.xml --videos videos --output street --name street
      stal-cli dataset import ava_train_v2.2.csv --label-map ava_action_list_v2.2.pbtxt --output ava --name ava
      stal-cli dataset import multisports_GT.pkl --videos trainval --output multisports --name multisports
    """
    from stal_data.formats.sources import Reading
    from stal_data.imports.media import ImportedMedia, read_starts
    from stal_data.imports.run import REPORT_NAME, ImportOptions, import_files
    from stal_data.labels import LabelMap

    every = options["every"]
    if every and round(1000 * every) == 0:
        raise click.UsageError(f"--every is {every} s, but must be 0 or at least 0.001.")
    fps = Fraction(options["fps"]).limit_denominator(1001) if options["fps"] else None
    media = ImportedMedia(
        videos=options["videos"],
        frames=options["frames"],
        pattern=options["pattern"],
        fps=fps,
        first_frame=options["first_frame"],
        starts_ms=read_starts(options["starts"]) if options["starts"] else None,
    )
    reading = Reading(
        label_map=LabelMap.read(options["label_map"]) if options["label_map"] else None,
        action_attributes=options["action_attribute"],
        first_frame=options["first_frame"],
    )
    settings = ImportOptions(
        name=options["name"],
        split=options["split"],
        format=options["format"],
        fps=fps,
        every_ms=None if every is None else round(1000 * every),
        drop_unknown_labels=options["unknown_labels"] == "drop",
        reading=reading,
    )
    with counted("reading", unit="files") as progress:
        report = import_files(files, output, settings, media, progress)
    if as_json:
        print_json(asdict(report))
        return
    click.echo(_summary(report.files))
    for counts in report.splits:
        click.echo(counts.line())
    click.echo(
        f"{amount(report.interpolated, 'box')} interpolated, {report.clipped} cut at the picture's edge, "
        f"{amount(report.merged, 'repeated annotation')} merged, {amount(report.renumbered, 'person', 'people')} "
        "renumbered."
    )
    for reason, count in report.dropped.items():
        click.echo(f"Dropped: {reason} ({count}).", err=True)
    click.echo(f"Wrote {output} and {output / REPORT_NAME}.")
    if media.missing:
        click.echo(f"No media: put the videos into {output / 'videos'}, or set media in dataset.yaml.", err=True)


def _summary(files: "Sequence[ReadFile]") -> str:
    formats = ", ".join(sorted({item.format for item in files}))
    tracks, boxes = sum(item.tracks for item in files), sum(item.boxes for item in files)
    return f"Read {amount(len(files), 'file')} ({formats}): {amount(tracks, 'track')}, {amount(boxes, 'box')}"


@click.command("convert")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--split", required=True, help="Split with annotations.")
@click.option(
    "--to", "target", type=click.Choice(["ava", "coco", "cvat", "label_studio"]), required=True, help="Format to write."
)
@click.option("--output", required=True, type=click.Path(path_type=Path), help="File; of cvat a folder.")
def convert_command(dataset: Path, split: str, target: str, output: Path) -> None:
    """Write a split of DATASET as AVA CSV, COCO JSON with videos, JSON of Label Studio, or for CVAT, a file a video.

    \b
    Example:
      stal-cli dataset convert data --split test --to cvat --output test-cvat
    """
    from stal_data.dataset import Dataset
    from stal_data.imports.converting import convert

    for note in convert(Dataset.open(dataset).split(split), target, output):
        click.echo(note, err=True)
    click.echo(f"Wrote {output}.")
