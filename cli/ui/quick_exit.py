"""The end of a command without taking apart what it has imported: with torch that takes Python a second."""

import atexit
import os
import sys
from contextlib import suppress


class QuickExit:
    """Ends the process with `code`, once it is set, after all other exit functions that are registered later."""

    def __init__(self) -> None:
        self.code: int | None = None
        """None = Python ends as ever."""
        atexit.register(self._leave)

    def _leave(self) -> None:
        if self.code is None:
            return
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # closed; main has told what was lost
                stream.flush()
        os._exit(self.code)
