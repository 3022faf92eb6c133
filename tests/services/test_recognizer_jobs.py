"""The job manager: jobs run, wait, are watched, cancelled, and fail."""

import asyncio
import threading
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from cache.store import Store
from recognizer_svc.runs.events import Event
from recognizer_svc.runs.record import JobRecord, JobStatus, Launch, read_record
from recognizer_svc.runs.run_dir import JobFiles, RunDir
from recognizer_svc.runs.store import RunStore
from recognizer_svc.service import admission
from recognizer_svc.service import job as job_module
from recognizer_svc.service import jobs as jobs_module
from recognizer_svc.service.jobs import JobManager
from recognizer_svc.service.processes import job_processes
from recognizer_svc.training.recipe import parse_recipe
from stal_data.errors import InputError, StalError
from stal_data.sealed import parse_json
from svc_common.errors import BusyError, ServiceUnavailableError
from tests.recognizer.toy_store import ACAR
from tests.services.job_scripts import DONE, LIMITS, SLEEP, Launcher, eventually, reaches, seen, started, submission


async def test_a_job_runs_to_its_end_and_is_on_disk(store: Store, launcher: Launcher) -> None:
    launcher(DONE)
    jobs = JobManager(store, LIMITS)
    record = await jobs.submit(submission())
    assert record.status is JobStatus.QUEUED
    updates = await seen(jobs)
    assert [update.type for update in updates if isinstance(update, Event)] == ["log", "done"]
    first, last = updates[0], updates[-1]
    assert isinstance(first, JobRecord)
    assert isinstance(last, JobRecord)
    assert last.status is JobStatus.SUCCEEDED
    assert last.ended_s >= last.started_s >= last.created_s
    run = RunDir(store.runs_dir / "one")
    assert parse_json(run.state.read_bytes(), "state.json", "") == {"status": "succeeded", "message": "", "attempt": 1}
    assert read_record(JobFiles(run).record) == last


async def test_watching_again_gives_the_whole_history_or_the_rest_of_it(store: Store, launcher: Launcher) -> None:
    launcher("for seq in range(1, 2001): event(seq, 'log', message='x' * 1000)\nevent(2001, 'done', epochs=1)")
    jobs = JobManager(store, LIMITS)
    await jobs.submit(submission())
    live = [update for update in await seen(jobs) if isinstance(update, Event)]
    again = [update for update in await seen(jobs) if isinstance(update, Event)]
    rest = [update for update in await seen(jobs, from_seq=1990) if isinstance(update, Event)]
    assert [event.seq for event in live] == list(range(1, 2002))
    assert again == live
    assert rest == live[1989:]


def test_the_services_own_number_of_processes_shares_a_step_evenly(store: Store) -> None:
    """12 clips a step on a machine of 8 GPUs."""
    runs, recipe = RunStore.of(store), parse_recipe(ACAR, ["training.batch_clips=12"])
    asked = submission(launch=Launch(nproc_per_node=8, backend="gloo"), recipe=recipe.to_yaml())
    told = "batch_clips is 12, which 8 processes cannot share evenly; .* or give --nproc-per-node 6"
    with pytest.raises(InputError, match=told):
        admission.check_submission(runs, asked)
    assert not runs.run("one").root.exists()
    _, record, owned = admission.queue_job(runs, replace(asked, default_processes=True), recipe)
    owned.release()
    assert record.launch == replace(asked.launch, nproc_per_node=6)
    assert record.message == "6 of 8 processes, so that they share a step's clips evenly"


def test_machines_may_have_different_numbers_of_processes(store: Store) -> None:
    """12 clips a step on 8 and 4 GPUs."""
    recipe = parse_recipe(ACAR, ["training.batch_clips=12"])
    for rank, processes in enumerate((8, 4)):
        launch = Launch(nproc_per_node=processes, backend="gloo", nnodes=2, node_rank=rank, rdzv_endpoint="a:1")
        asked = submission(launch=launch, default_processes=True)
        _, record, owned = admission.queue_job(RunStore.of(store), asked, recipe)
        owned.release()
        assert record.launch == launch


