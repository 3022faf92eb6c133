"""Copying rows and taking their crc32c: in one pass over the bytes where the processor can, else in two."""

import ctypes
import logging
import threading
from array import array
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from cache.feature_store.layout import checksum

logger = logging.getLogger(__name__)

Copy: TypeAlias = tuple[int, int, int]
"""Source address, target address, number of bytes; no two targets overlap."""
CopyAll: TypeAlias = Callable[[Sequence[Copy]], list[int]]
"""Does the copies and returns the crc32c of each. Other threads run meanwhile: in one pass all the time, in two while
bytes are copied."""

_lock = threading.Lock()
_chosen: CopyAll | None = None


def copy_all(copies: Sequence[Copy]) -> list[int]:
    """Do the copies as fast as this machine can and return the crc32c of the bytes of each."""
    return (_chosen or _choose())(copies)


def two_passes(copies: Sequence[Copy]) -> list[int]:
    """Copy, then take the checksum of the copy."""
    checksums = []
    for source, target, num_bytes in copies:
        ctypes.memmove(target, source, num_bytes)
        written = memoryview((ctypes.c_ubyte * num_bytes).from_address(target))
        checksums.append(checksum(np.frombuffer(written, np.uint8)))
    return checksums


def one_pass(lanes: int | None = None) -> CopyAll:
    """Return the way in one pass, in machine code for this processor; lanes: see `compiled`."""
    from cache.feature_store.one_pass import compiled

    function = compiled(lanes)

    def copy(copies: Sequence[Copy]) -> list[int]:
        table = array("q")
        for item in copies:
            table.extend(item)
        checksums = array("I", bytes(4 * len(copies)))
        function(table.buffer_info()[0], checksums.buffer_info()[0], len(copies))
        return checksums.tolist()

    return copy


def _choose() -> CopyAll:
    global _chosen
    with _lock:  # compiled once, in some 10 ms
        if _chosen is None:
            try:
                _chosen = one_pass()
            except (ImportError, NotImplementedError) as error:  # llvmlite comes with the recognizer
                logger.info("feature rows are copied and checked in two passes: %s", error)
                _chosen = two_passes
        return _chosen
