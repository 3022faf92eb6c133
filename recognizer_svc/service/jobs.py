"""The jobs of one service: a bounded queue, a few running ones, and those that it finds in the store."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from cache.store import Store
from recognizer_svc.runs.events import Event, EventReader
from recognizer_svc.runs.record import JobRecord, JobStatus, read_record, request_cancel
from recognizer_svc.runs.run_dir import JobFiles, RunDir
from recognizer_svc.runs.store import RunStore
from recognizer_svc.service.admission import (
    OwnedJob,
    Submission,
    check_submission,
    find_orphans,
    find_sent_before,
    queue_job,
    take_over,
)
from recognizer_svc.service.job import Job
from recognizer_svc.service.job_sync import EVERY_S, Exchange
from recognizer_svc.service.limits import JobLimits
from recognizer_svc.service.precompute_admission import PrecomputeSubmission, check_precompute, queue_precompute
from recognizer_svc.service.processes import job_processes
from recognizer_svc.service.threads import Threads
from stal_data.errors import ConflictError, InputError, NotFoundError, StalError
from stal_data.file_lock import FileLock
from svc_common.errors import BusyError, ServiceUnavailableError

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
_MORE_THREADS = 4  # a job that runs needs one; the others are for taking in and cancelling
_WATCH_POLL_S = 0.2
_FOREIGN_POLL_S = 1.0  # another service's job is watched through the store


class JobManager:
    """Owns jobs from submission to their end. All methods run on the service's event loop and never block it."""

    def __init__(self, store: Store, limits: JobLimits) -> None:
        self._store = store
        self._runs = RunStore.of(store)
        self.limits = limits
        self.threads = Threads("jobs", limits.max_jobs + _MORE_THREADS)
        """For all that decides about jobs; reading about them is done in the threads that everything shares."""
        self._jobs: dict[str, Job] = {}
        """By run: first the jobs that run, then those that wait for their turn."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._orders: set[asyncio.Task[Any]] = set()
        """What callers asked for and what goes on without them."""
        self._admission = asyncio.Lock()
        """Held from the first check of a submission on: else several would find the same last place in the queue."""
        self._owning = asyncio.Lock()
        """Held while a run's lock is taken until its job is known here; local work, so a drain can wait for it."""
        self._draining = False
        """No job is taken in or started any more."""
        self._stopping = False
        """Nobody watches any more."""
        self.finished: Counter[JobStatus] = Counter()
        """Jobs of this service that ended, by how."""

    async def recover(self) -> None:
        """Take over the jobs that an earlier service on this machine left: running ones, waiting ones, dead ones."""
        owned_jobs = await self.threads.run(find_orphans, self._runs, self.limits.host)
        for job in sorted(
            [self._job(*owned) for owned in owned_jobs], key=lambda job: (job.waits, job.record.created_s)
        ):
            _LOG.info("took over job %s (%s)", job.record.run_id, job.record.status)
            self._own(job)

    async def submit(self, submission: Submission | PrecomputeSubmission) -> JobRecord:
        """Take a job in; it starts as soon as a place is free, also when the caller leaves meanwhile."""
        limits, nnodes = self.limits, submission.launch.nnodes
        if nnodes > 1 and limits.interface is None:
            raise InputError(
                f"nnodes is {nnodes}, but this service was started without --interface. The traffic between the nodes "
                "is not encrypted, so the operator names a trusted network interface: "
                "stal-cli serve recognizer --interface NAME ..."
            )
        await self._admission.acquire()
        return await self._to_its_end(self._admit(submission), f"job {submission.run_id} could not be taken in")

    async def _admit(self, submission: Submission | PrecomputeSubmission) -> JobRecord:
        limits = self.limits
        try:
            sent_before = await self.threads.run(find_sent_before, submission.files(self._runs), submission.request_id)
            if sent_before is not None:
                return sent_before
            self._refuse_more()
            queue: Callable[[], OwnedJob]
            if isinstance(submission, PrecomputeSubmission):
                await self.threads.run(check_precompute, submission, limits)
                queue = partial(queue_precompute, self._runs, submission, host=limits.host)
            else:
                recipe = await self.threads.run(check_submission, self._runs, submission, limits.data_root)
                queue = partial(queue_job, self._runs, submission, recipe, host=limits.host)
            async with self._owning:
                self._refuse_more()
                owned = await self.threads.run(queue)
                self._own(self._job(*owned))
            return owned[1]
        finally:
            self._admission.release()

    def _refuse_more(self) -> None:
        if self._draining:
            raise ServiceUnavailableError("the service is stopping")
        waiting = sum(job.waits for job in self._jobs.values())
        if len(self._jobs) - waiting >= self.limits.max_jobs and waiting >= self.limits.max_queued:
            raise BusyError(f"{waiting} jobs wait already, more than --max-queued allows; try again later")

    async def _to_its_end(self, order: Coroutine[Any, Any, T], failed: str) -> T:
        """Do what must not stop halfway when the caller leaves: its threads go on, and a lock that one of them takes
        would be held for nobody. failed: for the log, where the caller has left before."""
        task = asyncio.create_task(order)
        self._orders.add(task)
        task.add_done_callback(self._orders.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(partial(_log_failure, failed))
            raise
        finally:
            del task  # its error, whose frames hold the request, would keep this frame, and this frame the task

    def active(self) -> list[tuple[JobFiles, JobRecord]]:
        """The jobs that run or wait here; may be called from any thread."""
        return [(job.files, job.record) for job in list(self._jobs.values())]

    async def get(self, run_id: str) -> JobRecord:
        """This machine's share of a run's job, else that of the lowest node."""
        job = self._jobs.get(run_id)
        return job.record if job is not None else await asyncio.to_thread(self._read, run_id)

    async def newest(self, limit: int) -> list[JobRecord]:
        """The newest jobs in the store, newest first."""
        records = await asyncio.to_thread(self._read_all)
        return sorted(records, key=lambda record: record.created_s, reverse=True)[:limit]

    async def cancel(self, run_id: str) -> JobRecord:
        """Stop a job, whichever service owns it, and return its state at the end."""
        record, job = await self._to_its_end(self._order_end(run_id), f"job {run_id} could not be cancelled")
        if job is not None:
            await job.ended.wait()
            if not job.record.status.ended:
                raise StalError(f"the end of job {run_id} could not be recorded; the service's log says why")
            return job.record
        while not record.status.ended:
            if self._stopping:
                raise ServiceUnavailableError(f"the service is stopping; whoever owns job {run_id} was asked to end it")
            await asyncio.sleep(_FOREIGN_POLL_S)
            record = await self.get(run_id)
        return record

    async def _order_end(self, run_id: str) -> tuple[JobRecord, Job | None]:
        record = await self.get(run_id)
        if record.status.ended:
            return record, None
        files = JobFiles(self._runs.folder_of(record), record.launch.node_rank)
        job = self._jobs.get(run_id)
        if job is not None:
            job.cancel()
        else:
            async with self._owning:
                owned = None if self._draining else await self.threads.run(take_over, files)
                if owned is not None:  # the service that owned it is gone
                    job = self._job(*owned)
                    job.cancel()
                    self._own(job)
        try:
            await self.threads.run(request_cancel, files)
            await self.threads.run(Exchange(self._store, files, record.launch).publish_cancel)
        except (StalError, OSError) as error:
            if job is None:
                raise
            _LOG.warning("job %s ends, but other machines may not learn that it is cancelled: %s", run_id, error)
        return record, job

    async def watch(
        self, run_id: str, *, from_seq: int = 0, skip_history: bool = False
    ) -> AsyncIterator[JobRecord | Event]:
        """The job, its events, the job again whenever its status changes and at the end.

        skip_history: leave out the events of earlier attempts.
        """
        shown = await self.get(run_id)
        yield shown
        run = self._runs.folder_of(shown)
        reader = EventReader(run.events, from_seq=from_seq, offset=shown.events_offset if skip_history else 0)
        exchange = Exchange(self._store, JobFiles(run), shown.launch)
        while True:
            await asyncio.to_thread(exchange.fetch_events, every_s=EVERY_S)
            # Asked before reading: what was written before the end is then never missed.
            record = await self.get(run_id)
            if not record.status.ended and record.status is not shown.status:
                yield record
                shown = record
            complete = False
            while not complete:
                events, complete = await asyncio.to_thread(reader.read)
                for event in events:
                    yield event
            if record.status.ended:
                yield record
                return
            if self._stopping:
                raise ServiceUnavailableError(f"the service is stopping; job {run_id} goes on")
            if (job := self._jobs.get(run_id)) is None:
                await asyncio.sleep(_FOREIGN_POLL_S)
            else:
                with suppress(TimeoutError):
                    await asyncio.wait_for(job.ended.wait(), _WATCH_POLL_S)

    async def drain(self, *, cancel_jobs: bool) -> None:
        """Take no more jobs, end all watching; with `cancel_jobs` also the jobs, each after a last checkpoint."""
        self._draining = True
        async with self._owning:
            pass  # what was being queued is among the jobs; what is still being checked is refused
        if cancel_jobs:
            run_ids = list(self._jobs)
            ends = await asyncio.gather(*map(self.cancel, run_ids), return_exceptions=True)
            for run_id, end in zip(run_ids, ends, strict=True):
                if isinstance(end, BaseException):
                    _LOG.error("job %s could not be cancelled", run_id, exc_info=end)
        self._stopping = True

    async def stop(self) -> None:
        """Let go of all jobs: running ones go on, waiting ones start with the next service."""
        self._draining = self._stopping = True
        for job in self._jobs.values():
            job.detach()
        await asyncio.gather(*self._tasks)
        self.threads.close()

    def _read(self, run_id: str) -> JobRecord:
        record = self._read_job(self._runs.find_present_job(run_id))
        if record is None:
            raise NotFoundError(f"Run '{run_id}' has no job in the store.")
        return record

    def _read_all(self) -> list[JobRecord]:
        records = []
        for run in self._runs.present_jobs():
            try:
                records.append(self._read_job(run))
            except ConflictError as error:
                _LOG.warning("%s", error)  # its record does not read; the others do
        return [record for record in records if record is not None]

    def _read_job(self, run: RunDir) -> JobRecord | None:
        """As `get`, for a job that this service does not own; None where the run has no job."""
        records = [record for path in JobFiles(run).records() if (record := read_record(path)) is not None]
        here = [record for record in records if record.host == self.limits.host]
        record = next(iter(here or records), None)
        if not here or record is None or record.status is not JobStatus.RUNNING:
            return record
        files = JobFiles(run, record.launch.node_rank)
        # Without processes it died while no service watched over it, or its service is just about to say so.
        if job_processes(run.root, files.node_rank) or (owned := take_over(files)) is None:
            return record
        job = self._job(*owned)
        job.close()
        return job.record

    def _job(self, files: JobFiles, record: JobRecord, owned: FileLock) -> Job:
        return Job(files, record, owned, store=self._store, limits=self.limits, threads=self.threads)

    def _own(self, job: Job) -> None:
        """Keep a job until its end: behind those that wait, unless it runs already."""
        entry = {job.record.run_id: job}
        self._jobs = self._jobs | entry if job.waits else entry | self._jobs
        task = asyncio.create_task(self._run_to_end(job), name=f"job {job.record.run_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._start_next()

    def _start_next(self) -> None:
        for job in list(self._jobs.values())[: self.limits.max_jobs]:
            if not self._draining:
                job.start()

    async def _run_to_end(self, job: Job) -> None:
        try:
            await job.run()
        except Exception:  # noqa: BLE001  # its record stays as it is, and whoever reads it next finds it dead
            _LOG.exception("the end of job %s could not be recorded", job.record.run_id)
        finally:
            del self._jobs[job.record.run_id]
            if job.record.status.ended:
                self.finished[job.record.status] += 1
            self._start_next()


def _log_failure(failed: str, order: "asyncio.Task[Any]") -> None:
    """Say in the log what nobody is told any more."""
    if not order.cancelled() and (error := order.exception()) is not None:
        _LOG.warning("%s after its caller had left: %s", failed, error, exc_info=error)