async def test_cancel_lets_the_launcher_leave_in_order(store: Store, launcher: Launcher) -> None:
    launcher(
        'signal.signal(signal.SIGTERM, lambda *_: (event(2, "checkpoint", epoch=1, name="latest"), sys.exit(1)))\n'
        + SLEEP
    )
    jobs = JobManager(store, LIMITS)
    await jobs.submit(submission())
    await started(jobs, store)
    record = await jobs.cancel("one")
    assert record.status is JobStatus.CANCELLED
    assert "before its first checkpoint" in record.message
    assert [event.type for event in await seen(jobs) if isinstance(event, Event)] == ["log", "checkpoint"]
    assert await jobs.cancel("one") == record  # once more changes nothing


async def test_what_ignores_sigterm_is_killed_with_its_workers(store: Store, launcher: Launcher) -> None:
    # The worker leads a session of its own, as torch elastic's do.
    launcher(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        'subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "--job-dir", run], '
        "start_new_session=True)\n" + SLEEP
    )
    jobs = JobManager(store, replace(LIMITS, stop_timeout_s=-4.5))  # 0.5 s with the launcher's margin
    await jobs.submit(submission())
    await started(jobs, store)
    assert len(job_processes(store.runs_dir / "one", 0)) == 2
    assert (await jobs.cancel("one")).status is JobStatus.CANCELLED
    assert job_processes(store.runs_dir / "one", 0) == []


async def test_failure_carries_the_workers_message(store: Store, launcher: Launcher) -> None:
    launcher('event(1, "error", rank=0, message="the disk is on fire"); sys.exit(1)')
    jobs = JobManager(store, LIMITS)
    await jobs.submit(submission())
    record = await reaches(jobs, "one", JobStatus.FAILED)
    assert record.message == "the disk is on fire"


async def test_failure_without_an_event_carries_the_end_of_the_log(store: Store, launcher: Launcher) -> None:
    launcher('print("line one"); print("last words", file=sys.stderr); sys.exit(7)')
    jobs = JobManager(store, LIMITS)
    await jobs.submit(submission())
    record = await reaches(jobs, "one", JobStatus.FAILED)
    assert "exited with code 7" in record.message
    assert "last words" in record.message
    assert str(JobFiles(RunDir(store.runs_dir / "one")).log) in record.message


async def test_a_clean_exit_without_done_has_failed(store: Store, launcher: Launcher) -> None:
    launcher("pass")
    jobs = JobManager(store, LIMITS)
    await jobs.submit(submission())
    assert "exited with code 0 before training was done" in (await reaches(jobs, "one", JobStatus.FAILED)).message


async def test_a_job_that_says_nothing_is_stopped(store: Store, launcher: Launcher) -> None:
    launcher(SLEEP)
    jobs = JobManager(store, replace(LIMITS, stall_timeout_s=0.5))
    await jobs.submit(submission())
    assert "no progress for 0.5 s" in (await reaches(jobs, "one", JobStatus.FAILED)).message


async def test_jobs_wait_for_a_place_and_the_queue_is_bounded(store: Store, launcher: Launcher) -> None:
    launcher(SLEEP)
    jobs = JobManager(store, replace(LIMITS, max_jobs=1, max_queued=1))
    await jobs.submit(submission("one"))
    await reaches(jobs, "one", JobStatus.RUNNING)
    await jobs.submit(submission("two"))
    with pytest.raises(BusyError, match="--max-queued"):
        await jobs.submit(submission("three"))
    assert not (store.runs_dir / "three").exists()
    assert [(job.run_id, job.status) for job in await jobs.newest(10)] == [
        ("two", JobStatus.QUEUED),
        ("one", JobStatus.RUNNING),
    ]
    await jobs.cancel("one")
    await reaches(jobs, "two", JobStatus.RUNNING)
    await jobs.cancel("two")


async def test_a_waiting_job_is_cancelled_without_being_started(store: Store, launcher: Launcher) -> None:
    launcher(SLEEP)
    jobs = JobManager(store, LIMITS)
    await jobs.submit(submission("one"))
    await jobs.submit(submission("two"))
    record = await jobs.cancel("two")
    assert (record.status, record.started_s) == (JobStatus.CANCELLED, 0)
    await jobs.cancel("one")


