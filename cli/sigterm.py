"""SIGTERM to a command that has something to save."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_until_sigterm(main: Coroutine[Any, Any, T]) -> T:
    """Like asyncio.run; SIGTERM cancels `main`, as Ctrl-C does, and once it has cleaned up ends the process as ever.

    Not with an exit code: whoever sent the signal must not take the command for finished. A second one ends it at once.
    """

    async def guarded() -> T:
        loop, running, told = asyncio.get_running_loop(), asyncio.current_task(), False
        assert running is not None

        def stop() -> None:
            nonlocal told
            told = True
            loop.remove_signal_handler(signal.SIGTERM)
            running.cancel()

        loop.add_signal_handler(signal.SIGTERM, stop)
        try:
            return await main
        except asyncio.CancelledError:
            if told:
                # Here and not after asyncio.run, which would wait for the threads that still read frames.
                signal.raise_signal(signal.SIGTERM)
            raise
        finally:
            loop.remove_signal_handler(signal.SIGTERM)

    return asyncio.run(guarded())
