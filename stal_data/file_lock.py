"""Locks of the kernel (`flock`) on files. A process that ends holds none, however it ends."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from stal_data.errors import ConflictError


class NoFileLocksError(ConflictError):
    """The file system does not support `flock`."""


class FileLock:
    """A lock on a file, held until `release` or the end of the `with` block.

    Two locks on one file exclude each other also within one process.
    descriptor: the open file, for reading and writing.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self.descriptor = path, descriptor

    @classmethod
    def take(
        cls, path: Path, *, shared: bool = False, wait: bool = False, make: bool = True, required: bool = True
    ) -> Self | None:
        """Return the lock, or None while somebody else holds one that excludes it.

        shared: excludes only locks that are not shared. wait: for as long as it takes, so never None.
        make: the file and its folders are made when missing; else a missing file is an OSError.
        required: else a file system without locks, otherwise a NoFileLocksError, gives a lock that excludes nobody.
        """
        if make:
            path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0), 0o666)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            if required:
                os.close(descriptor)
                raise NoFileLocksError(
                    f"The file system of '{path}' has no file locks ({error.strerror or error}), without which two "
                    "processes could damage each other's files; mount it with locks (NFS 4, Lustre with -o flock), or "
                    "choose another folder."
                ) from error
        except BaseException:  # Ctrl-C while it waits
            os.close(descriptor)
            raise
        return cls(path, descriptor)

    @property
    def held(self) -> bool:
        return self.descriptor >= 0

    def still_at_path(self) -> bool:
        """Whether the path still names the locked file; a former holder may have renamed or removed it."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self.descriptor))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        if self.held:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()
