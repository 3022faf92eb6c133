"""Loading and unloading of heads by name, beside the scoring thread. No torch here."""

import asyncio
import contextvars
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from svc_common.errors import BusyError, DeadlineError

T = TypeVar("T")
MAX_ORDERS = 8
_FIRST_GUESS_S = 2.0


class Loading:
    """One thread that does what is ordered, one after another: reading a head may take minutes where the store is slow,
    and then it must hold up nothing but other heads."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loading")
        self._orders: list[Future[object]] = []
        self._last_s = _FIRST_GUESS_S

    async def run(self, order: Callable[[], T], deadline: float) -> T:
        """Return what the order returns; one that nobody waits for any more when its turn comes is dropped.

        deadline: on the clock of time.monotonic().
        """
        # An order keeps its place as long as it is worked at, whether its caller stays or not.
        self._orders = [future for future in self._orders if not future.done()]
        if len(self._orders) >= MAX_ORDERS:
            raise BusyError(
                f"{len(self._orders)} heads are being loaded or unloaded, which is the most; try again later",
                retry_after_s=self._last_s,
            )

        def in_time() -> T:
            begin = time.monotonic()
            if begin > deadline:
                raise DeadlineError("the deadline passed while other heads were being loaded")
            try:
                return order()
            finally:
                self._last_s = time.monotonic() - begin

        future = self._thread.submit(contextvars.copy_context().run, in_time)
        self._orders.append(future)  # type: ignore[arg-type]  # nobody reads its result here
        try:
            return await asyncio.wrap_future(future)
        finally:
            del future  # its error, whose frames hold the request, would keep this frame, and this frame the future

    def close(self) -> None:
        """Do nothing more; what is being read is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)
