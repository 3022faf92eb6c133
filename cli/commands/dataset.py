"""`stal-cli dataset`: render, validate, describe, convert and import data sets."""

import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.commands.dataset_divide import split_command, stats_command
from cli.commands.dataset_import import import_published
from cli.commands.dataset_suggest import suggest
from cli.commands.dataset_tools import convert_command, import_command
from cli.ui.json_output import json_option, print_json
from cli.ui.params import COUNT_FROM_0, SEED
from cli.ui.progress import counted
from stal_data.amounts import amount
from stal_data.errors import InputError

if TYPE_CHECKING:
    from stal_data.validation import Finding, Report

_DATASET = click.argument("dataset", type=click.Path(path_type=Path))


@click.group()
def dataset() -> None:
    """Render, validate and describe data sets.

    A data set is a folder with a dataset.yaml that names its annotations, label map, media and splits.

    \b
    stal-cli dataset synth data --seed 0
    stal-cli dataset validate data
    stal-cli dataset from-videos street.mp4 --output street --name street
    stal-cli dataset import annotations.xml --videos videos --output street --name street
    """


dataset.add_command(import_command)
dataset.add_command(convert_command)
dataset.add_command(import_published)
dataset.add_command(split_command)
dataset.add_command(stats_command)
dataset.add_command(suggest)


@dataset.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--seed", type=SEED, required=True, help="The same seed gives the same bytes.")
@click.option("--train-videos", type=COUNT_FROM_0, default=160, show_default=True, help="Three key frames each.")
@click.option("--test-videos", type=COUNT_FROM_0, default=60, show_default=True, help="With people of their own.")
@click.option(
    "--style",
    type=click.Choice(["a", "b"]),
    default="a",
    show_default=True,
    help="a: streets, a camera that stays. b: crowded halls, the camera pans and zooms, order in time matters.",
)
def synth(out: Path, seed: int, train_videos: int, test_videos: int, style: str) -> None:
    """Render a synthetic data set of articulated people into the new folder OUT.

    \b
    Example:
      stal-cli dataset synth data --seed 0 --train-videos 160 --test-videos 60
      stal-cli dataset synth halls --seed 0 --style b
    """
    from stal_data.synth import render_dataset

    with counted("rendering", unit="videos") as progress:
        render_dataset(
            out, seed=seed, train_videos=train_videos, test_videos=test_videos, style=style, progress=progress
        )
    click.echo(f"Wrote {amount(train_videos, 'train video')} and {amount(test_videos, 'test video')} to {out}.")


@dataset.command()
@_DATASET
@click.option("--split", "splits", multiple=True, help="Check only this split; may be given again. Default: all.")
@click.option("--decode", is_flag=True, help="Also decode every frame that a clip needs: slow, finds damaged files.")
@click.option("--limit", type=COUNT_FROM_0, default=20, show_default=True, help="Findings shown a kind; 0: all.")
@json_option
def validate(dataset: Path, splits: tuple[str, ...], decode: bool, limit: int, as_json: bool) -> None:
    """Find what would fail or score 0 later: file, line, rule and way out. Exits with 1 when there are errors.

    Checked: columns and numbers, boxes outside [0,1] or inverted, unknown labels and labels off by one, duplicate
    rows, seconds and windows outside the media, missing frames, unreadable media, empty splits.

    \b
    Example:
      stal-cli dataset validate data --split test --decode
    """
    from stal_data.dataset import Dataset
    from stal_data.validation import validate as run_checks

    report = run_checks(
        Dataset.open(dataset),
        splits=splits or None,
        decode=decode,
        progress=lambda split: click.echo(f"Checking split {split} ...", err=True),
    )
    if as_json:
        print_json({"findings": list(map(asdict, report.findings)), "splits": report.counts})
    else:
        _print_findings(report, limit)
        for counts in report.counts:
            click.echo(counts.line())
        errors, warnings = len(report.errors), len(report.findings) - len(report.errors)
        click.echo(
            f"{amount(errors, 'error')}, {amount(warnings, 'warning')}." if report.findings else "No problem found."
        )
    if report.errors:
        sys.exit(1)


