"""Jobs that outlive the service that started them, or that another service owns."""

import asyncio
import os
import signal
from dataclasses import replace

import psutil
import pytest

from cache.store import Store
from recognizer_svc.runs.record import JobRecord, JobStatus, write_record
from recognizer_svc.runs.run_dir import JobFiles, RunDir
from recognizer_svc.service.jobs import JobManager
from recognizer_svc.service.processes import job_processes
from stal_data.errors import ConflictError
from tests.services.job_scripts import DONE, LIMITS, SLEEP, Launcher, reaches, seen, started, submission


async def test_the_next_service_takes_running_and_waiting_jobs_over(store: Store, launcher: Launcher) -> None:
    launcher('event(1, "log", message="hello")\nwhile not os.path.exists(run + "/go"): time.sleep(0.02)\n' + DONE)
    before, after = JobManager(store, LIMITS), JobManager(store, LIMITS)
    await before.submit(submission("one"))
    await before.submit(submission("two"))
    running = await started(before, store)
    await before.stop()
    assert psutil.pid_exists(running.pid)
    await after.recover()
    assert (await after.get("one")).status is JobStatus.RUNNING
    for run_id in ("one", "two"):
        folder = store.runs_dir / run_id
        (folder / "go").touch()
        assert (await reaches(after, run_id, JobStatus.SUCCEEDED)).pid


async def test_a_service_killed_before_it_noted_the_launcher_finds_it_again(store: Store, launcher: Launcher) -> None:
    launcher(SLEEP)
    before, after = JobManager(store, LIMITS), JobManager(store, LIMITS)
    await before.submit(submission())
    noted = await started(before, store)
    await before.stop()
    files = JobFiles(RunDir(store.runs_dir / "one"))
    write_record(files, replace(noted, pid=0, pgid=0, process_started_s=0))
    await after.recover()
    assert (await after.get("one")).pid == noted.pid
    assert (await after.cancel("one")).status is JobStatus.CANCELLED
    assert job_processes(files.run.root, 0) == []


async def test_a_job_that_died_unwatched_is_found_dead(store: Store, launcher: Launcher) -> None:
    launcher(SLEEP)
    before, after = JobManager(store, LIMITS), JobManager(store, LIMITS)
    await before.submit(submission())
    record = await started(before, store)
    await before.stop()
    os.killpg(record.pgid, signal.SIGKILL)
    os.waitpid(record.pid, 0)
    assert (await after.get("one")).status is JobStatus.FAILED
    assert "ended before training was done" in (await after.newest(1))[0].message


async def test_a_service_that_comes_back_on_another_machine_finds_its_jobs_by_the_name_it_was_given(
    store: Store, launcher: Launcher
) -> None:
    launcher(SLEEP)
    named, other = replace(LIMITS, machine="share-0"), replace(LIMITS, machine="share-1")
    before = JobManager(store, named)
    await before.submit(submission())
    record = await started(before, store)
    assert record.host == "share-0"
    await before.stop()
    os.killpg(record.pgid, signal.SIGKILL)
    os.waitpid(record.pid, 0)
    launcher(DONE)
    elsewhere, after = JobManager(store, other), JobManager(store, named)
    await elsewhere.recover()
    with pytest.raises(ConflictError, match="was active on share-0"):
        await elsewhere.submit(submission(resume=True))
    await after.recover()
    await reaches(after, "one", JobStatus.FAILED)
    await after.submit(submission(resume=True))
    assert (await reaches(after, "one", JobStatus.SUCCEEDED)).attempt == 2


async def test_a_pid_of_another_process_is_not_taken_for_the_job(store: Store, launcher: Launcher) -> None:
    launcher(DONE)
    jobs = JobManager(store, LIMITS)
    await jobs.submit(submission())
    ended = await reaches(jobs, "one", JobStatus.SUCCEEDED)
    files = JobFiles(RunDir(store.runs_dir / "one"))
    files.run.events.unlink()
    me = psutil.Process()
    # As if this test's pid had been given to the launcher once.
    write_record(
        files,
        replace(ended, status=JobStatus.RUNNING, pid=me.pid, pgid=me.pid, process_started_s=me.create_time()),
    )
    await jobs.cancel("one")
    assert (await jobs.get("one")).status is JobStatus.FAILED


async def test_any_service_on_the_store_can_watch_and_cancel(store: Store, launcher: Launcher) -> None:
    launcher(SLEEP)
    owner, other = JobManager(store, LIMITS), JobManager(store, LIMITS)
    await owner.submit(submission())
    await started(owner, store)
    await other.recover()
    watching = asyncio.create_task(seen(other))
    assert (await other.cancel("one")).status is JobStatus.CANCELLED
    assert (await owner.get("one")).status is JobStatus.CANCELLED
    last = (await watching)[-1]
    assert isinstance(last, JobRecord)
    assert last.status is JobStatus.CANCELLED
