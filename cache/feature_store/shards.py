"""Reading rows of an uncompressed Zarr v3 shard through a memory map.

A shard file is the rows one after another, each followed by its crc32c, then the index: offset and length of each
row as little-endian uint64 pairs, and the index' own crc32c.
"""

import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.feature_store.layout import checksum
from stal_data.errors import InputError

CHECKSUM_BYTES = 4


class MappedShard:
    """One shard file of one array. The map lives as long as the object; threads may share it."""

    def __init__(self, path: Path, *, rows: int, row_bytes: int) -> None:
        """rows: rows of a shard, padding included. row_bytes: bytes of one row without its checksum."""
        self._path, self._row_bytes = path, row_bytes
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: an empty file has no map
            raise self._damaged(f"it does not open ({error})") from error
        # Checked against the size now, because a read behind the end of a map kills the process.
        index_bytes = rows * 16
        index_start = len(self._map) - index_bytes - CHECKSUM_BYTES
        if index_start < 0:
            raise self._damaged(f"it has {len(self._map)} bytes, fewer than its index")
        index = np.frombuffer(self._map, np.uint8, index_bytes, index_start)
        if checksum(index) != self._stored_checksum(index_start + index_bytes):
            raise self._damaged("the checksum of its index does not match")
        offsets, lengths = index.view("<u8").reshape(rows, 2).T
        if (lengths != row_bytes + CHECKSUM_BYTES).any() or (offsets > index_start - row_bytes - CHECKSUM_BYTES).any():
            raise self._damaged("its index names missing rows or places outside the file")
        self._offsets: list[int] = offsets.tolist()

    def read_into(self, local_row: int, out: NDArray[Any]) -> int:
        """Copy a row, counted within the shard, into `out`, verify the copy and return its crc32c."""
        offset = self._offsets[local_row]
        np.copyto(out, np.frombuffer(self._map, out.dtype, out.size, offset).reshape(out.shape))
        found = checksum(out)
        if found != self._stored_checksum(offset + self._row_bytes):
            raise self._damaged(f"the checksum of row {local_row} of the shard does not match")
        return found

    def _stored_checksum(self, offset: int) -> int:
        return int(struct.unpack_from("<I", self._map, offset)[0])

    def _damaged(self, reason: str) -> InputError:
        return InputError(
            f"The shard '{self._path}' is damaged: {reason}. Run 'stal-cli cache verify --repair' on the set, then "
            "precompute again."
        )
