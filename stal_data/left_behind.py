"""What a killed process left: it is known by a lock that nobody holds any more."""

import fcntl
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def remove_if_left(path: Path, lock: Path | None = None, *, first: Callable[[], object] = lambda: None) -> bool:
    """Remove a file, or a folder by the lock file in it, unless somebody holds the lock; whether it was removed.

    first: called under the lock, before anything is removed.
    """
    with suppress(OSError):  # gone already, another user's, or on a file system without locks
        descriptor = os.open(lock or path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            first()
            if lock is None:
                path.unlink()  # who waits for the lock then finds the name gone
        finally:
            os.close(descriptor)
        if lock is not None:  # closed first: NFS keeps a file that is open, and so its folder
            shutil.rmtree(path, ignore_errors=True)
        return True
    return False
