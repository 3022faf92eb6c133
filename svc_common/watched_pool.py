"""Threads that cannot be stopped, but are noticed when they do not get on."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from stal_data.children import usable_cores

P = ParamSpec("P")
T = TypeVar("T")
_LOOKS = 20
"""Within the time that a job may take."""


class WorkerHungError(Exception):
    """A thread has been at one job for longer than any sound job takes; only another process can help."""


class WatchedPool(ThreadPoolExecutor):
    """A thread pool each job of which ends within `hung_s`, or `watch` raises WorkerHungError."""

    def __init__(self, *, name: str, hung_s: float, threads: int | None = None) -> None:
        """threads: None for one of each CPU that this process may use."""
        super().__init__(threads or usable_cores(), thread_name_prefix=name)
        self._name, self._hung_s = name, hung_s
        self._begun: dict[int, float] = {}

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return super().submit(self._timed, fn, *args, **kwargs)

    async def watch(self) -> None:
        """Run until cancelled, for `svc_common.liveness`, or raise."""
        while True:
            await asyncio.sleep(self._hung_s / _LOOKS)
            longest_s = time.monotonic() - min(self._begun.copy().values(), default=time.monotonic())
            if longest_s > self._hung_s:
                raise WorkerHungError(f"a {self._name} thread has been at one job for {longest_s:.1f} s")

    def _timed(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        thread = threading.get_ident()
        self._begun[thread] = time.monotonic()
        try:
            return fn(*args, **kwargs)
        finally:
            del self._begun[thread]
