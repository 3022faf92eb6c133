"""Values read from files that an operator replaces while the service runs: certificates, tokens."""

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from stal_data.errors import StalError

T = TypeVar("T")
log = logging.getLogger(__name__)


class Reloaded(Generic[T]):
    """The value of some files, read again once one of them has changed. May be used from several threads.

    Files that cannot be read, or do not fit each other, leave the last good value in place until they change again:
    a certificate and its key are never replaced in one step.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], T]) -> None:
        """read: makes the value; what it raises here, at the start, is the caller's."""
        self._paths, self._read = paths, read
        self._lock = threading.Lock()
        self._state = self._stat()
        self._value = read()

    def get(self) -> T:
        """The present value."""
        with self._lock:
            # Asked before reading, so that a change in between is seen by the next call.
            state = self._stat()
            if state != self._state:
                self._state = state
                try:
                    self._value = self._read()
                    log.info("read %s again", ", ".join(map(str, self._paths)))
                except (OSError, ValueError, StalError) as error:
                    log.warning("kept the last good %s: %s", ", ".join(map(str, self._paths)), error)
            return self._value

    def _stat(self) -> list[tuple[int, int, int] | None]:
        return [_signature(path) for path in self._paths]


def _signature(path: Path) -> tuple[int, int, int] | None:
    """Changes with the content, also where a link is turned to another file; None while there is no file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
