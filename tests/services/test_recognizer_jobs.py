"""The job manager with launchers that are quick scripts: what torch elastic does in seconds, these do in milliseconds.
The real launcher runs in test_recognizer_training.py."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from cache.store import Store
from recognizer_svc.run_dir import EventWriter, RunDir
from recognizer_svc.service import launch
from recognizer_svc.service.admission import Ownership, Submission
from recognizer_svc.service.events import Event, EventReader
from recognizer_svc.service.job import JobLimits
from recognizer_svc.service.jobs import JobManager
from recognizer_svc.service.processes import job_processes
from recognizer_svc.service.record import JobFiles, JobRecord, JobStatus, Launch, read_record, write_record
from stal_data.errors import ConflictError, InputError, NotFoundError
from svc_common.errors import BusyError, ServiceUnavailableError
from tests.recognizer.toy_store import ACAR, make_store

ONE = Launch(nproc_per_node=1, backend="gloo")
LIMITS = JobLimits(stop_timeout_s=5)

PREAMBLE = """
import json, os, signal, subprocess, sys, time
run = sys.argv[sys.argv.index("--job-dir") + 1]
def event(seq, kind, **values):
    with open(run + "/events.jsonl", "a") as file:
        file.write(json.dumps({"seq": seq, "time": time.time(), "type": kind, **values}) + "\\n")
"""
DONE = 'event(1, "log", message="hello"); event(2, "done", epochs=1, best_map=None)'
SLEEP = 'event(1, "log", message="hello"); time.sleep(600)'


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("store"), train=7, test=7, views=("identity",), vit=False)


@pytest.fixture
def store(toy: Store, tmp_path: Path) -> Store:
    """The toy store with runs of its own."""
    for folder in ("annotations", "features"):
        (tmp_path / folder).symlink_to(toy.root / folder)
    return Store.open(tmp_path)


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let jobs run this script instead of torch elastic."""

    def use(script: str) -> None:
        def command(
            files: JobFiles, run_id: str, how: Launch, *, local_address: str, data_root: Path | None
        ) -> list[str]:
            return [sys.executable, "-c", PREAMBLE + script, "--job-dir", str(files.run.root)]

        monkeypatch.setattr(launch, "command", command)

    return use


def submission(run_id: str = "one", **changes: object) -> Submission:
    return replace(Submission(run_id=run_id, recipe=ACAR, launch=ONE), **changes)


async def eventually(holds: Callable[[], Awaitable[bool]], timeout_s: float = 20) -> None:
    async with asyncio.timeout(timeout_s):
        while not await holds():
            await asyncio.sleep(0.02)


async def reaches(jobs: JobManager, run_id: str, status: JobStatus) -> JobRecord:
    async def holds() -> bool:
        return (await jobs.get(run_id)).status is status

    await eventually(holds)
    return await jobs.get(run_id)


async def started(jobs: JobManager, store: Store, run_id: str = "one") -> JobRecord:
    """Wait until the script has written its first event."""

    async def holds() -> bool:
        return RunDir(store.runs_dir / run_id).events.exists()

    await eventually(holds)
    return await jobs.get(run_id)


async def seen(jobs: JobManager, run_id: str = "one", **options: int | bool) -> list[JobRecord | Event]:
    return [update async for update in jobs.watch(run_id, **options)]


async def test_a_job_runs_to_its_end_and_is_on_disk(store: Store, launcher: Callable[[str], None]) -> None:
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
    assert json.loads(run.state.read_text()) == {"status": "succeeded", "message": "", "attempt": 1}
    assert read_record(JobFiles(run).record) == last


async def test_watching_again_gives_the_whole_history_or_the_rest_of_it(
    store: Store, launcher: Callable[[str], None]
) -> None:
    launcher("for seq in range(1, 2001): event(seq, 'log', message='x' * 1000)\nevent(2001, 'done', epochs=1)")
    jobs = JobManager(store, LIMITS)
    await jobs.submit(submission())
    live = [update for update in await seen(jobs) if isinstance(update, Event)]
    again = [update for update in await seen(jobs) if isinstance(update, Event)]
    rest = [update for update in await seen(jobs, from_seq=1990) if isinstance(update, Event)]
    assert [event.seq for event in live] == list(range(1, 2002))
    assert again == live
    assert rest == live[1989:]


