"""Reading rows of an uncompressed Zarr v3 shard at their offsets.

A shard file is the rows one after another, each followed by its crc32c, then the index: offset and length of each
row as little-endian uint64 pairs, and the index' own crc32c.
"""

import mmap
import struct
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
    """A file, mapped into memory as long as the object lives.

    A map is half as dear as `preadv`, but reading behind the end of a file kills the process (SIGBUS). So the size is
    looked at before each read: a file that shrank is an error. What is left is a disk that fails in the middle of a
    read.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        with path.open("rb") as file:
            try:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError:
                raise OSError("it is empty") from None
        self._bytes = np.frombuffer(self._map, np.uint8)

    def end(self, num_bytes: int) -> tuple[int, bytes]:
        return len(self._bytes), self._bytes[-num_bytes:].tobytes()

    def read(self, parts: list[memoryview], start: int, /) -> int:
        size, position = min(self._map.size(), len(self._bytes)), start
        for part in parts:
            target = np.frombuffer(part, np.uint8)
            if position + len(target) > size:
                break
            np.copyto(target, self._bytes[position : position + len(target)])  # lets other threads run
            position += len(target)
        return position - start


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
