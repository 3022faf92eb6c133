"""How a service comes to own a job: one that is sent to it is checked and queued, one that was left is taken over."""

import socket
import time
from dataclasses import dataclass, replace
from pathlib import Path

from cache.files import explaining_full_disk
from cache.split_store import PublishedSplit, load_split
from cache.store import Store
from recognizer_svc.runs.record import (
    JobRecord,
    JobStatus,
    Launch,
    read_record,
    readable_records,
    refuse_imported,
    write_record,
)
from recognizer_svc.runs.run_dir import JobFiles
from recognizer_svc.runs.store import RunStore
from recognizer_svc.service.processes import job_processes, process_start_s
from recognizer_svc.training.held_out import divide
from recognizer_svc.training.joint.sources import initial_weights, open_dataset
from recognizer_svc.training.recipe import Recipe, load_recipe, parse_recipe
from recognizer_svc.training.sets import open_sets, open_training_proposals
from stal_data.errors import ConflictError, InputError, NotFoundError
from stal_data.file_lock import FileLock
from stal_data.files import write_atomically
from stal_data.sealed import sealed_text


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What a client asks for."""

    run_id: str
    recipe: str
    """YAML text; may be empty for a resumed run, which then keeps its recipe."""
    overrides: tuple[str, ...] = ()
    resume: bool = False
    launch: Launch
    request_id: str = ""
    """Names the request, so that it may be sent twice; empty when it may not."""
    default_processes: bool = False
    """The number of processes is the service's choice, and may be lowered."""

    def files(self, runs: RunStore) -> JobFiles:
        return JobFiles(runs.run(self.run_id), self.launch.node_rank)


OwnedJob = tuple[JobFiles, JobRecord, FileLock]
"""A node's share of a run's job, for whoever owns it now."""


def find_sent_before(files: JobFiles, request_id: str) -> JobRecord | None:
    """The job that an earlier sending of the same request made."""
    record = read_record(files.record)
    same = record is not None and request_id and record.request_id == request_id
    return record if same else None


def check_submission(runs: RunStore, submission: Submission, data_root: Path | None = None) -> Recipe | None:
    """Check what needs the store, which may be a slow bucket; nothing is decided or written that others see.

    data_root: folder below which a recipe may name a data set.
    Returns the recipe; None for a resumed run that keeps its own.
    """
    run_id = runs.run(submission.run_id).run_id
    recipe = parse_recipe(submission.recipe, submission.overrides) if submission.recipe else None
    if recipe is None and not submission.resume:
        raise InputError(f"The recipe of run '{run_id}' is empty; only a resumed run keeps the recipe it has.")
    _sharing_evenly(submission, recipe)
    if recipe is not None:
        check_data(runs.store, recipe, data_root, resume=submission.resume)
    runs.fetch(run_id)
    return recipe


def queue_job(runs: RunStore, submission: Submission, recipe: Recipe | None, *, host: str | None = None) -> OwnedJob:
    """Write the queued record of a checked submission; the caller owns the share from here on. Local files only.

    host: what the record calls this machine; None means its host name.
    """
    run_id, launch = submission.run_id, submission.launch
    files = JobFiles(runs.run(run_id), launch.node_rank)
    if runs.precompute_job(run_id).request.exists():
        raise ConflictError(f"'{run_id}' is the name of a precompute job; choose another --run-id.")
    if submission.resume:
        refuse_imported(runs.find_present(run_id))
    elif (launch.nnodes == 1 and files.run.recipe.exists()) or (runs.store.in_bucket and files.run.events.exists()):
        # In a folder, the recipe may be there from another machine of this job; from a bucket come only earlier runs.
        raise _exists(run_id)
    owned = FileLock.take(files.lock)
    if owned is None:
        raise ConflictError(f"Run '{run_id}' is active already; watch it with: stal-cli jobs watch {run_id} ...")
    try:
        with explaining_full_disk(files.run.recipe):
            return files, _queued_record(files, submission, recipe, host or socket.gethostname()), owned
    except BaseException:
        owned.release()
        raise


def take_over(files: JobFiles) -> OwnedJob | None:
    """Own a job whose service is gone; None when it has ended, or a living service owns it."""
    owned = FileLock.take(files.lock)
    if owned is None:
        return None
    job = None
    try:
        record = read_record(files.record)
        if record is not None and not record.status.ended:
            job = files, adopt(files, record), owned
        return job
    finally:
        if job is None:
            owned.release()


def find_orphans(runs: RunStore, host: str) -> list[OwnedJob]:
    """Take over the jobs of this machine whose service is gone. host: what their records call it."""
    found = [(run, record) for run in runs.present_jobs() for record in readable_records(JobFiles(run))]
    mine = [(run, record) for run, record in found if not record.status.ended and record.host == host]
    taken = [take_over(JobFiles(run, record.launch.node_rank)) for run, record in mine]
    return [job for job in taken if job is not None]


