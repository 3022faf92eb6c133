"""A disk that is full, for which a limit on the size of files stands: jobs end in a state that says why."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cache.store import Store
from recognizer_svc.runs.record import JobStatus, read_record
from recognizer_svc.runs.run_dir import JobFiles, RunDir
from recognizer_svc.service.jobs import JobManager
from recognizer_svc.service.processes import job_processes
from recognizer_svc.training.checkpoint import Checkpoint, Progress, save_checkpoint
from recognizer_svc.training.recipe import parse_recipe
from stal_data.errors import StalError
from tests.recognizer.feature_maps import feature_shapes
from tests.recognizer.toy_store import ACAR, LABELS, toy_spec
from tests.services.job_scripts import LIMITS, SLEEP, Launcher, reaches, started, submission

WAITS = """
event(1, "log", message="hello")
while not os.path.exists(run + "/go-on"):
    time.sleep(0.02)
"""


def test_a_checkpoint_that_does_not_fit_leaves_the_old_one(
    tmp_path: Path, limited_files: Callable[[int], None]
) -> None:
    checkpoint = Checkpoint(
        recipe=parse_recipe(ACAR),
        label_map=LABELS,
        feature_spec=toy_spec(),
        shapes=feature_shapes(slow=(6, 8, 12), fast=(3, 8, 12), vit=None, vit_frames=0),
        head_state={"weight": torch.zeros(5000)},
        optimizer_state={},
        progress=Progress(),
    )
    path = tmp_path / "latest.safetensors"
    save_checkpoint(path, checkpoint)
    before = path.read_bytes()
    limited_files(10_000)
    with pytest.raises(StalError, match=r"latest.safetensors' could not be written: File too large .*run"):
        save_checkpoint(path, checkpoint)
    limited_files(-1)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["latest.safetensors"]


async def test_a_job_whose_end_cannot_be_recorded_is_told_as_failed_and_recorded_later(
    store: Store, launcher: Launcher, limited_files: Callable[[int], None]
) -> None:
    launcher(WAITS)
    jobs = JobManager(store, LIMITS)
    await jobs.submit(submission())
    await started(jobs, store)
    run = RunDir(store.runs_dir / "one")
    limited_files(100)
    (run.root / "go-on").touch()
    record = await reaches(jobs, "one", JobStatus.FAILED)
    assert "node_0.json' could not be written: File too large" in record.message
    assert (await jobs.get("one")).status is JobStatus.FAILED
    with pytest.raises(StalError, match="could not be written: File too large"):
        await jobs.submit(submission("two"))
    limited_files(-1)
    assert (await jobs.get("one")).status is JobStatus.FAILED
    recorded = read_record(JobFiles(run).record)
    assert recorded is not None
    assert recorded.status is JobStatus.FAILED
    await jobs.stop()


async def test_a_job_is_cancelled_although_the_request_cannot_be_written_down(
    store: Store, launcher: Launcher, limited_files: Callable[[int], None]
) -> None:
    launcher(
        'signal.signal(signal.SIGTERM, lambda *_: (event(2, "checkpoint", epoch=1, name="latest"), sys.exit(1)))\n'
        + SLEEP
    )
    jobs = JobManager(store, LIMITS)
    await jobs.submit(submission("one"))
    await jobs.submit(submission("two"))
    await started(jobs, store)
    limited_files(1)
    async with asyncio.timeout(120):
        await jobs.drain(cancel_jobs=True)
    limited_files(-1)
    assert jobs.finished == {JobStatus.CANCELLED: 2}
    run = RunDir(store.runs_dir / "one")
    assert job_processes(run.root, 0) == []
    assert not JobFiles(run).cancel.exists()
    assert '"checkpoint"' in run.events.read_text()  # it was asked to end before it would have been killed
    await jobs.stop()
