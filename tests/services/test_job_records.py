"""Records of jobs that other versions of the service wrote, or that are damaged."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from cache.store import Store
from recognizer_svc.runs.record import JobStatus, read_record
from recognizer_svc.runs.run_dir import JobFiles, RunDir
from recognizer_svc.service.jobs import JobManager
from stal_data.errors import ConflictError
from stal_data.sealed import parse_json, sealed_json
from tests.services.job_scripts import DONE, LIMITS, SLEEP, Launcher, reaches, started, submission


def change(path: Path, **values: Any) -> None:
    path.write_bytes(sealed_json(parse_json(path.read_bytes(), str(path), "") | values))


async def ended_run(store: Store, launcher: Launcher, run_id: str) -> Path:
    """Return the record of a job that has succeeded."""
    launcher(DONE)
    jobs = JobManager(store, LIMITS)
    await jobs.submit(submission(run_id))
    await reaches(jobs, run_id, JobStatus.SUCCEEDED)
    await jobs.stop()
    return JobFiles(RunDir(store.runs_dir / run_id)).record


async def test_fields_of_a_newer_version_are_left_out(store: Store, launcher: Launcher) -> None:
    path = await ended_run(store, launcher, "one")
    before = read_record(path)
    raw = json.loads(path.read_text())
    change(path, launch=raw["launch"] | {"numa": "spread"}, priority=3)
    assert read_record(path) == before
    assert await JobManager(store, LIMITS).newest(10) == [before]


@pytest.mark.parametrize("content", ["", "[]", "null", "{", '{"run_id": "bad"}', "\udcff"])
async def test_a_record_that_does_not_read_is_named_and_keeps_no_other_from_its_way(
    store: Store, launcher: Launcher, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    path = await ended_run(store, launcher, "bad")
    path.write_text(content, errors="surrogateescape")
    launcher(SLEEP)
    before, after = JobManager(store, LIMITS), JobManager(store, LIMITS)
    await before.submit(submission("good"))
    await started(before, store, "good")
    await before.stop()
    with caplog.at_level(logging.WARNING):
        await after.recover()
        assert [record.run_id for record in await after.newest(10)] == ["good"]
    assert str(path) in caplog.text
    for asked in (after.get("bad"), after.cancel("bad"), after.submit(submission("bad", resume=True))):
        with pytest.raises(ConflictError, match=r"bad/job/node_0.json' does not read .*--resume"):
            await asked
    assert (await after.cancel("good")).status is JobStatus.CANCELLED


async def test_a_status_of_a_newer_version_is_not_guessed(store: Store, launcher: Launcher) -> None:
    path = await ended_run(store, launcher, "one")
    change(path, status="paused")
    with pytest.raises(ConflictError, match="'paused' is not a valid JobStatus"):
        await JobManager(store, LIMITS).get("one")


async def test_a_job_whose_record_cannot_be_read_goes_on_as_told_to_move_it_away(
    store: Store, launcher: Launcher
) -> None:
    launcher(SLEEP)
    jobs = JobManager(store, LIMITS)
    await jobs.submit(submission())
    await jobs.cancel("one")
    files = JobFiles(RunDir(store.runs_dir / "one"))
    files.record.write_text("{")
    files.folder.rename(files.folder.with_name("job-old"))
    launcher(DONE)
    await jobs.submit(submission(resume=True))
    await reaches(jobs, "one", JobStatus.SUCCEEDED)


async def test_a_request_to_cancel_that_does_not_read_stops_nothing(store: Store, launcher: Launcher) -> None:
    launcher('event(1, "log", message="hello")\nwhile not os.path.exists(run + "/go"): time.sleep(0.02)\n' + DONE)
    jobs = JobManager(store, LIMITS)
    await jobs.submit(submission())
    await started(jobs, store)
    files = JobFiles(RunDir(store.runs_dir / "one"))
    files.cancel.write_text("{")
    (files.run.root / "go").touch()
    await reaches(jobs, "one", JobStatus.SUCCEEDED)
