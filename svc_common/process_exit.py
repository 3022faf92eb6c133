"""The end of a service process, whatever hangs in it."""

import logging
import os
import sys
import threading
from typing import NoReturn

log = logging.getLogger(__name__)


def exit_now() -> NoReturn:
    """End the process at once, as after an orderly stop: threads cannot be interrupted."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


def exit_after(seconds: float) -> None:
    """Let the process end at the latest then.

    Not a timeout in the event loop: Python itself waits for the threads of executors after the last line of code.
    """
    watch = threading.Timer(seconds, _leave_hanging, (seconds,))
    watch.daemon = True
    watch.start()


def _leave_hanging(seconds: float) -> None:
    hanging = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    log.error("not stopped within %g s; leaving as it is, with the threads %s", seconds, ", ".join(hanging))
    exit_now()
