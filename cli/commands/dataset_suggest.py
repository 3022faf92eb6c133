"""`stal-cli dataset suggest`: predictions as pre-annotations, and which key frames to label next."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cache.store import Store
from cli.ui.json_output import json_option, print_json
from cli.ui.params import COUNT, Real
from stal_data.amounts import amount
from stal_data.csv_lines import csv_text
from stal_data.errors import InputError
from stal_data.times import format_time

if TYPE_CHECKING:
    from stal_data.dataset import Dataset
    from stal_data.labels import LabelMap

_FILE = click.Path(dir_okay=False, path_type=Path)
_DATASET = click.argument("dataset", type=click.Path(path_type=Path))
_PREDICTIONS = click.option(
    "--predictions", required=True, type=_FILE, help="CSV of predict: video,time,box,label,score and perhaps person."
)
_LABEL_MAP = click.option("--label-map", type=_FILE, help="Of the predictions.  [default: that of DATASET]")


@click.group()
def suggest() -> None:
    """Let a trained head help with labelling.

    \b
    stal-cli dataset suggest next street --labelled train --predictions own.csv --count 50
    stal-cli dataset suggest people own --split all --predictions own.csv --to cvat --output own-cvat
    """


@suggest.command()
@_DATASET
@click.option("--split", required=True, help="Split that was predicted; it needs no annotations.")
@_PREDICTIONS
@_LABEL_MAP
@click.option(
    "--min-score", type=Real(0, 1), default=0.5, show_default=True, help="From which a person shows an action."
)
@click.option("--thresholds", type=_FILE, help="metrics.json of eval: scores of best F1, for classes that have one.")
@click.option("--to", "target", type=click.Choice(["cvat", "label_studio"]), required=True, help="Tool to write for.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="JSON file; of cvat a folder.")
def people(dataset: Path, split: str, predictions: Path, label_map: Path | None, output: Path, **options: Any) -> None:
    """Write the predicted people of a split of DATASET, with tracks and actions, to be corrected in a tool.

    `dataset import` reads what the tool exports, and also the files as they are.

    \b
    Example:
      stal-cli dataset suggest people own --split all --predictions own.csv --label-map street/label_map.pbtxt \\
          --to label_studio --output own.json
    """
    from cli.workflow.labelling.people import suggested_split
    from cli.workflow.predictions import read_predictions
    from stal_data.dataset import Dataset
    from stal_data.imports.converting import convert

    opened = Dataset.open(dataset)
    labels = _label_map(opened, label_map)
    cuts = dict.fromkeys(labels.ids, options["min_score"])
    if options["thresholds"] is not None:
        from stal_eval.thresholds import read_thresholds

        cuts |= read_thresholds(options["thresholds"], labels)
    found, empty = suggested_split(opened.split(split), read_predictions(predictions, min_score=0), labels, cuts)
    for note in convert(found, options["target"], output, model_version=predictions.name):
        click.echo(note, err=True)
    if empty:
        click.echo(f"{amount(empty, 'box')} without area left out.", err=True)
    boxes = sum(len(item.labels) for item in found.key_frames)
    actions = sum(len(labels) for item in found.key_frames for labels in item.labels)
    click.echo(
        f"Wrote {amount(boxes, 'box')} with {amount(actions, 'action')} in "
        f"{amount(len(found.key_frames), 'key frame')} to {output}."
    )


@suggest.command("next")
@_DATASET
@click.option("--labelled", multiple=True, required=True, help="Split that is labelled; may be given again.")
@_PREDICTIONS
@click.option("--count", type=COUNT, default=50, show_default=True, help="Key frames to suggest.")
@click.option("--store", help="Folder or s3:// URL of the store with the features of what was predicted.")
@click.option("--pool", metavar="DATASET/SPLIT", help="Data set and split of the store that was predicted.")
@click.option("--feature-set", help="Id of the features; needed only where several fit.")
@json_option
def next_command(
    dataset: Path,
    labelled: tuple[str, ...],
    predictions: Path,
    count: int,
    store: str | None,
    pool: str | None,
    feature_set: str | None,
    as_json: bool,
) -> None:
    """Print which of the predicted key frames to label next, and why: unsure people, rare classes of DATASET first.

    The distance in the CSV is that to the nearest key frame before it in the list. With --store and --pool, key frames
    that look alike are not suggested together. Labelled and excluded ones are left out.

    \b
    Example:
      stal-cli dataset suggest next street --labelled train --predictions own.csv --count 50 \\
          --store store --pool own/all > next.csv
    """
    from cli.workflow.labelling.ranking import rank
    from cli.workflow.predictions import read_predictions
    from stal_data.dataset import Dataset

    if (store is None) != (pool is None) or (feature_set and not store):
        raise click.UsageError("--store and --pool must be given together, and --feature-set only with them.")
    features = None
    if store is not None and pool is not None:
        from cache.feature_store import open_feature_set

        name, slash, part = pool.partition("/")
        if not slash:
            raise click.UsageError(f"--pool is '{pool}', but must be DATASET/SPLIT, e.g. own/all.")
        features = open_feature_set(Store.open(store), name, part, set_id=feature_set)
    opened = Dataset.open(dataset)
    labels = _label_map(opened, None)
    splits = [opened.split(split) for split in labelled]
    known = {item.key for split in splits for item in split.key_frames}.union(*(split.exclusions for split in splits))
    counts = Counter(label for split in splits for item in split.key_frames for ids in item.labels for label in ids)
    people = {key: found for key, found in read_predictions(predictions, min_score=0).items() if key not in known}
    found = rank(people, counts, labels, count, features)
    if as_json:
        print_json(found)
    else:
        rows = [(x.key.video, format_time(x.key.time_ms), x.uncertainty, x.distance, x.reason) for x in found]
        click.echo(csv_text([("video", "time", "uncertainty", "distance", "reason"), *rows]), nl=False)


def _label_map(dataset: "Dataset", path: Path | None) -> "LabelMap":
    from stal_data.labels import LabelMap

    found = LabelMap.read(path) if path else dataset.label_map
    if found is None:
        raise InputError(f"{dataset.path} has no label map: give that of the predictions, --label-map FILE.")
    return found
