"""The training jobs of one service: a bounded queue, a few running ones, and those that it finds in the store."""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Coroutine
from functools import partial
from typing import Any, TypeVar

from cache.store import Store
from recognizer_svc.service.admission import (
    Ownership,
    Submission,
    check_submission,
    claim,
    find_sent_before,
)
from recognizer_svc.service.events import Event, EventReader
from recognizer_svc.service.job import Job, JobLimits
from recognizer_svc.service.job_sync import Exchange
from recognizer_svc.service.record import JobFiles, JobRecord, JobStatus, request_cancel
from recognizer_svc.service.stored_jobs import StoredJobs
from recognizer_svc.service.threads import Threads
from stal_data.errors import InputError, StalError
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
        self.limits = limits
        self.threads = Threads("jobs", limits.max_jobs + _MORE_THREADS)
        """For all that decides about jobs; reading about them is done in the threads that everything shares."""
        self._stored = StoredJobs(store, limits.host, self._job)
        self._waiting: deque[Job] = deque()
        self._running: dict[str, Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._orders: set[asyncio.Task[Any]] = set()
        """What callers asked for and what goes on without them."""
        self._admission = asyncio.Lock()
        """Held from the first check of a submission on: else several would find the same last place in the queue."""
        self._claiming = asyncio.Lock()
        """Held while a run's lock is taken until its job is known here; local work, so a drain can wait for it."""
        self._draining = False
        """No job is taken in or started any more."""
        self._stopping = False
        """Nobody watches any more."""
        self.finished: Counter[JobStatus] = Counter()
        """Jobs of this service that ended, by how."""

    async def recover(self) -> None:
        """Take over the jobs that an earlier service on this machine left: running ones, waiting ones, dead ones."""
        jobs = await self.threads.run(self._stored.find_orphans)
        for job in sorted(jobs, key=lambda job: job.record.created_s):
            _LOG.info("took over job %s (%s)", job.record.run_id, job.record.status)
            if job.record.status is JobStatus.RUNNING:
                self._run(job)
            else:
                self._waiting.append(job)
        self._start_waiting()

    async def submit(self, submission: Submission) -> JobRecord:
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

    async def _admit(self, submission: Submission) -> JobRecord:
        """Take in the submission whose turn it is."""
        limits = self.limits
        try:
            sent_before = await self.threads.run(find_sent_before, self._store, submission)
            if sent_before is not None:
                return sent_before
            self._refuse_more()
            recipe = await self.threads.run(check_submission, self._store, submission, limits.data_root)
            async with self._claiming:
                self._refuse_more()
                claimed = await self.threads.run(claim, self._store, submission, recipe, host=limits.host)
                self._waiting.append(self._job(*claimed))
            self._start_waiting()
            return claimed[1]
        finally:
            self._admission.release()

    def _refuse_more(self) -> None:
        """Raise where no job is taken in."""
        if self._draining:
            raise ServiceUnavailableError("the service is stopping")
        if len(self._running) >= self.limits.max_jobs and len(self._waiting) >= self.limits.max_queued:
            raise BusyError(f"{len(self._waiting)} jobs wait already, more than --max-queued allows; try again later")

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
        return [(job.files, job.record) for job in (*tuple(self._running.values()), *tuple(self._waiting))]

    async def get(self, run_id: str) -> JobRecord:
        """This machine's share of a run's job, else that of the lowest node."""
        job = self._owned(run_id)
        return job.record if job is not None else await asyncio.to_thread(self._stored.read, run_id)

    async def newest(self, limit: int) -> list[JobRecord]:
        """The newest jobs in the store, newest first."""
        records = await asyncio.to_thread(self._stored.read_all)
        return sorted(records, key=lambda record: record.created_s, reverse=True)[:limit]

    async def cancel(self, run_id: str) -> JobRecord:
        """Stop a job, whichever service owns it, and return its state at the end."""
        record, job = await self._to_its_end(self._order_end(run_id), f"job {run_id} could not be cancelled")
        if job is not None:
            await job.ended.wait()
            return job.record
        while not record.status.ended:
            if self._stopping:
                raise ServiceUnavailableError(f"the service is stopping; whoever owns job {run_id} was asked to end it")
            await asyncio.sleep(_FOREIGN_POLL_S)
            record = await self.get(run_id)
        return record

    async def _order_end(self, run_id: str) -> tuple[JobRecord, Job | None]:
        """Have a job stopped; return its record, and the job where this service owns it."""
        record = await self.get(run_id)
        if record.status.ended:
            return record, None
        files = self._stored.files(run_id, record.launch.node_rank)
        job = self._owned(run_id)
        if job is not None:
            job.cancel()
        else:
            async with self._claiming:
                job = None if self._draining else await self.threads.run(self._stored.take_over, files)
                if job is not None:  # the service that owned it is gone
                    job.cancel()
                    self._run(job)
        try:
            await self.threads.run(request_cancel, files)
            await self.threads.run(Exchange(self._store, files, record.launch).publish_cancel)
        except (StalError, OSError) as error:
            if job is None:
                raise
            _LOG.warning("job %s ends, but other machines may not learn that it is cancelled: %s", run_id, error)
        if job is not None and job in self._waiting:
            self._waiting.remove(job)
            await self.threads.run(job.close)
            self.finished[job.record.status] += 1
        return record, job

    async def watch(
        self, run_id: str, *, from_seq: int = 0, skip_history: bool = False
    ) -> AsyncIterator[JobRecord | Event]:
        """The job, its events, the job again whenever its status changes and at the end.

        skip_history: leave out the events of earlier attempts.
        """
        shown = await self.get(run_id)
        yield shown
        reader = EventReader(
            self._stored.files(run_id).run.events,
            from_seq=from_seq,
            offset=shown.events_offset if skip_history else 0,
        )
        exchange = Exchange(self._store, self._stored.files(run_id), shown.launch)
        while True:
            if exchange.is_due():
                await asyncio.to_thread(exchange.fetch_events)
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
            await asyncio.sleep(_WATCH_POLL_S if self._owned(run_id) is not None else _FOREIGN_POLL_S)

    async def drain(self, *, cancel_jobs: bool) -> None:
        """Take no more jobs, end all watching; with `cancel_jobs` also the jobs, each after a last checkpoint."""
        self._draining = True
        async with self._claiming:
            pass  # what was being claimed is among those that wait; what is still being checked is refused
        if cancel_jobs:
            # Those that wait first, so that none of them is started in the place of one that ends.
            for run_ids_here in ([job.record.run_id for job in self._waiting], list(self._running)):
                ends = await asyncio.gather(*map(self.cancel, run_ids_here), return_exceptions=True)
                for run_id, end in zip(run_ids_here, ends, strict=True):
                    if isinstance(end, BaseException):
                        _LOG.error("job %s could not be cancelled", run_id, exc_info=end)
        self._stopping = True

    async def stop(self) -> None:
        """Let go of all jobs: running ones go on, waiting ones start with the next service."""
        self._draining = self._stopping = True
        for job in self._running.values():
            job.detach()
        await asyncio.gather(*self._tasks)
        for job in self._waiting:
            await self.threads.run(job.release)
        self.threads.close()

    def _job(self, files: JobFiles, record: JobRecord, owned: Ownership) -> Job:
        return Job(files, record, owned, store=self._store, limits=self.limits, threads=self.threads)

    def _owned(self, run_id: str) -> Job | None:
        waiting = (job for job in self._waiting if job.record.run_id == run_id)
        return self._running.get(run_id) or next(waiting, None)

    def _start_waiting(self) -> None:
        while self._waiting and len(self._running) < self.limits.max_jobs and not self._draining:
            self._run(self._waiting.popleft())

    def _run(self, job: Job) -> None:
        self._running[job.record.run_id] = job
        task = asyncio.create_task(self._run_to_end(job), name=f"job {job.record.run_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_to_end(self, job: Job) -> None:
        try:
            await job.run()
        except Exception:  # noqa: BLE001  # its record stays as it is, and whoever reads it next finds it dead
            _LOG.exception("the end of job %s could not be recorded", job.record.run_id)
        finally:
            del self._running[job.record.run_id]
            if job.record.status.ended:
                self.finished[job.record.status] += 1
            self._start_waiting()


def _log_failure(failed: str, order: "asyncio.Task[Any]") -> None:
    """Say in the log what nobody is told any more."""
    if not order.cancelled() and (error := order.exception()) is not None:
        _LOG.warning("%s after its caller had left: %s", failed, error, exc_info=error)
