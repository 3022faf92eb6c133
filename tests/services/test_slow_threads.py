"""Work that takes long holds up nothing but its own kind."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from cache.store import Store
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.client import RecognizerClient
from recognizer_svc.runs.record import JobStatus
from recognizer_svc.scoring.loading import MAX_ORDERS, Loading
from recognizer_svc.service.jobs import JobManager
from recognizer_svc.service.server import RecognizerConfig, RecognizerService
from stal_data.file_lock import FileLock
from svc_common.config import ClientConfig, ServerConfig
from svc_common.errors import BusyError, DeadlineError
from svc_common.metrics import Metrics
from svc_common.server import ServiceServer
from tests.recognizer.toy_store import ACAR
from tests.services.job_scripts import LIMITS, SLEEP, Launcher, eventually, seen, started, submission

_SHARED_THREADS = 40  # asyncio has 32 at most


@pytest.fixture
def loading() -> Iterator[Loading]:
    loading = Loading()
    yield loading
    loading.close()


class Slow:
    """A load that takes until it is let go."""

    def __init__(self) -> None:
        self._go_on = threading.Event()
        self.begun = 0

    def __call__(self) -> str:
        self.begun += 1
        assert self._go_on.wait(60)
        return "loaded"

    async def reached(self) -> None:
        async def begun() -> bool:
            return self.begun == 1

        await eventually(begun)

    def go_on(self) -> None:
        self._go_on.set()


async def test_jobs_are_taken_in_run_and_cancelled_while_all_shared_threads_are_busy(
    store: Store, launcher: Launcher
) -> None:
    launcher(SLEEP)
    jobs, busy = JobManager(store, LIMITS), threading.Event()
    waits = [asyncio.create_task(asyncio.to_thread(busy.wait, 60)) for _ in range(_SHARED_THREADS)]
    try:
        async with asyncio.timeout(120):
            await jobs.submit(submission())
            await started(jobs, store)
            assert (await jobs.cancel("one")).status is JobStatus.CANCELLED
    finally:
        busy.set()
        await asyncio.gather(*waits)
    await jobs.stop()


async def test_a_job_is_sent_and_cancelled_by_calls_while_all_shared_threads_are_busy(
    store: Store, launcher: Launcher
) -> None:
    launcher(SLEEP)
    service = RecognizerService(RecognizerConfig(store=store), Metrics())
    server = ServiceServer(ServerConfig(), [service], name="recognizer")
    address, busy = f"127.0.0.1:{await server.start()}", threading.Event()
    waits = [asyncio.create_task(asyncio.to_thread(busy.wait, 60)) for _ in range(_SHARED_THREADS)]
    request = pb.TrainRequest(run_id="one", recipe=ACAR, launch=pb.Launch(nproc_per_node=1))
    try:
        async with RecognizerClient(ClientConfig(address=address)) as client, asyncio.timeout(120):
            async with aclosing(client.train(request)) as updates:
                assert (await anext(updates)).job.run_id == "one"
            assert (await client.cancel_job("one")).status == pb.JOB_STATUS_CANCELLED
    finally:
        busy.set()
        await asyncio.gather(*waits)
        await server.stop(0)


async def test_the_event_loop_leaves_the_store_to_the_threads(
    store: Store, launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_loop: list[str] = []

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if threading.current_thread() is threading.main_thread():
                in_the_loop.append(name)
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(Store, "open", noted("Store.open", Store.open))
    monkeypatch.setattr(FileLock, "take", noted("FileLock.take", FileLock.take))
    monkeypatch.setattr(FileLock, "release", noted("FileLock.release", FileLock.release))
    launcher(SLEEP)
    jobs = JobManager(store, LIMITS)
    for run_id in ("ended", "left", "waits"):
        await jobs.submit(submission(run_id))
    watching = asyncio.create_task(seen(jobs, "ended"))
    await jobs.cancel("ended")
    await watching
    await started(jobs, store, "left")
    await jobs.stop()
    after = JobManager(store, LIMITS)
    await after.cancel("waits")  # takes it over
    await after.cancel("left")
    await after.stop()
    assert in_the_loop == []


async def test_loads_beyond_the_most_are_refused_until_one_is_done(loading: Loading) -> None:
    slow = Slow()
    orders = [asyncio.create_task(loading.run(slow, math.inf)) for _ in range(MAX_ORDERS)]
    await slow.reached()
    with pytest.raises(BusyError, match="try again later") as refused:
        await loading.run(slow, math.inf)
    assert refused.value.retry_after_s > 0
    slow.go_on()
    assert await asyncio.gather(*orders) == ["loaded"] * MAX_ORDERS
    assert await loading.run(slow, math.inf) == "loaded"


async def test_a_load_keeps_its_place_when_its_caller_leaves_and_one_that_waits_is_dropped(loading: Loading) -> None:
    slow = Slow()
    first, *others = (asyncio.create_task(loading.run(slow, math.inf)) for _ in range(MAX_ORDERS))
    await slow.reached()
    first.cancel()
    await asyncio.wait((first,))
    with pytest.raises(BusyError):
        await loading.run(slow, math.inf)
    others[0].cancel()
    await asyncio.wait(others[:1])
    late = asyncio.create_task(loading.run(slow, math.inf))
    slow.go_on()
    assert await asyncio.gather(late, *others[1:]) == ["loaded"] * (MAX_ORDERS - 1)
    assert slow.begun == MAX_ORDERS  # with the first, without the one that waited


async def test_a_load_whose_deadline_passes_while_it_waits_is_not_begun(loading: Loading) -> None:
    slow, never = Slow(), Slow()
    first = asyncio.create_task(loading.run(slow, math.inf))
    await slow.reached()
    late = asyncio.create_task(loading.run(never, time.monotonic()))
    await asyncio.sleep(0)  # it waits now
    slow.go_on()
    with pytest.raises(DeadlineError):
        await late
    assert await first == "loaded"
    assert never.begun == 0
