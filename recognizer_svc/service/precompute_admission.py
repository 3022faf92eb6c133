"""How a service takes in a precompute job; compare `admission`, which takes in those that train."""

import time
from dataclasses import dataclass, field

from cache.files import explaining_full_disk
from recognizer_svc.precompute.request import FeatureRequest
from recognizer_svc.runs.record import JobKind, JobRecord, JobStatus, Launch, write_record
from recognizer_svc.runs.run_dir import JobFiles
from recognizer_svc.runs.store import RunStore
from recognizer_svc.service.limits import JobLimits
from stal_data.data_root import dataset_below
from stal_data.errors import ConflictError
from stal_data.file_lock import FileLock


@dataclass(frozen=True, kw_only=True)
class PrecomputeSubmission:
    """What a client asks for. run_id: the job's name. request_id: as in `Submission`."""

    run_id: str
    wanted: FeatureRequest
    request_id: str = ""
    launch: Launch = field(default_factory=lambda: Launch(nproc_per_node=1, backend="gloo"))

    def files(self, runs: RunStore) -> JobFiles:
        return JobFiles(runs.precompute_job(self.run_id))


def check_precompute(submission: PrecomputeSubmission, limits: JobLimits) -> None:
    """Find what the request names, so that a wrong name shows now and not when the process has started."""
    if limits.data_root is None:
        raise ConflictError(
            "The recognizer service has no data root, so it reads no frames. Start it with "
            "'stal-cli serve recognizer --data-root DIR', or compute here: stal-cli precompute --store STORE."
        )
    if not limits.backbones:
        raise ConflictError(
            "The recognizer service has no backbones to compute features with. Start it with the weights: "
            "'stal-cli serve recognizer --slowfast FILE --vit FILE' or --backbone, or compute here: "
            "stal-cli precompute --store STORE."
        )
    kinds = [choice.kind for choice in limits.backbones]
    if repeated := [kind for kind in kinds if kinds.count(kind) > 1]:
        raise ConflictError(
            f"The recognizer service holds several weights of {repeated[0]}, of its packed models. Start it with "
            f"--backbone {repeated[0]}=FILE, which decides what precompute jobs compute with."
        )
    submission.wanted.kept(kinds)
    dataset_below(limits.data_root, submission.wanted.dataset).split(submission.wanted.split)


def queue_precompute(
    runs: RunStore, submission: PrecomputeSubmission, *, host: str
) -> tuple[JobFiles, JobRecord, FileLock]:
    """Write the queued record of a checked submission; the caller owns the job from here on."""
    files = submission.files(runs)
    if files.run.request.exists() or runs.run(submission.run_id).root.exists():
        raise _exists(submission.run_id)
    owned = FileLock.take(files.lock)
    if owned is None:
        raise _exists(submission.run_id)
    try:
        with explaining_full_disk(files.run.request):
            submission.wanted.write(files.run.request)
        record = JobRecord(
            run_id=submission.run_id,
            attempt=1,
            status=JobStatus.QUEUED,
            kind=JobKind.PRECOMPUTE,
            launch=submission.launch,
            host=host,
            created_s=time.time(),
            events_offset=0,
            request_id=submission.request_id,
        )
        write_record(files, record)
        return files, record, owned
    except BaseException:
        owned.release()
        raise


def _exists(job_id: str) -> ConflictError:
    return ConflictError(f"'{job_id}' is the name of a job or run in the store; choose another job_id.")
