"""Child processes that run Python: none of them imports a file of the working folder.

`python -m` and `python -c` put the working folder before everything else, so a `cache.py` or `random.py` there, whoever
made it, would be executed. `-P` prevents that for a child, and its environment for what the child starts in turn.
"""

import os
import site
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SAFE_PATH_VARIABLE = "PYTHONSAFEPATH"
_PACKAGE_ROOT = str(Path(__file__).parent.parent)


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def python_command(module: str, *words: str) -> list[str]:
    """Return the argument list that runs a module with this very interpreter; start it in `python_environment()`."""
    return [sys.executable, "-P", "-m", module, *words]


def python_environment() -> dict[str, str]:
    """Return this process's environment for a Python child that finds the same packages of ours."""
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]  # empty: the working folder
    if _PACKAGE_ROOT not in (*site.getsitepackages(), site.getusersitepackages()):
        paths.insert(0, _PACKAGE_ROOT)
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), SAFE_PATH_VARIABLE: "1"}


@contextmanager
def safe_path() -> Iterator[None]:
    """For as long as the block runs, children that a library starts, multiprocessing's too, are kept safe as well."""
    before = os.environ.get(SAFE_PATH_VARIABLE)
    os.environ[SAFE_PATH_VARIABLE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SAFE_PATH_VARIABLE]
        else:
            os.environ[SAFE_PATH_VARIABLE] = before
