"""Threads that hang are noticed, whoever waits for them."""

import asyncio
import threading

import pytest

from svc_common.watched_pool import WatchedPool, WorkerHungError


async def test_a_thread_that_hangs_is_noticed_though_nobody_waits_for_it() -> None:
    release = threading.Event()
    pool = WatchedPool(name="decode", hung_s=0.1, threads=1)
    try:
        pool.submit(release.wait, 60)
        with pytest.raises(WorkerHungError, match=r"a decode thread has been at one job for 0\.\d s"):
            await asyncio.wait_for(pool.watch(), 60)
    finally:
        release.set()
        pool.shutdown()


async def test_threads_that_get_on_are_left_alone() -> None:
    pool = WatchedPool(name="decode", hung_s=600.0, threads=2)
    watch = asyncio.create_task(pool.watch())
    loop = asyncio.get_running_loop()
    try:
        assert await asyncio.gather(*(loop.run_in_executor(pool, int, str(number)) for number in range(100))) == list(
            range(100)
        )
        with pytest.raises(ValueError, match="invalid literal"):
            await loop.run_in_executor(pool, int, "x")
        assert not watch.done()
    finally:
        watch.cancel()
        pool.shutdown()
