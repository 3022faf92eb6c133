"""Reading rows of an uncompressed Zarr v3 shard at their offsets.

A shard file is the rows one after another, each followed by its crc32c, then the index: offset and length of each
row as little-endian uint64 pairs, and the index' own crc32c.
"""

import mmap
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from cache.feature_store.copying import copy_all
from cache.feature_store.damage import damaged_shard
from cache.feature_store.layout import checksum

CHECKSUM = struct.Struct("<I")


class RowSource(Protocol):
    """The bytes of one shard file, wherever they are; threads may share it. name: for messages.

    A file that does not read is an OSError, one that ends too early an EOFError.
    """

    name: str

    def end(self, num_bytes: int) -> tuple[int, bytes]:
        """Return the file's size and its last bytes; all of it where it is shorter."""


class FetchedFile(RowSource, Protocol):
    """A file somewhere else."""

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
        self._address, self._size = self._bytes.ctypes.data, len(self._bytes)

    def end(self, num_bytes: int) -> tuple[int, bytes]:
        if self._map.size() < self._size:
            raise EOFError("it shrank while it was opened")
        return self._size, self._bytes[-num_bytes:].tobytes()

    def locate(self, start: int) -> int:
        """Return the address of a byte of the file."""
        if self._map.size() < self._size:
            raise EOFError("it shrank after it was opened")
        return self._address + start

    def checksum_at(self, start: int) -> int:
        """Return the checksum that is stored there. After the bytes before it were copied the page is in memory."""
        stored: int = CHECKSUM.unpack_from(self._map, start)[0]
        return stored


Source = TypeVar("Source", bound=RowSource)


class ShardFile(Generic[Source]):
    """One shard of one array; threads may share it."""

    def __init__(self, source: Source, *, rows: int, row_bytes: int) -> None:
        """rows: rows of a shard, padding included. row_bytes: bytes of one row without its checksum."""
        self.source, self.row_bytes = source, row_bytes
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
        self.offsets: list[int] = offsets.tolist()

    def unreadable(self, local_row: int, error: Exception) -> Exception:
        """Return the error to raise for a row, counted within the shard, that does not read."""
        reason = str(error) if isinstance(error, EOFError) else f"row {local_row} of the shard does not read ({error})"
        return damaged_shard(self.source.name, reason)

    def check(self, local_row: int, found: int, stored: int) -> None:
        if found != stored:
            raise damaged_shard(self.source.name, f"the checksum of row {local_row} of the shard does not match")


def fetch_row(files: Sequence[ShardFile[FetchedFile]], local_row: int, out: Sequence[NDArray[np.uint8]]) -> list[int]:
    """Fill `out` with the bytes of a row, an array for each file; verify them there and return their crc32c."""
    checksums = []
    for file, values in zip(files, out, strict=True):
        try:
            stored = file.source.read(values, file.offsets[local_row])
        except (EOFError, OSError) as error:
            raise file.unreadable(local_row, error) from error
        checksums.append(checksum(values))
        file.check(local_row, checksums[-1], stored)
    return checksums


MappedRow: TypeAlias = tuple[ShardFile[MappedFile], int, int]
"""A file, the row within the shard, and the address for its bytes."""


def copy_rows(rows: Sequence[MappedRow]) -> list[int]:
    """Copy the rows to their addresses, all by one call of `copy_all`; verify what is written, return their crc32c."""
    copies = []
    for file, local_row, target in rows:
        try:
            source = file.source.locate(file.offsets[local_row])
        except EOFError as error:
            raise file.unreadable(local_row, error) from error
        copies.append((source, target, file.row_bytes))
    checksums = copy_all(copies)
    for (file, local_row, _), found in zip(rows, checksums, strict=True):
        file.check(local_row, found, file.source.checksum_at(file.offsets[local_row] + file.row_bytes))
    return checksums