@dataset.command()
@_DATASET
@json_option
def info(dataset: Path, as_json: bool) -> None:
    """Describe a data set: its media, its splits and how often each action occurs.

    \b
    Example:
      stal-cli dataset info data
    """
    from stal_data.dataset import Dataset
    from stal_data.validation import Counts

    opened = Dataset.open(dataset)
    splits = [opened.split(name) for name in opened.split_names]
    all_counts = [Counts.of(split) for split in splits]
    all_media = [
        [split.media.info(video) for video in sorted({item.key.video for item in split.key_frames})] for split in splits
    ]
    videos = len(opened.media.videos())
    media = {"kind": opened.spec.media.kind, "videos": videos, "decoder": opened.media.decoder}
    if as_json:
        seconds = [sum(item.duration_s for item in infos) for infos in all_media]
        counted = [asdict(counts) | {"duration_s": s} for counts, s in zip(all_counts, seconds, strict=True)]
        labels = None if opened.label_map is None else {label.id: label.name for label in opened.label_map.labels}
        print_json({"name": opened.name, "path": opened.path, "media": media, "splits": counted, "label_map": labels})
        return
    click.echo(f"Data set {opened.name} ({opened.path})")
    click.echo(f"Media: {media['kind']}, {amount(videos, 'video')}, decoder {media['decoder']}")
    for counts, infos in zip(all_counts, all_media, strict=True):
        sizes = _distinct(f"{item.width}x{item.height}" for item in infos)
        rates = _distinct(f"{float(item.rate):.5g}" for item in infos)
        minutes = sum(item.duration_s for item in infos) / 60
        click.echo(counts.line())
        click.echo(f"  {minutes:.1f} min, {sizes} pixels, {rates} frames a second")
    if opened.label_map is not None:
        click.echo(f"Label map: {amount(opened.label_map.num_classes, 'class')}, sha256 {opened.label_map.digest}")
        width = max(map(len, opened.label_map.names))
        click.echo(f"{'instances':<{width + 6}}" + "".join(f"{counts.split:>12}" for counts in all_counts))
        for label in opened.label_map.labels:
            cells = "".join(f"{counts.per_class[label.name]:>12}" for counts in all_counts)
            click.echo(f"{label.id:>4}  {label.name:<{width}}{cells}")


@dataset.command("from-videos")
@click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="New folder.")
@click.option("--name", required=True, help="Name of the data set in the store.")
def from_videos(videos: tuple[Path, ...], output: Path, name: str) -> None:
    """Make a data set of VIDEOS (files, or folders of them): every whole second is a key frame of its split `all`.

    The videos are read where they are; nothing is copied or extracted.

    \b
    Example:
      stal-cli dataset from-videos street.mp4 yard.mov --output own --name own
    """
    from stal_data.own_videos import SPLIT, write_video_dataset

    notes: list[str] = []
    with counted("opening", unit="videos") as progress:
        opened = write_video_dataset(output, name, videos, progress=progress, note=notes.append)
    for note in notes:
        click.echo(note, err=True)
    split = opened.split(SPLIT)
    num_videos, num_key_frames = len(opened.media.videos()), len(split.key_frames)
    click.echo(
        f"Wrote {opened.path}: {amount(num_videos, 'video')}, {amount(num_key_frames, 'key frame')} in split '{SPLIT}'."
    )


@dataset.command("ground-truth")
@_DATASET
@click.option("--split", required=True, help="Split with annotations.")
@click.option("--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="CSV file to write.")
def ground_truth(dataset: Path, split: str, output: Path) -> None:
    """Write a split's ground truth as the CSV that `stal-cli eval` reads, without its excluded key frames.

    Columns: video, time in seconds (0007), x1, y1, x2, y2, label id (from 1), person.

    \b
    Example:
      stal-cli dataset ground-truth data --split test --output test_gt.csv
    """
    from stal_data.annotations import write_ground_truth
    from stal_data.dataset import Dataset

    opened = Dataset.open(dataset).split(split)
    if not opened.annotated:
        raise InputError(f"Split '{split}' has no annotations, so there is no ground truth to write.")
    write_ground_truth(output, opened.key_frames)
    rows = sum(len(labels) for item in opened.key_frames for labels in item.labels)
    click.echo(f"Wrote {amount(rows, 'row')} of {amount(len(opened.key_frames), 'key frame')} to {output}.")


def _print_findings(report: "Report", limit: int) -> None:
    groups: dict[tuple[str, str, str], list[Finding]] = defaultdict(list)
    for finding in report.findings:
        groups[finding.split, finding.severity, finding.rule].append(finding)
    for findings in groups.values():
        shown = findings[: limit or None]
        for finding in shown:
            click.echo(str(finding))
        if len(findings) > len(shown):
            click.echo(
                f"... and {len(findings) - len(shown)} more of this kind [{findings[0].rule}]; --limit 0 shows all."
            )


def _distinct(values: Iterable[str]) -> str:
    distinct = sorted(set(values))
    return ", ".join(distinct[:4]) + (f" and {amount(len(distinct) - 4, 'other')}" if len(distinct) > 4 else "")
