"""Reading rows of an uncompressed Zarr v3 shard at their offsets.

A shard file is the rows one after another, each followed by its crc32c, then the index: offset and length of each
row as little-endian uint64 pairs, and the index' own crc32c.
"""

import os
import struct
import weakref
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cache.feature_store.layout import checksum
from stal_data.errors import InputError

CHECKSUM_BYTES = 4


class RowSource(Protocol):
    """The bytes of one shard file, wherever they are; threads may share it. name: for messages."""

    name: str

    def end(self, num_bytes: int) -> tuple[int, bytes]:
        """Return the file's size and its last bytes. A file that does not read is an OSError, here and below."""

    def read(self, parts: list[memoryview], start: int, /) -> int:
        """Fill buffers, one after another, with the bytes from `start`; return how many there were."""


class LocalFile:
    """A file, open as long as the object lives.

    Read by `preadv` and not through a memory map: as fast when checksums are taken, and a file that shrinks or a disk
    that fails is an error here, where a map kills the process (SIGBUS).
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        # A thread that still reads keeps the object, and so the descriptor, alive.
        weakref.finalize(self, os.close, self._descriptor)
        self.read = partial(os.preadv, self._descriptor)  # no call of Python on the way

    def end(self, num_bytes: int) -> tuple[int, bytes]:
        size = os.fstat(self._descriptor).st_size
        return size, os.pread(self._descriptor, num_bytes, max(0, size - num_bytes))


class ShardFile:
    """One shard of one array; threads may share it."""

    def __init__(self, source: RowSource, *, rows: int, row_bytes: int) -> None:
        """rows: rows of a shard, padding included. row_bytes: bytes of one row without its checksum."""
        self._source, self._row_bytes = source, row_bytes
        index_bytes = rows * 16
        try:
            size, tail = source.end(index_bytes + CHECKSUM_BYTES)
        except OSError as error:
            raise damaged(source.name, f"it does not open ({error})") from error
        index_start = size - index_bytes - CHECKSUM_BYTES
        if index_start < 0:
            raise damaged(source.name, f"it has {size} bytes, fewer than its index")
        index = np.frombuffer(tail, np.uint8, index_bytes)
        if tail[index_bytes:] != struct.pack("<I", checksum(index)):
            raise damaged(source.name, "the checksum of its index does not match")
        offsets, lengths = index.view("<u8").reshape(rows, 2).T
        if (lengths != row_bytes + CHECKSUM_BYTES).any() or (offsets > index_start - row_bytes - CHECKSUM_BYTES).any():
            raise damaged(source.name, "its index names missing rows or places outside the file")
        self._offsets: list[int] = offsets.tolist()

    def read_into(self, local_row: int, out: NDArray[Any]) -> int:
        """Read a row, counted within the shard, into C-contiguous `out`, verify it there and return its crc32c."""
        stored = bytearray(CHECKSUM_BYTES)
        try:
            count = self._source.read([out.data, memoryview(stored)], self._offsets[local_row])
        except OSError as error:
            raise damaged(self._source.name, f"row {local_row} of the shard does not read ({error})") from error
        if count != self._row_bytes + CHECKSUM_BYTES:
            raise damaged(self._source.name, f"it ends within row {local_row} of the shard")
        found = checksum(out)
        if stored != found.to_bytes(CHECKSUM_BYTES, "little"):
            raise damaged(self._source.name, f"the checksum of row {local_row} of the shard does not match")
        return found


def damaged(name: str, reason: str) -> InputError:
    return InputError(
        f"The shard '{name}' is damaged: {reason}. Run 'stal-cli cache verify --repair' on the store, then "
        "precompute again."
    )
