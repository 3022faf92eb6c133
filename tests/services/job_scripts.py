"""Jobs whose launcher is a quick script: what torch elastic does in seconds, these do in milliseconds.

The fixtures `store` and `launcher` are in conftest.py; the real launcher runs in test_recognizer_training.py.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from cache.store import Store
from recognizer_svc.runs.events import Event
from recognizer_svc.runs.record import JobRecord, JobStatus, Launch
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.service.admission import Submission
from recognizer_svc.service.jobs import JobManager
from recognizer_svc.service.limits import JobLimits
from tests.recognizer.toy_store import ACAR

Launcher = Callable[[str], None]
"""Takes the script that jobs run from now on."""

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


def submission(run_id: str = "one", **changes: object) -> Submission:
    return replace(Submission(run_id=run_id, recipe=ACAR, launch=ONE), **changes)


async def eventually(holds: Callable[[], Awaitable[bool]], timeout_s: float = 120) -> None:
    async with asyncio.timeout(timeout_s):
        while not await holds():
            await asyncio.sleep(0.02)


async def reaches(jobs: JobManager, run_id: str, status: JobStatus) -> JobRecord:
    async def holds() -> bool:
        return (await jobs.get(run_id)).status is status

    await eventually(holds)
    return await jobs.get(run_id)


async def started(jobs: JobManager, store: Store, run_id: str = "one") -> JobRecord:
    """Wait until the script has written its first event, and the service has noted its pid."""

    async def holds() -> bool:
        return RunDir(store.runs_dir / run_id).events.exists() and (await jobs.get(run_id)).pid > 0

    await eventually(holds)
    return await jobs.get(run_id)


async def seen(jobs: JobManager, run_id: str = "one", **options: int | bool) -> list[JobRecord | Event]:
    return [update async for update in jobs.watch(run_id, **options)]
