"""A child process ends with the process that started it, however that one ends: SIGKILL leaves nobody to tell it.

The parent names itself in the child's environment; the child, once it runs, looks whose child it still is. Unlike a
pipe this needs no descriptor of the child, so it serves those that a library starts, too; and unlike Linux'
PR_SET_PDEATHSIG it does not mind when the thread that started the child ends.
"""

import os
import signal
import threading
import time
from collections.abc import Mapping

VARIABLE = "STAL_OWNER"
_LOOK_S = 0.5
_END_S = 150.0
"""After SIGTERM a process has so long; the longest, a recognizer whose jobs write checkpoints, needs 110 s."""

_let_go = threading.Event()


def owned(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of a child that ends with this process; the child calls `end_with_owner`."""
    return {**environment, VARIABLE: str(os.getpid())}


def end_with_owner() -> None:
    """Watch over the owner that the environment names; without one do nothing. Children do not inherit the name."""
    owner = os.environ.pop(VARIABLE, None)
    if owner is not None:
        end_with(int(owner))


def end_with(owner: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Send this process `number` once process `owner` is not its parent any more, and in the end SIGKILL."""
    threading.Thread(target=_watch, args=(owner, number), name="owner", daemon=True).start()


def let_go() -> None:
    """Watch no longer: this process is ending already, and a second signal would cut that short."""
    _let_go.set()


def _watch(owner: int, number: signal.Signals) -> None:
    while os.getppid() == owner:
        if _let_go.wait(_LOOK_S):
            return
    os.kill(os.getpid(), number)
    time.sleep(_END_S)
    os.kill(os.getpid(), signal.SIGKILL)
