"""Reading rows of an uncompressed Zarr v3 shard at their offsets.

A shard file is the rows one after another, each followed by its crc32c, then the index: offset and length of each
row as little-endian uint64 pairs, and the index' own crc32c.
"""

import os
import struct
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.feature_store.layout import checksum
from stal_data.errors import InputError

CHECKSUM_BYTES = 4


class ShardFile:
    """One shard file of one array, open as long as the object lives; threads may share it.

    Read by `preadv` and not through a memory map: as fast when checksums are taken, and a file that shrinks or a disk
    that fails is an error here, where a map kills the process (SIGBUS).
    """

    def __init__(self, path: Path, *, rows: int, row_bytes: int) -> None:
        """rows: rows of a shard, padding included. row_bytes: bytes of one row without its checksum."""
        self._path, self._row_bytes = path, row_bytes
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            # A thread that still reads keeps the object, and so the descriptor, alive.
            weakref.finalize(self, os.close, self._descriptor)
            size, index_bytes = os.fstat(self._descriptor).st_size, rows * 16
            index_start = size - index_bytes - CHECKSUM_BYTES
            if index_start < 0:
                raise self._damaged(f"it has {size} bytes, fewer than its index")
            tail = os.pread(self._descriptor, index_bytes + CHECKSUM_BYTES, index_start)
        except OSError as error:
            raise self._damaged(f"it does not open ({error})") from error
        index = np.frombuffer(tail, np.uint8, index_bytes)
        if tail[index_bytes:] != struct.pack("<I", checksum(index)):
            raise self._damaged("the checksum of its index does not match")
        offsets, lengths = index.view("<u8").reshape(rows, 2).T
        if (lengths != row_bytes + CHECKSUM_BYTES).any() or (offsets > index_start - row_bytes - CHECKSUM_BYTES).any():
            raise self._damaged("its index names missing rows or places outside the file")
        self._offsets: list[int] = offsets.tolist()

    def read_into(self, local_row: int, out: NDArray[Any]) -> int:
        """Read a row, counted within the shard, into C-contiguous `out`, verify it there and return its crc32c."""
        stored = bytearray(CHECKSUM_BYTES)
        try:
            count = os.preadv(self._descriptor, [out.data, stored], self._offsets[local_row])
        except OSError as error:
            raise self._damaged(f"row {local_row} of the shard does not read ({error})") from error
        if count != self._row_bytes + CHECKSUM_BYTES:
            raise self._damaged(f"it ends within row {local_row} of the shard")
        found = checksum(out)
        if stored != struct.pack("<I", found):
            raise self._damaged(f"the checksum of row {local_row} of the shard does not match")
        return found

    def _damaged(self, reason: str) -> InputError:
        return InputError(
            f"The shard '{self._path}' is damaged: {reason}. Run 'stal-cli cache verify --repair' on the store, then "
            "precompute again."
        )