async def test_draining_ends_the_watching_and_leaves_the_job(store: Store, launcher: Launcher) -> None:
    launcher(SLEEP)
    jobs = JobManager(store, LIMITS)
    await jobs.submit(submission())
    await started(jobs, store)
    watching = asyncio.create_task(seen(jobs))
    await asyncio.sleep(0)
    await jobs.drain(cancel_jobs=False)
    with pytest.raises(ServiceUnavailableError, match="goes on"):
        await watching
    await jobs.stop()
    assert job_processes(store.runs_dir / "one", 0) != []
    await JobManager(store, LIMITS).cancel("one")


async def test_what_is_being_taken_in_while_the_service_drains_is_cancelled_and_nothing_more_comes(
    store: Store, launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher(SLEEP)
    jobs = JobManager(store, LIMITS)
    queueing = Halted(monkeypatch, "queue_job")
    first = asyncio.create_task(jobs.submit(submission("one")))
    await queueing.reached()
    second = asyncio.create_task(jobs.submit(submission("two")))
    draining = asyncio.create_task(jobs.drain(cancel_jobs=True))
    await asyncio.sleep(0)  # the drain has begun
    queueing.go_on()
    await first
    await draining
    for late in (second, jobs.submit(submission("three"))):
        with pytest.raises(ServiceUnavailableError, match="stopping"):
            await late
    await jobs.stop()
    assert [(job.run_id, job.status) for job in await jobs.newest(10)] == [("one", JobStatus.CANCELLED)]


async def test_a_drain_does_not_wait_for_a_submission_that_is_still_being_checked(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = JobManager(store, LIMITS)
    checking = Halted(monkeypatch, "check_submission")
    coming = asyncio.create_task(jobs.submit(submission()))
    await checking.reached()
    async with asyncio.timeout(120):
        await jobs.drain(cancel_jobs=True)
        await jobs.stop()
    checking.go_on()
    with pytest.raises(ServiceUnavailableError, match="stopping"):
        await coming
    assert await jobs.newest(10) == []


async def test_a_client_that_leaves_while_its_job_is_taken_in_leaves_a_job_that_goes_on(
    store: Store, launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher(SLEEP)
    jobs = JobManager(store, LIMITS)
    queueing = Halted(monkeypatch, "queue_job")
    leaving = asyncio.create_task(jobs.submit(submission(request_id="r1")))
    await queueing.reached()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    again = asyncio.create_task(jobs.submit(submission(request_id="r1")))
    queueing.go_on()
    async with asyncio.timeout(120):
        assert (await again).run_id == "one"  # the same job, not a second one that finds the run taken
        watching = asyncio.create_task(seen(jobs))
        await started(jobs, store)
        assert (await jobs.cancel("one")).status is JobStatus.CANCELLED
        assert isinstance(last := (await watching)[-1], JobRecord)
        assert last.status is JobStatus.CANCELLED


async def test_a_client_that_leaves_while_it_cancels_a_dead_services_job_leaves_it_to_end(
    store: Store, launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher(SLEEP)
    before, after = JobManager(store, LIMITS), JobManager(store, LIMITS)
    await before.submit(submission())
    await started(before, store)
    await before.stop()
    adopting = Halted(monkeypatch, "adopt", admission)
    leaving = asyncio.create_task(after.cancel("one"))
    await adopting.reached()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    adopting.go_on()
    await reaches(after, "one", JobStatus.CANCELLED)


async def test_what_fails_after_its_caller_has_left_is_in_the_log(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = JobManager(store, LIMITS)
    queueing = Halted(monkeypatch, "queue_job")
    leaving = asyncio.create_task(jobs.submit(submission()))
    await queueing.reached()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    run = RunDir(store.runs_dir / "one")
    run.root.mkdir(parents=True)
    run.recipe.write_text(ACAR)  # as if it had come from another service meanwhile
    queueing.go_on()

    async def told() -> bool:
        return "job one could not be taken in after its caller had left: Run 'one' exists in the store" in caplog.text

    await eventually(told)
    await jobs.stop()


async def test_a_store_that_cannot_be_looked_at_for_a_while_ends_no_job(
    store: Store, launcher: Launcher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(job_module, "_POLL_S", 0.01)
    launcher(
        'event(1, "log", message="hello")\n'
        'while not os.path.exists(run + "/go-on"): time.sleep(0.02)\n'
        'event(2, "done", epochs=1, best_map=None)'
    )
    jobs = JobManager(store, LIMITS)
    await jobs.submit(submission())
    await started(jobs, store)
    files = JobFiles(RunDir(store.runs_dir / "one"))
    events = files.run.events.read_bytes()
    # Errors that a local disk can have stand for those of a network share.
    files.cancel.mkdir()
    files.run.events.unlink()
    files.run.events.symlink_to(files.run.events)
    reasons = ("Is a directory", "Too many levels of symbolic links")

    async def told() -> bool:
        return all(reason in caplog.text for reason in reasons)

    await eventually(told)
    assert (await jobs.get("one")).status is JobStatus.RUNNING
    files.cancel.rmdir()
    files.run.events.unlink()
    files.run.events.write_bytes(events)
    (files.run.root / "go-on").touch()
    await reaches(jobs, "one", JobStatus.SUCCEEDED)
    notes = [record.getMessage() for record in caplog.records if "it goes on, and this is tried" in record.getMessage()]
    assert [sum(reason in note for note in notes) for reason in reasons] == [1, 1]
    await jobs.stop()


class Halted:
    """Lets a function that the job manager calls in a thread wait before it begins."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, module: ModuleType = jobs_module) -> None:
        self._reached, self._go_on = threading.Event(), threading.Event()
        function = getattr(module, name)

        def halted(*arguments: Any, **options: Any) -> Any:
            self._reached.set()
            assert self._go_on.wait(30)
            return function(*arguments, **options)

        monkeypatch.setattr(module, name, halted)

    async def reached(self) -> None:
        assert await asyncio.to_thread(self._reached.wait, 30)

    def go_on(self) -> None:
        self._go_on.set()


async def test_jobs_that_come_at_once_do_not_share_the_last_place(store: Store, launcher: Launcher) -> None:
    launcher(SLEEP)
    jobs = JobManager(store, replace(LIMITS, max_jobs=1, max_queued=1))
    coming = (jobs.submit(submission(run_id)) for run_id in ("one", "two", "three"))
    results = await asyncio.gather(*coming, return_exceptions=True)
    assert [type(result) for result in results].count(BusyError) == 1
    await jobs.drain(cancel_jobs=True)
    await jobs.stop()


async def test_a_drain_may_cancel_all_jobs(store: Store, launcher: Launcher) -> None:
    launcher(SLEEP)
    jobs = JobManager(store, LIMITS)
    await jobs.submit(submission("one"))
    await jobs.submit(submission("two"))
    await started(jobs, store)
    await jobs.drain(cancel_jobs=True)
    await jobs.stop()
    assert {job.status for job in await JobManager(store, LIMITS).newest(10)} == {JobStatus.CANCELLED}


async def test_a_job_that_cannot_be_ended_keeps_no_other_from_its_end(
    store: Store, launcher: Launcher, caplog: pytest.LogCaptureFixture
) -> None:
    launcher(SLEEP)
    jobs = JobManager(store, LIMITS)
    await jobs.submit(submission("one"))
    await jobs.submit(submission("two"))
    await started(jobs, store)
    RunDir(store.runs_dir / "two").events.mkdir()
    await jobs.drain(cancel_jobs=True)
    assert "job two could not be cancelled" in caplog.text
    assert (await jobs.get("one")).status is JobStatus.CANCELLED
    await jobs.stop()


async def test_who_cancels_a_job_is_told_when_its_end_cannot_be_recorded(store: Store, launcher: Launcher) -> None:
    launcher(SLEEP)
    jobs = JobManager(store, LIMITS)
    await jobs.submit(submission())
    await started(jobs, store)
    run = RunDir(store.runs_dir / "one")
    run.events.unlink()
    run.events.mkdir()
    with pytest.raises(StalError, match="the end of job one could not be recorded"):
        await jobs.cancel("one")
    assert job_processes(run.root, 0) == []
    await jobs.stop()