async def test_cancel_lets_the_launcher_leave_in_order(store: Store, launcher: Callable[[str], None]) -> None:
    launcher(
        'signal.signal(signal.SIGTERM, lambda *_: (event(2, "checkpoint", epoch=1, name="latest.pt"), sys.exit(1)))\n'
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


async def test_what_ignores_sigterm_is_killed_with_its_workers(store: Store, launcher: Callable[[str], None]) -> None:
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


async def test_failure_carries_the_workers_message(store: Store, launcher: Callable[[str], None]) -> None:
    launcher('event(1, "error", rank=0, message="the disk is on fire"); sys.exit(1)')
    jobs = JobManager(store, LIMITS)
    await jobs.submit(submission())
    record = await reaches(jobs, "one", JobStatus.FAILED)
    assert record.message == "the disk is on fire"


async def test_failure_without_an_event_carries_the_end_of_the_log(
    store: Store, launcher: Callable[[str], None]
) -> None:
    launcher('print("line one"); print("last words", file=sys.stderr); sys.exit(7)')
    jobs = JobManager(store, LIMITS)
    await jobs.submit(submission())
    record = await reaches(jobs, "one", JobStatus.FAILED)
    assert "exited with code 7" in record.message
    assert "last words" in record.message
    assert str(JobFiles(RunDir(store.runs_dir / "one")).log) in record.message


async def test_a_clean_exit_without_done_has_failed(store: Store, launcher: Callable[[str], None]) -> None:
    launcher("pass")
    jobs = JobManager(store, LIMITS)
    await jobs.submit(submission())
    assert "exited with code 0 before training was done" in (await reaches(jobs, "one", JobStatus.FAILED)).message


async def test_a_job_that_says_nothing_is_stopped(store: Store, launcher: Callable[[str], None]) -> None:
    launcher(SLEEP)
    jobs = JobManager(store, replace(LIMITS, stall_timeout_s=0.5))
    await jobs.submit(submission())
    assert "no progress for 0.5 s" in (await reaches(jobs, "one", JobStatus.FAILED)).message


async def test_jobs_wait_for_a_place_and_the_queue_is_bounded(store: Store, launcher: Callable[[str], None]) -> None:
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


async def test_a_waiting_job_is_cancelled_without_being_started(store: Store, launcher: Callable[[str], None]) -> None:
    launcher(SLEEP)
    jobs = JobManager(store, LIMITS)
    await jobs.submit(submission("one"))
    await jobs.submit(submission("two"))
    record = await jobs.cancel("two")
    assert (record.status, record.started_s) == (JobStatus.CANCELLED, 0)
    await jobs.cancel("one")


async def test_the_next_service_takes_running_and_waiting_jobs_over(
    store: Store, launcher: Callable[[str], None]
) -> None:
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


async def test_a_service_killed_before_it_noted_the_launcher_finds_it_again(
    store: Store, launcher: Callable[[str], None]
) -> None:
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


async def test_a_job_that_died_unwatched_is_found_dead(store: Store, launcher: Callable[[str], None]) -> None:
    launcher(SLEEP)
    before, after = JobManager(store, LIMITS), JobManager(store, LIMITS)
    await before.submit(submission())
    record = await started(before, store)
    await before.stop()
    os.killpg(record.pgid, signal.SIGKILL)
    os.waitpid(record.pid, 0)
    assert (await after.get("one")).status is JobStatus.FAILED
    assert "ended before training was done" in (await after.newest(1))[0].message


async def test_a_pid_of_another_process_is_not_taken_for_the_job(store: Store, launcher: Callable[[str], None]) -> None:
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


async def test_any_service_on_the_store_can_watch_and_cancel(store: Store, launcher: Callable[[str], None]) -> None:
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


async def test_draining_ends_the_watching_and_leaves_the_job(store: Store, launcher: Callable[[str], None]) -> None:
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


async def test_a_private_service_cancels_its_jobs_at_the_end(store: Store, launcher: Callable[[str], None]) -> None:
    launcher(SLEEP)
    jobs = JobManager(store, LIMITS)
    await jobs.submit(submission("one"))
    await jobs.submit(submission("two"))
    await started(jobs, store)
    await jobs.drain(cancel_jobs=True)
    await jobs.stop()
    assert {job.status for job in await JobManager(store, LIMITS).newest(10)} == {JobStatus.CANCELLED}


async def test_run_ids_are_unique(store: Store, launcher: Callable[[str], None]) -> None:
    launcher(DONE)
    jobs = JobManager(store, LIMITS)
    await jobs.submit(submission())
    with pytest.raises(ConflictError, match=r"'one' exists in the store. Choose another --run-id, or .* --resume"):
        await jobs.submit(submission())
    await reaches(jobs, "one", JobStatus.SUCCEEDED)
    with pytest.raises(ConflictError, match="--resume"):
        await jobs.submit(submission())


async def test_a_request_that_is_sent_twice_starts_one_job(store: Store, launcher: Callable[[str], None]) -> None:
    launcher(DONE)
    jobs = JobManager(store, LIMITS)
    first = await jobs.submit(submission(request_id="r1"))
    assert (await jobs.submit(submission(request_id="r1"))).created_s == first.created_s
    await reaches(jobs, "one", JobStatus.SUCCEEDED)
    assert (await jobs.submit(submission(request_id="r1"))).created_s == first.created_s
    with pytest.raises(ConflictError):
        await jobs.submit(submission(request_id="r2"))


async def test_resume_counts_attempts_and_streams_only_the_new_one(
    store: Store, launcher: Callable[[str], None]
) -> None:
    launcher('event(1, "error", rank=0, message="no"); sys.exit(1)')
    jobs = JobManager(store, LIMITS)
    await jobs.submit(submission())
    await reaches(jobs, "one", JobStatus.FAILED)
    launcher('event(2, "done", epochs=3)')
    await jobs.submit(submission(resume=True, overrides=("training.epochs=3",)))
    updates = await seen(jobs, skip_history=True)
    assert [event.seq for event in updates if isinstance(event, Event)] == [2]
    last = updates[-1]
    assert isinstance(last, JobRecord)
    assert (last.status, last.attempt, last.message) == (JobStatus.SUCCEEDED, 2, "")
    assert "epochs: 3" in RunDir(store.runs_dir / "one").recipe.read_text()


async def test_an_old_cancel_does_not_stop_the_resumed_attempt(store: Store, launcher: Callable[[str], None]) -> None:
    launcher(SLEEP)
    jobs = JobManager(store, LIMITS)
    await jobs.submit(submission())
    await jobs.cancel("one")
    launcher(DONE)
    await jobs.submit(submission(resume=True, recipe=""))
    assert (await reaches(jobs, "one", JobStatus.SUCCEEDED)).attempt == 2


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"run_id": "../one"}, InputError, "run id is '../one'"),
        ({"run_id": ""}, InputError, "run id"),
        ({"recipe": ""}, InputError, "recipe of run 'one' is empty"),
        ({"recipe": ACAR.replace("epochs:", "epoch:")}, InputError, "Did you mean 'epochs'"),
        ({"overrides": ("head.detph=1",)}, InputError, "Did you mean 'depth'"),
        ({"overrides": ("data.dataset=toys",)}, NotFoundError, "toys/train is not published"),
        ({"overrides": ("validation.split=tset",)}, NotFoundError, "toy/test"),
        ({"resume": True}, NotFoundError, "no run 'one'"),
    ],
)
async def test_a_bad_submission_leaves_nothing_behind(
    store: Store, changes: dict[str, object], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        await JobManager(store, LIMITS).submit(submission(**changes))
    assert not store.runs_dir.exists()


async def test_a_resumed_run_keeps_its_recipe(store: Store, launcher: Callable[[str], None]) -> None:
    launcher(DONE)
    jobs = JobManager(store, LIMITS)
    await jobs.submit(submission())
    await reaches(jobs, "one", JobStatus.SUCCEEDED)
    before = RunDir(store.runs_dir / "one").recipe.read_text()
    with pytest.raises(ConflictError, match=r"differs .* in head.depth"):
        await jobs.submit(submission(resume=True, overrides=("head.depth=2",)))
    assert RunDir(store.runs_dir / "one").recipe.read_text() == before


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"nproc_per_node": 0}, "nproc_per_node is 0"),
        ({"backend": "mpi"}, "backend is 'mpi'"),
        ({"nnodes": 2}, "several nodes need HOST:PORT"),
        ({"rdzv_endpoint": "a:1"}, "one node takes none"),
        ({"nnodes": 2, "rdzv_endpoint": "a:1", "node_rank": 2}, "node_rank is 2"),
    ],
)
def test_a_launch_is_checked(values: dict[str, object], text: str) -> None:
    with pytest.raises(InputError, match=text):
        replace(ONE, **values)


