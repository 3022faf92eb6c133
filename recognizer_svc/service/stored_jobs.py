"""The jobs that the store knows of, those of other services and of dead ones among them."""

import logging
from collections.abc import Callable

from cache.store import Store
from recognizer_svc.run_dir import RunDir
from recognizer_svc.service.admission import Ownership, run_dir, run_ids
from recognizer_svc.service.job import Job, adopt
from recognizer_svc.service.processes import job_processes
from recognizer_svc.service.record import JobFiles, JobRecord, JobStatus, read_record, readable_records
from stal_data.errors import ConflictError, NotFoundError, StalError

_LOG = logging.getLogger(__name__)


class StoredJobs:
    """All methods but `files` read the store, so they belong into a thread."""

    def __init__(self, store: Store, host: str, make: Callable[[JobFiles, JobRecord, Ownership], Job]) -> None:
        """host: this machine as records name it. make: a job that this service owns from then on."""
        self._store, self._host, self._make = store, host, make

    def files(self, run_id: str, node_rank: int = 0) -> JobFiles:
        return JobFiles(RunDir(self._store.runs_dir / run_id), node_rank)

    def find_orphans(self) -> list[Job]:
        jobs = []
        for run_id in run_ids(self._store):
            for record in readable_records(self.files(run_id)):
                if record.status.ended or record.host != self._host:
                    continue
                job = self.take_over(self.files(run_id, record.launch.node_rank))
                if job is not None:
                    jobs.append(job)
        return jobs

    def take_over(self, files: JobFiles) -> Job | None:
        """A job whose service is gone; None when it has ended, or a living service owns it."""
        owned = Ownership.take(files)
        if owned is None:
            return None
        try:
            record = read_record(files.record)
            if record is not None and not record.status.ended:
                job = self._make(files, adopt(files, record), owned)
                owned = None  # it is the job's
                return job
            return None
        finally:
            if owned is not None:
                owned.release()

    def read_all(self) -> list[JobRecord]:
        records = []
        for run_id in run_ids(self._store):
            try:
                records.append(self.read(run_id))
            except ConflictError as error:
                _LOG.warning("%s", error)  # its record does not read; the others do
            except StalError:
                continue  # a run without a job
        return records

    def read(self, run_id: str) -> JobRecord:
        folder = run_dir(self._store, run_id)
        records = [record for path in JobFiles(RunDir(folder)).records() if (record := read_record(path)) is not None]
        if not records:
            raise NotFoundError(f"Run '{run_id}' has no job in the store.")
        here = [record for record in records if record.host == self._host]
        record = (here or records)[0]
        if not here or record.status is not JobStatus.RUNNING or job_processes(folder, record.launch.node_rank):
            return record
        # It died while no service watched over it, or its service is just about to say so.
        job = self.take_over(JobFiles(RunDir(folder), record.launch.node_rank))
        if job is None:
            return record
        job.close()
        return job.record
