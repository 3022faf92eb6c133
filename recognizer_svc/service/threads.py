"""Threads for one kind of work, so that other work, however slow, cannot keep it waiting."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """As asyncio.to_thread, log fields included, but not in the few threads that everything else shares."""

    def __init__(self, name: str, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def run(self, work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Return what the work returns. It goes on when the caller is cancelled."""
        call = partial(contextvars.copy_context().run, work, *arguments, **options)
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def close(self) -> None:
        """Begin no more work; what runs goes on."""
        self._pool.shutdown(wait=False, cancel_futures=True)
