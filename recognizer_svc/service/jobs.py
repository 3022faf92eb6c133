"""The training jobs of one service: a bounded queue, a few running ones, and those that it finds in the store."""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import suppress

from cache.store import Store
from recognizer_svc.run_dir import RunDir
from recognizer_svc.service.admission import Ownership, Submission, admit, find_sent_before, run_dir, run_ids
from recognizer_svc.service.events import Event, EventReader
from recognizer_svc.service.exchange import Exchange
from recognizer_svc.service.job import Job, JobLimits, adopt
from recognizer_svc.service.processes import job_processes
from recognizer_svc.service.record import JobFiles, JobRecord, JobStatus, read_record, request_cancel
from stal_data.errors import InputError, NotFoundError, StalError
from svc_common.errors import BusyError, ServiceUnavailableError

_LOG = logging.getLogger(__name__)
_WATCH_POLL_S = 0.2
_FOREIGN_POLL_S = 1.0  # another service's job is watched through the store


class JobManager:
    """Owns jobs from submission to their end. All methods run on the service's event loop and never block it."""

    def __init__(self, store: Store, limits: JobLimits) -> None:
        self._store = store
        self.limits = limits
        self._waiting: deque[Job] = deque()
        self._running: dict[str, Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._admission = asyncio.Lock()
        self._draining = False
        """No job is taken in or started any more."""
        self._stopping = False
        """Nobody watches any more."""
        self.finished: Counter[JobStatus] = Counter()
        """Jobs of this service that ended, by how."""

    async def recover(self) -> None:
        """Take over the jobs that an earlier service on this machine left: running ones, waiting ones, dead ones."""
        jobs = await asyncio.to_thread(self._find_orphans)
        for job in sorted(jobs, key=lambda job: job.record.created_s):
            _LOG.info("took over job %s (%s)", job.record.run_id, job.record.status)
            if job.record.status is JobStatus.RUNNING:
                self._run(job)
            else:
                self._waiting.append(job)
        self._start_waiting()

    async def submit(self, submission: Submission) -> JobRecord:
        """Take a job in; it starts as soon as a place is free."""
        sent_before = await asyncio.to_thread(find_sent_before, self._store, submission)
        if sent_before is not None:
            return sent_before
        limits, nnodes = self.limits, submission.launch.nnodes
        if nnodes > 1 and limits.interface is None:
            raise InputError(
                f"nnodes is {nnodes}, but this service was started without --interface. The traffic between the nodes "
                "is not encrypted, so the operator names a trusted network interface: "
                "stal-cli serve recognizer --interface NAME ..."
            )
        # One at a time: else several would find the same last place in the queue, and a drain would miss the last one.
        async with self._admission:
            if self._draining:
                raise ServiceUnavailableError("the service is stopping")
            if len(self._running) >= limits.max_jobs and len(self._waiting) >= limits.max_queued:
                raise BusyError(
                    f"{len(self._waiting)} jobs wait already, more than --max-queued allows; try again later"
                )
            files, record, owned = await asyncio.to_thread(
                admit, self._store, submission, limits.data_root, host=limits.host
            )
            self._waiting.append(Job(files, record, owned, self.limits))
        self._start_waiting()
        return record

    def active(self) -> list[tuple[JobFiles, JobRecord]]:
        """The jobs that run or wait here; may be called from any thread."""
        return [(job.files, job.record) for job in (*tuple(self._running.values()), *tuple(self._waiting))]

    async def get(self, run_id: str) -> JobRecord:
        """This machine's share of a run's job, else that of the lowest node."""
        job = self._owned(run_id)
        return job.record if job is not None else await asyncio.to_thread(self._read, run_id)

    async def newest(self, limit: int) -> list[JobRecord]:
        """The newest jobs in the store, newest first."""
        records = await asyncio.to_thread(self._read_all)
        return sorted(records, key=lambda record: record.created_s, reverse=True)[:limit]

    async def cancel(self, run_id: str) -> JobRecord:
        """Stop a job, whichever service owns it, and return its state at the end."""
        record = await self.get(run_id)
        if record.status.ended:
            return record
        files = self._files(run_id, record.launch.node_rank)
        await asyncio.to_thread(request_cancel, files)
        await asyncio.to_thread(Exchange(files, record.launch).publish_cancel)
        job = self._owned(run_id)
        if job is not None and job in self._waiting:
            self._waiting.remove(job)
            await asyncio.to_thread(job.close)
            self.finished[job.record.status] += 1
        elif job is None:
            job = await asyncio.to_thread(self._take_over, files)
            if job is not None:
                self._run(job)  # the service that owned it is gone
        if job is not None:
            await job.ended.wait()
            return job.record
        while not (record := await self.get(run_id)).status.ended:
            await asyncio.sleep(_FOREIGN_POLL_S)
        return record

    async def watch(
        self, run_id: str, *, from_seq: int = 0, skip_history: bool = False
    ) -> AsyncIterator[JobRecord | Event]:
        """The job, its events, the job again whenever its status changes and at the end.

        skip_history: leave out the events of earlier attempts.
        """
        shown = await self.get(run_id)
        yield shown
        reader = EventReader(
            self._files(run_id).run.events,
            from_seq=from_seq,
            offset=shown.events_offset if skip_history else 0,
        )
        exchange = Exchange(self._files(run_id), shown.launch)
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
        async with self._admission:
            pass  # the one that is being taken in is now among those that wait
        if cancel_jobs:
            for job in tuple(self._waiting):
                await self.cancel(job.record.run_id)
            await asyncio.gather(*(self.cancel(run_id) for run_id in self._running))
        self._stopping = True

    async def stop(self) -> None:
        """Let go of all jobs: running ones go on, waiting ones start with the next service."""
        self._draining = self._stopping = True
        for job in self._running.values():
            job.detach()
        await asyncio.gather(*self._tasks)
        for job in self._waiting:
            job.release()

    def _files(self, run_id: str, node_rank: int = 0) -> JobFiles:
        return JobFiles(RunDir(self._store.runs_dir / run_id), node_rank)

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

    def _find_orphans(self) -> list[Job]:
        jobs = []
        for run_id in run_ids(self._store):
            for path in self._files(run_id).records():
                record = read_record(path)
                if record is None or record.status.ended or record.host != self.limits.host:
                    continue
                job = self._take_over(self._files(run_id, record.launch.node_rank))
                if job is not None:
                    jobs.append(job)
        return jobs

    def _take_over(self, files: JobFiles) -> Job | None:
        """A job whose service is gone; None when it has ended, or a living service owns it."""
        owned = Ownership.take(files)
        if owned is None:
            return None
        record = read_record(files.record)
        if record is None or record.status.ended:
            owned.release()
            return None
        return Job(files, adopt(files, record), owned, self.limits)

    def _read_all(self) -> list[JobRecord]:
        records = []
        for run_id in run_ids(self._store):
            with suppress(StalError):  # a run without a job
                records.append(self._read(run_id))
        return records

    def _read(self, run_id: str) -> JobRecord:
        folder = run_dir(self._store, run_id)
        records = [record for path in JobFiles(RunDir(folder)).records() if (record := read_record(path)) is not None]
        if not records:
            raise NotFoundError(f"Run '{run_id}' has no job in the store.")
        here = [record for record in records if record.host == self.limits.host]
        record = (here or records)[0]
        if not here or record.status is not JobStatus.RUNNING or job_processes(folder, record.launch.node_rank):
            return record
        # It died while no service watched over it, or its service is just about to say so.
        job = self._take_over(JobFiles(RunDir(folder), record.launch.node_rank))
        if job is None:
            return record
        job.close()
        return job.record
