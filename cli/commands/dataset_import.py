"""`stal-cli dataset import-published`: the published ground-truth pickles as a data set."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stal_data.amounts import amount

if TYPE_CHECKING:
    from stal_data.published.annotations import AnnotationReport


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


def _once(pairs: tuple[tuple[str, Path], ...], option: str) -> dict[str, Path]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise click.UsageError(f"{option} names a split twice.")
    return found


def _print_annotations(report: "AnnotationReport") -> None:
    click.echo(
        f"Split {report.split}: {amount(report.elements, 'element')}, {amount(report.key_frames, 'key frame')}, "
        f"{amount(report.duplicates_merged, 'duplicate')} merged; {amount(report.people, 'person', 'people')}, "
        f"{amount(report.rows, 'row')} of which {report.repeated_rows} repeated."
    )
    if report.key_frames_with_two_windows:
        click.echo(
            f"  {amount(report.key_frames_with_two_windows, 'key frame')} with two windows: the first is used.",
            err=True,
        )
    if report.lost_rows is None:
        click.echo("  The first row of the CSV behind it is lost; --csv names it.")
        return
    for row in report.lost_rows[:20]:
        box = ",".join(f"{side:g}" for side in row.box)
        click.echo(f"  Lost: line {row.line}, {row.video},{row.time_s:04d}, box {box}, label {row.label} (from 0).")
    if len(report.lost_rows) > 20:
        click.echo(f"  ... and {len(report.lost_rows) - 20} more lost rows, listed in the report.")
    if report.rows_not_in_csv:
        click.echo(
            f"  {amount(report.rows_not_in_csv, 'row')} of the pickle not found in the CSV: is it the right one?",
            err=True,
        )
