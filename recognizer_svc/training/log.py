"""What a training run tells the world: events for whoever watches, scalars for TensorBoard. Rank 0 only."""

import time
from contextlib import AbstractContextManager
from typing import Any

from torch.utils.tensorboard.writer import SummaryWriter

from recognizer_svc.runs.events import EventType, EventWriter
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.training.loop import Totals
from recognizer_svc.training.recipe import Recipe


class RunLog(AbstractContextManager["RunLog"]):
    """Writes to the run's folder on rank 0 and nothing elsewhere."""

    def __init__(self, run_dir: RunDir, recipe: Recipe, *, enabled: bool, first_step: int) -> None:
        """first_step: step (from 0, over the run) that the run goes on from; later scalars of a crash are dropped."""
        self._epochs = recipe.training.epochs
        self._started = time.perf_counter()
        self._events = EventWriter(run_dir.events) if enabled else None
        # mypy does not see the types of the writer's methods.
        self._scalars: Any = SummaryWriter(str(run_dir.tensorboard), purge_step=first_step) if enabled else None

    def saved_events(self) -> int:
        """Make the events that there are durable, and return their number."""
        if self._events is None:
            return 0
        self._events.sync()
        return self._events.seq

    def message(self, text: str) -> None:
        self._write("log", message=text)

    def step(self, *, epoch: int, step: int, steps_per_epoch: int, totals: Totals, learning_rate: float) -> None:
        """One line for the steps since the last one. epoch and step count from 1."""
        self._write(
            "step",
            epoch=epoch,
            epochs=self._epochs,
            step=step,
            steps_per_epoch=steps_per_epoch,
            learning_rate=learning_rate,
            **_rates(totals),
        )
        position = (epoch - 1) * steps_per_epoch + step
        for name, value in {"learning_rate": learning_rate, **_rates(totals)}.items():
            self._scalar(f"train/{name}", value, position)

    def epoch(self, *, epoch: int, totals: Totals) -> None:
        self._write("epoch", epoch=epoch, epochs=self._epochs, duration_s=totals.wall_s, **_rates(totals))
        self._scalar("epoch/loss", totals.loss, epoch)

    def validation(
        self, *, epoch: int, mean_ap: float, best: float, loss: float, boxes: int, duration_s: float
    ) -> None:
        self._write(
            "validation", epoch=epoch, map=mean_ap, best_map=best, loss=loss, boxes=boxes, duration_s=duration_s
        )
        self._scalar("validation/mAP", mean_ap, epoch)
        self._scalar("validation/loss", loss, epoch)

    def checkpoint(self, *, epoch: int, step: int, name: str) -> None:
        """epoch: finished ones; step: steps of the next one that the checkpoint holds."""
        self._write("checkpoint", epoch=epoch, step=step, name=name)

    def done(self, *, epochs: int, best_map: float | None) -> None:
        """epochs: that were trained, in all attempts."""
        self._write("done", epochs=epochs, best_map=best_map, wall_s=time.perf_counter() - self._started)

    def _write(self, kind: EventType, **fields: Any) -> None:
        if self._events is not None:
            self._events.write(kind, **fields)

    def _scalar(self, name: str, value: float, position: int) -> None:
        if self._scalars is not None:
            self._scalars.add_scalar(name, value, position)

    def __exit__(self, *_: object) -> None:
        if self._events is not None:
            self._events.close()
            self._scalars.close()


def _rates(totals: Totals) -> dict[str, float]:
    """loss: mean over actors of all ranks. data_s, compute_s: seconds of rank 0 in these steps."""
    return {
        "loss": totals.loss,
        "actors": totals.actors,
        "actors_per_s": totals.actors_per_s,
        "data_s": totals.data_s,
        "compute_s": totals.compute_s,
    }
