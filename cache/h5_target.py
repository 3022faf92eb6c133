"""The file that HDF5 writes to, such that HDF5 never learns that a write failed."""

import os
from pathlib import Path


class Target:
    """A file for `h5py.File(target, "w")`. After a write has failed, `check` raises its error.

    HDF5 cannot close a file whose writes fail (on a full disk, say): it crashes the process then. So what does not
    reach the disk stays in memory, where HDF5 may close over it; who writes much calls `check` often enough.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._position = self._size = 0
        self._error: OSError | None = None
        self._unwritten: list[tuple[int, bytes]] = []  # position and content, in the order of writing

    def check(self) -> None:
        """Raise the first error of a write."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Close the file; some file systems report only now that a write failed."""
        os.close(self._descriptor)

    # What h5py asks of a file.

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def write(self, data: memoryview) -> int:
        view = memoryview(data).cast("B")
        written = 0
        try:
            while self._error is None and written < len(view):
                written += os.pwrite(self._descriptor, view[written:], self._position + written)
        except OSError as error:
            self._error = error
        if written < len(view):
            self._unwritten.append((self._position + written, bytes(view[written:])))
        self._position += len(view)
        self._size = max(self._size, self._position)
        return len(view)

    def readinto(self, buffer: memoryview) -> int:
        view = memoryview(buffer).cast("B")
        found = os.preadv(self._descriptor, [view], self._position)
        view[found:] = bytes(len(view) - found)
        begin, end = self._position, self._position + len(view)
        for start, data in self._unwritten:
            first, last = max(begin, start), min(end, start + len(data))
            if first < last:
                view[first - begin : last - begin] = data[first - start : last - start]
        self._position = end
        return len(view)

    def read(self, size: int) -> bytes:
        data = bytearray(size)
        self.readinto(memoryview(data))
        return bytes(data)

    def truncate(self, size: int) -> int:
        try:
            os.ftruncate(self._descriptor, size)
        except OSError as error:
            self._error = self._error or error
        self._size = size
        return size

    def flush(self) -> None:
        """Nothing is kept back; `replacing` makes the file durable."""
