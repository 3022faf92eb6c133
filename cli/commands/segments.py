"""`stal-cli segments`: when each tracked person performs which action, from a predictions file."""

from pathlib import Path

import click

from cli.ui.params import LONGEST_S, Real
from stal_data.amounts import amount
from stal_data.errors import shown_problems
from stal_data.files import write_atomically

_FILE = click.Path(dir_okay=False, path_type=Path)
_S = Real(0, LONGEST_S)


@click.command()
@click.argument("predictions", type=_FILE)
@click.option("--label-map", type=_FILE, required=True, help="The classes (.pbtxt).")
@click.option(
    "--thresholds", type=_FILE, metavar="METRICS.JSON", help="Of 'stal-cli eval': each class's score of best F1."
)
@click.option("--min-score", type=Real(0, 1), help="Threshold of all classes, or of those without one there.")
@click.option("--smooth", type=_S, default=1.0, show_default=True, help="Seconds: sigma of the Gaussian over scores.")
@click.option("--max-gap", type=_S, default=1.0, show_default=True, help="Seconds: longest pause within a segment.")
@click.option("--min-length", type=_S, default=0.0, show_default=True, help="Seconds: shorter ones are dropped.")
@click.option(
    "--hold",
    type=Real(0.01, 1),
    default=1.0,
    show_default=True,
    help="Hysteresis: a segment goes on down to this share of its class's threshold.",
)
@click.option("--output", type=_FILE, required=True, help="CSV to write, or to replace.")
def segments(
    predictions: Path,
    label_map: Path,
    thresholds: Path | None,
    min_score: float | None,
    smooth: float,
    max_gap: float,
    min_length: float,
    hold: float,
    output: Path,
) -> None:
    """Write video,person,action,start_s,end_s,score: when each person of PREDICTIONS performs which action.

    PREDICTIONS is of tracked proposals (detect --track, then predict).

    \b
    Examples:
      stal-cli segments predictions.csv --label-map list_action.pbtxt --thresholds val/metrics.json \\
          --output actions.csv
      stal-cli segments predictions.csv --label-map list_action.pbtxt --min-score 0.5 --smooth 2 \\
          --min-length 1 --hold 0.5 --output actions.csv
    """
    if thresholds is None and min_score is None:
        raise click.UsageError("give --thresholds METRICS.JSON, --min-score SCORE or both")
    import numpy as np

    from stal_data.labels import LabelMap
    from stal_eval.segments import SegmentRules, find_segments, segments_csv
    from stal_eval.table import load_table
    from stal_eval.thresholds import read_thresholds

    classes = LabelMap.read(label_map)
    scores = {} if thresholds is None else read_thresholds(thresholds, classes)
    without = [label for label in classes.labels if label.id not in scores]
    if min_score is not None:
        scores |= dict.fromkeys((label.id for label in without), min_score)
    elif without:
        names = shown_problems(without, lambda label: label.name, separator=", ")
        click.echo(f"Note: no segments of {names}: {thresholds} has no threshold; --min-score sets one", err=True)
    table = load_table(predictions, "predictions")
    rules = SegmentRules(smooth_s=smooth, max_gap_s=max_gap, min_length_s=min_length, hold=hold)
    found = find_segments(table, scores, rules)
    assert table.person_N is not None
    if unknown := int((table.person_N < 0).sum()):
        click.echo(f"Note: {unknown} of {amount(table.num_rows, 'row')} left out: no track", err=True)
    if outside := table.num_rows - int(np.isin(table.label_N, classes.ids).sum()):
        click.echo(f"Note: {amount(outside, 'row')} left out: of classes outside {label_map}", err=True)
    write_atomically(output, segments_csv(found, dict(zip(classes.ids, classes.names, strict=True))))
    people = {(segment.video, segment.person) for segment in found}
    click.echo(
        f"{output}: {amount(len(found), 'segment')} of {amount(len(people), 'person', 'people')} in "
        f"{amount(len({video for video, _ in people}), 'video')}"
    )
