"""A job as it runs: a live display on a terminal, plain lines elsewhere. Everything goes to stderr."""

import time
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from cli.ui.precompute_progress import extraction_progress
from stal_data.amounts import amount

if TYPE_CHECKING:
    from cache.precompute import Progress as Extraction
    from protos.generated import recognizer_pb2 as pb

_LINE_EVERY_S = 10.0


class JobDisplay:
    """Shows the updates of one job. Use with `with`; `show` takes them in order."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._extraction: Extraction | None = None
        self._open = ExitStack()
        self._figures: dict[str, Any] = {"loss": "-", "rate": "-", "speed": "-", "map": "-"}
        self._last_line = float("-inf")

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("loss {task.fields[loss]}"),
                TextColumn("lr {task.fields[rate]}"),
                TextColumn("{task.fields[speed]} actors/s"),
                TextColumn("val mAP {task.fields[map]}"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task("starting", total=None, **self._figures)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._open.close()

    def show(self, update: "pb.JobUpdate") -> None:
        """One update of the job."""
        if update.WhichOneof("update") == "job":
            self._show_job(update.job)
            return
        kind = update.event.WhichOneof("event")
        if kind == "step":
            self._show_step(update.event.step)
        elif kind == "epoch":
            epoch = update.event.epoch
            self._line(
                f"epoch {epoch.epoch}/{epoch.epochs}: loss {epoch.loss:.4f}, {epoch.duration_s:.1f} s "
                f"(waiting for features {epoch.data_s:.1f} s), {epoch.actors_per_s:.0f} actors/s"
            )
        elif kind == "validation":
            found = update.event.validation
            self._update(map=f"{found.map:.4f}")
            self._line(
                f"epoch {found.epoch}: validation mAP {found.map:.4f} (best {found.best_map:.4f}, ground-truth boxes)"
            )
        elif kind == "precompute":
            self._show_rows(update.event.precompute)
        elif kind == "log":
            self._line(update.event.log.message)
        elif kind == "error":
            self._line(f"error on rank {update.event.error.rank}: {update.event.error.message}")

    def _show_rows(self, event: "pb.PrecomputeEvent") -> None:
        if self._extraction is None:
            if self._bar is not None:  # a terminal shows one display at a time
                self._bar.stop()
                self._bar = None
            self._extraction = self._open.enter_context(extraction_progress())
        self._extraction("check" if event.phase == "check" else "extract", event.rows_done, event.rows_total)

    def _show_job(self, job: "pb.Job") -> None:
        from protos.generated import recognizer_pb2 as pb

        if job.status == pb.JOB_STATUS_QUEUED:
            self._update(description="waiting for its turn")
        elif job.status == pb.JOB_STATUS_RUNNING:
            self._update(description="starting")
            if job.kind == pb.JOB_KIND_PRECOMPUTE:
                self._line(f"{job.run_id}: computes features on {job.host}")
                return
            why = f"; {job.message}" if job.message else ""
            self._line(
                f"{job.run_id}: attempt {job.attempt}, {amount(job.launch.nproc_per_node, 'process')} on {job.host}, "
                f"{job.launch.backend}{why}"
            )

    def _show_step(self, step: "pb.StepEvent") -> None:
        done = (step.epoch - 1) * step.steps_per_epoch + step.step
        rate, speed = f"{step.learning_rate:.2e}", f"{step.actors_per_s:.0f}"
        where = f"epoch {step.epoch}/{step.epochs} step {step.step}/{step.steps_per_epoch}"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=step.epochs * step.steps_per_epoch, description=where)
            self._update(loss=f"{step.loss:.4f}", rate=rate, speed=speed)
        elif time.monotonic() - self._last_line >= _LINE_EVERY_S:
            self._line(f"{where}: loss {step.loss:.4f}, lr {rate}, {speed} actors/s")

    def _update(self, **fields: Any) -> None:
        if self._bar is not None:
            self._bar.update(self._task, **fields)

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        if self._bar is not None:
            self._bar.print(text, markup=False, highlight=False)
        else:
            click.echo(text, err=True)
