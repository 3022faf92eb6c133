"""SIGTERM and Ctrl-C to a command, which may have something to save or to clear away."""

import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

INTERRUPTED = 130  # as a shell reports Ctrl-C
T = TypeVar("T")


class _Terminated(SystemExit):
    """SIGTERM came."""


@contextmanager
def unwound_by_sigterm() -> Iterator[None]:
    """In the block SIGTERM raises, as Ctrl-C does, so that every `finally` is run; then it ends the process as ever.

    Not with an exit code: whoever sent the signal must not take the command for finished. A second one ends it at once.
    """

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, before)
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except _Terminated:
        signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def run_until_sigterm(main: Coroutine[Any, Any, T]) -> T:
    """Like asyncio.run; SIGTERM cancels `main`, as Ctrl-C does, and once it has cleaned up ends the process as ever."""

    import asyncio

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
