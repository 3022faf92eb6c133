"""How the C library keeps memory."""

import ctypes
import sys

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_ARENAS = 2
_KEPT_BYTES = 1 << 30
_LARGEST_THRESHOLD = 32 << 20  # glibc refuses more


def keep_freed_memory() -> None:
    """Let the process keep what each batch frees, for the next one.

    By default glibc gives large blocks back at once, and the kernel clears their pages for every batch anew: 570 page
    faults an image, an eighth of the processor time of a small model. The price: memory stays at its highest level.
    Call it before threads start: each of them would else keep a heap of its own.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # another C library has other rules
        mallopt(_M_ARENA_MAX, _ARENAS)
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
