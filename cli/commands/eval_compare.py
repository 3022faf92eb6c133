"""`stal-cli eval compare`: two results class by class."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.ui.json_output import json_option, print_json
from cli.ui.params import COUNT_FROM_0, SEED
from stal_data.files import write_atomically

if TYPE_CHECKING:
    from stal_eval.comparison import Comparison, Delta

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("a", type=_FOLDER)
@click.argument("b", type=_FOLDER)
@click.option("--capacity", type=COUNT_FROM_0, help="For both, 0: no limit.  [default: the one each reports]")
@click.option(
    "--replicates", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Resamples of the videos."
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the resamples.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Also write it as JSON.")
@json_option
def compare(
    a: Path, b: Path, capacity: int | None, replicates: int, seed: int, output: Path | None, as_json: bool
) -> None:
    """B minus A, class by class, with 95 % confidence intervals over videos.

    A and B are output folders of 'stal-cli eval' on the same ground truth: two heads, or the same head on detected and
    on ground-truth boxes.

    \b
    Examples:
      stal-cli eval compare linear-eval acar-eval --output acar-against-linear.json
      stal-cli eval compare detected-eval ground-truth-eval --capacity 50
    """
    from stal_eval.comparison import compare as run
    from stal_eval.stored import read_matches

    result = run(read_matches(a), read_matches(b), capacity=capacity, replicates=replicates, seed=seed)
    content = {"a": str(a), "b": str(b)} | result.plain()
    if as_json:
        print_json(content)
    else:
        _print(result)
    for warning in result.warnings:
        click.echo(f"Warning: {warning}", err=True)
    if output is not None:
        write_atomically(output, json.dumps(content, indent=2, allow_nan=False) + "\n")
        click.echo(f"Wrote {output}.", err=as_json)


def _print(result: "Comparison") -> None:
    from rich.console import Console
    from rich.table import Table

    names = [str(capacity or "no limit") for capacity in result.capacities]
    title = f"B minus A in points of 100, {100 * result.confidence:g} % intervals over {result.num_videos} videos"
    table = Table(title=title, title_justify="left", caption="* the interval leaves out 0", caption_justify="left")
    table.add_column("class")
    for heading in (f"A at {names[0]}", f"B at {names[1]}", "B - A", "interval", "truth", "videos"):
        table.add_column(heading, justify="right", no_wrap=heading in ("B - A", "interval"))
    table.add_row("mAP", *_cells(result.mean_ap), str(sum(result.ground_truth.values())), str(result.num_videos))
    table.add_section()
    scored = [(delta.delta, name) for name, delta in result.per_class.items() if delta.delta is not None]
    for _, name in sorted(scored):
        counts = str(result.ground_truth[name]), str(result.videos[name])
        table.add_row(name, *_cells(result.per_class[name]), *counts)
    Console().print(table)


def _cells(delta: "Delta") -> tuple[str, str, str, str]:
    figures = [f"{100 * value:.2f}" for value in (delta.a, delta.b) if value is not None]
    interval = "" if delta.low is None or delta.high is None else f"{100 * delta.low:+.2f} to {100 * delta.high:+.2f}"
    mark = " *" if delta.is_clear else ""
    change = "" if delta.delta is None else f"{100 * delta.delta:+.2f}{mark}"
    return figures[0], figures[1], change, interval
