"""One attempt of a run on this machine: its processes are started, watched over, stopped, and its end is recorded."""

import asyncio
import logging
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cache.store import Store
from recognizer_svc.service import launch as launching
from recognizer_svc.service.admission import Ownership
from recognizer_svc.service.job_sync import Exchange
from recognizer_svc.service.outcome import decide
from recognizer_svc.service.processes import is_launcher, job_processes, kill_all, process_start_s, signal_group
from recognizer_svc.service.record import JobFiles, JobRecord, JobStatus, cancel_requested, write_record
from recognizer_svc.service.threads import Threads
from recognizer_svc.service.training_thread import TrainingThread
from stal_data.errors import NotFoundError, StalError
from stal_data.names import check_name
from svc_common.logs import log_context, log_fields

_LOG = logging.getLogger(__name__)
_POLL_S = 0.2
_LAUNCHER_MARGIN_S = 5.0  # for the launcher to leave after its workers have


@dataclass(frozen=True, kw_only=True)
class JobLimits:
    """What the operator allows."""

    max_jobs: int = 1
    """Jobs that run at the same time; more wait."""
    max_queued: int = 16
    """Jobs that wait; more are refused."""
    stop_timeout_s: float = 60.0
    """From SIGTERM, at which workers write a checkpoint, to SIGKILL."""
    stall_timeout_s: float = 3600.0
    """A job without any event for so long is stopped and has failed; 0 turns it off."""
    interface: str | None = None
    """Trusted network interface for the unencrypted traffic of jobs with several nodes; None refuses them."""
    data_root: Path | None = None
    """Folder whose data sets a recipe may name for joint training; None refuses such recipes."""
    machine: str | None = None
    """Name of this machine in the records of jobs; None means its host name. A service finds its jobs by it."""

    end_with_service: bool = False
    """Whether jobs end with the service even when that is killed; else the next service takes them over."""

    in_this_process: bool = False
    """Whether a job of one process is a thread of this one."""

    @property
    def host(self) -> str:
        return self.machine or socket.gethostname()

    def __post_init__(self) -> None:
        if self.machine is not None:
            check_name("--machine", self.machine)
        if self.data_root is not None and not self.data_root.is_dir():
            raise NotFoundError(f"--data-root '{self.data_root}' is not a folder.")
        if self.interface is not None:
            launching.interface_address(self.interface)


class Job:
    """An attempt that this service owns. `record` is its latest state; `ended` is set after the last change."""

    def __init__(
        self,
        files: JobFiles,
        record: JobRecord,
        owned: Ownership,
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
        self._unreadable: set[int | None] = set()
        """Kinds of errors at looking into the store that are in the log."""
        # Those of the call that submitted the job; it may be started in the course of another one.
        self._log_fields = {"request_id": "", **log_fields(), "run_id": record.run_id}

    async def run(self) -> None:
        """Start the processes, unless they run already, and stay until they are gone and the end is on disk."""
        with log_context(**self._log_fields):
            await self._run()

    async def _run(self) -> None:
        try:
            try:
                if self.record.status is JobStatus.QUEUED and not await self._threads.run(
                    self._looks, self._is_cancelled
                ):
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
                await self._threads.run(self.release)
            finally:
                self.ended.set()

    def close(self) -> None:
        """Record the end of a job without processes: one that waits for its turn, or one that died unnoticed."""
        try:
            self._finish()
        finally:
            self.release()
            self.ended.set()

    def cancel(self) -> None:
        """Have the job stopped, also where the request to cancel it cannot be written down."""
        self._cancelled = True

    def detach(self) -> None:
        """Let go of the job; its processes go on, and the next service that finds its record takes over."""
        self._detached = True

    def release(self) -> None:
        """Let go of a job that waits for its turn, or has ended. Closes a file, which may take its time on a share."""
        self._owned.release()

    def _start(self) -> None:
        limits, record = self._limits, self.record
        # Recorded before and after: a service killed in between finds the launcher by its command line.
        self._save(status=JobStatus.RUNNING, started_s=time.time())
        if limits.in_this_process and record.launch.one_process:
            self._process = TrainingThread(self.files, record.launch, limits.data_root)
            return
        self._process = launching.start(
            self.files,
            record.run_id,
            record.launch,
            interface=limits.interface,
            stop_timeout_s=limits.stop_timeout_s,
            data_root=limits.data_root,
            ends_with_service=limits.end_with_service,
        )
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
            await asyncio.sleep(_POLL_S)

    def is_alive(self) -> bool:
        """True while the launcher runs."""
        if self._process is not None:
            return self._process.poll() is None
        return is_launcher(self.record.pid, self.record.process_started_s, self.files.run.root, self.files.node_rank)

    def _is_cancelled(self) -> bool:
        if self._cancelled:
            return True
        if self._exchange.is_due():
            self._exchange.fetch_cancel()
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
        """Leave no process behind and record the end."""
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
