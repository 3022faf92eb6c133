"""Training in this process."""

import asyncio
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path

from cli.commands.jobs import check_ended_well
from cli.ui.job_display import JobDisplay
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.local import LocalRecognizer
from recognizer_svc.runs.run_dir import new_run_id
from recognizer_svc.training.recipe import load_recipe, read_recipe
from stal.store import Run, Store
from stal_data.errors import InputError

_WAKE_S = 0.2


def train(
    recipe: str | Path,
    *,
    store: Store,
    overrides: Mapping[str, object] | None = None,
    run_id: str | None = None,
    resume: bool = False,
) -> Run:
    """Train a head on cached features, as `stal-cli train` does with one process, and return the finished run.

    recipe: path of a YAML file, name of a shipped recipe (`acar`, `linear`, ...), or YAML text.
    overrides: values of the recipe by dotted name: {"data.dataset": "own", "head.depth": 1}.
    run_id: name of the run; default: recipe, time and a random end. resume: go on from its latest checkpoint.
    Progress goes to stderr. An interrupt (Ctrl-C, or a notebook's) ends the training with a checkpoint. A recipe that
    trains a backbone, too, reads frames; only `stal-cli train --data` runs it.
    Raises StalError for a recipe that breaks a rule, for inputs that the store lacks, for a run id that is taken, and
    where the training fails.
    """
    if resume and run_id is None:
        raise InputError("resume is True, but run_id is None; name the run to go on with.")
    changes = tuple(f"{name}={json.dumps(value)}" for name, value in (overrides or {}).items())
    loaded = load_recipe(recipe, changes)
    request = pb.TrainRequest(
        run_id=run_id or new_run_id(loaded.name),
        recipe=read_recipe(recipe)[0],
        overrides=changes,
        resume=resume,
        launch=pb.Launch(nproc_per_node=1),
    )
    # A loop in a thread of its own, since the thread of a notebook runs one already.
    with closing(asyncio.new_event_loop()) as loop, ThreadPoolExecutor(1, thread_name_prefix="train") as thread:
        job = loop.create_task(_follow(store, request))
        ended = thread.submit(loop.run_until_complete, job)
        try:
            # Waking up now and then, since an interrupt may wait until this thread does.
            while not wait([ended], timeout=_WAKE_S).done:
                pass
        except BaseException:
            loop.call_soon_threadsafe(job.cancel)
            raise
        ended.result()
    return Run(store, request.run_id)


async def _follow(store: Store, request: pb.TrainRequest) -> None:
    """Show the job until it ends; where it does not end well, raise its message."""
    job = pb.Job()
    with JobDisplay() as display:
        async with LocalRecognizer(store.folders) as recognizer:
            async for update in recognizer.train(request):
                display.show(update)
                job = update.job if update.WhichOneof("update") == "job" else job
    check_ended_well(job)
