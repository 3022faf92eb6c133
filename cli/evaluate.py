"""`stal-cli eval`: capacity-swept mAP of a predictions file."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from stal_eval import Evaluation

_SHOWN_CLASSES = 10


@click.command(name="eval")
@click.option(
    "--predictions",
    type=click.Path(path_type=Path),
    required=True,
    help="CSV, gzip or plain: video,timestamp,x1,y1,x2,y2,label id,score; boxes in [0,1].",
)
@click.option(
    "--ground-truth",
    type=click.Path(path_type=Path),
    required=True,
    help="CSV, gzip or plain: video,timestamp,x1,y1,x2,y2,label id[,person].",
)
@click.option("--label-map", type=click.Path(path_type=Path), required=True, help="The classes to score (.pbtxt).")
@click.option("--exclusions", type=click.Path(path_type=Path), help="CSV: video,timestamp of key frames to leave out.")
@click.option(
    "--capacities",
    default="50:2200",
    show_default=True,
    help="Best-scored rows kept of each key frame: 50:2200 means 50 to 2199; 50,100 lists; 0 is no limit.",
)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder for metrics.json.")
def evaluate(
    predictions: Path, ground_truth: Path, label_map: Path, exclusions: Path | None, capacities: str, output: Path
) -> None:
    """Score a predictions file: mAP at IoU 0.5 at every capacity, written to OUTPUT/metrics.json.

    \b
    Example:
      stal-cli eval --predictions predictions.csv --ground-truth data/annotations/test_gt.csv \\
        --label-map data/annotations/list_action.pbtxt --output results
    """
    from stal_eval import evaluate as run

    result = run(predictions, ground_truth, label_map, exclusions=exclusions, capacities=capacities)
    path = result.write(output)
    _print(result)
    click.echo(f"Wrote {path}.")


def _print(result: "Evaluation") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    best, counts = result.best, result.counts
    summary = Table(title="mAP at IoU 0.5, in points of 100", title_justify="left", show_header=False)
    summary.add_column()
    summary.add_column(justify="right")
    low, high = result.capacities[0], result.capacities[-1]
    summary.add_row(f"best of capacities {low} to {high or 'no limit'}", f"{100 * best.mean_ap:.2f}")
    summary.add_row("  at capacity", str(best.capacity or "no limit"))
    ties = result.metrics()["ties"]
    summary.add_row("  over the orders of equal scores", _bounds(ties["best"]))
    summary.add_row("at capacity 50", f"{100 * result.mean_ap_at_50:.2f}")
    summary.add_row("  over the orders of equal scores", _bounds(ties["at_50"]))
    in_mean = int((result.truth_count_K > 0).sum())
    summary.add_row("classes in the mean", f"{in_mean} of {result.label_map.num_classes}")
    summary.add_row("key frames with ground truth", str(counts.key_frames_with_ground_truth))
    summary.add_row("  of them with predictions", str(counts.key_frames_with_both))
    summary.add_row("key frames excluded", str(counts.excluded_key_frames))
    summary.add_row("prediction rows scored", str(counts.scored_prediction_rows))
    summary.add_row("  that tie within their class", f"{100 * ties['tied_rows_share']:.1f} %")
    summary.add_row("  on key frames without ground truth", str(counts.prediction_rows_without_ground_truth))
    summary.add_row("prediction rows outside the label map", str(counts.prediction_rows_outside_label_map))
    console.print(summary)

    classes = Table(title=f"Weakest classes at capacity {best.capacity or 'no limit'}", title_justify="left")
    classes.add_column("class")
    for heading in ("AP", "ground truth", "predictions"):
        classes.add_column(heading, justify="right")
    ap_of = result.per_class()
    scored = [(ap, index, name) for index, (name, ap) in enumerate(ap_of.items()) if ap is not None]
    for ap, index, name in sorted(scored)[:_SHOWN_CLASSES]:
        classes.add_row(
            name, f"{100 * ap:.2f}", str(result.truth_count_K[index]), str(result.prediction_count_K[index])
        )
    console.print(classes)
    for warning in result.warnings:
        click.echo(f"Warning: {warning}", err=True)


def _bounds(bounds: dict[str, float]) -> str:
    return f"{100 * bounds['mAP_lower']:.2f} to {100 * bounds['mAP_upper']:.2f}"