def adopt(files: JobFiles, record: JobRecord) -> JobRecord:
    """The record with a launcher that was started but not yet noted when its service died."""
    if record.status is not JobStatus.RUNNING or record.pid:
        return record
    processes = job_processes(files.run.root, files.node_rank)
    if not processes:
        return record
    # The launcher started first; where it is gone, its oldest worker stands for the job.
    pid = processes[0].pid
    return replace(record, pid=pid, pgid=pid, process_started_s=process_start_s(pid))


def check_data(store: Store, recipe: Recipe, data_root: Path | None, *, resume: bool) -> None:
    """Find what the recipe names, so that a wrong name shows now and not when the workers have started."""
    data, validation = recipe.data, recipe.validation
    for key, name in data.datasets.items():
        field = "data.additional" if key else "data.dataset"
        split = _published(store, name, data.train_split, f"{field} and data.train_split")
        if validation.held_out is not None and name in recipe.validated_datasets:
            divide(split, validation.held_out)
        if validation.split is not None and name in recipe.validated_datasets:
            _published(store, name, validation.split, f"{field} and validation.split")
    open_sets(recipe, store)
    open_training_proposals(recipe, store)
    if recipe.training.init_head is not None and not resume:
        store.weights_file("training.init_head", recipe.training.init_head)
    if recipe.training.backbone != "none":
        open_dataset(recipe, data_root)
        initial_weights(recipe, store)


def _published(store: Store, dataset: str, split: str, fields: str) -> PublishedSplit:
    try:
        return load_split(store, dataset, split)
    except NotFoundError as error:
        raise NotFoundError(f"{error} The recipe names it with {fields}; --set changes them.") from None


def _queued_record(files: JobFiles, submission: Submission, recipe: Recipe | None, host: str) -> JobRecord:
    before = read_record(files.record)
    if before is not None and not submission.resume:
        raise _exists(submission.run_id)
    if before is not None and not before.status.ended and before.host != host:
        raise ConflictError(
            f"Run '{submission.run_id}' was active on {before.host} when it was last heard of; start the service there "
            f"again, or give the job up with: stal-cli jobs cancel {submission.run_id} ..."
        )
    if job_processes(files.run.root, files.node_rank):
        raise ConflictError(
            f"Processes of run '{submission.run_id}' still work on this machine; stop them first with: "
            f"stal-cli jobs cancel {submission.run_id} ..."
        )
    launch = _sharing_evenly(submission, recipe or _present_recipe(files))
    processes, asked = launch.nproc_per_node, submission.launch.nproc_per_node
    told = f"{processes} of {asked} processes, so that they share a step's clips evenly" if processes < asked else ""
    _write_recipe(files, submission, recipe)
    record = JobRecord(
        run_id=submission.run_id,
        attempt=before.attempt + 1 if before is not None else 1,
        status=JobStatus.QUEUED,
        launch=launch,
        message=told,
        host=host,
        created_s=time.time(),
        events_offset=_size(files.run.events),
        request_id=submission.request_id,
    )
    write_record(files, record)
    return record


def _present_recipe(files: JobFiles) -> Recipe | None:
    return load_recipe(files.run.recipe) if files.run.recipe.exists() else None


def _sharing_evenly(submission: Submission, recipe: Recipe | None) -> Launch:
    """Return the launch, with fewer processes where their number is the service's and they could not share a step.

    Machines may have different numbers of processes, so with several of them only the ranks can check the sum.
    """
    launch = submission.launch
    if recipe is None or launch.nnodes > 1 or recipe.training.batch_clips % launch.nproc_per_node == 0:
        return launch
    clips = recipe.training.batch_clips
    fitting = max(number for number in range(1, launch.nproc_per_node) if clips % number == 0)
    if submission.default_processes:
        return replace(launch, nproc_per_node=fitting)
    raise InputError(
        f"training.batch_clips is {clips}, which {launch.nproc_per_node} processes cannot share evenly; set it to a "
        f"multiple of {launch.nproc_per_node}, or give --nproc-per-node {fitting}."
    )


def _write_recipe(files: JobFiles, submission: Submission, recipe: Recipe | None) -> None:
    """Write the recipe, or compare it with the one that is there: from a run being resumed, or from another node."""
    if not files.run.recipe.exists():
        if recipe is None:
            raise NotFoundError(f"Run '{submission.run_id}' has no recipe.yaml; give one to resume it.")
        write_atomically(files.run.recipe, sealed_text(recipe.to_yaml()))
        return
    if recipe is None:
        return
    present = load_recipe(files.run.recipe)
    # Nodes that start a run together agree in everything; a run that is resumed may get longer.
    settings = Recipe.fixed_settings if submission.resume else Recipe.model_dump
    before, now = settings(present), settings(recipe)
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if changed:
        raise ConflictError(
            f"The recipe differs from that of run '{submission.run_id}' in {', '.join(changed)}. A resumed run may "
            "change only its length, the split it validates on and what is logged; train with another --run-id instead."
        )
    if recipe != present:
        write_atomically(files.run.recipe, sealed_text(recipe.to_yaml()))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _exists(run_id: str) -> ConflictError:
    return ConflictError(f"Run '{run_id}' exists in the store. Choose another --run-id, or continue it with --resume.")
