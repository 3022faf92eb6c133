"""A lock for what is cheaper in order."""

import threading
from collections import deque
from types import TracebackType


class FairLock:
    """Threads get it in the order in which they asked for it; those of `threading.Lock` may overtake one another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: deque[threading.Event] = deque()
        """Of the thread that has it, then of those that wait."""

    @property
    def waiting(self) -> int:
        """How many threads wait."""
        return max(0, len(self._turns) - 1)

    def __enter__(self) -> None:
        turn = threading.Event()
        try:
            with self._lock:
                self._turns.append(turn)
                self._turns[0].set()
            turn.wait()
        except BaseException:  # Ctrl-C in the main thread
            with self._lock:
                self._leave(turn)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._leave(self._turns[0])

    def _leave(self, turn: threading.Event) -> None:
        if turn in self._turns:
            self._turns.remove(turn)
        if self._turns:
            self._turns[0].set()
