"""One attempt of a run on this machine: its processes are started, watched over, stopped, and its end is recorded."""

import asyncio
import logging
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cache.store import Store
from recognizer_svc.runs.record import JobKind, JobRecord, JobStatus, cancel_requested, write_record
from recognizer_svc.runs.run_dir import JobFiles
from recognizer_svc.service import launch as launching
from recognizer_svc.service.job_sync import EVERY_S, Exchange
from recognizer_svc.service.limits import JobLimits
from recognizer_svc.service.outcome import decide
from recognizer_svc.service.processes import is_launcher, job_processes, kill_all, process_start_s, signal_group
from recognizer_svc.service.threads import Threads
from recognizer_svc.service.training_thread import TrainingThread
from stal_data.errors import StalError
from stal_data.file_lock import FileLock
from svc_common.logs import log_context, log_fields

_LOG = logging.getLogger(__name__)
_POLL_S = 0.2
_LAUNCHER_MARGIN_S = 5.0  # for the launcher to leave after its workers have


class Job:
    """An attempt that this service owns. `record` is its latest state; `ended` is set after the last change."""

    def __init__(
        self,
        files: JobFiles,
        record: JobRecord,
        owned: FileLock,
        *,
        store: Store,
        limits: JobLimits,
        threads: Threads,
    ) -> None:
        """store: in which the files lie. threads: for all that touches them."""
        self.files = files
        self.record = record
        self.ended = asyncio.Event()
        self._owned = owned
        self._limits = limits
        self._threads = threads
        self._exchange = Exchange(store, files, record.launch)
        self._process: subprocess.Popen[bytes] | TrainingThread | None = None
        self._stopped = ""
        self._cancelled = False
        self._detached = False
        self._turn = asyncio.Event()
        if record.status is not JobStatus.QUEUED:
            self._turn.set()
        self._unreadable: set[int | None] = set()
        """Kinds of errors at looking into the store that are in the log."""
        # Those of the call that submitted the job; it may be started in the course of another one.
        self._log_fields = {"request_id": "", **log_fields(), "run_id": record.run_id}

    @property
    def waits(self) -> bool:
        """Whether its turn has not come yet."""
        return not self._turn.is_set()

    def start(self) -> None:
        """Let its turn come."""
        self._turn.set()

    async def run(self) -> None:
        """Start the processes in its turn, unless they run already; stay until they are gone and the end is on disk."""
        with log_context(**self._log_fields):
            await self._run()

    async def _run(self) -> None:
        try:
            try:
                await self._turn.wait()
                if self.record.status is JobStatus.QUEUED and not self._detached:
                    await self._threads.run(self._start)
                await self._supervise()
            except Exception as error:  # noqa: BLE001  # the attempt must end in a recorded state whatever happened
                _LOG.exception("job %s cannot be run", self.record.run_id)
                self._stopped = f"The service could not run the job: {error}"
            if not self._detached:
                await self._threads.run(self._finish)
            elif isinstance(self._process, subprocess.Popen):
                self._process.returncode = 0  # else Popen warns, when it is dropped, that its child goes on
        finally:
            try:
                await self._threads.run(self._owned.release)  # closes a file, which may take its time on a share
            finally:
                self.ended.set()

    def close(self) -> None:
        """Record the end of a job that died while nobody watched over it."""
        try:
            self._finish()
        finally:
            self._owned.release()

    def cancel(self) -> None:
        """Have the job stopped, also where the request to cancel it cannot be written down."""
        self._cancelled = True
        self._turn.set()

    def detach(self) -> None:
        """Let go of the job; its processes go on, and the next service that finds its record takes over."""
        self._detached = True
        self._turn.set()

    def _start(self) -> None:
        if self._looks(self._is_cancelled):
            return
        limits, record = self._limits, self.record
        # Recorded before and after: a service killed in between finds the launcher by its command line.
        self._save(status=JobStatus.RUNNING, started_s=time.time())
        if limits.in_this_process and record.launch.one_process and record.kind is JobKind.TRAIN:
            self._process = TrainingThread(self.files, record.launch, limits.data_root)
            return
        self._process = launching.start(self.files, record.launch, limits, record.kind)
        pid = self._process.pid
        _LOG.info("job started", extra={"fields": {"pid": pid, "attempt": record.attempt}})
        self._save(pid=pid, pgid=pid, process_started_s=process_start_s(pid))

    async def _supervise(self) -> None:
        term_deadline = kill_deadline = float("inf")
        while not self._detached and await self._threads.run(self.is_alive):
            now = time.monotonic()
            if term_deadline == float("inf") and await self._threads.run(self._must_stop):
                _LOG.info("job gets SIGTERM. %s", self._stopped)
                term_deadline = now
                if isinstance(self._process, TrainingThread):
                    self._process.stop()
                else:
                    signal_group(self.record.pgid, signal.SIGTERM)
                    kill_deadline = now + self._limits.stop_timeout_s + _LAUNCHER_MARGIN_S
            if now > kill_deadline:
                _LOG.warning("job gets SIGKILL after %g s", now - term_deadline)
                await self._threads.run(self._kill)
            if isinstance(self._process, TrainingThread):
                await self._threads.run(self._process.join, _POLL_S)
            else:
                await asyncio.sleep(_POLL_S)

    def is_alive(self) -> bool:
        """True while the launcher runs."""
        if self._process is not None:
            return self._process.poll() is None
        return is_launcher(self.record.pid, self.record.process_started_s, self.files.run.root, self.files.node_rank)

    def _is_cancelled(self) -> bool:
        if self._cancelled:
            return True
        self._exchange.fetch_cancel(every_s=EVERY_S)
        return cancel_requested(self.files, self.record)

    def _must_stop(self) -> bool:
        return self._looks(self._is_cancelled) or self._looks(self._is_stalled)

    def _looks(self, so: Callable[[], bool]) -> bool:
        """Whether a look into the store says so; no while it cannot be looked at, as a network share now and then.

        The job goes on meanwhile: it is looked again soon, and what is in order must not end for it.
        """
        try:
            return so()
        except OSError as error:
            if error.errno not in self._unreadable:
                self._unreadable.add(error.errno)
                _LOG.warning("it is not known whether to stop the job; it goes on, and this is tried again: %s", error)
            return False

    def _is_stalled(self) -> bool:
        limit_s = self._limits.stall_timeout_s
        if limit_s and self._silent_s() > limit_s:
            self._exchange.fetch_events()
        if limit_s and self._silent_s() > limit_s:
            self._stopped = f"The job made no progress for {limit_s:g} s and was stopped; its log: {self.files.log}"
            return True
        return False

    def _silent_s(self) -> float:
        """Seconds since the last event that this machine knows of, or since the start."""
        try:
            last = self.files.run.events.stat().st_mtime
        except FileNotFoundError:
            last = 0.0
        return time.time() - max(last, self.record.started_s)

    def _kill(self) -> None:
        kill_all(job_processes(self.files.run.root, self.files.node_rank))

    def _finish(self) -> None:
        self._kill()
        exit_code = self._process.wait() if self._process is not None else None
        self._exchange.fetch_cancel()
        self._exchange.fetch_events()
        cancelled = self._cancelled or cancel_requested(self.files, self.record)
        status, message = decide(
            self.files, self.record, exit_code=exit_code, cancelled=cancelled, stopped=self._stopped
        )
        shutil.rmtree(self.files.elastic_logs, ignore_errors=True)
        try:
            self._save(status=status, message=message, ended_s=time.time())
        except StalError as error:
            # Who asks now is told by this service; the next to ask when there is room again records it.
            _LOG.error("the end of the job could not be recorded: %s", error)
            told = f"{message}\n{error}".strip()
            self.record = replace(self.record, status=status, message=told, ended_s=time.time())
        _LOG.info("job ended", extra={"fields": {"status": str(status), "reason": message.partition("\n")[0]}})

    def _save(self, **changes: Any) -> None:
        record = replace(self.record, **changes)
        write_record(self.files, record)
        self.record = record
