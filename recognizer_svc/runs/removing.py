"""Deleting a run, but none that is trained or served."""

import socket
from contextlib import ExitStack

from cache.feature_store.set_lock import sole_use
from cache.files import sync
from recognizer_svc.runs.record import readable_records
from recognizer_svc.runs.run_dir import JobFiles, RunDir
from recognizer_svc.runs.store import RunStore
from recognizer_svc.service.processes import job_processes
from stal_data.errors import ConflictError
from stal_data.file_lock import FileLock
from stal_data.work_folder import work_folder


def remove_run(runs: RunStore, run_id: str) -> None:
    """Delete a run here and in the bucket; an error while a job trains it or somebody has loaded its head.

    In the bucket it goes first, and here it loses its name before its files go: a kill leaves no half run under it.
    """
    run = runs.find(run_id)
    with ExitStack() as held:
        for rank in sorted({0, *(record.launch.node_rank for record in readable_records(JobFiles(run)))}):
            _own(run, rank, held)
        held.enter_context(sole_use(run.root))
        held.enter_context(runs.sole_training(run))
        runs.unpublish(run)
        # What a killed process leaves there goes with the next deletion.
        with work_folder(run.root, suffix=".deleted") as folder:
            run.root.rename(folder / "run")
            sync(run.root.parent)
    runs.unpublish(run)  # the mark of the sole training, too


def _own(run: RunDir, rank: int, held: ExitStack) -> None:
    """Keep a node's share of the job from being started; an error where it runs."""
    files = JobFiles(run, rank)
    lock = FileLock.take(files.lock)
    if lock is not None:
        held.enter_context(lock)
    if lock is None or job_processes(run.root, rank):
        raise ConflictError(
            f"Run '{run.run_id}' is in training here; wait for its end, or stop it with: stal-cli jobs cancel "
            f"{run.run_id} ..."
        )
    for record in readable_records(files):
        if not record.status.ended and record.host != socket.gethostname():
            raise ConflictError(
                f"Run '{run.run_id}' was in training on {record.host} when it was last heard of; stop it with: "
                f"stal-cli jobs cancel {run.run_id} ..."
            )
