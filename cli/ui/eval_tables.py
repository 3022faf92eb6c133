"""Tables of `stal-cli eval` on the terminal."""

import click
from rich.console import Console
from rich.table import Table

from stal_eval import Evaluation
from stal_eval.report.optional import OptionalTable, optional_tables

_SHOWN_CLASSES = 10


def print_result(result: Evaluation) -> None:
    console = Console(markup=False)  # names of classes and files are not ours
    console.print(_summary(result))
    console.print(_weakest(result))
    for shown in optional_tables(result.optional):
        if not shown.wide:
            console.print(_optional(shown))
    if not result.curve_is_exact:
        exact = sorted({result.best.capacity, result.choice.capacity, 50})
        click.echo(
            f"Exact at {', '.join(map(_name, exact))}; at other capacities equal scores rank as by a stable sort, so "
            "another one may be the best of the protocol itself. --exact computes them all."
        )
    for warning in result.warnings:
        click.echo(f"Warning: {warning}", err=True)


def _summary(result: Evaluation) -> Table:
    best, choice, counts = result.best, result.choice, result.counts
    title = f"mAP at IoU {result.protocol.iou:g}, in points of 100"
    if result.protocol.name != "stal":
        title += f", protocol {result.protocol.name}"
    summary = Table(title=title, title_justify="left", show_header=False)
    summary.add_column()
    summary.add_column(justify="right")
    ties = result.metrics()["ties"]
    summary.add_row(f"at capacity {_name(choice.capacity)}", f"{100 * result.mean_ap:.2f}")
    summary.add_row(f"  {choice.describe(result.split)}", "")
    _add_bounds(summary, ties.get("chosen"))
    if len(result.capacities) > 1 and best.capacity != choice.capacity:
        low, high = result.capacities[0], result.capacities[-1]
        summary.add_row(f"best of capacities {low} to {_name(high)}", f"{100 * best.mean_ap:.2f}")
        summary.add_row("  at capacity", _name(best.capacity))
        _add_bounds(summary, ties.get("best"))
    summary.add_row("at capacity 50", f"{100 * result.mean_ap_at_50:.2f}")
    _add_bounds(summary, ties.get("at_50"))
    classes = result.metrics()["classes"]
    summary.add_row("classes in the mean", f"{classes['in_mean']} of {classes['in_label_map']}")
    summary.add_row("key frames with ground truth", str(counts.key_frames_with_ground_truth))
    summary.add_row("  of them with predictions", str(counts.key_frames_with_both))
    summary.add_row("key frames excluded", str(counts.excluded_key_frames))
    summary.add_row("prediction rows scored", str(counts.scored_prediction_rows))
    summary.add_row("  that tie within their class", f"{100 * ties['tied_rows_share']:.1f} %")
    scored = "" if result.protocol.frames == "all" else ", not scored"
    summary.add_row(f"  on key frames without ground truth{scored}", str(counts.prediction_rows_without_ground_truth))
    summary.add_row("prediction rows outside the label map", str(counts.prediction_rows_outside_label_map))
    return summary


def _weakest(result: Evaluation) -> Table:
    table = Table(title=f"Weakest classes at capacity {_name(result.choice.capacity)}", title_justify="left")
    table.add_column("class")
    for heading in ("AP", "ground truth", "predictions"):
        table.add_column(heading, justify="right")
    scored = [(ap, index, name) for index, (name, ap) in enumerate(result.per_class().items()) if ap is not None]
    for ap, index, name in sorted(scored)[:_SHOWN_CLASSES]:
        table.add_row(name, f"{100 * ap:.2f}", str(result.truth_count_K[index]), str(result.prediction_count_K[index]))
    return table


def _optional(shown: OptionalTable) -> Table:
    table = Table(title=shown.title, title_justify="left")
    for number, heading in enumerate(shown.heads):
        table.add_column(heading, justify="right" if number else "left")
    for row in shown.rows:
        table.add_row(*row)
    return table


def _name(capacity: int) -> str:
    return str(capacity or "no limit")


def _add_bounds(table: Table, bounds: dict[str, float] | None) -> None:
    if bounds is not None:
        text = f"{100 * bounds['mAP_lower']:.2f} to {100 * bounds['mAP_upper']:.2f}"
        table.add_row("  over the orders of equal scores", text)