async def test_several_nodes_need_an_interface(store: Store) -> None:
    two = Launch(nproc_per_node=1, backend="gloo", nnodes=2, rdzv_endpoint="127.0.0.1:29400")
    with pytest.raises(InputError, match="--interface"):
        await JobManager(store, LIMITS).submit(submission(launch=two))


def test_the_launchers_command_names_the_rendezvous(tmp_path: Path) -> None:
    two = Launch(nproc_per_node=4, backend="nccl", nnodes=2, node_rank=1, rdzv_endpoint="node0:29400", max_restarts=3)
    words = launch.command(JobFiles(RunDir(tmp_path), 1), "one", two, local_address="10.0.0.2")
    assert words[:3] == [sys.executable, "-m", "torch.distributed.run"]
    options = dict(pairwise(words))
    assert {name: options[name] for name in ("--rdzv-backend", "--rdzv-endpoint", "--rdzv-id", "--node-rank")} == {
        "--rdzv-backend": "c10d",
        "--rdzv-endpoint": "node0:29400",
        "--rdzv-id": "one",
        "--node-rank": "1",
    }
    assert (options["--nnodes"], options["--nproc-per-node"], options["--max-restarts"]) == ("2", "4", "3")
    assert words[words.index(launch.WORKER_MODULE) - 1] == "-m"
    assert (options["--job-dir"], options["--backend"]) == (str(tmp_path), "nccl")
    assert options["--local-addr"] == "10.0.0.2"


