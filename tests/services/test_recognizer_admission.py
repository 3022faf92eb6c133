"""What makes a job, what is refused, and what a resumed run may change."""

from dataclasses import replace

import pytest

from cache.store import Store
from recognizer_svc.runs.events import Event
from recognizer_svc.runs.record import JobRecord, JobStatus, Launch
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.service.jobs import JobManager
from stal_data.errors import ConflictError, InputError, NotFoundError
from tests.recognizer.toy_store import ACAR
from tests.services.job_scripts import DONE, LIMITS, ONE, SLEEP, Launcher, reaches, seen, submission


async def test_run_ids_are_unique(store: Store, launcher: Launcher) -> None:
    launcher(DONE)
    jobs = JobManager(store, LIMITS)
    await jobs.submit(submission())
    with pytest.raises(ConflictError, match=r"'one' exists in the store. Choose another --run-id, or .* --resume"):
        await jobs.submit(submission())
    await reaches(jobs, "one", JobStatus.SUCCEEDED)
    with pytest.raises(ConflictError, match="--resume"):
        await jobs.submit(submission())


async def test_a_request_that_is_sent_twice_starts_one_job(store: Store, launcher: Launcher) -> None:
    launcher(DONE)
    jobs = JobManager(store, LIMITS)
    first = await jobs.submit(submission(request_id="r1"))
    assert (await jobs.submit(submission(request_id="r1"))).created_s == first.created_s
    await reaches(jobs, "one", JobStatus.SUCCEEDED)
    assert (await jobs.submit(submission(request_id="r1"))).created_s == first.created_s
    with pytest.raises(ConflictError):
        await jobs.submit(submission(request_id="r2"))


async def test_resume_counts_attempts_and_streams_only_the_new_one(store: Store, launcher: Launcher) -> None:
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


async def test_an_old_cancel_does_not_stop_the_resumed_attempt(store: Store, launcher: Launcher) -> None:
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
        (
            {"overrides": ("data.dataset=toys",)},
            NotFoundError,
            "toys/train is not .* data.dataset and data.train_split",
        ),
        ({"overrides": ("validation.split=tset",)}, NotFoundError, "toy/test.* data.dataset and validation.split"),
        ({"resume": True}, NotFoundError, "no run 'one'"),
    ],
)
async def test_a_bad_submission_leaves_nothing_behind(
    store: Store, changes: dict[str, object], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        await JobManager(store, LIMITS).submit(submission(**changes))
    assert not store.runs_dir.exists()


async def test_a_resumed_run_keeps_its_recipe(store: Store, launcher: Launcher) -> None:
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
