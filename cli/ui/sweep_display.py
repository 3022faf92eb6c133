"""A sweep as it runs: a live table on a terminal, a line for each run elsewhere. Everything goes to stderr."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cli.ui.tables import add_row

if TYPE_CHECKING:
    from cli.workflow.sweep.plan import PlannedRun
    from cli.workflow.sweep.results import CellResult, Results, RunResult
    from protos.generated import recognizer_pb2 as pb

_CELLS = 15
"""Shown while it runs; the best ones."""
_REDRAW_S = 0.25


class SweepDisplay:
    """Told of the trainings; `sweep_display` makes one. The measure of work is an epoch."""

    def __init__(self, results: "Results", live: Live | None) -> None:
        self._results, self._live = results, live
        self._now: dict[int, tuple[PlannedRun, float, str]] = {}
        """By slot: what it trains, the epochs done, and how it does."""
        open_runs = [item for item in results.by_run.values() if not item.finished]
        self._total = sum(item.run.recipe.training.epochs - item.epochs_done for item in open_runs)
        self._begun = {item.run.run_id: item.epochs_done for item in open_runs}
        self._done, self._ended, self._runs = 0.0, 0, len(open_runs)
        self._started, self._drawn = time.monotonic(), 0.0

    def show(self, slot: int, run: "PlannedRun", update: "pb.JobUpdate") -> None:
        """One update of the run that a slot trains."""
        _, epochs, text = self._now.get(slot, (run, float(self._begun[run.run_id]), "starting"))
        kind = update.event.WhichOneof("event")
        if kind == "step":
            step = update.event.step
            epochs = step.epoch - 1 + step.step / max(step.steps_per_epoch, 1)
            text = f"loss {step.loss:.4f}, {step.actors_per_s:.0f} actors/s"
        elif kind == "validation":
            text = f"validation mAP {update.event.validation.map:.4f}"
        self._now[slot] = run, epochs, text
        self._refresh()

    def ended(self, slot: int, result: "RunResult") -> None:
        """The run that a slot trained has ended."""
        self._now.pop(slot, None)
        self._ended += 1
        self._done += result.run.recipe.training.epochs - self._begun[result.run.run_id]
        if self._live is not None:
            self._live.refresh()
            return
        figures = result.error or f"validation mAP {result.last or 0:.4f}, {result.train_s:.1f} s"
        click.echo(f"{self._progress()}: {result.run.run_id} {result.status}, {figures}", err=True)

    def _refresh(self) -> None:
        if self._live is not None and time.monotonic() - self._drawn >= _REDRAW_S:
            self._drawn = time.monotonic()
            self._live.refresh()

    def __rich__(self) -> Group:
        running = Table("run", "epoch", "", box=None)
        for run, epochs, text in self._now.values():
            add_row(running, run.run_id, f"{epochs:.1f}/{run.recipe.training.epochs}", text)
        cells = sorted(self._results.cells(), key=lambda cell: -(cell.mean or 0.0))
        return Group(cells_table(cells[:_CELLS]), running, Text(self._progress()))

    def _progress(self) -> str:
        now = sum(epochs - self._begun[run.run_id] for run, epochs, _ in self._now.values())
        done, elapsed = self._done + now, time.monotonic() - self._started
        left = f", {_minutes(elapsed * (self._total - done) / done)} left" if 0 < done < self._total else ""
        return f"{self._ended}/{self._runs} runs, {_minutes(elapsed)}{left}"


@contextmanager
def sweep_display(results: "Results") -> Iterator[SweepDisplay]:
    """Yield what shows the trainings while the block runs."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield SweepDisplay(results, None)
        return
    # Not redrawn by a thread of its own, which would read what changes meanwhile.
    with Live(console=console, auto_refresh=False, transient=True) as live:
        display = SweepDisplay(results, live)
        live.update(display)
        yield display


def cells_table(cells: "Iterable[CellResult]", chosen: "CellResult | None" = None) -> Table:
    """Return a table of cells with their validation mAP over the seeds."""
    from cli.workflow.sweep.results import figure

    table = Table("cell", "seeds", "validation mAP", "")
    for cell in cells:
        finished = sum(run.finished for run in cell.runs)
        mark = "chosen" if cell == chosen else "failed" if any(run.status == "failed" for run in cell.runs) else ""
        add_row(table, cell.cell.title, f"{finished}/{len(cell.runs)}", figure(cell.mean, cell.sd), mark)
    return table


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
