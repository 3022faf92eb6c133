"""The `demo` command: run the workflow, then print the table and write the page."""

from dataclasses import replace
from pathlib import Path

import click

from cli.ui.params import SEED
from cli.workflow.demo.settings import DEFAULT, TINY
from cli.workflow.output_folder import claimed


@click.command()
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-out"),
    show_default=True,
    help="Folder for data, weights, store, logs and results.",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the synthetic data.")
@click.option(
    "--head-seeds",
    type=click.IntRange(min=1, max=10),
    help="Train each head with so many seeds, half a minute each; default: 1.",
)
@click.option("--tiny", is_flag=True, help="A few videos and steps: checks the plumbing; the figures mean nothing.")
@click.option("--fresh", is_flag=True, help="Run every stage again, also those that finished before.")
def demo(output: Path, seed: int, head_seeds: int | None, tiny: bool, fresh: bool) -> None:
    """Train and score the whole system on synthetic data, through both services, on this machine.

    Runs the same commands that you would type, each in its own process: renders a data set, trains the person
    detector and two small backbones, serves both services on loopback, detects, fills the feature cache, trains
    the relation head, the ACAR head with two ranks and a linear head, predicts and evaluates. Twelve minutes on two
    cores. The output folder must be new, empty, or of an earlier demo, which goes on where it was interrupted.

    \b
    Examples:
      stal-cli demo
      stal-cli demo --head-seeds 3 --output demo-seeds
    """
    from cli.workflow.demo.report import print_table, write_report
    from cli.workflow.demo.workflow import run_workflow
    from cli.workflow.stages import Stages

    settings = TINY if tiny else DEFAULT
    if head_seeds is not None:
        settings = replace(settings, head_seeds=tuple(range(head_seeds)))
    output = output.resolve()
    with claimed(output, "demo"):
        click.echo(f"Demo in {output}; each stage's log is in {output / 'logs'}.")
        stages = Stages(output, fresh=fresh)
        folders = run_workflow(stages, settings, seed)
        summary = write_report(stages, folders, settings)
    print_table(summary)
    click.echo(f"\nSummary: {output / 'summary.json'}\nOpen in a browser: {output / 'index.html'}")
