"""`stal-cli runs`: experiments of a store, listed and side by side."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from cache.store import Store
from cli.commands.runs_manage import remove, tag
from cli.ui.json_output import json_option, print_json
from cli.ui.tables import add_row, print_table

if TYPE_CHECKING:
    from recognizer_svc.runs.summary import RunSummary


@click.group()
def runs() -> None:
    """List, compare, tag and delete trained runs; import a published head as one.

    \b
    Examples:
      stal-cli runs list --store store
      stal-cli runs compare acar-1 linear-1 --store store
      stal-cli runs tag acar-1 baseline --store store
    """


@runs.command("list")
@click.option("--store", "store_url", required=True, help="Folder or s3:// URL of the store.")
@click.option("--tag", help="Only runs with this tag.")
@json_option
def list_command(store_url: str, tag: str | None, as_json: bool) -> None:
    """List the runs of a store, oldest first."""
    from recognizer_svc.runs.store import RunStore

    found = [run for run in RunStore.of(Store.open(store_url)).summaries() if tag is None or tag in run.tags]
    if as_json:
        print_json(found)
        return
    if not found:
        which, how = "no runs", "train RECIPE --store ...' makes one"
        if tag is not None:
            which, how = f"no runs with the tag '{tag}'", "runs tag RUN TAG --store ...' gives a run one"
        click.echo(f"The store holds {which}; 'stal-cli {how}.")
        return
    table = Table(
        "run", "started", "status", "recipe", "head", "epochs", "loss", "val mAP", "best", "train time", "tags"
    )
    for run in found:
        add_row(
            table,
            run.run_id,
            "-" if run.created is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(run.created)),
            run.status,
            run.settings.get("name", "-").strip('"'),
            run.settings.get("head.kind", "-").strip('"'),
            _epochs(run),
            _number(run.loss),
            _number(run.validation_map),
            _number(run.best_map),
            f"{run.train_s:.0f} s",
            " ".join(run.tags),
        )
    print_table(table)
    click.echo("val mAP: ground-truth boxes, no cap, last and best epoch.")
    _print_problems(found)


@runs.command()
@click.argument("run_ids", nargs=-1, required=True, metavar="RUN RUN...")
@click.option("--store", "store_url", required=True, help="Folder or s3:// URL of the store.")
@json_option
def compare(run_ids: tuple[str, ...], store_url: str, as_json: bool) -> None:
    """Show runs side by side: how they did, and every setting in which they differ."""
    from recognizer_svc.runs.store import RunStore

    comparison = RunStore.of(Store.open(store_url)).compare(run_ids)
    if as_json:
        print_json({"runs": comparison.runs, "differences": dict(comparison.differences)})
        return
    table = Table("", *run_ids)
    rows: Iterable[tuple[str, list[str]]] = [
        ("status", [run.status for run in comparison.runs]),
        ("epochs", [_epochs(run) for run in comparison.runs]),
        ("loss (last epoch)", [_number(run.loss) for run in comparison.runs]),
        ("validation mAP (ground-truth boxes, no cap)", [_number(run.validation_map) for run in comparison.runs]),
        ("best validation mAP", [_number(run.best_map) for run in comparison.runs]),
        ("train time", [f"{run.train_s:.0f} s" for run in comparison.runs]),
        ("tags", [" ".join(run.tags) for run in comparison.runs]),
    ]
    for name, values in rows:
        add_row(table, name, *values)
    table.add_section()
    for name, settings in comparison.differences:
        add_row(table, name, *settings)
    if not comparison.differences:
        add_row(table, "settings", *("all the same" if run.settings else "-" for run in comparison.runs))
    print_table(table)
    _print_problems(comparison.runs)


@runs.command("import")
@click.argument("head", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--store", "store_url", required=True, help="Folder or s3:// URL of the store.")
@click.option("--run-id", required=True, help="Name of the run, unique in the store.")
@click.option("--dataset", required=True, help="Data set of the store whose classes the head knows.")
@click.option("--split", default="test", show_default=True, help="Its split; features must be cached.")
@click.option("--feature-set", help="Id of the features. [default: those of the head's own backbones]")
@click.option(
    "--recipe", default="acar-published", show_default=True, help="The head's sizes and loss: a file or a shipped name."
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change the recipe, e.g. head.depth=1.")
def import_command(
    head: Path,
    store_url: str,
    run_id: str,
    dataset: str,
    split: str,
    feature_set: str | None,
    recipe: str,
    overrides: tuple[str, ...],
) -> None:
    """Make a run of HEAD, a head.safetensors of 'stal-cli weights import', so that 'predict' can use it.

    The features must be those of the backbones that the head was trained with: precompute with the files of the same
    import. Such a run cannot be resumed; to train on, use the recipe's training.init_head.

    \b
    Example:
      stal-cli runs import store/weights/head.safetensors --store store --run-id published \\
        --dataset chaotic-world --split test
    """
    from recognizer_svc.training.import_run import import_run
    from recognizer_svc.training.recipe import load_recipe

    one_data_set = ["data.additional=[]", "validation.datasets=null", f"data.dataset={dataset}"]
    resolved = load_recipe(recipe, [*overrides, *one_data_set])
    run = import_run(Store.open(store_url), head, resolved, run_id=run_id, split=split, feature_set=feature_set)
    click.echo(f"Run {run_id}: {run.root}")
    click.echo(f"Next: stal-cli predict --run {run_id} --store {store_url} --dataset {dataset} --split {split} ...")


for command in (tag, remove):
    runs.add_command(command)


def _print_problems(summaries: "Sequence[RunSummary]") -> None:
    for run in summaries:
        for problem in run.problems:
            click.echo(f"{run.run_id}: {problem}")


def _epochs(run: "RunSummary") -> str:
    return "-" if run.epochs is None else f"{run.epochs_done}/{run.epochs}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
