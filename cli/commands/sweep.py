"""`stal-cli sweep`: many trainings over a grid of settings and seeds, and the choice among them."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import click

from cache.store import Store
from cli.ui.json_output import json_option, print_json
from cli.ui.options import client_options
from cli.ui.recipe_options import RecipeCommand
from cli.ui.recognizer import Recognizer, recognizer_at
from cli.ui.sigterm import INTERRUPTED, run_until_sigterm
from cli.ui.staging_options import StageOptions, stage_options
from cli.ui.tracking import Tracking, tracker_option
from cli.workflow.output_folder import claimed
from stal_data.amounts import amount
from stal_data.errors import StalError, shown_problems
from svc_common.config import ClientConfig

if TYPE_CHECKING:
    from cache.split_store import PublishedSplit
    from cli.workflow.sweep.plan import Plan
    from cli.workflow.sweep.report import Report


@click.command(cls=RecipeCommand)
@click.argument("recipes", nargs=-1, required=True, metavar="RECIPE...")
@click.option("--store", "store_url", required=True, help="Folder or s3:// URL of the store; the service's, too.")
@stage_options
@click.option(
    "--grid",
    multiple=True,
    metavar="KEY=VALUE,VALUE",
    help="Repeatable: values of a setting of the recipes, e.g. head.depth=0,1,2. Every combination is a cell.",
)
@click.option(
    "--seeds", type=click.IntRange(1, 100), default=3, show_default=True, help="Runs of each cell: seeds 0, 1, ..."
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change all recipes, e.g. training.epochs=5."
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    help="Runs at the same time: processes that share this machine's cores, or jobs of the service.",
)
@click.option("--name", default="sweep", show_default=True, help="Begins the run ids: NAME-RECIPE-SETTINGS-seedN.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for sweep.csv, sweep.json and index.html.  [default: NAME]",
)
@click.option(
    "--test", metavar="SPLIT", help="In the end score the best cell of each recipe on this split, and compare them."
)
@tracker_option
@json_option
@client_options("recognizer", required=False)
def sweep(
    client: ClientConfig | None,
    recipes: tuple[str, ...],
    store_url: str,
    stage: StageOptions,
    grid: tuple[str, ...],
    seeds: int,
    overrides: tuple[str, ...],
    jobs: int,
    name: str,
    output: Path | None,
    test: str | None,
    tracker: str | None,
    as_json: bool,
) -> None:
    """Train every cell of a grid with several seeds, and choose the best cell. RECIPE is as in 'train'.

    A cell is chosen by the mean over its seeds of the last epoch's validation mAP. Validation is on a fifth of the
    videos of the training split, which are then not trained on (validation.held_out=0.2), unless --set or the recipe
    says otherwise; a split that the recipe names, as the shipped ones name test, is used only with
    --set validation.split=SPLIT. Run the same words again to go on: finished runs are kept. Values may be added to
    the grid. A run that fails ends no other; the exit code is 1 then.

    \b
    Examples:
      stal-cli sweep linear relation --store store --grid optimizer.learning_rate=1e-3,2e-3,4e-3 --test test
      stal-cli sweep acar --store store --grid head.depth=0,1,2 --grid head.dropout=0,0.2 --seeds 5 --name depth
      stal-cli sweep acar --store store --grid head.depth=1,2 --recognizer 127.0.0.1:50052 --jobs 4
    """
    from cli.workflow.sweep.final import open_test_split
    from cli.workflow.sweep.plan import make_plan
    from cli.workflow.sweep.report import Report
    from cli.workflow.sweep.results import Results
    from recognizer_svc.runs.store import RunStore

    plan = make_plan(recipes, grid, overrides, name=name, seeds=seeds, test=test)
    store = Store.open(store_url, stage=stage.stage())
    split = None if test is None else open_test_split(store, plan.recipe.data.dataset, test)
    if client is None:
        _check_data(store, plan)
    click.echo(
        f"{amount(len(plan.runs), 'run')}: {amount(len(plan.cells), 'cell')} x {amount(seeds, 'seed')}; validation on "
        f"{plan.chosen_on}.",
        err=True,
    )
    for note in plan.notes:
        click.echo(note, err=True)
    folder, tracking = (output or Path(name)).absolute(), Tracking(tracker)
    with claimed(folder, "sweep"):
        report = Report(plan=plan, results=Results(plan, RunStore.of(store)), output=folder)
        report.write()
        try:
            with tracking:
                run_until_sigterm(_train(report, store, client, jobs, tracking))
        except KeyboardInterrupt:
            goes_on = "The jobs at the service go on; t" if client is not None else "T"
            click.echo(f"Interrupted. {goes_on}he same command goes on from here.", err=True)
            sys.exit(INTERRUPTED)
        if split is not None and report.chosen:
            report.test(split, partial(_predict, split, lambda: recognizer_at(client, store_url, stage=stage)))
        report.write()
    if as_json:
        print_json(report.plain())
    else:
        _print(report)
    failed = [result for result in report.results.by_run.values() if not result.finished]
    if failed:
        listed = shown_problems(failed, lambda item: f"{item.run.run_id}: {item.error or item.status}", separator="\n")
        raise StalError(f"{len(failed)} of {len(plan.runs)} runs failed; the same command tries them again.\n{listed}")


def _check_data(store: Store, plan: "Plan") -> None:
    from recognizer_svc.service.admission import check_data

    for recipe in {(run.recipe.data, run.recipe.training): run.recipe for run in plan.runs if run.seed == 0}.values():
        check_data(store, recipe, None, resume=False)


async def _train(report: "Report", store: Store, client: ClientConfig | None, jobs: int, tracking: Tracking) -> None:
    from cli.ui.sweep_display import sweep_display
    from cli.workflow.sweep.slots import ProcessSlot, ServiceSlot, Slot, threads_of_each
    from cli.workflow.sweep.training import train_all
    from recognizer_svc.client import RecognizerClient

    async with AsyncExitStack() as stack:
        slots: list[Slot]
        if client is not None:
            service = await stack.enter_async_context(RecognizerClient(client))
            slots = [ServiceSlot(service) for _ in range(jobs)]
        else:
            threads = threads_of_each(jobs)
            slots = [
                ProcessSlot(store, report.output / f"process-{number}.log", threads=threads) for number in range(jobs)
            ]
        display = stack.enter_context(sweep_display(report.results))
        await train_all(slots, report.results, display, report.write, tracking)


def _predict(split: "PublishedSplit", recognizer: Callable[[], Recognizer], run_id: str, output: Path) -> None:
    """Score the ground-truth boxes of a split with a run as it is after its last epoch."""
    from cli.commands.predict import write_predictions
    from protos.generated import recognizer_pb2 as pb

    request = pb.PredictRequest(
        run_id=run_id,
        checkpoint="latest",
        dataset=split.dataset,
        split=split.split,
        ground_truth=pb.GroundTruthBoxes(),
    )
    asyncio.run(write_predictions(recognizer(), request, output))


def _print(report: "Report") -> None:
    from cli.ui.sweep_display import cells_table
    from cli.ui.tables import print_table
    from cli.workflow.sweep.final import delta_texts
    from cli.workflow.sweep.results import figure

    chosen = report.chosen
    print_table(cells_table(report.results.cells(), chosen[0] if chosen else None))
    click.echo(f"Validation on {report.plan.chosen_on}; mean over the seeds of the last epoch.")
    if chosen:
        click.echo(f"Chosen: {chosen[0].cell.title}, {figure(chosen[0].mean, chosen[0].sd)}")
    for item in report.tested:
        maps = " ".join(map(figure, item.maps))
        click.echo(f"Test, ground-truth boxes: {item.cell.title}: mAP {figure(fmean(item.maps))} ({maps})")
    for against in report.against:
        difference, interval = delta_texts(against.mean)
        clear = sum(delta.is_clear for delta in against.seeds)
        click.echo(
            f"{against.verdict}: {difference} points, 95 % interval over videos {interval}; "
            f"it leaves out 0 for {clear} of {amount(len(against.seeds), 'seed')}."
        )
    click.echo(f"Wrote {report.output / 'sweep.csv'} and {report.output / 'index.html'}.")
