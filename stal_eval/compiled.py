"""Compilation of the kernels with numba."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from stal_eval.extra import njit

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile on the first call; the machine code is kept on disk where a folder for it can be written."""
    try:
        kernel: Callable[P, R] = njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:
        # numba refuses cache=True when neither the package's folder nor the user's cache folder is writable.
        kernel = njit(nogil=True, error_model="numpy")(function)
    return kernel