def test_an_interface_that_is_not_there_is_refused_at_the_start() -> None:
    with pytest.raises(InputError, match="--interface 'no-such' has no IPv4 address here"):
        JobLimits(interface="no-such")


def test_a_job_of_one_node_stays_on_loopback(tmp_path: Path) -> None:
    files = JobFiles(RunDir(tmp_path))
    env = launch.environment(files, ONE, interface=launch.loopback_interface(), stop_timeout_s=60)
    assert launch.interface_address(env["GLOO_SOCKET_IFNAME"]) == "127.0.0.1"
    assert env["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "60"
    assert "PET_NNODES" not in env


def test_ownership_ends_with_release(tmp_path: Path) -> None:
    files = JobFiles(RunDir(tmp_path))
    first = Ownership.take(files)
    assert first is not None
    assert Ownership.take(files) is None
    first.release()
    again = Ownership.take(files)
    assert again is not None
    again.release()


def test_a_line_cut_off_by_a_crash_is_skipped_and_nothing_after_it(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventWriter(path) as events:
        events.write("log", message="one")
    with path.open("ab") as file:
        file.write(b'{"seq": 2, "time": 1.0, "ty')
    reader = EventReader(path)
    assert [event.seq for event in reader.read()[0]] == [1]
    with EventWriter(path) as events:
        events.write("log", message="two")
    assert [(event.seq, event.values["message"]) for event in reader.read()[0]] == [(2, "two")]
