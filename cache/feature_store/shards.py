"""Reading rows of an uncompressed Zarr v3 shard at their offsets.

A shard file is the rows one after another, each followed by its crc32c, then the index: offset and length of each
row as little-endian uint64 pairs, and the index' own crc32c.
"""

import mmap
import struct
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cache.feature_store.errors import damaged_shard
from cache.feature_store.layout import checksum

CHECKSUM = struct.Struct("<I")


class RowSource(Protocol):
    """The bytes of one shard file, wherever they are; threads may share it. name: for messages.

    A file that does not read is an OSError, one that ends too early an EOFError.
    """

    name: str

    def end(self, num_bytes: int) -> tuple[int, bytes]:
        """Return the file's size and its last bytes; all of it where it is shorter."""

    def read(self, out: NDArray[np.uint8], start: int, /) -> int:
        """Fill `out` with the bytes from `start`; return the checksum that is stored behind them."""


class MappedFile:
    """A file, mapped into memory as long as the object lives.

    A map is half as dear as `preadv`, but touching pages behind the end of a file kills the process (SIGBUS). So the
    size is looked at before each read: a file that shrank is an error. docs/cache-format.md says what is left.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        with path.open("rb") as file:
            try:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError:
                raise EOFError("it is empty") from None
        self._bytes = np.frombuffer(self._map, np.uint8)
        self._size = len(self._bytes)

    def end(self, num_bytes: int) -> tuple[int, bytes]:
        if self._map.size() < self._size:
            raise EOFError("it shrank while it was opened")
        return self._size, self._bytes[-num_bytes:].tobytes()

    def read(self, out: NDArray[np.uint8], start: int, /) -> int:
        if self._map.size() < self._size:
            raise EOFError("it shrank after it was opened")
        end = start + len(out)
        np.copyto(out, self._bytes[start:end])
        stored: int = CHECKSUM.unpack_from(self._map, end)[0]
        return stored


class ShardFile:
    """One shard of one array; threads may share it."""

    def __init__(self, source: RowSource, *, rows: int, row_bytes: int) -> None:
        """rows: rows of a shard, padding included. row_bytes: bytes of one row without its checksum."""
        self._source = source
        index_bytes = rows * 16
        size, tail = source.end(index_bytes + CHECKSUM.size)
        index_start = size - index_bytes - CHECKSUM.size
        if index_start < 0:
            raise damaged_shard(source.name, f"it has {size} bytes, fewer than its index")
        index = np.frombuffer(tail, np.uint8, index_bytes)
        if tail[index_bytes:] != CHECKSUM.pack(checksum(index)):
            raise damaged_shard(source.name, "the checksum of its index does not match")
        offsets, lengths = index.view("<u8").reshape(rows, 2).T
        whole = row_bytes + CHECKSUM.size
        if (lengths != whole).any() or whole > index_start or (offsets > index_start - whole).any():
            raise damaged_shard(source.name, "its index names missing rows or places outside the file")
        self._offsets: list[int] = offsets.tolist()
        self._row_bytes = row_bytes

    def read(self, local_row: int, out: NDArray[np.uint8]) -> int:
        """Fill `out` with the bytes of a row, counted within the shard; verify them there and return their crc32c."""
        stored = self._read(local_row, out, self._offsets[local_row])
        found = checksum(out)
        if found != stored:
            raise damaged_shard(self._source.name, f"the checksum of row {local_row} of the shard does not match")
        return found

    def checksum(self, local_row: int) -> int:
        """Return the crc32c that is stored of a row, without reading the row."""
        return self._read(local_row, np.empty(0, np.uint8), self._offsets[local_row] + self._row_bytes)

    def _read(self, local_row: int, out: NDArray[np.uint8], start: int) -> int:
        try:
            return self._source.read(out, start)
        except EOFError as error:
            raise damaged_shard(self._source.name, str(error)) from error
        except OSError as error:
            reason = f"row {local_row} of the shard does not read ({error})"
            raise damaged_shard(self._source.name, reason) from error
