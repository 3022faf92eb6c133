"""`stal-cli dataset import-published | import-proposals`: the published pickles, and boxes of other detectors."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.ui.params import COUNT_FROM_0, IMAGE_SIZE, Real

if TYPE_CHECKING:
    from stal_data.published.annotations import AnnotationReport

_FILE = click.Path(dir_okay=False, path_type=Path)


class SplitFileType(click.ParamType[tuple[str, Path]]):
    """SPLIT=FILE; the value is (split, path)."""

    name = "SPLIT=FILE"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Path]:  # noqa: ARG002
        if isinstance(value, tuple):
            return value
        split, equals, path = str(value).partition("=")
        if not (split and equals and path):
            self.fail(f"'{value}' must be SPLIT=FILE, e.g. train=cw_data_train1fps_woXGXJVBCQ.pkl.")
        return split, Path(path)


@click.command("import-published")
@click.option(
    "--split", "splits", type=SplitFileType(), multiple=True, required=True, help="Pickle of a split; once a split."
)
@click.option("--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="New folder.")
@click.option("--name", required=True, help="Name of the data set in the store.")
@click.option(
    "--frames",
    default="frames",
    show_default=True,
    help="Folder with a folder of frames for each video; absolute, or relative to OUTPUT.",
)
@click.option("--csv", "csvs", type=SplitFileType(), multiple=True, help="The CSV it was made from: names lost rows.")
def import_published(
    splits: tuple[tuple[str, Path], ...], output: Path, name: str, frames: str, csvs: tuple[tuple[str, Path], ...]
) -> None:
    """Make a data set of the published ground-truth pickles, without running anything that is in them.

    One element of a pickle is one row of a CSV, without that CSV's first row. All are kept, in their order; elements of
    one key frame become one key frame wherever the data set is read. OUTPUT/import.json says what was merged.

    \b
    Example:
      stal-cli dataset import-published --output chaotic --name chaotic-world --frames /data/frames \\
        --split train=cw_data_train1fps_woXGXJVBCQ.pkl --split test=cw_data_test1fps.pkl
    """
    from stal_data.published.annotations import REPORT_NAME, import_annotations

    pickles, sources = _once(splits, "--split"), _once(csvs, "--csv")
    for report in import_annotations(output, name, pickles, frames=frames, csvs=sources):
        _print_annotations(report)
    click.echo(f"Wrote {output} and {output / REPORT_NAME}.")


@click.command("import-proposals")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--split", required=True, help="Split that the file was made for.")
@click.option("--store", required=True, help="Folder or s3:// URL of the store.")
@click.option("--name", required=True, help="What the proposals are filed under.")
@click.option("--image-size", type=IMAGE_SIZE, default="180x320", show_default=True, help="Of the detector's input.")
@click.option(
    "--confidence",
    type=Real(0, 1),
    default=0.3,
    show_default=True,
    help="Below which the detector dropped boxes; the file does not say.",
)
@click.option("--images", type=_FILE, help="COCO JSON with the images that the ids of COCO's results mean.")
@click.option("--category", type=COUNT_FROM_0, default=1, show_default=True, help="Of people, in COCO's results.")
@click.option("--first-frame", type=COUNT_FROM_0, default=1, show_default=True, help="Number of first images.")
def import_proposals(file: Path, dataset: Path, split: str, store: str, **options: Any) -> None:
    """Write the boxes of a detector's FILE as proposals of a split of DATASET.

    FILE is a pickle of mmaction2's proposals, a CSV of AVA's person boxes (video, time, box, label or nothing,
    confidence), COCO's results (a list of image_id, category_id, bbox and score), MOT text (VIDEO.txt, or a folder of
    such files), or a published detector pickle. Boxes on numbered frames count where a frame is nearest to a key frame.

    Published pickles repeat all boxes of a key frame once for each annotation row; each is kept once. They have no
    confidences, so the proposals' scores are stored as unknown. NAME.import.json beside the proposals says what was
    merged.

    \b
    Examples:
      stal-cli dataset import-proposals cw_test_yolov8_on_cw_0.3.pkl chaotic --split test --store store --name published
      stal-cli dataset import-proposals ava_dense_proposals_val.FAIR.recall_93.9.pkl ava --split val --store store \\
        --name fair
      stal-cli dataset import-proposals results.json street --split all --store store --name rtdetr --images frames.json
    """
    from cache.published_proposals import import_proposals as run
    from cache.store import Store
    from stal_data.dataset import Dataset

    opened = Dataset.open(dataset).split(split)
    path, report = run(file, opened, Store.open(store, create=True), **options)
    click.echo(
        f"{report.elements} elements with {report.box_rows} boxes, {report.key_frames} key frames: "
        f"{report.duplicates_merged} duplicates merged, {report.boxes} boxes kept."
    )
    if report.key_frames_with_differing_boxes:
        click.echo(
            f"{report.key_frames_with_differing_boxes} key frames have elements with different boxes: all are kept.",
            err=True,
        )
    if report.boxes_elsewhere:
        click.echo(f"{report.boxes_elsewhere} boxes are on frames of no key frame, or beyond the picture.", err=True)
    if report.excluded_key_frames:
        click.echo(f"{report.excluded_key_frames} key frames are excluded from the split and left out.", err=True)
    _print_keys(report.unknown_key_frames, "are not in the split and left out")
    _print_keys(report.key_frames_without_element, "of the split are not in the file and get no boxes")
    click.echo(f"Wrote {path}.")


def _once(pairs: tuple[tuple[str, Path], ...], option: str) -> dict[str, Path]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise click.UsageError(f"{option} names a split twice.")
    return found


def _print_annotations(report: "AnnotationReport") -> None:
    click.echo(
        f"Split {report.split}: {report.elements} elements, {report.key_frames} key frames, "
        f"{report.duplicates_merged} duplicates merged; {report.people} people, {report.rows} rows of which "
        f"{report.repeated_rows} repeat another."
    )
    if report.key_frames_with_two_windows:
        click.echo(f"  {report.key_frames_with_two_windows} key frames have two windows: the first is used.", err=True)
    if report.lost_rows is None:
        click.echo("  The first row of the CSV behind it is lost; --csv names it.")
        return
    for row in report.lost_rows[:20]:
        box = ",".join(f"{side:g}" for side in row.box)
        click.echo(f"  Lost: line {row.line}, {row.video},{row.time_s:04d}, box {box}, label {row.label} (from 0).")
    if len(report.lost_rows) > 20:
        click.echo(f"  ... and {len(report.lost_rows) - 20} more lost rows, listed in the report.")
    if report.rows_not_in_csv:
        click.echo(f"  {report.rows_not_in_csv} rows of the pickle are not in the CSV: is it the right one?", err=True)


def _print_keys(keys: tuple[str, ...], what: str) -> None:
    if keys:
        click.echo(f"{len(keys)} key frames {what}, the first is {keys[0]}.", err=True)
