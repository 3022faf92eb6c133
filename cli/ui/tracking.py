"""Experiment trackers: the command that follows a training tells MLflow or Weights & Biases of it."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol, Self

import click

from stal_data.errors import InputError, how_to_install

if TYPE_CHECKING:
    from protos.generated import recognizer_pb2 as pb
    from recognizer_svc.training.recipe import Recipe

_PROJECT = "stal"


class TrackedRun(Protocol):
    """A run at a tracker. Any method may raise what it likes."""

    def log(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Figures by name. epoch: from 1, that they are of."""

    def end(self, status: str) -> None:
        """status: succeeded, failed or cancelled."""


class _MlflowRun:
    def __init__(self, run_id: str, recipe: "Recipe | None") -> None:
        from mlflow import MlflowClient

        from recognizer_svc.runs.summary import flatten

        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        known = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if known is None else known.experiment_id
        found = self._client.search_runs([experiment], f"tags.`stal.run` = '{run_id}'", max_results=1)
        run = found[0] if found else self._client.create_run(experiment, run_name=run_id, tags={"stal.run": run_id})
        self._id = run.info.run_id
        self._client.update_run(self._id, status="RUNNING")
        if recipe is not None:
            self._client.log_text(self._id, recipe.to_yaml(), "recipe.yaml")
            settings = flatten(recipe.model_dump(mode="json"))
            for key in settings.keys() - run.data.params.keys():  # those that are there cannot be changed
                self._client.log_param(self._id, key, settings[key])

    def log(self, epoch: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._client.log_metric(self._id, name, value, step=epoch)

    def end(self, status: str) -> None:
        self._client.set_terminated(self._id, {"succeeded": "FINISHED", "failed": "FAILED"}.get(status, "KILLED"))


class _WandbRun:
    def __init__(self, run_id: str, recipe: "Recipe | None") -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            id=run_id,
            name=run_id,
            resume="allow",
            reinit="create_new",  # beside others of a sweep
            settings=wandb.Settings(console="off", login_timeout=1),  # nobody sees a question in the midst of a display
        )
        self._run.define_metric("*", step_metric="epoch")
        if recipe is not None:
            self._run.config.update(recipe.model_dump(mode="json"), allow_val_change=True)

    def log(self, epoch: int, figures: Mapping[str, float]) -> None:
        self._run.log({"epoch": epoch, **figures})

    def end(self, status: str) -> None:
        self._run.summary["status"] = status
        self._run.finish(exit_code=0 if status == "succeeded" else 1)


TRACKERS: dict[str, Callable[[str, "Recipe | None"], TrackedRun]] = {"mlflow": _MlflowRun, "wandb": _WandbRun}
"""By the name of the package, which our extra has, too: what opens a run by its id, or goes on with it."""

tracker_option = click.option(
    "--tracker",
    type=click.Choice(list(TRACKERS)),
    help="Tell this experiment tracker of the training, too; its own environment variables say where it is.",
)


class Tracking:
    """Tells a tracker what the updates of jobs say, in a thread, and gives up with one warning where that fails.

    Use with `with`. At the end the rest is sent, and runs that have not ended are cancelled at the tracker.
    """

    def __init__(self, tracker: str | None) -> None:
        """tracker: None = none. InputError where its package is missing."""
        if tracker is not None and find_spec(tracker) is None:
            raise InputError(f"--tracker {tracker} needs the package '{tracker}'; {how_to_install(tracker)}")
        self._open = None if tracker is None else TRACKERS[tracker]
        if tracker is not None:  # these libraries would also report to their makers
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._runs: dict[str, TrackedRun] = {}
        self._rates: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tracker")
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.submit(self._safely, self._cancel_all)
        self._thread.shutdown()

    def show(self, run_id: str, recipe: "Recipe | None", update: "pb.JobUpdate") -> None:
        """Pass on an update of a run. recipe: None where it is resumed without one."""
        if self._open is not None:
            self._thread.submit(self._safely, lambda: self._tell(run_id, recipe, update))

    def _safely(self, tell: Callable[[], None]) -> None:
        try:
            if self._open is not None:
                tell()
        except Exception as error:  # noqa: BLE001 - whatever a library raises
            self._open = None
            click.echo(f"Warning: the tracker is told no more, and the training goes on: {error}", err=True)

    def _tell(self, run_id: str, recipe: "Recipe | None", update: "pb.JobUpdate") -> None:
        from protos.generated import recognizer_pb2 as pb

        if update.WhichOneof("update") == "job":
            status = pb.JobStatus.Name(update.job.status).removeprefix("JOB_STATUS_").lower()
            if status not in ("queued", "running") and run_id in self._runs:
                self._runs.pop(run_id).end(status)
            return
        if run_id not in self._runs:
            assert self._open is not None
            self._runs[run_id] = self._open(run_id, recipe)
        kind, event, run = update.event.WhichOneof("event"), update.event, self._runs[run_id]
        if kind == "step":
            self._rates[run_id] = event.step.learning_rate
        elif kind == "epoch":
            epoch = event.epoch
            figures = {"loss": epoch.loss, "actors_per_s": epoch.actors_per_s, "duration_s": epoch.duration_s}
            figures["learning_rate"] = self._rates[run_id]
            run.log(epoch.epoch, {f"train/{name}": value for name, value in figures.items()})
        elif kind == "validation":
            found = event.validation
            run.log(found.epoch, {"validation/mAP": found.map, "validation/loss": found.loss})
        elif kind == "done":
            best = {"final/best_mAP": event.done.best_map} if event.done.HasField("best_map") else {}
            run.log(event.done.epochs, {"final/wall_s": event.done.wall_s, **best})

    def _cancel_all(self) -> None:
        while self._runs:
            self._runs.popitem()[1].end("cancelled")
