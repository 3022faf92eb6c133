"""The trainings of a sweep: each slot takes the next run until none is left."""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Protocol

from cli.ui.tracking import Tracking
from cli.workflow.sweep.plan import PlannedRun
from cli.workflow.sweep.results import Results, RunResult
from cli.workflow.sweep.slots import Slot
from protos.generated import recognizer_pb2 as pb
from stal_data.errors import StalError
from svc_common.errors import ServiceUnavailableError


class Shown(Protocol):
    """What is told of the trainings."""

    def show(self, slot: int, run: PlannedRun, update: pb.JobUpdate) -> None: ...

    def ended(self, slot: int, result: RunResult) -> None: ...


async def train_all(
    slots: Sequence[Slot], results: Results, shown: Shown, changed: Callable[[], None], tracking: Tracking
) -> None:
    """Train all runs that are not finished. One that fails ends no other; a service that is gone ends all.

    changed: called when a run has ended.
    """
    waiting = deque(result.run for result in results.by_run.values() if not result.finished)

    async def work(number: int, slot: Slot) -> None:
        while waiting:
            run = waiting.popleft()

            def show(update: pb.JobUpdate, run: PlannedRun = run) -> None:
                shown.show(number, run, update)
                tracking.show(run.run_id, run.recipe, update)

            error = await _train(slot, run, results.started(run), show)
            shown.ended(number, results.update(run, error))
            changed()

    tasks = [asyncio.create_task(work(number, slot)) for number, slot in enumerate(slots)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(slot.close() for slot in slots))


async def _train(slot: Slot, run: PlannedRun, resume: bool, show: Callable[[pb.JobUpdate], None]) -> str:
    """Return why the run failed; nothing where it did not."""
    request = pb.TrainRequest(
        run_id=run.run_id,
        recipe=run.recipe.to_yaml(),
        resume=resume,
        request_id=secrets.token_hex(16),
        launch=pb.Launch(nproc_per_node=1),
    )
    job = pb.Job()
    try:
        async with aclosing(slot.train(request)) as updates:
            async for update in updates:
                show(update)
                job = update.job if update.WhichOneof("update") == "job" else job
    except ServiceUnavailableError:
        raise
    except StalError as error:
        return str(error)
    if job.status == pb.JOB_STATUS_SUCCEEDED:
        return ""
    return job.message or f"the run is {pb.JobStatus.Name(job.status).removeprefix('JOB_STATUS_').lower()}"
