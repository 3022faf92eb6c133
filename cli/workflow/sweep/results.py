"""What came of a sweep's runs, by what they left in the store; and which cell is chosen."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from cli.workflow.sweep.plan import Cell, Plan, PlannedRun
from recognizer_svc.runs.events import read_events
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.runs.store import RunStore
from recognizer_svc.runs.summary import RunSummary, summarise
from recognizer_svc.training.recipe import Recipe, load_recipe
from stal_data.errors import ConflictError, NotFoundError


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """One run. error: why it failed in this sweep.

    curve: validation mAP by epoch. train_s: training and validation together. actors_per_s: of the last epoch.
    """

    run: PlannedRun
    status: str = "waiting"
    error: str = ""
    epochs_done: int = 0
    curve: Mapping[int, float]
    loss: float | None = None
    train_s: float = 0.0
    actors_per_s: float | None = None

    @property
    def finished(self) -> bool:
        return self.status == "succeeded"  # of a run with these settings, which may end before its last epoch

    @property
    def last(self) -> float | None:
        """Validation mAP of the last epoch, which is always scored."""
        return self.curve.get(self.epochs_done) if self.finished else None

    def plain(self) -> dict[str, object]:
        """The columns of the CSV file, which are those of the JSON, too."""
        return {
            "recipe": self.run.cell.recipe,
            **self.run.cell.settings,
            "seed": self.run.seed,
            "run": self.run.run_id,
            "status": self.status,
            "epochs": self.epochs_done,
            "validation_map": self.last,
            "best_validation_map": max(self.curve.values(), default=None),
            "training_loss": self.loss,
            "train_s": round(self.train_s, 3),
            "actors_per_s": self.actors_per_s,
            "error": self.error,
        }


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """A cell over its seeds. mean, sd: of the last epoch's validation mAP; None until all seeds are finished."""

    cell: Cell
    runs: tuple[RunResult, ...]

    @property
    def mean(self) -> float | None:
        values = [run.last for run in self.runs if run.last is not None]
        return fmean(values) if len(values) == len(self.runs) else None

    @property
    def sd(self) -> float | None:
        values = [run.last for run in self.runs if run.last is not None]
        return stdev(values) if len(values) == len(self.runs) > 1 else None

    def plain(self) -> dict[str, object]:
        figures = {"validation_map": self.mean, "sd": self.sd, "seeds": len(self.runs)}
        return {"recipe": self.cell.recipe, "settings": dict(self.cell.settings), **figures}


class Results:
    """Of all runs of a plan."""

    def __init__(self, plan: Plan, runs: RunStore) -> None:
        """Read what earlier sweeps left; a run of other settings is an error."""
        self._plan, self._runs = plan, runs
        self.by_run = {run.run_id: self._read(run) for run in plan.runs}

    def started(self, run: PlannedRun) -> bool:
        """Whether there is something to go on from."""
        return self.by_run[run.run_id].status != "waiting"

    def update(self, run: PlannedRun, error: str = "") -> RunResult:
        """Read a run again that has ended. error: why it failed, where the run's own files may not say."""
        result = self._read(run, error)
        if result.status == "waiting":
            result = replace(result, status="failed", error="it is not in --store; does the service use another one?")
        self.by_run[run.run_id] = result
        return result

    def cells(self) -> list[CellResult]:
        """In the order of the plan."""
        found = [(cell, [run for run in self._plan.runs if run.cell is cell]) for cell in self._plan.cells]
        return [CellResult(cell=cell, runs=tuple(self.by_run[run.run_id] for run in runs)) for cell, runs in found]

    def chosen(self) -> list[CellResult]:
        """The best cell of each recipe, the best of all first. Cells that lack a seed are not among them."""
        best: dict[str, CellResult] = {}
        for cell in sorted(self.cells(), key=lambda item: -(item.mean or 0.0)):
            if cell.mean is not None:
                best.setdefault(cell.cell.recipe, cell)
        return list(best.values())

    def csv_text(self) -> str:
        rows = [result.plain() for result in self.by_run.values()]
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def _read(self, run: PlannedRun, error: str = "") -> RunResult:
        try:
            found = self._runs.find(run.run_id)
        except NotFoundError:
            return RunResult(run=run, status="failed" if error else "waiting", error=error, curve={})
        if found.recipe.exists():
            _check_same(run, load_recipe(found.recipe))
        summary = summarise(found)
        curve, speed = _curve(found)
        return RunResult(
            run=run,
            status="failed" if error else summary.status,
            error=error or _problem(summary),
            epochs_done=summary.epochs_done,
            curve=curve,
            loss=summary.loss,
            train_s=summary.train_s,
            actors_per_s=speed,
        )


def _problem(summary: RunSummary) -> str:
    return "; ".join(summary.problems) or (summary.message if summary.status == "failed" else "")


def _curve(run: RunDir) -> tuple[dict[int, float], float | None]:
    curve: dict[int, float] = {}
    speed = None
    for event in read_events(run.events, report=lambda _: None):  # the summary tells of damage
        if event.type == "validation":
            curve[int(event.values["epoch"])] = float(event.values["map"])
        elif event.type == "epoch":
            speed = float(event.values["actors_per_s"])
    return curve, speed


def _check_same(run: PlannedRun, present: Recipe) -> None:
    before, now = _decisive(present), _decisive(run.recipe)
    if changed := sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name)):
        listed = ", ".join(f"{name}: {before.get(name)} / {now.get(name)}" for name in changed)
        raise ConflictError(
            f"Run '{run.run_id}' exists with other settings (there / now): {listed}. Give the sweep another --name, or "
            f"delete the run with 'stal-cli runs rm {run.run_id}'."
        )


def _decisive(recipe: Recipe) -> dict[str, object]:
    return recipe.fixed_settings() | {
        "training.epochs": recipe.training.epochs,
        "validation.split": recipe.validation.split,
    }


def figure(value: float | None, sd: float | None = None) -> str:
    """Text of a mAP."""
    if value is None:
        return "-"
    return f"{value:.4f}" if sd is None else f"{value:.4f} ± {sd:.4f}"
